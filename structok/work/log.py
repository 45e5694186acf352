"""What a long run says: failures, how far it is, and its exit status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from structok.errors import InputError, StructokError
from structok.files import open_whole
from structok.structure import Note

__all__ = [
    "Failure",
    "Log",
    "Notes",
    "ProgressLine",
    "Remark",
    "located",
    "progress",
    "say",
    "show_failures",
    "write_failures",
    "write_remarks",
]

T = TypeVar("T")

Failure = tuple[str, str]  # source, reason
Remark = tuple[str, str, int, str]  # source, what was left out or invented, how often, the same as a line
_SHOWN = 20  # failures on stderr; the file has them all


class Log:
    """Counts what worked and what failed, reports failures on stderr, and shows progress on a terminal."""

    def __init__(self, strict: bool = False, quiet: bool = False) -> None:
        self.strict, self.quiet, self.done, self.failed = strict, quiet, 0, 0

    def error(self, error: StructokError, source: str = "") -> None:
        """Report one bad input, `source`; `--strict` makes it the last."""
        if self.strict:
            raise error
        self.failed += 1
        say(f"error: {error}")

    def note(self, note: Note, source: str) -> None:
        """Say what was left out or invented, one line, unless it is routine or `quiet`."""
        if not (note.routine or self.quiet):
            say(f"{source}: {note}")

    def track(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Count items as done; a progress line on stderr when it is a terminal."""
        with progress(what) as line:
            for item in items:
                self.done += 1
                line.advance(1)
                yield item

    def finish(self) -> None:
        """Exit with status 1 if anything failed."""
        if self.failed:
            say(f"{self.done} done, {self.failed} failed")
            sys.exit(1)


class Notes:
    """Collects failures and notes, where they are to be written or sent on."""

    def __init__(self, strict: bool = False) -> None:
        self.strict, self.failures, self.notes = strict, list[Failure](), list[Remark]()

    def error(self, error: StructokError, source: str = "") -> None:
        """Note one bad input, `source`; `strict` makes it the last."""
        if self.strict:
            raise error
        self.failures.append((source, " ".join(str(error).split()).removeprefix(f"{source}: ")))

    def note(self, note: Note, source: str) -> None:
        """Keep what was left out or invented, unless it is routine."""
        if not note.routine:
            self.notes.append((source, note.kind, note.count, note.text))


def say(text: str) -> None:
    """One line on stderr."""
    print(f"structok: {' '.join(text.split())}", file=sys.stderr)


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """A line of JSON for each input that failed, with the reason."""
    with open_whole(path) as file:
        for source, reason in failures:
            file.write(json.dumps({"source": source, "reason": reason}, ensure_ascii=False).encode() + b"\n")


def write_remarks(path: Path, remarks: Iterable[Remark]) -> None:
    """A line of JSON for each thing that was left out or invented where nothing failed."""
    with open_whole(path) as file:
        for source, kind, count, text in remarks:
            note = {"source": source, "kind": kind, "count": count, "note": text}
            file.write(json.dumps(note, ensure_ascii=False).encode() + b"\n")


def show_failures(path: Path, count: int) -> None:
    """The first lines of what `write_failures` wrote, and where the rest is."""
    with path.open(encoding="utf-8") as file:
        for failure in map(json.loads, islice(file, _SHOWN)):
            say(f"error: {failure['source']}: {failure['reason']}")
    say(f"{count:,} failed, all of them in {path}")


class ProgressLine:
    """Says on a terminal how far a run is: a count, the rate, the time, and with a total how much is left."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task, self._began, self._count = bar, task, time.monotonic(), 0

    def advance(self, count: int, failed: int = 0) -> None:
        """`count` more are done; `failed` so far."""
        self._count += count
        if self._bar is not None:
            rate = f"{self._count / max(time.monotonic() - self._began, 1e-3):,.0f}/s"
            self._bar.update(self._task, advance=count, rate=rate + (f", {failed:,} failed" if failed else ""))

    def say(self, what: str) -> None:
        """What is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Iterator[ProgressLine]:
    """A line that is told of each few more; shown on a terminal only."""
    if not sys.stderr.isatty():
        yield ProgressLine()
        return
    import rich.progress as show
    from rich.console import Console

    columns: list[str | show.ProgressColumn] = [show.SpinnerColumn(), "{task.description}", show.MofNCompleteColumn()]
    columns += [show.TextColumn("{task.fields[rate]}"), show.TimeElapsedColumn()]
    if total is not None:
        columns += ["left", show.TimeRemainingColumn()]
    # tasks may take minutes: the speed is that of the last hour
    with show.Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600) as bar:
        yield ProgressLine(bar, bar.add_task(what, total=total, completed=done, rate=""))


def located(error: Exception, label: str) -> StructokError:
    """The error with the file in front, unless it starts with it already."""
    text = str(error)
    if not isinstance(error, StructokError):
        return InputError(f"{label}: {type(error).__name__}: {text} (a bug?)")
    return error if text.startswith(label) else type(error)(f"{label}: {text}")
