"""Tables of the GCP-VQVAE network, from `eval.measure.network`; nothing where it has not run."""

from __future__ import annotations

import json
from typing import Any

from eval.report.results import ROOT, load
from eval.report.table import Columns, Row, Table, average, fill, numbers, percent, shares

__all__ = ["ablation", "card", "curve", "fill_network", "network"]

NAME = "gcp-vqvae"
CONTROL = "control-plain"  # the published form of the same size, a run of its own
SHORT = {"short": "500 steps, noise in training", "short-no-jitter": "500 steps, no noise in training"}
FIGURES: Columns = {
    "RMSD, Å": average(2, "rmsd"),
    "p95": numbers(2, "rmsd", "p95"),
    "TM": average(3, "tm_score"),
    "lDDT": average(3, "lddt"),
}


def _rows(found: Row) -> list[dict[str, Any]]:
    """What was decoded, and how well."""
    rows = [{"what": "codes and anchors", **found["codes"]}]
    for key, value in found.items():
        if key.endswith(" wrong"):
            rate = f"{float(key.split()[0]):.0%}"
            rows.append({"what": f"{rate} of codes and anchors wrong", **value})
            if "codes only" in value:
                rows.append({"what": f"{rate} of codes wrong", **value["codes only"]})
    if alone := found.get("without anchors"):
        rows.append({"what": "codes alone", **alone})
    return rows


def network(found: Row) -> str:
    """README's: validation and CASP14, whole and damaged."""
    columns: Columns = {"decoded from": lambda r: r["what"]}
    rows = _rows(found["validation"])
    others = {r["what"]: r for r in _rows(found["CASP14"])} if "CASP14" in found else {}
    columns = columns | FIGURES | {"CASP14, RMSD": lambda r: average(2, "rmsd")(others.get(r["what"], {}))}
    whole = found["validation"]
    kept, use, speed = whole["kept"], whole["use"], whole["residues per cpu second"]
    text = (
        f"{whole['chains']} validation chains of all lengths, at most one complete and one with gaps of a "
        "cluster; an anchor every 8 residues. "
        f"CA-CA distances within 0.2 Å of 3.8: {whole['codes']['CA-CA']:.1%}. Codes kept: {_kept(kept)}. "
        f"Codebook: {use['utilisation']:.0%} of the codes occur in these chains, {use['entropy_bits']:.1f} bits of "
        f"entropy. One core encodes {speed['encode']:,.0f} and decodes {speed['decode']:,.0f} residues/s."
    )
    if refined := whole.get("refined"):
        text += (
            f" `refine={refined['sweeps']}` takes {refined['before']['rmsd']['n']} of the chains from "
            f"{refined['before']['rmsd']['mean']:.2f} to {refined['after']['rmsd']['mean']:.2f} Å."
        )
    return Table(columns, rows).markdown() + "\n\n" + text


def _kept(kept: Row) -> str:
    return ", ".join(f"{share:.0%} ({what}{' Å' if 'noise' in what else ''})" for what, share in kept.items())


def card(found: Row) -> str:
    """Both sets in full, by length, and the vectors that are compared."""
    parts = []
    for kind, one in found.items():
        columns: Columns = {kind: lambda r: r["what"], **FIGURES, "CA-CA": lambda r: percent(r.get("CA-CA"), 1)}
        lengths = ", ".join(f"{k}: {v['mean']:.2f}" for k, v in one["codes"]["rmsd by length"].items())
        use, vectors = one["use"], one["vectors"]
        parts += [
            Table(columns, _rows(one)).markdown(),
            f"{one['chains']} chains, {one['residues']:,} residues; mean RMSD by length: {lengths} Å. "
            f"Codes kept: {_kept(one['kept'])}. Utilisation {use['utilisation']:.1%}, unigram entropy "
            f"{use['entropy_bits']:.2f} bits. Code vectors: effective dimension {vectors['effective_dimension']:.1f}, "
            f"near-duplicates {vectors['near_duplicates']:.1%}.",
        ]
    return "\n\n".join(parts)


def ablation(results: Row) -> str:
    """The published form beside the shipped network, and what refinement adds to either."""
    columns: Columns = {
        "network": lambda r: r["name"],
        **FIGURES,
        "1 % wrong": average(2, "0.01 wrong", "rmsd"),
        "kept, 0.1 Å": shares(0, "kept", "noise 0.1"),
        "some chains": average(2, "refined", "before", "rmsd"),
        "the same, refined": average(2, "refined", "after", "rmsd"),
    }
    shipped, control = results[NAME]["validation"], results.get(CONTROL, {}).get("validation")
    rows = [{"name": "shipped, with anchors", **shipped, **shipped["codes"]}]
    rows += [{"name": "shipped, codes alone", **shipped["without anchors"]}]
    if control:
        rows.append({"name": "control, codes alone", **control, **control["codes"]})
    for name, what in SHORT.items():
        if name in results:
            rows.append({**results[name]["validation"], **results[name]["validation"]["codes"], "name": what})
    return Table(columns, rows).markdown()


def curve() -> str:
    """How the shipped network's validation went, from its `training.json`."""
    history = json.loads((ROOT / "checkpoints" / NAME / "training.json").read_bytes())["curve"]
    columns: Columns = {
        "step": lambda r: f"{r['step']:,}",
        "RMSD, Å": numbers(2, "rmsd/valid"),
        "TM": numbers(3, "tm/valid"),
        "lDDT": numbers(3, "lddt/valid"),
        "codes used": shares(0, "codebook/utilisation"),
        "bits": numbers(2, "codebook/entropy_bits"),
    }
    return Table(columns, history).markdown()


def fill_network() -> None:
    """Fill README and the card where there are results."""
    results = load("network")
    if NAME in results:
        fill(ROOT / "README.md", {"network": network(results[NAME])})
        blocks = {"results": card(results[NAME]), "ablation": ablation(results), "curve": curve()}
        fill(ROOT / "checkpoints" / NAME / "README.md", blocks)
