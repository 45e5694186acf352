"""Structures to a folder of parquet shards, in parallel, resumable at any point.

Units are read in parts by worker processes; the rows of a part wait in the folder `.build` of the output, which is
filled as `structok quantize` fills its own (`ShardFolder`). When all parts are there, duplicates, clusters and splits
are decided from keys, and the rows are copied into the final shards. Everything follows from the inputs and options
alone, so a build that was killed ends with the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
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
from structok.read.sources import check_inputs, find_units
from structok.work.engines import Engine, Here, Local
from structok.work.folder import ShardFolder
from structok.work.lock import locked
from structok.work.log import progress, write_failures
from structok.work.tasks import Chunk, Listing, Outcome

__all__ = ["build"]

_PART = 64  # units per part; members of a compressed archive are held in memory meanwhile
_PRELOAD = ("biotite.structure.io.pdb", "biotite.structure.io.pdbx", "structok.read")


class _Reader:
    """Reads parts, in one thread where there are several processes."""

    def __init__(self, options: BuildOptions, alone: bool) -> None:
        self.options = options
        if not alone:
            import torch

            torch.set_num_threads(1)

    def run(self, task: Chunk) -> Outcome:
        """Write the rows of a part; a probe leaves none."""
        found = harvest(task.units, self.options)
        outcome = Outcome(
            len(task), len(found.rows), failures=found.failures, dropped=dict(found.dropped), aside=found.aside
        )
        if task.shard and found.rows and not task.probe:
            table = pyarrow().Table.from_pylist(found.rows, schema=schema(self.options, part=True))
            write_table(table, task.shard)
            outcome.size = task.shard.stat().st_size
        return outcome


def _crew(options: BuildOptions, workers: int) -> Engine:
    make = partial(_Reader, options, workers == 1)
    return Here(make) if workers == 1 else Local(make, workers, _PRELOAD)


def build(
    inputs: Sequence[str], out: Path, options: BuildOptions, *, workers: int = 1, force: bool = False
) -> dict[str, Any]:
    """Build a data set, or go on with one that was interrupted.

    Parameters
    ----------
    inputs : files, folders, globs, tar archives, foldcomp databases; compressed archives are read twice
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
    folder = ShardFolder(out / ".build", "parquet")
    ours = [out / n for n in ("README.md", "card.json", "failures.jsonl")]  # the README goes first: it says "finished"
    ours += sorted(p for split in SPLITS for p in out.glob(f"{split}-*-of-*.parquet"))
    with locked(out, out / ".lock"):
        if not force and folder.begun() is None and any(p.exists() for p in ours):
            raise InputError(f"{out}: exists; --force builds it anew")
        listing = Listing(partial(find_units, inputs))
        manifest: dict[str, Any] = {"structok": made_by(), "options": asdict(options), "inputs": list(inputs)}
        manifest |= {"count": listing.count, "listing": listing.digest}
        if folder.begun() != manifest:
            folder.claim(manifest, force, ours)
        if not (out / "README.md").exists():  # else it was killed while it removed its traces
            _make(listing, list(inputs), out, folder, options, workers)
        shutil.rmtree(folder.path)
    return dict(json.loads((out / "card.json").read_bytes()))


def _make(
    listing: Listing, inputs: list[str], out: Path, folder: ShardFolder, options: BuildOptions, workers: int
) -> None:
    """Read what is not read yet, then decide, and write the shards and the card."""
    numbers = range(-(-listing.count // _PART))
    done = list(folder.outcomes(numbers))  # of a build that was interrupted
    failed = sum(len(outcome.failures) for outcome in done)
    with progress("reading", listing.count, sum(outcome.inputs for outcome in done)) as line:
        for outcome in folder.fill(listing, _PART, numbers, partial(_crew, options, workers)):
            failed += len(outcome.failures)
            line.advance(outcome.inputs, failed)
        counts, dropped = Counter[str](), Counter[str]()
        for outcome in folder.outcomes(numbers):
            dropped.update(outcome.dropped)
            found = outcome.rows + sum(outcome.dropped.values())
            counts.update(read=outcome.inputs - outcome.aside, failed=len(outcome.failures), found=found)
            counts.update(aside=outcome.aside)
        write_failures(out / "failures.jsonl", (f for outcome in folder.outcomes(numbers) for f in outcome.failures))
        line.say("clustering")
        parts = [path for path in map(folder.shard, numbers) if path.exists()]
        plan = make_plan(parts, options, folder.path)
        if not plan.keep.any():
            reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
            raise InputError(
                f"{out}: nothing to keep in {counts['read']} structures; {counts['failed']} failed "
                f"(see {out / 'failures.jsonl'}), dropped: {reasons or 'none'}"
            )
        line.say("writing shards")
        splits = _write_shards(parts, plan, options, out, folder.path)
    counts["kept"] = int(plan.keep.sum())
    if counts["found"] > counts["kept"] + dropped.total():
        dropped["duplicate of an earlier one"] = counts["found"] - counts["kept"] - dropped.total()
    how = plan.how + (f", {plan.unlisted:,} not named there are alone" if plan.unlisted else "")
    card = summary(inputs, options, counts, dropped, splits, how)
    write_whole(out / "card.json", json.dumps(card, indent=2, ensure_ascii=False).encode())
    write_whole(out / "README.md", card_text(card).encode())  # last: now it is finished


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
