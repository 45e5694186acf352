"""One training run, whatever is trained: its settings, and the Lightning trainer that they make.

Logs, and a resumable checkpoint `last.ckpt` every few minutes, go to `runs/<name>`. Started again with
`--run.resume true`, a run goes on where it stopped: same weights, same optimiser, same next batch.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from structok.errors import InputError

__all__ = ["Run", "Stream", "begin", "train"]


@dataclass(frozen=True)
class Run:
    """Length, places, machine.

    Parameters
    ----------
    name : of the run; logs and checkpoints go to `runs/<name>`
    out : folder of the finished tokenizer; '' = `runs/<name>`
    steps : optimiser steps in all
    max_time : 'DD:HH:MM:SS' after which the run stops, resumed time included; '' = never
    accumulate : batches per optimiser step
    clip : largest norm of the gradient, 0 = any
    valid_every : batches between validations
    save_minutes : time between resumable checkpoints
    log_every : steps between values in the logs
    loggers : any of 'tensorboard', 'csv' (each start in a folder `version_N` of its own), 'wandb'
    accelerator, devices, nodes, strategy, precision : of the Lightning trainer; e.g. 8, 'ddp' and 'bf16-mixed'
    threads : CPU threads of each process, 0 = torch's default
    compile : torch.compile what the task says
    resume : go on from `runs/<name>/last.ckpt` if it is there
    """

    name: str
    out: str = ""
    steps: int = 10_000
    max_time: str = ""
    accumulate: int = 1
    clip: float = 1.0
    valid_every: int = 500
    save_minutes: float = 5.0
    log_every: int = 20
    loggers: Sequence[Literal["tensorboard", "csv", "wandb"]] = ("tensorboard",)
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int = 0
    compile: bool = False
    resume: bool = False
    seed: int = 0

    @property
    def folder(self) -> Path:
        return Path("runs") / self.name

    @property
    def tokenizer(self) -> Path:
        """Folder of the finished tokenizer."""
        return Path(self.out) if self.out else self.folder

    @property
    def checkpoint(self) -> Path | None:
        """What to go on from, None at a fresh start."""
        last = self.folder / "last.ckpt"
        return last if self.resume and last.exists() else None


def begin(run: Run) -> None:
    """Seed the random numbers and set the threads; call it before the model is made."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips
    warnings.filterwarnings("ignore", ".*(val_dataloader|LeafSpec)")
    L.seed_everything(run.seed, verbose=False)
    if run.threads:
        torch.set_num_threads(run.threads)


class Stream(Protocol):
    """Training batches that know how far they were used, in the process that trains on them."""

    rank: int
    world_size: int

    def consumed(self, batch: Any) -> None:
        """Note that the model has learned from this batch."""

    def state_dict(self) -> dict[str, Any]:
        """Where to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""


class _Position(Callback):
    """Keeps the place of every process's stream, and the state of its random numbers, in the checkpoint."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.random: list[torch.Tensor] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.stream.rank, self.stream.world_size = trainer.global_rank, trainer.world_size

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.random:  # now, since starting to read has drawn some
            torch.set_rng_state(self.random[0])
            if self.random[1:] and torch.cuda.is_available():
                torch.cuda.set_rng_state(self.random[1])
            self.random = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stream.consumed(batch)

    def state_dict(self) -> dict[str, Any]:
        random = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]
        states: list[Any] = [{"stream": self.stream.state_dict(), "random": random}]
        if torch.distributed.is_initialized():
            mine, states = states[0], [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, mine)
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict["processes"]
        mine = states[min(self.stream.rank, len(states) - 1)]
        self.stream.load_state_dict(mine["stream"])
        self.random = mine["random"]


class _Curve(Callback):
    """Keeps every validation of a run in its checkpoint, so that a resumed run goes on with the list."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = {
            k: round(float(v), 5) for k, v in trainer.callback_metrics.items() if not k.startswith(("loss/", "lr"))
        }
        self.rows = [row for row in self.rows if row["step"] < trainer.global_step]
        self.rows.append({"step": trainer.global_step, **found})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class _BetweenSteps(Callback):
    """Acts between optimiser steps only, so that no half-accumulated gradient is lost."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class _Checkpoint(_BetweenSteps, ModelCheckpoint):
    pass


class _Clock(_BetweenSteps, Timer):
    pass


def _loggers(run: Run) -> list[Logger]:
    made: list[Logger] = []
    for kind in run.loggers:
        try:
            if kind == "tensorboard":
                made.append(TensorBoardLogger("runs", name=run.name, version=""))
            elif kind == "csv":
                made.append(CSVLogger("runs", name=run.name))
            elif kind == "wandb":
                made.append(WandbLogger(run.name, run.folder, config=asdict(run)))
            else:
                raise InputError(f"{kind}: no such logger; there are tensorboard, csv and wandb")
        except ModuleNotFoundError:
            raise InputError(f"logging to {kind} needs its package: pip install {kind}") from None
    return made


def _trainer(run: Run, stream: Stream, validate: bool, curve: _Curve) -> L.Trainer:
    saves = _Checkpoint(
        run.folder, save_last=True, save_top_k=0, train_time_interval=timedelta(minutes=run.save_minutes)
    )
    callbacks: list[Callback] = [_Position(stream), curve, saves]
    if run.loggers:
        callbacks.append(LearningRateMonitor("step"))
    if run.max_time:
        callbacks.append(_Clock(run.max_time, verbose=False))
    return L.Trainer(
        max_steps=run.steps,
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=run.strategy,
        precision=run.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=run.clip or None,
        logger=_loggers(run),
        callbacks=callbacks,
        val_check_interval=run.valid_every,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(run.log_every, run.steps),
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


def train(
    run: Run,
    task: L.LightningModule,
    stream: Stream,
    loader: Iterable[Any],
    valid: Any,
    export: Callable[[], bool],
    record: dict[str, Any],
) -> L.Trainer:
    """Fit, save, export, and note beside the tokenizer how it was made.

    Parameters
    ----------
    task : what learns
    stream, loader : the training batches, and what reads them, perhaps in other processes
    valid : loaders of validation batches, or nothing
    export : writes the tokenizer unless that is done, in the first process; whether there is one
    record : more for `training.json`
    """
    began = time.time()
    curve = _Curve()
    trainer = _trainer(run, stream, bool(valid), curve)
    trainer.fit(task, loader, valid or None, ckpt_path=run.checkpoint, weights_only=True)
    trainer.save_checkpoint(run.folder / "last.ckpt")
    if trainer.is_global_zero and export():
        how = {
            "command": " ".join(["python", *sys.argv]),
            "steps": trainer.global_step,
            "seconds_of_last_start": round(time.time() - began),
            "validation": {k: round(float(v), 5) for k, v in trainer.callback_metrics.items() if "/" in k},
            "curve": curve.rows,
            "run": asdict(run),
        }
        (run.tokenizer / "training.json").write_text(json.dumps(how | record, indent=1) + "\n")
    return trainer
