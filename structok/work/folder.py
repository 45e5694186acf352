"""A folder that is filled shard by shard: what is kept about them, and the guard against mixing two runs.

part-000000.parquet ...     tokens (or rows of a data set to be), one shard per task, in the order of the inputs
.structok/manifest.json     settings and inputs of the run
.structok/done/000000.json  written after its shard: inputs, rows, bytes and failures
.structok/failures.jsonl    all failures, in the order of the inputs
.structok/notes.jsonl       what was left out or invented where nothing failed

The second folder is hidden so that readers of whole folders see shards only.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from structok.errors import InputError
from structok.files import write_whole
from structok.work.engines import Engine, finish
from structok.work.lock import locked
from structok.work.log import write_failures, write_remarks
from structok.work.tasks import Chunk, Listing, Outcome, chunks

__all__ = ["ShardFolder"]

_LEFTOVER = re.compile(r"\.(?:part-)?(\d+)\.")
_SUFFIX = {"jsonl": "jsonl", "text": "txt", "csv": "csv", "parquet": "parquet"}


class ShardFolder:
    """A folder of shards.

    Parameters
    ----------
    path : the folder; made when it is opened
    format : of the shards
    """

    def __init__(self, path: Path, format: str) -> None:
        self.path, self._suffix = path, _SUFFIX[format]
        self._notes = path / ".structok"
        self._manifest = self._notes / "manifest.json"

    @property
    def failures(self) -> Path:
        """The file that lists every input that failed."""
        return self._notes / "failures.jsonl"

    @property
    def notes(self) -> Path:
        """The file that lists what was left out, invented or changed."""
        return self._notes / "notes.jsonl"

    def foreign(self) -> bool:
        """Whether the folder holds something, but no run of ours."""
        return self.path.is_dir() and any(self.path.iterdir()) and not self._notes.is_dir()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the folder for one process; the lock ends with it, however it ends.

        Raises
        ------
        InputError
            If another process holds it, it holds other files, or it cannot be written.
        """
        if self.foreign():
            raise InputError(f"{self.path}: holds other files; give a new or an empty folder")
        with locked(self.path, self._notes / f"{name}.lock"):
            yield

    def begun(self) -> dict[str, Any] | None:
        """The manifest of the run that the folder holds."""
        try:
            return dict(json.loads(self._manifest.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def claim(self, manifest: dict[str, Any], force: bool, stale: Iterable[Path] = ()) -> None:
        """Begin a run, or go on with one that was begun with the same manifest; `force` forgets what was done.

        Files in `stale` are removed before a run is begun.

        Raises
        ------
        InputError
            If the folder holds a run with another manifest.
        """
        before = self.begun()
        if before is not None and before != manifest and not force:
            changed = [k for k in manifest if before.get(k) != manifest[k]]
            what = ", ".join(f"{k} {before.get(k)} then, {manifest[k]} now" for k in changed)
            raise InputError(
                f"{self.path}: holds a run with other settings ({what}); take another folder, or --force to start over"
            )
        if force or before != manifest:
            old = (
                [s for suffix in _SUFFIX.values() for s in self.path.glob(f"part-*.{suffix}")]
                if before is not None
                else []
            )
            for path in (*old, *stale):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._notes / "done", ignore_errors=True)
            write_whole(self._manifest, json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")

    def shard(self, number: int) -> Path:
        """Path of a shard."""
        return self.path / f"part-{number:06d}.{self._suffix}"

    def _record(self, number: int) -> Path:
        return self._notes / "done" / f"{number:06d}.json"

    def outcome(self, number: int) -> Outcome | None:
        """What came of a task that is done, its shard whole and in place; else None."""
        try:
            outcome = Outcome(**json.loads(self._record(number).read_bytes()))
            size = self.shard(number).stat().st_size if outcome.rows else 0
        except (OSError, TypeError, ValueError):
            return None
        return outcome if size == outcome.size else None

    def outcomes(self, numbers: Iterable[int]) -> Iterator[Outcome]:
        """Of those of these tasks that are done."""
        return filter(None, map(self.outcome, numbers))

    def fill(self, listing: Listing, size: int, mine: Container[int], crew: Callable[[], Engine]) -> Iterator[Outcome]:
        """Do the tasks that are `mine` and not done yet, `size` inputs each; their outcomes, once they are kept."""
        self._sweep(mine)
        numbered = enumerate(chunks(listing, size))
        tasks = (Chunk(n, units, self.shard(n)) for n, units in numbered if n in mine and not self.outcome(n))
        first = next(tasks, None)
        if first is None:
            return
        engine = crew()
        try:
            for task, outcome in finish(engine, chain([first], tasks)):
                kept = asdict(replace(outcome, tokens=[]))
                write_whole(self._record(task.number), json.dumps(kept, ensure_ascii=False).encode())
                yield outcome
        finally:
            engine.close()
            self._sweep(mine)

    def _sweep(self, mine: Container[int]) -> None:
        """Remove what a killed process left of the tasks that are `mine`."""
        for folder in (self.path, self._notes / "done"):
            for leftover in folder.glob(".*.*"):
                number = _LEFTOVER.match(leftover.name)
                if number and int(number[1]) in mine:
                    leftover.unlink(missing_ok=True)

    def list_failures(self, tasks: int) -> int:
        """Write the failures and notes of all tasks that are done; how many tasks are not."""
        done = [number for number in range(tasks) if self.outcome(number)]
        write_failures(self.failures, (failure for outcome in self.outcomes(done) for failure in outcome.failures))
        write_remarks(self.notes, (note for outcome in self.outcomes(done) for note in outcome.notes))
        return tasks - len(done)
