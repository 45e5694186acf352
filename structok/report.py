"""Comparison of structures with their reconstruction: rows, summary, and a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from structok.errors import StructokError
from structok.read.inputs import Item
from structok.tokens import Tokens
from structok.work.log import Log
from structok.work.stream import Zoo

__all__ = ["compare", "summarise", "table"]


def compare(encoded: Iterable[tuple[Item, Tokens]], zoo: Zoo, log: Log) -> Iterator[dict[str, Any]]:
    """Decode and compare; one row per structure."""
    for (_, source, structure), tokens in encoded:
        try:
            tokenizer = zoo.get(tokens.modality)
            back = tokenizer.decode(tokens)
            row = {"id": tokens.id, "model": tokenizer.name, "chain": tokens.chain}
            found = tokenizer.compare(structure, back, tokens)
            yield {k: v for k, v in row.items() if v is not None} | found
        except StructokError as error:
            log.error(error, source)


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, median and 95th percentile of each numeric column."""
    numbers: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers.setdefault(name, []).append(float(value))
    return {
        name: {
            "mean": float(np.mean(values)),
            "median": float(np.median(values)),
            "p95": float(np.percentile(values, 95)),
        }
        for name, values in numbers.items()
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows and their mean, one table per kind of structure."""
    from rich.console import Console
    from rich.table import Table

    # a pipe gets whole lines, a terminal its own width
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    for columns, group in kinds.items():
        grid = Table(*columns, box=None, header_style="bold")
        for row in group:
            grid.add_row(*(_show(row[c]) for c in columns))
        if len(group) > 1:
            summary = summarise(group)
            for what in ("mean", "median", "p95"):
                cells = [_show(summary[c][what]) if c in summary else "" for c in columns]
                grid.add_row(what, *cells[1:], style="bold")
        console.print(grid)


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
