"""Structures to a folder of parquet shards, in parallel, resumable at any point.

Units are read in parts by worker processes; a part's rows and its report wait in the folder `.build` of the output.
When all parts are there, duplicates, clusters and splits are decided from keys, and the rows are copied into the final
shards. Everything follows from the inputs and options alone, so a build that was killed ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from structok.data.card import card_text, made_by, summary
from structok.data.columns import schema
from structok.data.options import KINDS, BuildOptions
from structok.data.records import harvest
from structok.data.shards import SPLITS, ShardWriter, read_rows, write_table
from structok.data.split import Plan, make_plan
from structok.errors import InputError
from structok.files import pyarrow, write_whole
from structok.read.sources import Unit, check_inputs, find_units
from structok.work.engines import DIED, Engine, Here, Local, finish
from structok.work.lock import locked
from structok.work.log import Failure, ProgressLine, progress, write_failures

__all__ = ["build"]

_PART = 128  # units per part
_PRELOAD = ("biotite.structure.io.pdb", "biotite.structure.io.pdbx", "structok.read")
_HELD = 1 << 25  # bytes of archive members in one part


@dataclass(frozen=True)
class _Part:
    """Some units, what to do with them, and the folder for the outcome; a probe leaves none."""

    number: int
    units: tuple[Unit, ...]
    options: BuildOptions
    work: Path
    probe: bool = False

    @property
    def rows(self) -> Path:
        return self.work / f"part-{self.number:07d}.parquet"

    @property
    def report(self) -> Path:
        return self.work / f"part-{self.number:07d}.json"

    def fingerprint(self) -> str:
        return hashlib.blake2b("\n".join(u.source for u in self.units).encode(), digest_size=8).hexdigest()

    def run(self) -> None:
        """Write the rows, then the report: a part with a report is done."""
        found = harvest(self.units, self.options)
        if self.probe:
            return
        layout = schema(self.options, part=True)
        write_table(pyarrow().Table.from_pylist(found.rows, schema=layout), self.rows, self.work)
        report = {
            "fingerprint": self.fingerprint(),
            "counts": {
                "read": len(self.units) - found.aside,
                "failed": len(found.failures),
                "found": len(found.rows) + found.dropped.total(),
                "aside": found.aside,
            },
            "dropped": found.dropped,
            "failures": found.failures,
        }
        write_whole(self.report, json.dumps(report).encode())

    def probes(self) -> Iterator[_Part]:
        return (replace(self, number=i, units=(unit,), probe=True) for i, unit in enumerate(self.units))

    def without(self, dead: Collection[int]) -> _Part:
        return replace(self, units=tuple(replace(u, error=DIED) if i in dead else u for i, u in enumerate(self.units)))


class _Reader:
    """Does parts, in one thread where there are several processes."""

    def __init__(self, alone: bool) -> None:
        if not alone:
            import torch

            torch.set_num_threads(1)

    def run(self, task: _Part) -> None:
        """See `_Part.run`."""
        task.run()


def _crew(workers: int) -> Engine:
    make = partial(_Reader, workers == 1)
    return Here(make) if workers == 1 else Local(make, workers, _PRELOAD)


def build(
    inputs: Sequence[str], out: Path, options: BuildOptions, *, workers: int = 1, force: bool = False
) -> dict[str, Any]:
    """Build a data set, or go on with one that was interrupted.

    Parameters
    ----------
    inputs : files, folders, globs, tar archives, foldcomp databases
    out : folder of the data set
    workers : processes; more than one need the caller's script to have an `if __name__ == "__main__"` guard
    force : discard what a finished build, or one with other options, left in `out`

    Returns
    -------
    card : the content of `card.json`; `card["counts"]["failed"]` failures are listed in `failures.jsonl`

    Raises
    ------
    InputError
        If an input does not exist, the output exists, or nothing is left after filtering.
    """
    pyarrow()
    check_inputs(inputs)
    if options.clusters is not None and not Path(options.clusters).is_file():
        raise InputError(f"{options.clusters}: no such cluster file")
    work = out / ".build"
    with locked(out, out / ".lock"):
        if _begin(out, work, {"structok": made_by(), "inputs": list(inputs), "options": asdict(options)}, force):
            with progress("reading") as line:
                reports = _read_parts(inputs, options, work, workers, line)
                counts, dropped = _total(reports)
                parts = [r.with_suffix(".parquet") for r in reports]
                write_failures(out / "failures.jsonl", _failures(reports))
                line.say("clustering")
                plan = make_plan(parts, options, work)
                if not plan.keep.any():
                    reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
                    raise InputError(
                        f"{out}: nothing to keep in {counts['read']} structures; {counts['failed']} failed "
                        f"(see {out / 'failures.jsonl'}), dropped: {reasons or 'none'}"
                    )
                line.say("writing shards")
                splits = _write_shards(parts, plan, options, out, work)
            counts["kept"] = int(plan.keep.sum())
            if counts["found"] > counts["kept"] + dropped.total():
                dropped["duplicate of an earlier one"] = counts["found"] - counts["kept"] - dropped.total()
            how = plan.how + (f", {plan.unlisted:,} not named there are alone" if plan.unlisted else "")
            card = summary(list(inputs), options, counts, dropped, splits, how)
            write_whole(out / "card.json", json.dumps(card, indent=2, ensure_ascii=False).encode())
            write_whole(out / "README.md", card_text(card).encode())  # last: now it is finished
        shutil.rmtree(work)
    return dict(json.loads((out / "card.json").read_bytes()))


def _begin(out: Path, work: Path, state: dict[str, Any], force: bool) -> bool:
    """Make ready for a new build, or for going on with an old one; False if that was already finished."""
    options = work / "options.json"
    ours = [out / n for n in ("README.md", "card.json", "failures.jsonl")]  # the README goes first: see below
    ours += sorted(p for split in SPLITS for p in out.glob(f"{split}-*-of-*.parquet"))
    if options.exists():
        if json.loads(options.read_bytes()) == state:
            return not ours[0].exists()  # killed while it removed its traces
        if not force:
            raise InputError(f"{out}: a build with other inputs or options was begun here; --force discards it")
    elif any(p.exists() for p in ours) and not force:
        raise InputError(f"{out}: exists; --force builds it anew")
    for path in ours:
        path.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_whole(options, json.dumps(state).encode())
    return True


def _read_parts(
    inputs: Sequence[str], options: BuildOptions, work: Path, workers: int, line: ProgressLine
) -> list[Path]:
    """Run all parts that are not done; their reports, in order."""
    reports: list[Path] = []
    counts: Counter[str] = Counter()

    def todo() -> Iterator[_Part]:
        for part in _parts(find_units(inputs), options, work):
            reports.append(part.report)
            if part.report.exists():
                if json.loads(part.report.read_bytes())["fingerprint"] != part.fingerprint():
                    raise InputError(
                        f"{work}: the inputs have changed since this build was begun; remove it to start over"
                    )
                finished(part)
            else:
                yield part

    def finished(part: _Part) -> None:
        counts.update(json.loads(part.report.read_bytes())["counts"])
        line.advance(len(part.units), counts["failed"])

    crew = _crew(workers)
    try:
        for part, _ in finish(crew, todo()):
            finished(part)
    finally:
        crew.close()
    return reports


def _parts(units: Iterator[Unit], options: BuildOptions, work: Path) -> Iterator[_Part]:
    number, held = 0, 0
    chunk: list[Unit] = []
    for unit in units:
        chunk.append(unit)
        held += len(unit.content or b"")
        if len(chunk) == _PART or held > _HELD:
            yield _Part(number, tuple(chunk), options, work)
            number, held, chunk = number + 1, 0, []
    if chunk:
        yield _Part(number, tuple(chunk), options, work)


def _total(reports: Sequence[Path]) -> tuple[Counter[str], Counter[str]]:
    """Counts of structures, and of what was dropped by reason."""
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for path in reports:
        report = json.loads(path.read_bytes())
        counts.update(report["counts"])
        dropped.update(report["dropped"])
    return counts, dropped


def _failures(reports: Sequence[Path]) -> Iterator[Failure]:
    for path in reports:
        yield from map(tuple, json.loads(path.read_bytes())["failures"])


def _write_shards(
    parts: Sequence[Path], plan: Plan, options: BuildOptions, out: Path, work: Path
) -> dict[str, dict[str, int]]:
    """Copy the rows that are kept into shards by split; returns what each split holds."""
    pa = pyarrow()
    layout = schema(options)
    of_split = [plan.keep & (plan.validation == (split == "validation")) for split in SPLITS]
    totals = [int(chosen.sum()) for chosen in of_split]
    writers = [ShardWriter(out, work, s, layout, n, options.shard_size) for s, n in zip(SPLITS, totals)]
    sizes = [0, 0]
    first = 0
    for part in parts:
        for table in read_rows(part):
            rows = np.arange(first, first + len(table))
            first += len(table)
            names = [plan.renamed.get(int(r), name) for r, name in zip(rows, table["id"].to_pylist())]
            for i, split in enumerate(SPLITS):
                label = pa.array([split] * len(table))
                done = table.set_column(table.schema.get_field_index("id"), "id", pa.array(names))
                done = done.append_column("cluster", pa.array(plan.cluster[rows])).append_column("split", label)
                chosen = done.select(layout.names).cast(layout).filter(pa.array(of_split[i][rows]))
                sizes[i] += int(np.sum(chosen["length"].to_numpy()))
                writers[i].add(chosen)
    return {
        split: {
            "rows": totals[i],
            "clusters": len(np.unique(plan.cluster[of_split[i]])),
            KINDS[options.modality].unit: sizes[i],
            "shards": -(-totals[i] // options.shard_size),
        }
        for i, split in enumerate(SPLITS)
    }
