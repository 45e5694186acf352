"""Train GCP-VQVAE.

    structok data build my_pdb_files/ -o my_data
    python -m train.protein fit --config train/configs/gcp_vqvae_plain.yaml --data.path my_data

Data is a folder made by `structok data build`, or by `python -m train.protein pack --source ARRAYS.npz --out FOLDER`;
it is read as a stream, however large. The best tokenizer so far goes to the folder `run.out`; see `train.run` for logs
and resuming.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structok.protein.model import GCPVQVAEConfig
    from train.protein.anchored import Damage
    from train.protein.data import Sampling
    from train.protein.sketch import Sketcher
    from train.protein.tasks import Training
    from train.run import Run

__all__ = ["Data", "compile_parts", "denoise", "fit", "main"]


@dataclass(frozen=True)
class Data:
    """What is read, and by how many.

    Parameters
    ----------
    path : folder of a data set
    workers : processes that prepare batches, for each device
    valid_chains, valid_longest : validate on so many chains of at most so many residues
    """

    path: str
    workers: int = 0
    valid_chains: int = 100
    valid_longest: int = 512


def fit(run: Run, model: GCPVQVAEConfig, data: Data, sampling: Sampling, training: Training, damage: Damage) -> None:
    """Train, validate, export; `damage` is for a model that reads anchors."""
    from structok.protein.model import GCPVQVAEModel
    from structok.protein.tokenizer import GCPVQVAE
    from train.protein.anchored import AnchoredTask
    from train.protein.denoise import load_encoder
    from train.protein.sketch import Sketcher
    from train.protein.tasks import ProteinTask
    from train.run import begin

    def save(trained: Any) -> None:
        copy = GCPVQVAEModel(model)
        copy.load_state_dict(trained.state_dict())
        GCPVQVAE(copy, run.tokenizer.name).save(run.tokenizer)

    begin(run)
    network = GCPVQVAEModel(model)
    if training.gcpnet and not run.checkpoint:
        load_encoder(network, training.gcpnet)
    sketcher, shown = None, str(run.folder / "samples")
    if anchors := model.anchors:
        sketcher = Sketcher(anchors.points, anchors.spacing)
        task: ProteinTask = AnchoredTask(network, training, damage, sketcher.points, save, shown)
    else:
        task = ProteinTask(network, training, save, shown)
    if run.compile:
        compile_parts(task.model)

    def export() -> bool:
        return bool(task.best.isfinite()) or task.export()  # validated and exported before, or now

    _train(run, task, data, sampling, training, export, sketcher, damage if anchors else None)


def denoise(
    run: Run, model: GCPVQVAEConfig, data: Data, sampling: Sampling, training: Training, damage: Damage
) -> None:
    """Pretrain the model's GCPNet; `fit --training.gcpnet FOLDER` starts from what it leaves in `run.out`."""
    from structok.protein.model import GCPVQVAEModel
    from train.protein.denoise import DenoisingTask
    from train.run import begin

    begin(run)
    node = model.graph.node_scalars, model.graph.node_vectors
    task = DenoisingTask(GCPVQVAEModel(model), node, training, sampling.jitter)
    _train(run, task, data, sampling, training, lambda: task.export(run.tokenizer))


def _train(
    run: Run,
    task: Any,
    data: Data,
    sampling: Sampling,
    training: Training,
    export: Callable[[], bool],
    sketcher: Sketcher | None = None,
    damage: Damage | None = None,
) -> None:
    from torch.utils.data import DataLoader

    from structok.data.shards import find_shards
    from train.protein.data import Chains, fixed_batches
    from train.run import train

    chains = Chains(data.path, sampling, seed=run.seed, accumulate=run.accumulate, sketcher=sketcher)
    valid = []
    if data.valid_chains and find_shards(data.path, None)[-1].name.startswith("validation"):
        valid = fixed_batches(data.path, data.valid_chains, data.valid_longest, sampling, sketcher)
    card = Path(data.path) / "card.json"
    record = {
        "data": asdict(data) | {"card": json.loads(card.read_bytes()) if card.exists() else None},
        "sampling": asdict(sampling),
        "training": asdict(training),
        "damage": asdict(damage) if damage else None,
    }
    loader = DataLoader(chains, batch_size=None, num_workers=data.workers)
    train(run, task, chains, loader, [DataLoader(valid, batch_size=None)] if valid else [], export, record)  # type: ignore[arg-type]


def compile_parts(model: Any, **options: Any) -> None:
    """torch.compile what is compute-bound, in place: names in checkpoints stay as they are."""
    for part in (model.graph_encoder, model.encoder, model.decoder):
        part.compile(dynamic=True, **options)


def main(args: list[str] | None = None) -> None:
    """Command line: `fit`, `denoise` or `pack`, then options or `--config FILE`."""
    from jsonargparse import ArgumentParser

    from structok.protein.model import GCPVQVAEConfig
    from train.protein.anchored import Damage
    from train.protein.data import Sampling
    from train.protein.pack import pack
    from train.protein.tasks import Training
    from train.run import Run

    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subcommands()
    sections = {"run": Run, "model": GCPVQVAEConfig, "data": Data, "sampling": Sampling, "training": Training}
    sections["damage"] = Damage
    for kind in ("fit", "denoise"):
        command = ArgumentParser()
        command.add_argument("--config", action="config")
        for name, settings in sections.items():
            command.add_class_arguments(settings, name)
        commands.add_subcommand(kind, command)
    packing = ArgumentParser()
    packing.add_function_arguments(pack)
    commands.add_subcommand("pack", packing)
    parsed = parser.parse_args(args)
    chosen = parser.instantiate(parsed)[parsed.subcommand]
    if parsed.subcommand == "pack":
        pack(**chosen)
    else:
        work = fit if parsed.subcommand == "fit" else denoise
        work(chosen.run, chosen.model, chosen.data, chosen.sampling, chosen.training, chosen.damage)
