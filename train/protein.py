"""Train GCP-VQVAE (Lightning).

    python train/protein.py fit --config train/configs/gcp_vqvae_mini.yaml
    python train/protein.py fit --config train/configs/gcp_vqvae_mini.yaml --run.data my_pdb_files/

Data is an npz, a parquet file or a folder of PDB, mmCIF or BinaryCIF files, see `train.data.load_backbones`.
TensorBoard logs, rebuilt samples and resumable checkpoints go to `runs/<name>`, the best tokenizer so far to
the folder `out`. Started again with `--run.resume true`, a run goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structok.protein.model import GCPVQVAEConfig
    from train.protein_data import Sampling
    from train.protein_tasks import Training

__all__ = ["Run", "fit", "main"]


@dataclass(frozen=True)
class Run:
    """Data, length, places, machine.

    Parameters
    ----------
    name : of the run; everything resumable goes to `runs/<name>`
    out : folder of the finished tokenizer
    data : npz, parquet or folder of structures; a relative path that does not exist here is looked up in the
        data folder that the environment variable STRUCTOK_SHARED names, or in `../shared`
    minutes : stop after so long, 0 = never; the schedule is set by `training.steps`
    valid_every, valid_chains, valid_longest : steps between validations, and on which chains
    save_minutes : time between resumable checkpoints
    accelerator, devices, strategy, precision : of the Lightning trainer
    threads : CPU threads, 0 = torch's default
    workers : processes that prepare batches
    compile : torch.compile the model
    """

    name: str = "gcp-vqvae"
    out: str = "runs/gcp-vqvae/tokenizer"
    data: str = "data/protein/train.npz"
    minutes: float = 0.0
    valid_every: int = 500
    valid_chains: int = 100
    valid_longest: int = 512
    save_minutes: float = 5.0
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int = 0
    workers: int = 0
    compile: bool = False
    resume: bool = False
    seed: int = 0


def fit(run: Run, model: GCPVQVAEConfig, sampling: Sampling, training: Training) -> None:
    """Train, validate, export."""
    import lightning as L
    import numpy as np
    import torch
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader

    from train.data import load_backbones
    from train.protein_data import Batches, fixed_batches
    from train.protein_tasks import ProteinTask

    began = time.time()
    L.seed_everything(run.seed, verbose=False)
    if run.threads:
        torch.set_num_threads(run.threads)
    folder = Path("runs") / run.name
    last = folder / "last.ckpt"
    resumed = run.resume and last.exists()
    first = torch.load(last, map_location="cpu", weights_only=True)["global_step"] if resumed else 0
    data = load_backbones(_find(run.data))
    valid = fixed_batches(data, run.valid_chains, run.valid_longest, sampling.residues, sampling.shortest)
    task = ProteinTask(model, training, run.out, str(folder / "samples"))
    if run.compile:
        for part in (task.model.graph_encoder, task.model.encoder, task.model.decoder):
            part.compile(dynamic=True)
    trainer = L.Trainer(
        max_steps=training.steps,
        max_time=timedelta(minutes=run.minutes) if run.minutes else None,
        accelerator=run.accelerator,
        devices=run.devices,
        strategy=run.strategy,
        precision=run.precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        logger=TensorBoardLogger("runs", name=run.name, version=""),
        callbacks=[
            ModelCheckpoint(
                folder, save_last=True, save_top_k=0, train_time_interval=timedelta(minutes=run.save_minutes)
            ),
            LearningRateMonitor("step"),
        ],
        val_check_interval=run.valid_every,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if valid else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    batches = Batches(data, sampling, seed=run.seed, first=first, process=trainer.global_rank)
    loader = DataLoader(batches, batch_size=None, num_workers=run.workers)
    trainer.fit(
        task,
        loader,
        DataLoader(valid, batch_size=None) if valid else None,  # type: ignore[arg-type]
        ckpt_path=str(last) if resumed else None,
        weights_only=True,
    )
    trainer.save_checkpoint(last)
    if not trainer.is_global_zero:
        return
    if not task.model.quantizer.initialised:
        print(f"no tokenizer in {run.out}: the run stopped before the codebook was started", file=sys.stderr)
        return
    if not task.best.isfinite():  # no validation chains, or none validated yet
        task.export()
    used = np.concatenate(batches.clusters)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "steps": trainer.global_step,
        "seconds_of_last_start": round(time.time() - began),
        "validation": {k: round(float(v), 5) for k, v in trainer.callback_metrics.items()},
        "run": asdict(run),
        "sampling": asdict(sampling),
        "training": asdict(training),
        "training_chains": sorted({data.names[i] for i in used}),
        "training_clusters": sorted({int(c) for c in data.cluster[used]}),
    }
    Path(run.out, "training.json").write_text(json.dumps(record) + "\n")


def _find(data: str) -> Path:
    from train.data import shared_folder

    here, shared = Path(data), shared_folder() / data
    return shared if shared.exists() and not here.exists() else here


def main(args: list[str] | None = None) -> None:
    """Command line: `fit`, then options or `--config FILE`."""
    from jsonargparse import ArgumentParser

    from structok.protein.model import PRESETS, GCPVQVAEConfig
    from train.protein_data import Sampling
    from train.protein_tasks import Training

    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subcommands()
    command = ArgumentParser()
    command.add_argument("--config", action="config")
    for name, settings in (("run", Run), ("model", GCPVQVAEConfig), ("sampling", Sampling), ("training", Training)):
        command.add_class_arguments(settings, name)
    command.set_defaults({f"model.{k}": v for k, v in asdict(PRESETS["mini"]).items()})
    commands.add_subcommand("fit", command)
    parsed = parser.parse_args(args)
    chosen = parser.instantiate(parsed)[parsed.subcommand]
    fit(chosen.run, chosen.model, chosen.sampling, chosen.training)


if __name__ == "__main__":
    # run as a file, Python looks for modules beside it; `train` and a clone's `structok` lie one level up
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main()
