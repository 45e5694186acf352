"""Train the molecule tokenizers.

    python -m train.molecule topo --config train/configs/molstructok-topo.yaml
    python -m train.molecule plain --config train/configs/molstructok.yaml

The tokenizer goes to the folder `run.out` at the end; see `train.run` for logs and resuming. On a CPU under glibc, half
the time goes into returning large arrays to the system; MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of 4000000000
in the environment avoid that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader, IterableDataset

from train.molecule.data import MoleculeArrays, Sample, Source, draw, fixed_batches
from train.molecule.plain import PlainTask, PlainTraining
from train.molecule.tasks import Task
from train.molecule.topo import TopoTask, TopoTraining
from train.run import Run, begin, train

__all__ = ["Batches", "Data", "fit", "main"]


@dataclass(frozen=True)
class Data:
    """What is read.

    Parameters
    ----------
    train : sources to learn from, each in equal parts
    valid : sources to measure RMSD on while training
    atoms : atoms per source and batch, about
    valid_molecules : molecules per source
    cache : where molecules are kept as arrays once read
    """

    train: list[Source] = field(default_factory=list)
    valid: list[Source] = field(default_factory=list)
    atoms: int = 1200
    valid_molecules: int = 100
    cache: str = "runs/cache"


class Batches(IterableDataset):
    """Endless random batches: one list of samples per source. Batch k depends on the seed, k and the process alone."""

    def __init__(self, sources: list[MoleculeArrays], atoms: int, seed: int):
        self.sources, self.atoms, self.seed = sources, atoms, seed
        self.rank, self.world_size, self.first = 0, 1, 0

    def __iter__(self) -> Iterator[list[list[Sample]]]:
        k = self.first
        while True:
            rng = np.random.default_rng((self.seed, self.rank, k) if self.rank else (self.seed, k))
            yield [draw(source, self.atoms, rng) for source in self.sources]
            k += 1

    def consumed(self, batch: Any) -> None:
        """Note that the model has learned from this batch."""
        self.first += 1

    def state_dict(self) -> dict[str, int]:
        """How many batches were used."""
        return {"batches": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after so many batches."""
        self.first = state["batches"]


def fit(task: Task, run: Run, data: Data) -> None:
    """Train, validate, export."""
    cache = Path(data.cache)
    sources = [MoleculeArrays.load(s, cache) for s in data.train]
    checks = [fixed_batches(MoleculeArrays.load(s, cache), 4 * data.atoms, data.valid_molecules) for s in data.valid]
    if not run.checkpoint:
        task.prepare_from(draw(sources[-1], 20 * data.atoms, np.random.default_rng(run.seed)))
    task.valid_names = [Path(s.path).stem for s in data.valid]
    batches = Batches(sources, data.atoms, run.seed)
    valid = [DataLoader(batches, batch_size=None) for batches in checks]  # type: ignore[arg-type]

    def export() -> bool:
        task.export(str(run.tokenizer))
        return True

    record = {"data": asdict(data), "training": asdict(task.settings)}
    train(run, task, batches, DataLoader(batches, batch_size=None), valid, export, record)


def main(args: list[str] | None = None) -> None:
    """Command line: `plain` or `topo`, then options or `--config FILE`."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subcommands()
    for name, settings in (("plain", PlainTraining), ("topo", TopoTraining)):
        command = ArgumentParser()
        command.add_argument("--config", action="config")
        command.add_class_arguments(Run, "run")
        command.add_class_arguments(Data, "data")
        command.add_class_arguments(settings, "training")
        commands.add_subcommand(name, command)
    parsed = parser.parse_args(args)
    chosen = parser.instantiate(parsed)[parsed.subcommand]
    begin(chosen.run)
    task = PlainTask(chosen.training) if parsed.subcommand == "plain" else TopoTask(chosen.training)
    fit(task, chosen.run, chosen.data)
