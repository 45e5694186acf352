"""Small pieces of HTML: cells, sortable tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Cell", "figure", "grid", "mean", "number", "percent", "table"]


@dataclass(frozen=True)
class Cell:
    """What a cell shows (HTML) and what it sorts by; an empty key sorts last."""

    html: str
    key: str = ""


def number(value: float | None, digits: int = 3) -> Cell:
    """A number, or a dash."""
    return Cell("–") if value is None else Cell(f"{value:,.{digits}f}", f"{value}")


def percent(value: float | None, digits: int = 0) -> Cell:
    """A share as a percentage, or a dash."""
    return Cell("–") if value is None else Cell(f"{value:.{digits}%}", f"{value}")


def mean(found: dict[str, Any] | None, digits: int = 3, interval: bool = True) -> Cell:
    """Mean of a `spread`, with its 95 % bootstrap interval."""
    if not found or "mean" not in found:
        return Cell("–")
    low, high = found.get("interval", (0.0, 0.0))
    between = f' <span class="ci">[{low:.{digits}f}, {high:.{digits}f}]</span>' if interval else ""
    return Cell(f"{found['mean']:.{digits}f}{between}", f"{found['mean']}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] = ()) -> str:
    """A table whose columns sort by a click; cells are `Cell`s or plain text."""
    heads = "".join(f'<th aria-sort="none" scope="col"><button>{escape(h)}</button></th>' for h in header)
    lines = []
    for i, row in enumerate(rows):
        cells = [c if isinstance(c, Cell) else Cell(escape(str(c)), str(c)) for c in row]
        kind = f' class="{classes[i]}"' if i < len(classes) and classes[i] else ""
        lines.append(f"<tr{kind}>" + "".join(f'<td data-v="{escape(c.key)}">{c.html}</td>' for c in cells) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def figure(picture: str, caption: str) -> str:
    """A plot with its caption."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def grid(*figures: str) -> str:
    """Plots side by side where there is room."""
    return '<div class="plots">' + "\n".join(f for f in figures if f) + "</div>"
