"""README's tables of anchors, from `eval.measure.anchors`; nothing where it has not run."""

from __future__ import annotations

from typing import Any

from eval.report.results import ROOT, load
from eval.report.table import Columns, Table, average, fill, numbers

__all__ = ["anchors", "fill_anchors"]


def anchors(found: dict[str, Any]) -> str:
    """Damage with and without anchors, then complexes, noise and cost in words."""
    chains, cost = found["chains"], found["chains"]["cpu seconds"]
    columns: Columns = {
        "codes and anchors wrong": lambda r: r["rate"],
        **{
            f"{name}, {how}": average(digits, how, key)
            for how in ("with anchors", "without")
            for name, key, digits in (("RMSD, Å", "rmsd", 2), ("TM", "tm_score", 3), ("lDDT", "lddt", 2))
        },
        "repaired, residues/s": numbers(0, "residues per cpu second"),
    }
    rows = [
        {"rate": f"{float(key.split()[0]):.1%}", **value} for key, value in chains.items() if key.endswith(" wrong")
    ]
    undamaged = {"with anchors": chains["undamaged"], "without": chains["undamaged, without anchors"]}
    many, ligands = found["multichain"]["rmsd"], found["protein_ligand"]["rmsd"]
    kept = ", ".join(f"{v['anchors']:.0%} at {k} Å" for k, v in chains["kept under noise"].items())
    radius = min(v["radius"] for v in chains["kept under noise"].values())
    return "\n\n".join(
        [
            Table(columns, [{"rate": "none", **undamaged}, *rows]).markdown(),
            f"{chains['chains']} validation chains of 50 to 500 residues (repair tuned on them), "
            f"an anchor every {chains['spacing']} of them, "
            f"{chains['more tokens']:.0%} more tokens; repair changed {chains['chains that repair changes']} of the "
            "undamaged chains. "
            f"Encoding takes {cost['encode'] / cost['encode without anchors']:.2f} times as long as without anchors, "
            f"decoding {cost['decode'] / cost['decode without anchors']:.1f} times. Anchors kept under noise: {kept}, "
            f"where the radius stays the same (at least {radius:.0%} of chains).",
            f"Whole assemblies of several chains, everything superposed at once: {many['mean']:.3f} Å over N, CA, C "
            f"(95th percentile {many['p95']:.3f}, {many['n']} assemblies). Ligands after superposing the protein only: "
            f"{ligands['mean']:.3f} Å over heavy atoms ({ligands['p95']:.3f}, {ligands['n']}); "
            f"{found['protein_ligand']['free of new clashes with N, CA, C']:.1%} without new clashes with a backbone. "
            "Most of these entries have relatives among the training chains.",
        ]
    )


def fill_anchors() -> None:
    """Fill the README where there are results."""
    if found := load("anchors"):
        fill(ROOT / "README.md", {"anchors": anchors(found)})
