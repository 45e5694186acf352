"""Tables of README and of the protein models' cards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from eval.report.results import ROOT, load, load_config, ranked, rows_of, shipped
from eval.report.table import Columns, Row, Table, average, dig, fill, number, numbers, shares
from eval.report.training import steps

__all__ = ["axes", "card", "comparison", "fill_proteins", "reconstruction"]

Results = dict[str, Any]
COMPLETE, GAPS, CASP = SETS = ("validation, complete", "validation, with gaps", "CASP14")
NAME: Columns = {"model": lambda r: f"`{r['tokenizer']}`"}


def _wrong(row: Row) -> str:
    broken = dig(row, "robustness", "0.01")
    return " / ".join(f"{broken[k]['mean']:.2f}" for k in ("rmsd", "tm_score", "lddt")) if broken else "–"


def _anchor_bits(name: str) -> str:
    """What anchors add to the bits of a residue, by a shipped model's configuration."""
    anchors = load_config(name).get("anchors") if name and shipped(name) else None
    return f" + {math.log2(load_config(anchors['points'])['codebook_size']) / anchors['spacing']:g}" if anchors else ""


def _at(chosen: str, text: str) -> Any:
    """A column of figures of a set, as a format string shows them."""
    return lambda row: text.format(**row["sets"][chosen]) if chosen in row["sets"] else ""


def reconstruction() -> str:
    """Protein models by default assignment, most codes first."""
    spread = "{rmsd[mean]:.3f} ({rmsd[p95]:.3f})"
    columns: Columns = {
        **NAME,
        "bits/residue": lambda r: f"{r['rate']['bits']:g}{_anchor_bits(r['tokenizer'])}",
        "unseen chains": _at(COMPLETE, spread),
        "unseen chains with gaps": _at(GAPS, spread),
        "CASP14": _at(CASP, spread),
        "CASP14 TM": _at(CASP, "{tm_score[mean]:.4f}"),
    }
    return Table(columns, (r for r in rows_of(ranked("protein")) if r["mark"])).markdown()


def axes() -> str:
    """Every axis in one table: ours by default and in open loop, 3Di letters, and what others published."""
    columns: Columns = {
        "tokenizer": lambda r: r.get("label") or f"`{r['tokenizer']}`",
        "assignment": lambda r: r["assignment"],
        "bits": lambda r: f"{r['bits']:g}{_anchor_bits(r.get('tokenizer', ''))}",
        "CASP14, RMSD of CA, Å": lambda r: r["casp"],
        "codes kept, 0.1 Å noise": shares(0, "stability", "jitter", "0.1"),
        "20 residues cut off": shares(0, "stability", "crop start", "20"),
        "RMSD / TM / lDDT, 1 % of codes wrong": _wrong,
        "unigram bits": numbers(2, "rate", "unigram_bits_corrected"),
        "bits, small LM": average(2, "learned", "prediction", "codes given symbols", "bits"),
        "sensitivity": average(2, "bench", "sensitivity", "all", "per residue", "spearman"),
        "structure, F1": average(2, "bench", "effectiveness", "secondary structure, macro F1"),
    }
    learned = [r for r in load("learnability").values() if r["anchors"] == "none"]
    bench = load("structtokenbench").get("rows", {}).values()
    rows = []
    for row in rows_of(ranked("protein")):
        if row["mark"] or row["assignment"] == "open loop":
            more = {"bits": row["rate"]["bits"], "casp": f"{row['sets'][CASP]['rmsd_ca']['mean']:.3f}"}
            more["learned"] = _alike(row, "model", learned)
            rows.append(row | more | {"bench": _alike(row, "tokenizer", bench)})
    letters = load("benchmark").get("peers", {}).get("3Di letters (mini3di)", {})
    if "stability" in letters:
        row = {**letters, "tokenizer": "3Di letters (mini3di)", "label": "3Di letters", "assignment": "reference"}
        rate = {"unigram_bits_corrected": letters["rate"]["unigram_bits"]}
        more = {"bits": round(letters["rate"]["bits"], 2), "casp": "no decoder", "rate": rate}
        rows.append(row | more | {"bench": _alike(row, "tokenizer", bench)})
    for name, model in load("published")["proteins"]["models"].items():
        if CASP in model["sets"]:
            rows.append({"label": name, "assignment": "published", "bits": model["bits"],
                         "casp": f"{model['sets'][CASP]['rmsd']:.2f}"})  # fmt: skip
    return Table(columns, rows).markdown()


def _alike(row: Row, name: str, found: Iterable[Row]) -> Row:
    """The row of the same tokenizer under the same assignment, rate weight included; 3Di letters have but one."""
    for other in found:
        if other[name] == row["tokenizer"] and ("label" in row or other["assignment"] == row["assignment"]):
            return other
    return {}


def comparison() -> str:
    """Ours on CASP14 beside published figures: RMSD over CA and TM-score."""
    targets = ("CASP14", "CASP15", "CAMEO24", "new PDB entries")
    columns: Columns = {
        "tokenizer": lambda r: r["name"],
        "bits": lambda r: r["bits"],
        **{t: _at(t, r"{rmsd:.3f} / {tm_score:.3f}") for t in targets},
        "": lambda r: r["where"],
    }
    rows = []
    for row in rows_of(ranked("protein")):
        default = row["model"]["default"]
        if row["mark"] or "," not in row["assignment"].removeprefix(default):  # further beams stand in the card
            found = row["sets"][CASP]
            means = {"rmsd": found["rmsd_ca"]["mean"], "tm_score": found["tm_score"]["mean"]}
            name = f"`{row['tokenizer']}`, {row['assignment']}"
            where = "measured here, all 32 targets"
            rows.append({"name": name, "bits": f"{row['rate']['bits']:g}", "sets": {CASP: means}, "where": where})
    published = load("published")["proteins"]["models"]
    rows += [{"name": name, "where": "published", **model} for name, model in published.items()]
    return Table(columns, rows).markdown()


def card(name: str) -> str:
    """Everything measured about one protein model."""
    model, speed = ranked("protein")[name], load("throughput")
    rows = rows_of({name: model})
    columns: Columns = {
        "chains": lambda r: r["set"],
        "assignment": lambda r: r["assignment"],
        "n": lambda r: r["chains"],
        "RMSD mean": average(3, "rmsd"),
        **{k: numbers(3, "rmsd", k) for k in ("median", "p95", "max")},
        "RMSD CA": average(4, "rmsd_ca"),
        "TM": average(4, "tm_score"),
        "lDDT": average(4, "lddt"),
    }
    [default] = [r for r in rows if r["mark"]]
    first, use, vectors = default["stability"], default["use"], model["codebook"]
    steady: Columns = {
        "assignment": columns["assignment"],
        **{f"noise {k} Å": shares(1, "stability", "jitter", k) for k in first["jitter"]},
        **{f"{k} residues cut off": shares(1, "stability", "crop start", k) for k in first["crop start"]},
        "encoded again": shares(1, "stability", "encoded again"),
        "new pose": shares(1, "stability", "new pose"),
        "RMSD / TM / lDDT, 1 % of codes wrong": _wrong,
    }
    text = [
        Table(columns, ({"set": s, **r, **r["sets"][s]} for s in SETS for r in rows)).markdown(),
        "",
        "Mean RMSD by length, complete validation chains, default: " + _by_length(default),
        *("In open loop: " + _by_length(r) for r in rows if r["assignment"] == "open loop"),
        f"Codes on those chains: utilisation {use['utilisation']:.1%}, unigram entropy {use['entropy_bits']:.2f} bits, "
        f"perplexity {use['perplexity']:.0f}.",
        f"The codebook: effective dimension {vectors['effective_dimension']:.1f}, "
        f"near-duplicates {vectors['near_duplicates']:.1%} (`structok.metrics.codebook_spread`).",
        "",
        f"Codes unchanged by a change of the structure ({first['chains']} validation chains):\n",
        Table(steady, rows).markdown(),
    ]
    if name in speed.get("models", {}):
        rates = ", ".join(f"{k} {v:,}" for k, v in speed["models"][name].items())
        text.append(f"\nSpeed ({speed['machine']}, {speed['threads']} thread(s)): {rates}.")
    if name == "gcp-vqvae" and load("training"):
        text.append("\n" + steps())
    return "\n".join(text)


def price() -> str:
    """What the default's preference for likely codes costs and buys, beside none."""
    swept = load("sweep")["models"]["chain-vq-4096"]["rows"]
    default = next(row for row in swept if row["default"])
    none = next(row for row in swept if row["options"] == default["options"] | {"rate_weight": 0.0})
    bits = [row["rate"]["unigram_bits_corrected"] for row in (none, default)]
    kept = [row["jitter"]["0.1"]["codes"] for row in (none, default)]
    return (
        f"On {none['rmsd']['n']} validation chains a weight of {default['options']['rate_weight']:g} costs "
        f"{default['rmsd']['mean'] - none['rmsd']['mean']:.2f} Å ({default['rmsd']['mean']:.3f} instead of "
        f"{none['rmsd']['mean']:.3f}), takes the unigram bits from {bits[0]:.1f} to {bits[1]:.1f}, and the codes that "
        f"survive 0.1 Å of noise from {kept[0]:.0%} to {kept[1]:.0%}."
    )


def searches() -> str:
    """The default model's codes under other beams and μ, and the widest under other λ (`eval.run --sweep`)."""
    found = load("sweep")["models"]["chain-vq-4096"]
    columns: Columns = {
        "assignment": lambda r: r["label"],
        "RMSD, Å": average(3, "rmsd"),
        "p95": numbers(3, "rmsd", "p95"),
        "unigram bits": numbers(2, "rate", "unigram_bits_corrected"),
        "codes kept, 0.1 Å noise": shares(1, "jitter", "0.1"),
        "20 residues cut off": shares(0, "crop start", "20"),
    }
    shown = [r for r in found["rows"] if not r["options"].get("latent_weight") or r["options"]["beam"] == 32]
    text = Table(columns, sorted(shown, key=lambda r: r["rmsd"]["mean"])).markdown()
    return (
        f"{text}\n\n{found['chains']} complete validation chains of at most 500 residues; open loop with its anchors."
    )


def _by_length(row: Row) -> str:
    bins = row["sets"][COMPLETE]["rmsd_by_length"]
    return ", ".join(f"{k}: {v['mean']:.3f}" for k, v in bins.items()) + "."


def speed() -> str:
    """Encoding and decoding of each protein model, and how much faster than a plain search that is."""
    found = load("throughput")
    columns: Columns = {
        **NAME,
        "beam": lambda r: r["beam"],
        "encode, residues/s": numbers(0, "encode, batch 32, residues/s"),
        "one chain at a time": numbers(0, "encode, one by one, residues/s"),
        "decode, residues/s": numbers(0, "decode, residues/s"),
    }
    rows = [{"tokenizer": n, **found["models"][n]} for n in ranked("protein") if n in found["models"]]
    plain = found["closed loop against a plain search"]
    return (
        f"{Table(columns, rows).markdown()}\n\nOn {found['threads']} CPU cores. A search of all codes in plain torch, "
        f"`chain-vq-4096` with beam {plain['beam']}, encodes {plain['plain, residues/s']:,} residues/s in the same "
        f"run, ours {plain['ours, residues/s']:,}, as accurately."
    )


def lookups() -> str:
    """Nearest-code lookup beside the bare matrix product and the best peer of the same run."""
    found = load("lookup")
    columns: Columns = {
        "vectors": numbers(0, "n"),
        "codes": numbers(0, "k"),
        "components": lambda r: r["d"],
        "time": lambda r: f"{number(r['seconds']['structok'] * 1e3, 0).text} ms",
        "time / bare matrix product": numbers(2, "over_bare_product"),
        "speed / best peer": numbers(2, "speed_over_best_peer"),
    }
    peers = ", ".join(found["lookups"][0]["speed_over_peers"])
    table = Table(columns, found["lookups"]).markdown()
    return f"{table}\n\n{found['device']}, {found['threads']} thread; peers: {peers}."


def fill_proteins() -> None:
    """README and the cards of the protein models."""
    models = ranked("protein")
    if not models:
        return
    blocks = {"axes": axes(), "reconstruction": reconstruction(), "speed": speed(), "lookups": lookups()}
    blocks |= {"price": price(), "searches": searches()}
    fill(ROOT / "README.md", blocks)
    for name in models:
        fill(ROOT / "checkpoints" / name / "README.md", {"results": card(name), "comparison": comparison()})
    fill(ROOT / "checkpoints" / "chain-vq-4096" / "README.md", {"searches": searches()})
