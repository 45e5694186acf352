"""A line on stderr that says how far a long run is, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

__all__ = ["ProgressLine"]


class ProgressLine:
    """`with ProgressLine("structures") as line: line.advance(128)`: a count, the rate and the time."""

    def __init__(self, unit: str, quiet: bool = False) -> None:
        self._unit = unit
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("starting", total=None)
        self._done = 0

    def __enter__(self) -> ProgressLine:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int, failed: int) -> None:
        """`count` more are done; `failed` so far."""
        self._done += count
        if self._bar is not None:
            seconds = self._bar.tasks[0].elapsed or 0
            rate = f"{self._done / seconds:,.0f}/s" if seconds > 1 else ""
            self.say(f"{self._done:,} {self._unit} {rate}, {failed:,} failed")

    def say(self, what: str) -> None:
        """What is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)
