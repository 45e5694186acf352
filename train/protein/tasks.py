"""What a structure autoencoder learns from: losses, optimiser, schedule, and what is measured on the way."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from structok.geometry import superpose
from structok.metrics import codebook_spread, codebook_use, lddt_points, rmsd_points, tm_points
from structok.protein.losses import (
    AdaptiveWeights,
    aligned_mse,
    backbone_direction,
    backbone_distance,
    gradient_norms,
    window_fape,
)
from structok.structure import Backbone
from train.optimizer import MuonAdamW
from train.protein.data import Batch

__all__ = ["ProteinTask", "Training", "cosine"]

_LOSSES: dict[str, Callable[..., Float[Tensor, " b"]]] = {
    "mse": aligned_mse,
    "distance": backbone_distance,
    "direction": backbone_direction,
    "fape": window_fape,
}


@dataclass(frozen=True)
class Training:
    """Losses and optimiser.

    Parameters
    ----------
    weights : of 'mse', 'distance', 'direction', 'fape'; a loss left out or of weight 0 is not computed.
        The quantiser's commitment is part of the model's configuration.
    reach : residues that the windows of 'fape' reach to either side
    adaptive, adapt_every : let `AdaptiveWeights` move the weights, and every how many steps
    lr, min_lr, warmup : cosine schedule from `lr` to `min_lr` over the run's steps after a linear warm-up
    betas, weight_decay : AdamW
    muon : `MuonAdamW`, which learns in fewer steps, rather than the published AdamW
    average : decay of the moving average of the weights that is validated and exported; 0 = the weights themselves
    gcpnet : folder of a `denoise` run, whose GCPNet the model starts from; '' = from random weights
    continuous : steps at the start without quantiser; k-means then starts from latents that mean something
    """

    weights: dict[str, float] = field(default_factory=lambda: {"mse": 0.002, "distance": 0.01, "direction": 0.05})
    reach: int = 4
    adaptive: bool = True
    adapt_every: int = 50
    lr: float = 1e-4
    min_lr: float = 1e-5
    warmup: int = 500
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-2
    muon: bool = False
    average: float = 0.0
    gcpnet: str = ""
    continuous: int = 0


def cosine(parameters: Iterable[nn.Parameter], settings: Training, steps: int) -> dict[str, Any]:
    """The optimiser and its schedule over so many steps, as Lightning takes them."""
    s = settings
    kind = MuonAdamW if s.muon else torch.optim.AdamW
    optimizer = kind(parameters, s.lr, betas=(s.betas[0], s.betas[1]), weight_decay=s.weight_decay)

    def factor(step: int) -> float:
        if step < s.warmup:
            return (step + 1) / s.warmup
        progress = min(1.0, (step - s.warmup) / max(1, steps - s.warmup))
        low = s.min_lr / s.lr
        return low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ProteinTask(L.LightningModule):
    """Autoencoding of backbones.

    Parameters
    ----------
    model : has `graph(coords, mask, types)`, `forward(graph, mask)` that returns coordinates, latents, codes and the
        quantiser's loss, a `quantizer` and a `decoder`, such as `GCPVQVAEModel`
    settings : losses and optimiser
    export : writes a model as tokenizer, called whenever validation RMSD is the best so far
    samples : folder for rebuilt validation chains as PDB, '' for none
    """

    best: Tensor

    def __init__(
        self, model: Any, settings: Training, export: Callable[[Any], None] | None = None, samples: str = ""
    ) -> None:
        super().__init__()
        if unknown := set(settings.weights) - set(_LOSSES):
            raise ValueError(f"unknown losses {sorted(unknown)}; known: {', '.join(_LOSSES)}")
        self.settings, self.samples = settings, samples
        self._export = export
        self.model = model
        self.average: AveragedModel | None = None
        if settings.average:
            # buffers are copied: a codebook's moving averages are no better for being averaged again
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=False)
            self.average.requires_grad_(False)
        self.weights = AdaptiveWeights({name: weight for name, weight in settings.weights.items() if weight})
        self.register_buffer("best", torch.tensor(math.inf))
        self._latents: deque[Tensor] = deque(maxlen=64)
        self._codes: list[Tensor] = []
        self._scores: list[dict[str, float]] = []

    @property
    def finished(self) -> nn.Module:
        """The model that is validated and exported: the average if there is one."""
        return self.average.module if self.average else self.model

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def start(self, quantizer: Any) -> None:
        """Start the codebook when its time has come; until then vectors pass as they are."""
        early = self.global_step < self.settings.continuous or not self.training
        if self._latents and not early and not quantizer.initialised:
            quantizer.initialise_(torch.cat(list(self._latents)))
            self._latents.clear()
        quantizer.bypass = early and not quantizer.initialised

    def rebuild(
        self, model: Any, batch: Batch
    ) -> tuple[Float[Tensor, "b l 3 3"], Int[Tensor, "b l"], Float[Tensor, ""]]:
        """Coordinates, codes and quantiser loss; codes are -1 while the codebook has not been started."""
        self.start(model.quantizer)
        anchors = () if batch.anchors is None else (batch.anchors,)
        made = model(model.graph(batch.coords, batch.mask, batch.types), batch.mask, *anchors)
        self.keep(model.quantizer, made.latents[batch.mask])
        return made.coords, made.codes, made.quantizer_loss

    def keep(self, quantizer: Any, latents: Float[Tensor, "m d"]) -> None:
        """Remember latents for the start of the codebook."""
        if quantizer.bypass and self.training:
            self._latents.append(latents.detach().float())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        coords, codes, quantizer_loss = self.rebuild(self.model, batch)
        options = {"fape": {"reach": self.settings.reach}}
        losses = {
            name: _LOSSES[name](coords, batch.target, batch.mask, **options.get(name, {})).mean()
            for name in self.weights.base
        }
        weighted = self.weights.weighted(losses)
        if self.settings.adaptive and self.global_step % self.settings.adapt_every == 0:
            norms = gradient_norms(weighted, self.model.decoder.parameters())
            mine = torch.tensor(list(norms.values()), device=self.device)
            shared = self.trainer.strategy.reduce(mine, reduce_op="mean")  # the same weights in all processes
            self.weights.adjust_(dict(zip(norms, shared.tolist())))
            self.log_dict({f"gradient/{name}": value for name, value in norms.items()})
        total = sum(weighted.values()) + quantizer_loss
        self.log_dict({f"loss/{name}": value for name, value in losses.items()}, batch_size=len(codes))
        self.log("loss/quantizer", quantizer_loss, batch_size=len(codes))
        self.log("loss/total", total, batch_size=len(codes), prog_bar=True)
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.model)

    def configure_optimizers(self) -> Any:
        return cosine(self.model.parameters(), self.settings, self.trainer.max_steps)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        coords, codes, _ = self.rebuild(self.finished, batch)
        self._codes.append(codes[batch.mask].cpu())
        true, mask = torch.where(batch.mask[..., None, None], batch.target, 0.0), batch.mask
        atoms = mask.repeat_interleave(3, 1)
        moved = superpose(coords.flatten(1, 2), true.flatten(1, 2), atoms)
        rmsd = rmsd_points(moved, true.flatten(1, 2), atoms)
        lddt = lddt_points(coords[:, :, 1], true[:, :, 1], mask)
        for i, seen in enumerate(mask):
            tm = tm_points(coords[i, seen, 1], true[i, seen, 1])
            self._scores.append({"rmsd": float(rmsd[i]), "lddt": float(lddt[i]), "tm": float(tm)})
        if self.samples and batch_idx == 0 and self.trainer.is_global_zero and find_spec("biotite"):
            self._write_sample(moved.unflatten(1, (-1, 3))[0], batch)

    def _write_sample(self, coords: Float[Tensor, "l 3 3"], batch: Batch) -> None:
        from structok.write.structures import write_structure

        folder = Path(self.samples)
        folder.mkdir(parents=True, exist_ok=True)
        shown = [("A", batch.target[0]), ("B", torch.where(batch.mask[0, :, None, None], coords, torch.nan))]
        chains = [Backbone(x[: len(batch.mask[0])].float().cpu().numpy(), chain_id=name) for name, x in shown]
        write_structure(chains, folder / f"{Path(batch.names[0]).name}_step{self.global_step}.pdb")

    def on_validation_epoch_end(self) -> None:
        scores = {k: np.array([s[k] for s in self._scores]) for k in ("rmsd", "lddt", "tm")}
        values = {f"{name}/valid": float(v.mean()) for name, v in scores.items()}
        for name, share in (("median", 50), ("p95", 95)):
            values[f"rmsd/{name}"] = float(np.percentile(scores["rmsd"], share))
        codes, quantizer = torch.cat(self._codes), self.model.quantizer
        self._scores, self._codes = [], []
        if quantizer.initialised:
            use = codebook_use(codes.numpy(), len(quantizer.codebook))
            use |= codebook_spread(quantizer.codebook.detach().float())
            values |= {f"codebook/{name}": value for name, value in use.items()}
            if values["rmsd/valid"] < self.best:
                self.best.fill_(values["rmsd/valid"])
                self.export()
        self.log_dict(values, sync_dist=True)

    def export(self) -> bool:
        """Write the tokenizer, in the first process; False while there is no codebook."""
        if not self.model.quantizer.initialised:
            return False
        if self._export and self.trainer.is_global_zero:
            self._export(self.finished)
        return True
