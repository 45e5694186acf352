"""What training of both molecule models shares: validation in closed loop, optimiser, samples as tensors."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from structok.geometry import superpose
from structok.molecule.batch import atom_mask, pad
from structok.molecule.placement import Placement
from structok.molecule.search import closed_loop
from structok.molecule.spherical import orient
from train.molecule.data import Sample

__all__ = ["Task", "coordinates", "cycle"]


class Task(L.LightningModule):
    """Validation (closed-loop RMSD on held-out molecules) and the optimiser, common to both models."""

    valid_names: list[str]
    settings: Any

    def placement(self, samples: list[Sample]) -> Placement:
        """Where the model as it is now puts each code."""
        raise NotImplementedError

    def validation_step(self, samples: list[Sample], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Mean all-atom RMSD and bond-length error after greedy closed-loop assignment."""
        coords, mask = (t.to(self.device) for t in coordinates(samples))
        placement = self.placement(samples)
        rebuilt = placement.rebuild(closed_loop(placement, coords, mask, beam=1))
        squared = (superpose(rebuilt, coords, mask) - coords).square().sum(-1) * mask
        rmsd = (squared.sum(1) / mask.sum(1)).sqrt()
        errors = []
        for i, sample in enumerate(samples):
            a, b = torch.from_numpy(sample.graph.bonds).T
            lengths = [(x[i, a] - x[i, b]).norm(dim=-1) for x in (rebuilt, coords)]
            errors.append((lengths[0] - lengths[1]).abs())
        name = self.valid_names[dataloader_idx]
        common = {"add_dataloader_idx": False, "batch_size": len(samples), "prog_bar": True}
        self.log(f"rmsd/{name}", rmsd.float().mean(), **common)
        self.log(f"bond_mae/{name}", torch.cat(errors).float().mean(), **common)

    def on_validation_epoch_end(self) -> None:
        """One line per validation, for runs whose output is no terminal."""
        scores = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith(("rmsd", "bond"))}
        if not sys.stderr.isatty():
            print(f"step {self.global_step}:", *(f"{k} {v:.4f}" for k, v in sorted(scores.items())), flush=True)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave samples as they are; their padded tensors are made on the device."""
        return batch

    def learning_rate(self, step: int) -> float:
        """Relative learning rate at a step."""
        return cycle(step / self.settings.schedule)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.settings.lr, weight_decay=self.settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cycle(progress: float) -> float:
    """Relative learning rate: a warm-up over 5 %, then half a cosine to zero."""
    warm = 0.05
    if progress < warm:
        return 0.04 + 0.96 * progress / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm) / (1 - warm))))


def coordinates(samples: list[Sample]) -> tuple[Float[Tensor, "b n 3"], Bool[Tensor, "b n"]]:
    """True coordinates, posed as rebuilding poses them (float64), and where there are atoms."""
    coords = pad([s.coords for s in samples], torch.float64)
    return orient(coords), atom_mask([len(s.coords) for s in samples])
