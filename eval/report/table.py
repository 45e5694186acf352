"""One table for every place: Markdown in README and the model cards, sortable HTML in the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Columns", "Row", "Table", "average", "dig", "fill", "number", "numbers", "percent", "shares"]

Row = Mapping[str, Any]  # nested figures of one tokenizer, as the results files have them
Columns = Mapping[str, Callable[[Row], Any]]  # what a column is called, and what it shows of a row


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it sorts by; an empty key sorts last. Only HTML shows the interval."""

    text: str
    key: str = ""
    interval: str = ""


NONE = Cell("–")


class Table:
    """A table of rows.

    Parameters
    ----------
    columns : header and content of each column; a column gives a `Cell`, or anything that `str` turns into one
    rows : what the columns are asked about; the key "mark" of a row is its class in HTML
    """

    def __init__(self, columns: Columns, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self.header = list(columns)
        self.marks = [row.get("mark", "") for row in rows]
        self.cells = [[_cell(show(row)) for show in columns.values()] for row in rows]

    def markdown(self) -> str:
        """Lines between bars."""
        lines = [self.header, ["---"] * len(self.header), *([c.text for c in row] for row in self.cells)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def html(self) -> str:
        """Columns sort by a click."""
        heads = "".join(f'<th aria-sort="none" scope="col"><button>{escape(h)}</button></th>' for h in self.header)
        lines = []
        for mark, row in zip(self.marks, self.cells):
            cells = "".join(f'<td data-v="{escape(c.key)}">{escape(c.text)}{_between(c)}</td>' for c in row)
            lines.append(f'<tr class="{mark}">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
        body = "\n".join(lines)
        return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell(str(value), str(value))


def _between(cell: Cell) -> str:
    return f' <span class="ci">[{cell.interval}]</span>' if cell.interval else ""


def dig(row: Any, *keys: str) -> Any:
    """What lies under these keys, one below the other; None where there is nothing."""
    for key in keys:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def number(value: float | None, digits: int = 3) -> Cell:
    """A number, or a dash."""
    return NONE if value is None else Cell(f"{value:,.{digits}f}", f"{value}")


def percent(value: float | None, digits: int = 0) -> Cell:
    """A share as a percentage, or a dash."""
    return NONE if value is None else Cell(f"{value:.{digits}%}", f"{value}")


def numbers(digits: int, *keys: str) -> Callable[[Row], Cell]:
    """A column of the numbers under these keys."""
    return lambda row: number(dig(row, *keys), digits)


def shares(digits: int, *keys: str, interval: bool = False) -> Callable[[Row], Cell]:
    """A column of the share 'codes' under these keys (`eval.measure.stats.share`), or of a plain share."""

    def show(row: Row) -> Cell:
        found = dig(row, *keys)
        if not isinstance(found, Mapping) or "codes" not in found:
            return NONE if isinstance(found, Mapping) else percent(found, digits)
        between = ", ".join(f"{x:.{digits}%}" for x in found["interval"]) if interval else ""
        return Cell(percent(found["codes"], digits).text, f"{found['codes']}", between)

    return show


def average(digits: int, *keys: str, interval: bool = False) -> Callable[[Row], Cell]:
    """A column of the means under these keys (`eval.measure.stats.spread`), in HTML with their intervals if asked."""

    def show(row: Row) -> Cell:
        found = dig(row, *keys)
        if not found or "mean" not in found:
            return NONE
        low, high = found.get("interval") or (found.get("low", 0.0), found.get("high", 0.0))
        return Cell(
            f"{found['mean']:.{digits}f}", f"{found['mean']}", f"{low:.{digits}f}, {high:.{digits}f}" * interval
        )

    return show


def fill(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a file that is there."""
    if not path.exists():
        return
    text = path.read_text()
    for name, body in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
    path.write_text(text)


def grid(figures: Sequence[tuple[str, str]]) -> str:
    """Plots (picture, caption) side by side where there is room."""
    shown = (f"<figure>{picture}<figcaption>{caption}</figcaption></figure>" for picture, caption in figures)
    return '<div class="plots">' + "\n".join(shown) + "</div>"
