"""`structok quantize` with workers: into a folder of shards, or in input order to a stream."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from structok import __version__
from structok.errors import InputError
from structok.read.inputs import Distinct, find_inputs
from structok.read.sources import Unit
from structok.work.engines import Engine, Local, WorkerDied, rescue, run_tasks
from structok.work.folder import ShardFolder
from structok.work.log import progress
from structok.work.tasks import Chunk, Listing, Outcome, Quantizer, Settings, chunks
from structok.zoo import default_models, list_models, resolve

_PRELOAD = ("structok.work.tasks", "structok.protein.chain_vq")

__all__ = ["Summary", "quantize_folder", "quantize_stream"]


@dataclass
class Summary:
    """What has been done of a run's shards: now, and before where it was taken up again.

    `rows` are chains and molecules, `missing` the shards that are left to other parts of the run.
    """

    inputs: int = 0
    rows: int = 0
    shards: int = 0
    failed: int = 0
    notes: int = 0
    missing: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count a task."""
        self.inputs += outcome.inputs
        self.rows += outcome.rows
        self.shards += outcome.rows > 0
        self.failed += len(outcome.failures)
        self.notes += len(outcome.notes)


def quantize_folder(
    inputs: list[str],
    out: Path,
    settings: Settings,
    *,
    shard_size: int = 1024,
    part: tuple[int, int] = (1, 1),
    engine: str = "local",
    workers: int = 1,
    force: bool = False,
) -> Summary:
    """Tokenize into a folder of shards; what an earlier run with the same arguments finished is kept.

    Shard k holds inputs `k * shard_size` to `(k + 1) * shard_size`, in the order of `find_inputs`, whoever makes it.

    Parameters
    ----------
    inputs : files, folders, globs, archives, parquet files
    out : the folder, see `ShardFolder`
    shard_size : structure files, archive members, molecule records or parquet rows per shard
    part : (i, n), 1 <= i <= n, does every n-th shard from the i-th on
    engine : 'local' or 'ray'
    workers : processes or actors; 0 with Ray: as many as it has GPUs or cores for
    force : forget what is in the folder

    Raises
    ------
    InputError
        If there are no inputs, the folder holds another run, is in use, or cannot be written.
    """
    turn, turns = part
    if force and turns > 1:
        raise InputError("--force would remove what the other parts of --shard are doing; remove the folder instead")
    if settings.model and settings.model not in list_models() and os.path.isdir(settings.model):
        settings = replace(settings, model=os.path.abspath(settings.model))  # workers may start elsewhere
    folder = ShardFolder(out.absolute(), settings.format)
    with folder.locked(f"part-{turn}-of-{turns}"):
        if "-" in inputs:
            raise InputError("stdin cannot be tokenized into a folder; give files, folders or globs")
        listing = Listing(lambda: Distinct().rename(find_inputs(inputs)))
        folder.claim(_manifest(settings, shard_size, listing), force)
        numbers = range(-(-listing.count // shard_size))
        mine = numbers[turn - 1 :: turns]
        summary = Summary()
        for outcome in folder.outcomes(mine):
            summary.add(outcome)
        share = sum(min(shard_size, listing.count - shard_size * n) for n in mine)
        with progress("tokenizing", share, summary.inputs) as line:
            for outcome in folder.fill(listing, shard_size, mine, lambda: _crew(settings, engine, workers)):
                summary.add(outcome)
                line.advance(outcome.inputs, summary.failed)
        summary.missing = folder.list_failures(len(numbers))
    return summary


def quantize_stream(inputs: list[str], settings: Settings, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of the inputs, the first of one input, later of a few batches each."""
    if "-" in inputs:
        raise InputError("stdin cannot be shared among --workers; leave the option out")
    pieces = chunks(Distinct().rename(find_inputs(inputs)), 8 * settings.batch_size, first=1)
    tasks = (Chunk(number, _absolute(units)) for number, units in enumerate(pieces))
    crew = _crew(settings, "local", workers)
    early: dict[int, Outcome] = {}
    due = 0
    try:
        for task, found in run_tasks(crew, tasks, ahead=4 * workers):
            early[task.number] = _rescued_alone(settings, task) if found is WorkerDied else found
            while due in early:
                yield early.pop(due)
                due += 1
    finally:
        crew.close()


def _crew(settings: Settings, engine: str, workers: int) -> Engine:
    make = partial(Quantizer, settings)
    if engine == "ray":
        from structok.work.ray import Ray  # starts Ray

        return Ray(make, workers, gpus=settings.device != "cpu")
    return Local(make, workers, _PRELOAD)


def _rescued_alone(settings: Settings, task: Chunk) -> Outcome:
    spare = _crew(settings, "local", 1)  # the other workers are busy
    try:
        return rescue(spare, task)  # type: ignore[no-any-return]
    finally:
        spare.close()


def _absolute(units: Iterable[Unit]) -> tuple[Unit, ...]:
    return tuple(replace(unit, path=os.path.abspath(unit.path)) if unit.path else unit for unit in units)


def _manifest(settings: Settings, shard_size: int, listing: Listing) -> dict[str, Any]:
    """All that decides which bytes end up in which shard."""
    fixed = {k: v for k, v in asdict(settings).items() if k not in ("strict", "threads", "model", "search")}
    models = [settings.model] if settings.model else sorted(default_models().values())
    return {
        "structok": __version__,
        "model": {os.path.basename(name): _weights(name) for name in models},
        **fixed,
        **asdict(settings.search),
        "shard_size": shard_size,
        "inputs": listing.count,
        "listing": listing.digest,
    }


def _weights(model: str) -> str:
    folder = resolve(model)
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(json.loads((folder / "config.json").read_bytes()), sort_keys=True).encode())
    return digest.hexdigest()[:16]
