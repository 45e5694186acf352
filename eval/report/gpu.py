"""README's tables of each GPU that `eval.gpu` ran on; nothing where it ran on none."""

from __future__ import annotations

from typing import Any

from eval import RESULTS
from eval.report.results import ROOT, load
from eval.report.table import Columns, Row, Table, fill, percent

__all__ = ["fill_gpu", "gpu"]


def gpu(report: dict[str, Any]) -> str:
    """One GPU's figures; a dash where a contestant could not do it."""
    timed = [row for row in report["lookups"] if "seconds" in row]
    names = list(dict.fromkeys(n for row in timed for n in row["seconds"]))

    def shape(row: Row) -> str:
        times = f", {row['batches']} times" if row["batches"] > 1 else ""
        return f"{row['n']:,} × {row['k']:,} × {row['d']}{times}"

    def took(name: str) -> Any:
        return lambda row: f"{row['seconds'][name] * 1e3:.2f} ms" if name in row["seconds"] else "–"

    columns: Columns = {
        "vectors × codes × components": shape,
        **{name: took(name) for name in names},
        "share of the bfloat16 product's rate": lambda row: percent(row["share_of_bfloat16_peak"]),
    }
    wrong = {name: sum(row[f"wrong, {name}"] for row in report["correctness"]) for name in ("k = 1", "k = 8", "addmm")}
    encoded = [
        f"{row['residues_per_second']:,.0f} residues/s on the {row['where'].upper().replace('CUDA', 'GPU')} "
        f"(beam {row['beam']}, {row['chains']} chains)"
        for row in report["encoding"]
        if "residues_per_second" in row
    ]
    trained = [
        f"`{row['preset']}` {row['residues/s']:,.0f}"
        + (" in bfloat16" if row["bfloat16"] else " in float32")
        + (", compiled" if row["compiled"] else "")
        for row in report["training"]
        if "residues/s" in row
    ]
    return "\n\n".join(
        [
            Table(columns, timed).markdown(),
            f"{report['device']}, torch {report['torch']}. Against float64, in {len(report['correctness'])} problems "
            f"made to mislead: {wrong['k = 1'] + wrong['k = 8']} wrong rows, {wrong['addmm']} by addmm in float32.",
            f"`chain-vq-4096`, closed loop: {'; '.join(encoded)}. Training, residues/s: {'; '.join(trained)}.",
        ]
    )


def fill_gpu() -> None:
    """Fill the README where there are results."""
    if reports := [load(path.stem) for path in sorted(RESULTS.glob("gpu-*.json"))]:
        fill(ROOT / "README.md", {"gpu": "\n\n".join(map(gpu, reports))})
