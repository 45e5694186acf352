"""Train the molecule tokenizers (Lightning).

    python -m train.molecule topo --config train/configs/molstructok-topo.yaml
    python -m train.molecule plain --config train/configs/molstructok.yaml

Each writes TensorBoard logs and resumable checkpoints to `runs/<name>`, and at the end the tokenizer to the
folder `out`. Started again with `--run.resume true`, a run goes on where it stopped. On a CPU under glibc, half the
time goes into returning large arrays to the system; MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of 4000000000
in the environment avoid that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lightning as L
import numpy as np
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, IterableDataset

from train.molecule_data import MoleculeArrays, Sample, Source, draw, fixed_batches
from train.molecule_plain import PlainTask, PlainTraining
from train.molecule_topo import TopoTask, TopoTraining

__all__ = ["Run", "main"]


@dataclass(frozen=True)
class Run:
    """What does not depend on the model: data, length, places.

    Parameters
    ----------
    name : of the run; logs and resumable checkpoints go to `runs/<name>`
    out : folder of the finished tokenizer
    train : sources to learn from, each in equal parts
    valid : sources to measure RMSD on while training
    steps : optimiser steps
    atoms : atoms per source and step, about
    valid_every, valid_molecules : steps between validations, molecules per source
    cache : where molecules are kept as arrays once read
    minutes : stop after so long, 0 = never
    threads : CPU threads, 0 = torch's default
    accelerator : 'cpu', 'gpu' or 'auto'
    """

    name: str
    out: str
    train: list[Source] = field(default_factory=list)
    valid: list[Source] = field(default_factory=list)
    steps: int = 10_000
    atoms: int = 1200
    valid_every: int = 500
    valid_molecules: int = 100
    cache: str = "runs/cache"
    minutes: float = 0.0
    threads: int = 0
    accelerator: str = "auto"
    resume: bool = False
    seed: int = 0


class Batches(IterableDataset):
    """Endless random batches: one list of samples per source. Step k's batch depends on the seed and k alone."""

    def __init__(self, sources: list[MoleculeArrays], atoms: int, seed: int, first: int = 0):
        self.sources, self.atoms, self.seed, self.first = sources, atoms, seed, first

    def __iter__(self) -> Iterator[list[list[Sample]]]:
        step = self.first
        while True:
            rng = np.random.default_rng((self.seed, step))
            yield [draw(source, self.atoms, rng) for source in self.sources]
            step += 1


def train(task: L.LightningModule, run: Run) -> None:
    """Fit, export, and note the command and the last validation beside the exported tokenizer."""
    began = time.time()
    L.seed_everything(run.seed, verbose=False)
    if run.threads:
        torch.set_num_threads(run.threads)
    cache = Path(run.cache)
    sources = [MoleculeArrays.load(s, cache) for s in run.train]
    checks = [fixed_batches(MoleculeArrays.load(s, cache), 4 * run.atoms, run.valid_molecules) for s in run.valid]
    folder = Path("runs") / run.name
    last = folder / "last.ckpt"
    done = 0
    if run.resume and last.exists():
        done = torch.load(last, map_location="cpu", weights_only=False)["global_step"]
    else:
        task.prepare_from(draw(sources[-1], 20 * run.atoms, np.random.default_rng(run.seed)))
    trainer = L.Trainer(
        max_steps=run.steps,
        max_time={"minutes": run.minutes} if run.minutes else None,
        accelerator=run.accelerator,
        devices=1,
        gradient_clip_val=1.0,
        logger=TensorBoardLogger("runs", name=run.name, version=""),
        callbacks=[ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=run.valid_every)],
        val_check_interval=run.valid_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    task.valid_names = [Path(s.path).stem for s in run.valid]
    loader = DataLoader(Batches(sources, run.atoms, run.seed, done), batch_size=None)
    valid = [DataLoader(batches, batch_size=None) for batches in checks]  # type: ignore[arg-type]
    trainer.fit(task, loader, valid, ckpt_path=str(last) if done else None, weights_only=False)
    task.export(run.out)
    record = {
        "command": " ".join(["python -m train.molecule", *sys.argv[1:]]),
        "steps": trainer.global_step,
        "seconds_of_last_start": round(time.time() - began),
        "validation": {k: round(float(v), 5) for k, v in trainer.callback_metrics.items() if "/" in k},
        "run": asdict(run),
        "training": asdict(task.settings),
    }
    Path(run.out, "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main(args: list[str] | None = None) -> None:
    """Command line: `plain` or `topo`, then options or `--config FILE`."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subcommands()
    for name, settings in (("plain", PlainTraining), ("topo", TopoTraining)):
        command = ArgumentParser()
        command.add_argument("--config", action="config")
        command.add_class_arguments(Run, "run")
        command.add_class_arguments(settings, "training")
        commands.add_subcommand(name, command)
    parsed = parser.parse_args(args)
    chosen = parser.instantiate(parsed)[parsed.subcommand]
    task = PlainTask(chosen.training) if parsed.subcommand == "plain" else TopoTask(chosen.training)
    train(task, chosen.run)


if __name__ == "__main__":
    main()
