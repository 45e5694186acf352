"""The sections of the report: text, plots and tables made from benchmark results."""

from __future__ import annotations

from html import escape
from typing import Any

from eval import plots
from eval.html import Cell, figure, grid, mean, number, percent, table

__all__ = [
    "accuracy",
    "best_rows",
    "codebook",
    "kept",
    "learnability",
    "rate",
    "rate_cells",
    "robustness",
    "rows_of",
    "stability",
    "trade_off",
]

Results = dict[str, Any]


def rows_of(models: Results) -> list[tuple[str, str, bool, Results]]:
    """(model, assignment, default?, figures), every assignment of every model."""
    return [(n, a, a == m["default"], f) for n, m in models.items() for a, f in m["assignments"].items()]


def best_rows(rows: list[tuple[str, str, bool, Results]]) -> list[str]:
    return ["best" if default else "" for *_, default, _ in rows]


def accuracy(models: Results, peers: Results, published: Results) -> str:
    sets = list(dict.fromkeys(s for *_, f in rows_of(models) for s in f["sets"]))
    common = "CASP14" if "CASP14" in sets else sets[0]
    out = ['<h2 id="accuracy">Accuracy: error against rate</h2>']
    out.append(
        grid(
            figure(
                plots.svg(plots.rate_distortion(models, peers, published, common), "error against rate"),
                "RMSD against bits. Published RMSDs are over CA after TM-optimal superposition, so compare orders of "
                "magnitude. The grid line is what rounding coordinates gives with an ideal entropy coder.",
            ),
            figure(plots.by_size(models, sets[0], "rmsd_by_length", "length"), f"RMSD by length: {escape(sets[0])}."),
        )
    )
    for chosen in sets:
        rows, classes = [], []
        for name, label, default, found in rows_of(models):
            f = found["sets"].get(chosen)
            if f:
                rows.append(_accuracy_row(name, label, found["rate"]["bits"], f))
                classes.append("best" if default else "")
        for name, peer in peers.items():
            f = peer.get("sets", {}).get(chosen)
            if f and "rmsd" in f:
                rows.append(_accuracy_row(name, "peer", f["bits"], f))
            for point in (f or {}).get("curve", []):
                rows.append(_accuracy_row(f"{name}, {point['grid']:g} Å", "peer", point["bits"], point))
        known = published["proteins"]["models"] if published else {}
        rows.sort(key=lambda r: float(r[2].key))
        classes = ["best" if any(default and row[:2] == [n, a] for n, a, default, _ in rows_of(models)) else ""
                   for row in rows]  # fmt: skip
        for name, m in known.items():
            if chosen in m["sets"]:
                f = m["sets"][chosen]
                blank = [Cell("–")] * 3
                rows.append([name, "published", number(m["bits"], 0), Cell("–"), *blank, number(f["rmsd"]),
                             number(f["tm_score"], 4), Cell("–")])  # fmt: skip
                classes.append("published")
        head = ["tokenizer", "assignment", "bits", "n", "RMSD mean", "median", "p95", "RMSD CA", "TM", "lDDT"]
        out += [f"<h3>{escape(chosen)}</h3>", table(head, rows, classes)]
    elsewhere = [(n, s, m["bits"], f) for n, m in known.items() for s, f in m["sets"].items() if s not in sets]
    if elsewhere:
        rows = [[n, s, number(b, 0), number(f["rmsd"]), number(f["tm_score"])] for n, s, b, f in elsewhere]
        out.append("<details><summary>Published on other sets</summary>")
        out.append(table(["tokenizer", "set", "bits", "RMSD CA", "TM"], rows, ["published"] * len(rows)) + "</details>")
    return "\n".join(out)


def _accuracy_row(name: str, label: str, bits: float, f: Results) -> list[Any]:
    r = f["rmsd"]
    tail = [mean(f["rmsd_ca"], interval=False), mean(f["tm_score"], 4, False), mean(f["lddt"], 4, False)]
    return [name, label, number(bits, 1), number(r["n"], 0), mean(r), number(r["median"]), number(r["p95"]), *tail]


def kept(found: Results | None, key: str) -> Cell:
    share = (found or {}).get(key, {})
    if "codes" not in share:
        return Cell("–")
    low, high = share["interval"]
    return Cell(f'{share["codes"]:.0%} <span class="ci">[{low:.0%}, {high:.0%}]</span>', f"{share['codes']}")


def _stability_row(name: str, label: str, s: Results) -> list[Any]:
    cells = [kept(s["jitter"], k) for k in s["jitter"]]
    for end in ("crop start", "crop end"):
        cells += [percent(v.get("codes")) for v in s[end].values()]
    tail = [percent(s[k]["codes"], 1) if k in s else Cell("–") for k in ("encoded again", "new pose")]
    return [name, label, *cells, *tail]


def stability(models: Results, peers: Results) -> str:
    reference = peers.get("3Di letters (mini3di)", {}).get("stability")
    rows = [_stability_row(n, a, f["stability"]) for n, a, _, f in rows_of(models)]
    classes = best_rows(rows_of(models))
    if reference:
        rows.append(_stability_row("3Di letters (mini3di)", "reference", reference))
    first = rows_of(models)[0][3]["stability"]
    head = ["tokenizer", "assignment", *(f"noise {k} Å" for k in first["jitter"])]
    head += [f"{n} off the {end}" for end in ("start", "end") for n in first["crop start"]]
    return (
        '<h2 id="stability">Stability: do codes survive a small change?</h2>'
        "<p>Share of codes unchanged when normal noise of the given standard deviation is added to every coordinate, "
        "when residues are cut off an end (of the codes that remain), when the rebuilt chain is encoded again, and "
        f"in a new pose. {first['chains']} chains. Solid: default assignment; dashed: open loop; dotted: 3Di letters, "
        "a 20-letter local alphabet without a decoder, as reference.</p>"
        + grid(
            figure(plots.jitter(models, reference), "Codes unchanged by coordinate noise."),
            figure(plots.jitter(models, reference, "crop start"), "Codes unchanged by cutting residues off the start."),
        )
        + table([*head, "encoded again", "new pose"], rows, classes)
    )


def robustness(models: Results) -> str:
    rows = []
    for n, a, _, f in rows_of(models):
        cells = [mean(v[k], 2, False) for v in f["robustness"].values() for k in ("rmsd", "tm_score", "lddt")]
        rows.append([n, a, *cells])
    rates = list(rows_of(models)[0][3]["robustness"])
    head = [f"{w}, {100 * float(r):g} %" for r in rates for w in ("RMSD", "TM", "lDDT")]
    return (
        '<h2 id="robustness">Robustness: what does a wrong code cost?</h2>'
        "<p>Each code is replaced, with the given chance, by any other code of the codebook; means over chains. A "
        "chained decoder passes a wrong step on to everything behind it: the RMSD of the whole grows; lDDT, "
        "which looks at neighbourhoods, suffers less.</p>"
        + grid(
            figure(plots.corruption(models, "tm_score", "TM-score"), "TM-score after corruption."),
            figure(plots.corruption(models, "rmsd", "RMSD, Å"), "RMSD after corruption."),
            figure(plots.corruption(models, "lddt", "lDDT"), "lDDT after corruption."),
        )
        + table(["tokenizer", "assignment", *head], rows, best_rows(rows_of(models)))
    )


def trade_off(sweeps: Results) -> str:
    if not sweeps:
        return ""
    out = ['<h2 id="trade-off">Accuracy against stability: beam and λ</h2>',
           "<p>λ weighs the distance of a code to the residue's own latent against that of the rebuilt chain to the "
           "true one: 0 is pure closed loop, a large one open loop.</p>"]  # fmt: skip
    out.append(
        grid(
            *(
                figure(plots.trade_off(n, s), f"{escape(n)}, {s['chains']} chains; the numbers are λ.")
                for n, s in sweeps.items()
            )
        )
    )
    for name, s in sweeps.items():
        rows, classes = [], []
        for r, best in zip(s["rows"], plots.pareto(s["rows"])):
            kept = [percent(v["codes"], 1) for v in [*r["jitter"].values(), *r.get("crop start", {}).values()]]
            rate = [number(r["rate"][k], 2) for k in ("unigram_bits_corrected", "bigram_bits_high")]
            rows.append(
                [r["label"] + (" (default)" if r["default"] else ""), mean(r["rmsd"]), number(r["rmsd"]["p95"]),
                 mean(r["lddt"], 4, False), *kept, percent(r["equal_to_open"]), *rate, number(r["speed"]["encode"], 0)]
            )  # fmt: skip
            classes.append("best" if best else "")
        first = s["rows"][0]
        noise = [
            *(f"noise {k} Å" for k in first["jitter"]),
            *(f"{k} off the start" for k in first.get("crop start", {})),
        ]
        head = [
            "assignment",
            "RMSD mean",
            "p95",
            "lDDT",
            *noise,
            "as open loop",
            "unigram bits",
            "bigram bits ≤",
            "residues/s",
        ]
        out += [f"<details><summary>{escape(name)}: all points, Pareto front in bold</summary>"]
        out += [table(head, rows, classes), "</details>"]
    return "\n".join(out)


def rate(models: Results, peers: Results) -> str:
    rows = [[n, a, *rate_cells(f)] for n, a, _, f in rows_of(models)]
    classes = best_rows(rows_of(models))
    for n, p in peers.items():
        if "rate" in p:
            rows.append([n, "reference", *rate_cells(p)])
    head = ["tokenizer", "assignment", "log2 K", "tokens", "unigram", "corrected", "bigram ≥", "bigram ≤"]
    return (
        '<h2 id="rate">Rate: bits per token</h2>'
        "<p>Pale bar: log2 of the codebook size, what a file pays. Dark bar: unigram entropy (Miller-Madow). Line: "
        "the range of the entropy given the code before. The plug-in estimate (≥) is too low wherever pairs are far "
        "more than tokens; a bigram model scored on held-out chains (≤) is too high.</p>"
        + grid(figure(plots.rate_bars(models), "Bits per token; less is easier to learn at equal accuracy."))
        + table(head, rows, classes)
    )


def learnability(rows: Results) -> str:
    """What a small language model pays per code, from `eval/learnability.py`; nothing where it never ran."""
    if not rows:
        return ""
    cells = []
    for r in rows.values():
        p, geometry, sampled = r["prediction"], r["real_geometry"], r["samples"]
        bits = [_bits(p[k]) for k in ("codes", "codes given symbols", "symbols", "symbols given codes") if k in p]
        cells.append(
            [r["model"], r["assignment"], r["unit"], mean(r["rmsd"], interval=False), number(r["unigram_bits"], 2),
             *bits, percent(p["codes"]["accuracy"], 1), percent(sampled.get("well_formed")),
             number(sampled.get("compactness"), 2), number(geometry.get("compactness"), 2)]
        )  # fmt: skip
    head = ["tokenizer", "assignment", "per", "RMSD", "unigram bits", "code bits", "given symbols", "symbol bits",
            "given codes", "codes right", "samples whole", "compactness", "of real ones"]  # fmt: skip
    settings = next(iter(rows.values()))["training"]
    return (
        '<h2 id="learnability">Learnability: what a small language model pays</h2>'
        f"<p>The same small transformer ({settings['parameters'] / 1e6:.1f} M parameters for {settings['codes']:,} "
        "codes of training) is trained on the codes of each tokenizer, alone and beside the symbols (residue types "
        "or SELFIES), and scored in bits per code on validation clusters. RMSD is that of the same validation crops. "
        "Samples are drawn from the model and decoded.</p>"
        + grid(
            figure(plots.learnability(rows), "Error against bits per code that the model needs: low and left is good.")
        )
        + table(head, cells)
    )


def _bits(found: Results) -> Cell:
    b = found["bits"]
    return Cell(f'{b["mean"]:.2f} <span class="ci">[{b["low"]:.2f}, {b["high"]:.2f}]</span>', f"{b['mean']}")


def rate_cells(f: Results) -> list[Any]:
    r = f["rate"]
    keys = ("unigram_bits", "unigram_bits_corrected", "bigram_bits_low", "bigram_bits_high")
    return [number(r["bits"], 2), number(r["tokens"], 0), *(number(r.get(k), 2) for k in keys)]


def codebook(models: Results, what: str, anchor: str = "codebook") -> str:
    rows = []
    for n, a, _, f in rows_of(models):
        spread, leak, use = models[n]["codebook"] or {}, f["leakage"] or {}, f["use"]
        rows.append(
            [n, a, number(models[n]["codes"], 0), percent(use["utilisation"], 1), number(use["perplexity"], 0),
             number(spread.get("effective_dimension"), 1), percent(spread.get("near_duplicates"), 1),
             percent(leak.get("accuracy"), 1), percent(leak.get("majority"), 1), number(leak.get("bits"), 3)]
        )  # fmt: skip
    head = ["tokenizer", "assignment", "codes", "used", "perplexity", "effective dimension", "near-duplicates",
            f"{what} guessed", "majority", "bits told"]  # fmt: skip
    return (
        f'<h2 id="{anchor}">Codebook use, and what codes tell about the {what}</h2>'
        "<p>Effective dimension: participation ratio of the covariance of the code vectors. Near-duplicates: codes "
        "whose closest other code lies within a tenth of the codebook's spread (chain-vq: of its steps in Å). "
        "Leakage: a linear probe on single codes, fitted and scored on different clusters; bits told are held-out and "
        "can fall below zero where codes are rare.</p>"
        + grid(figure(plots.codebook_use(models), "Share of all tokens by the rank of the code."))
        + table(head, rows, best_rows(rows_of(models)))
    )
