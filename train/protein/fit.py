"""Train GCP-VQVAE.

    python -m train.protein fit --config train/configs/gcp_vqvae_mini.yaml
    python -m train.protein fit --config train/configs/gcp_vqvae_mini.yaml --data.path my_pdb_files/

Data is an npz, a parquet file or a folder of PDB, mmCIF or BinaryCIF files, see `train.data.load_backbones`. The best
tokenizer so far goes to the folder `run.out`; see `train.run` for logs and resuming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structok.protein.model import GCPVQVAEConfig
    from train.protein.data import Sampling
    from train.protein.tasks import Training
    from train.run import Run

__all__ = ["Data", "compile_parts", "fit", "main"]


@dataclass(frozen=True)
class Data:
    """What is read, and by how many.

    Parameters
    ----------
    path : npz, parquet or folder of structures; a relative path that does not exist here is looked up in the
        data folder that the environment variable STRUCTOK_SHARED names, or in `../shared`
    workers : processes that prepare batches
    valid_chains, valid_longest : validate on so many chains of at most so many residues
    """

    path: str = "data/protein/train.npz"
    workers: int = 0
    valid_chains: int = 100
    valid_longest: int = 512

    def found(self) -> Path:
        """The path here, or in the shared folder."""
        from train.data import shared_folder

        here, shared = Path(self.path), shared_folder() / self.path
        return shared if shared.exists() and not here.exists() else here


def fit(run: Run, model: GCPVQVAEConfig, data: Data, sampling: Sampling, training: Training) -> None:
    """Train, validate, export."""
    import numpy as np
    from torch.utils.data import DataLoader

    from structok.protein.model import GCPVQVAEModel
    from structok.protein.tokenizer import GCPVQVAE
    from train.data import load_backbones
    from train.protein.data import Batches, fixed_batches
    from train.protein.tasks import ProteinTask
    from train.run import begin, train

    begin(run)
    chains = load_backbones(data.found())
    valid = fixed_batches(chains, data.valid_chains, data.valid_longest, sampling.residues, sampling.shortest)
    batches = Batches(chains, sampling, seed=run.seed)

    def save(trained: Any) -> None:
        copy = GCPVQVAEModel(model)
        copy.load_state_dict(trained.state_dict())
        GCPVQVAE(copy, run.tokenizer.name).save(run.tokenizer)

    task = ProteinTask(GCPVQVAEModel(model), training, save, str(run.folder / "samples"))
    if run.compile:
        compile_parts(task.model)
    used = np.concatenate(batches.clusters)
    record = {
        "data": asdict(data),
        "sampling": asdict(sampling),
        "training": asdict(training),
        "training_chains": sorted({chains.names[i] for i in used}),
        "training_clusters": sorted({int(c) for c in chains.cluster[used]}),
    }

    def export() -> bool:
        return bool(task.best.isfinite()) or task.export()  # validated and exported before, or now

    loader = DataLoader(batches, batch_size=None, num_workers=data.workers)
    train(run, task, batches, loader, [DataLoader(valid, batch_size=None)] if valid else [], export, record)  # type: ignore[arg-type]


def compile_parts(model: Any, **options: Any) -> None:
    """torch.compile what is compute-bound, in place: names in checkpoints stay as they are."""
    for part in (model.graph_encoder, model.encoder, model.decoder):
        part.compile(dynamic=True, **options)


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a nested mapping by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def main(args: list[str] | None = None) -> None:
    """Command line: `fit`, then options or `--config FILE`."""
    from jsonargparse import ArgumentParser

    from structok.protein.model import PRESETS, GCPVQVAEConfig
    from train.protein.data import Sampling
    from train.protein.tasks import Training
    from train.run import Run

    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subcommands()
    command = ArgumentParser()
    command.add_argument("--config", action="config")
    sections = {"run": Run, "model": GCPVQVAEConfig, "data": Data, "sampling": Sampling, "training": Training}
    for name, settings in sections.items():
        command.add_class_arguments(settings, name)
    command.set_defaults({f"model.{name}": value for name, value in leaves(asdict(PRESETS["mini"]))})
    commands.add_subcommand("fit", command)
    parsed = parser.parse_args(args)
    chosen = parser.instantiate(parsed)[parsed.subcommand]
    fit(chosen.run, chosen.model, chosen.data, chosen.sampling, chosen.training)
