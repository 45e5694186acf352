"""What training from shards costs (`eval.speed.streaming`): README's table."""

from __future__ import annotations

from eval.report.results import ROOT, load
from eval.report.table import Columns, Table, fill, numbers

__all__ = ["fill_training"]

COLUMNS: Columns = {
    "chains": numbers(0, "chains"),
    "loader, peak MB": numbers(0, "peak memory, MB"),
    "whole run, peak MB": numbers(0, "run", "peak memory, MB"),
    "first batch, s": numbers(1, "first batch after, s"),
    "resumed in mid-epoch, s": numbers(1, "first batch after resuming in mid-epoch, s"),
    "residues per core second": numbers(0, "residues per core second"),
}


def fill_training() -> None:
    """README's table."""
    if not (found := load("training").get("streaming")):
        return
    alone = [row for row in found["loader"] if not row["workers"]]
    rows = [row | {"run": run} for row, run in zip(alone, found["fit"])]
    model = found["model"]
    text = f"\n\nThe `{model['model']}` network learns from {model['residues per core second']:,} residues per core second."
    fill(ROOT / "README.md", {"streaming": Table(COLUMNS, rows).markdown() + text})
