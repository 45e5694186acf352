"""README's figures of GPUs, from what `eval.gpu` wrote on each."""

from __future__ import annotations

from typing import Any

from eval import RESULTS
from eval.report.results import ROOT, load
from eval.report.table import Columns, Row, Table, dig, fill, number, percent

__all__ = ["fill_gpus", "gpu"]


def gpu(report: Row) -> str:
    """One GPU's lookups, encoding and training; a dash where a contestant could not do it."""
    measured = [row for row in report["lookups"] if "seconds" in row]
    names = list(dict.fromkeys(name for row in measured for name in row["seconds"]))

    def milliseconds(name: str) -> Any:
        return lambda row: f"{number(1e3 * s, 2).text} ms" if (s := dig(row, "seconds", name)) else "–"

    columns: Columns = {
        "vectors × codes × components": lambda r: (
            f"{r['n']:,} × {r['k']:,} × {r['d']}" + f", {r['batches']} times" * (r["batches"] > 1)
        ),
        **{name: milliseconds(name) for name in names},
        "share of the bfloat16 product's rate": lambda r: percent(r["share_of_bfloat16_peak"]),
    }
    wrong = {name: sum(row[f"wrong, {name}"] for row in report["correctness"]) for name in ("k = 1", "k = 8", "addmm")}
    encoded = [
        f"{row['residues_per_second']:,.0f} residues/s on the {row['where'].upper().replace('CUDA', 'GPU')} "
        f"(beam {row['beam']}, {row['chains']} chains)"
        for row in report["encoding"]
        if "residues_per_second" in row
    ]
    trained = [
        f"`{row['preset']}` {row['residues_per_second']:,.0f}"
        + (" in bfloat16" if row["bfloat16"] else " in float32")
        + ", compiled" * row["compiled"]
        for row in report["training"]
        if "residues_per_second" in row
    ]
    return (
        f"{Table(columns, measured).markdown()}\n\n"
        f"{report['device']}, torch {report['torch']}. Against float64, in {len(report['correctness'])} problems made "
        f"to mislead: {wrong['k = 1'] + wrong['k = 8']} wrong rows, {wrong['addmm']} by addmm in float32.\n\n"
        f"`chain-vq-4096`, closed loop: {'; '.join(encoded)}. Training, residues/s: {'; '.join(trained)}."
    )


def fill_gpus() -> None:
    """README's part on GPUs, where one was measured."""
    if found := sorted(RESULTS.glob("gpu-*.json")):
        fill(ROOT / "README.md", {"gpu": "\n\n".join(gpu(load(path.stem)) for path in found)})
