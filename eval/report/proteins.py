"""The report's sections on proteins, and those that molecules have as well."""

from __future__ import annotations

from html import escape
from typing import Any

from eval.report import plots
from eval.report.results import rows_of, sets_of
from eval.report.table import Columns, Row, Table, average, grid, number, numbers, shares

__all__ = ["LEAD", "RATE", "accuracy", "codebook", "rate", "robustness", "stability", "trade_off"]

Results = dict[str, Any]
LEAD: Columns = {"tokenizer": lambda r: r["tokenizer"], "assignment": lambda r: r["assignment"]}
RATE: Columns = {
    "log2 K": numbers(2, "rate", "bits"),
    "tokens": numbers(0, "rate", "tokens"),
    "unigram": numbers(2, "rate", "unigram_bits"),
    "corrected": numbers(2, "rate", "unigram_bits_corrected"),
    "bigram ≥": numbers(2, "rate", "bigram_bits_low"),
    "bigram ≤": numbers(2, "rate", "bigram_bits_high"),
}
ACCURACY: Columns = {
    **LEAD,
    "bits": lambda r: number(r["bits"], 0 if r["mark"] == "published" else 1),
    "n": numbers(0, "rmsd", "n"),
    "RMSD mean": average(3, "rmsd", interval=True),
    "median": numbers(3, "rmsd", "median"),
    "p95": numbers(3, "rmsd", "p95"),
    "RMSD CA": average(3, "rmsd_ca"),
    "TM": average(4, "tm_score"),
    "lDDT": average(4, "lddt"),
}


def accuracy(models: Results, peers: Results, published: Results) -> str:
    sets = sets_of(models)
    common = "CASP14" if "CASP14" in sets else sets[0]
    picture = plots.svg(plots.rate_distortion(models, peers, published, common), "error against rate")
    caption = (
        "RMSD against bits. Published RMSDs are over CA after TM-optimal superposition, so compare orders of "
        "magnitude. The grid line is what rounding coordinates gives with an ideal entropy coder."
    )
    by_length = plots.by_size(models, sets[0], "rmsd_by_length", "length")
    out = [
        '<h2 id="accuracy">Accuracy: error against rate</h2>',
        grid([(picture, caption), (by_length, f"RMSD by length: {escape(sets[0])}.")]),
    ]
    for chosen in sets:
        rows = [{**row, "bits": row["rate"]["bits"]} for row in rows_of(models, chosen)]
        for name, peer in peers.items():
            found = peer.get("sets", {}).get(chosen, {})
            named = [(name, found)] if "rmsd" in found else []
            named += [(f"{name}, {point['grid']:g} Å", point) for point in found.get("curve", [])]
            rows += [{"tokenizer": n, "assignment": "peer", "mark": "", **point} for n, point in named]
        rows.sort(key=lambda row: row["bits"])
        known = published["proteins"]["models"] if published else {}
        rows += [_published(n, chosen, m["bits"], m["sets"][chosen]) for n, m in known.items() if chosen in m["sets"]]
        out += [f"<h3>{escape(chosen)}</h3>", Table(ACCURACY, rows).html()]
    elsewhere = [
        _published(n, s, m["bits"], f) for n, m in known.items() for s, f in m["sets"].items() if s not in sets
    ]
    if elsewhere:
        columns = {
            "tokenizer": LEAD["tokenizer"],
            "set": lambda r: r["set"],
            "bits": numbers(0, "bits"),
            "RMSD CA": average(3, "rmsd_ca"),
            "TM": average(3, "tm_score"),
        }
        out.append("<details><summary>Published on other sets</summary>")
        out.append(Table(columns, elsewhere).html() + "</details>")
    return "\n".join(out)


def _published(name: str, chosen: str, bits: int, found: Results) -> Row:
    means = {"rmsd_ca": {"mean": found["rmsd"]}, "tm_score": {"mean": found["tm_score"]}}
    return {"tokenizer": name, "assignment": "published", "set": chosen, "bits": bits, "mark": "published", **means}


def stability(models: Results, peers: Results) -> str:
    reference = peers.get("3Di letters (mini3di)", {}).get("stability")
    rows = rows_of(models)
    first = rows[0]["stability"]
    columns = {
        **LEAD,
        **{f"noise {k} Å": shares(0, "stability", "jitter", k, interval=True) for k in first["jitter"]},
        **{
            f"{n} off the {end}": shares(0, "stability", f"crop {end}", n)
            for end in ("start", "end")
            for n in first["crop start"]
        },
        "encoded again": shares(1, "stability", "encoded again"),
        "new pose": shares(1, "stability", "new pose"),
    }
    if reference:
        rows.append({"tokenizer": "3Di letters (mini3di)", "assignment": "reference", "stability": reference})
    return (
        '<h2 id="stability">Stability: do codes survive a small change?</h2>'
        "<p>Share of codes unchanged when normal noise of the given standard deviation is added to every coordinate, "
        "when residues are cut off an end (of the codes that remain), when the rebuilt chain is encoded again, and "
        f"in a new pose. {first['chains']} chains. Solid: default assignment; dashed: open loop; dotted: 3Di letters, "
        "a 20-letter local alphabet without a decoder, as reference.</p>"
        + grid(
            [
                (plots.jitter(models, reference), "Codes unchanged by coordinate noise."),
                (plots.jitter(models, reference, "crop start"), "Codes unchanged by cutting residues off the start."),
            ]
        )
        + Table(columns, rows).html()
    )


def robustness(models: Results) -> str:
    rows = rows_of(models)
    measures = {"RMSD": "rmsd", "TM": "tm_score", "lDDT": "lddt"}
    columns = {
        f"{name}, {100 * float(rate):g} %": average(2, "robustness", rate, key)
        for rate in rows[0]["robustness"]
        for name, key in measures.items()
    }
    return (
        '<h2 id="robustness">Robustness: what does a wrong code cost?</h2>'
        "<p>Each code is replaced, with the given chance, by any other code of the codebook; means over chains. A "
        "chained decoder passes a wrong step on to everything behind it: the RMSD of the whole grows; lDDT, "
        "which looks at neighbourhoods, suffers less.</p>"
        + grid(
            [
                (plots.corruption(models, "tm_score", "TM-score"), "TM-score after corruption."),
                (plots.corruption(models, "rmsd", "RMSD, Å"), "RMSD after corruption."),
                (plots.corruption(models, "lddt", "lDDT"), "lDDT after corruption."),
            ]
        )
        + Table({**LEAD, **columns}, rows).html()
    )


def trade_off(sweeps: Results) -> str:
    if not sweeps:
        return ""
    out = ['<h2 id="trade-off">Accuracy against stability: beam and λ</h2>',
           "<p>λ weighs the distance of a code to the residue's own latent against that of the rebuilt chain to the "
           "true one: 0 is pure closed loop, a large one open loop.</p>"]  # fmt: skip
    caption = "{}, {} chains; the numbers are λ."
    out.append(grid([(plots.trade_off(n, s), caption.format(escape(n), s["chains"])) for n, s in sweeps.items()]))
    for name, sweep in sweeps.items():
        first = sweep["rows"][0]
        columns = {
            "assignment": lambda r: r["label"] + " (default)" * r["default"],
            "RMSD mean": average(3, "rmsd", interval=True),
            "p95": numbers(3, "rmsd", "p95"),
            "lDDT": average(4, "lddt"),
            **{f"noise {k} Å": shares(1, "jitter", k) for k in first["jitter"]},
            **{f"{k} off the start": shares(1, "crop start", k) for k in first.get("crop start", {})},
            "as open loop": shares(0, "equal_to_open"),
            "unigram bits": numbers(2, "rate", "unigram_bits_corrected"),
            "bigram bits ≤": numbers(2, "rate", "bigram_bits_high"),
            "residues/s": numbers(0, "speed", "encode"),
        }
        rows = [{**row, "mark": "best" * best} for row, best in zip(sweep["rows"], plots.pareto(sweep["rows"]))]
        out += [f"<details><summary>{escape(name)}: all points, Pareto front in bold</summary>"]
        out += [Table(columns, rows).html(), "</details>"]
    return "\n".join(out)


def rate(models: Results, peers: Results) -> str:
    rows = rows_of(models)
    rows += [{"tokenizer": n, "assignment": "reference", **p} for n, p in peers.items() if "rate" in p]
    return (
        '<h2 id="rate">Rate: bits per token</h2>'
        "<p>Pale bar: log2 of the codebook size, what a file pays. Dark bar: unigram entropy (Miller-Madow). Line: "
        "the range of the entropy given the code before. The plug-in estimate (≥) is too low wherever pairs are far "
        "more than tokens; a bigram model scored on held-out chains (≤) is too high.</p>"
        + grid([(plots.rate_bars(models), "Bits per token; less is easier to learn at equal accuracy.")])
        + Table({**LEAD, **RATE}, rows).html()
    )


def codebook(models: Results, what: str, anchor: str = "codebook") -> str:
    columns = {
        **LEAD,
        "codes": numbers(0, "model", "codes"),
        "used": shares(1, "use", "utilisation"),
        "perplexity": numbers(0, "use", "perplexity"),
        "effective dimension": numbers(1, "model", "codebook", "effective_dimension"),
        "near-duplicates": shares(1, "model", "codebook", "near_duplicates"),
        f"{what} guessed": shares(1, "leakage", "accuracy"),
        "majority": shares(1, "leakage", "majority"),
        "bits told": numbers(3, "leakage", "bits"),
    }
    return (
        f'<h2 id="{anchor}">Codebook use, and what codes tell about the {what}</h2>'
        "<p>Effective dimension: participation ratio of the covariance of the code vectors. Near-duplicates: codes "
        "whose closest other code lies within a tenth of the codebook's spread (chain-vq: of its steps in Å). "
        "Leakage: a linear probe on single codes, fitted and scored on different clusters; bits told are held-out and "
        "can fall below zero where codes are rare.</p>"
        + grid([(plots.codebook_use(models), "Share of all tokens by the rank of the code.")])
        + Table(columns, rows_of(models)).html()
    )
