"""What training costs: the table of a card, and README's."""

from __future__ import annotations

from eval.report.results import ROOT, load
from eval.report.table import Columns, Row, Table, fill, numbers

__all__ = ["fill_training", "steps"]

COLUMNS: Columns = {
    "chains": numbers(0, "chains"),
    "loader, peak MB": numbers(0, "peak memory, MB"),
    "whole run, peak MB": numbers(0, "whole run, peak MB"),
    "first batch, s": numbers(1, "first batch after, s"),
    "resumed in mid-epoch, s": numbers(1, "first batch after resuming in mid-epoch, s"),
    "residues per core second": numbers(0, "residues per core second"),
}


def steps() -> str:
    """What a training step of GCP-VQVAE costs (`eval.speed.training`): its card's table."""
    found = load("training")
    limits, machine = found["GFLOP/s of a 2048³ product"], found["machine"]

    def slowest(step: Row) -> str:
        parts = sorted(step["seconds"].items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{part} {s / sum(step['seconds'].values()):.0%}" for part, s in parts)

    columns: Columns = {
        "model": lambda r: r["model"],
        "parameters": lambda r: f"{r['parameters'] / 1e6:.1f} M",
        "precision": lambda r: r["precision"],
        "residues/s": numbers(0, "residues/s"),
        "peak memory": lambda r: f"{r['peak memory of the process, MB']:,} MB",
        "where the time goes": slowest,
        "share of a matrix product's speed": lambda r: f"{r['GFLOP/s'] / limits[r['precision'].split()[0]]:.0%}",
    }
    where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}"
    return f"Training speed ({where}):\n\n" + Table(columns, found["steps"]).markdown()


def fill_training() -> None:
    """README's table of training from shards (`eval.speed.streaming`), beside what a model learns from."""
    found = load("training")
    if rows := found.get("streaming"):
        mini = found["steps"][0]
        size, threads = f"{mini['parameters'] / 1e6:.1f} M parameters", found["machine"]["threads"]
        text = (
            f"The loader is not what one waits for: `{mini['model']}` ({size}) learns from {mini['residues/s']:,} "
            f"residues a second on {threads} thread(s) in {mini['precision']}."
        )
        fill(ROOT / "README.md", {"streaming": f"{Table(COLUMNS, rows).markdown()}\n\n{text}"})
