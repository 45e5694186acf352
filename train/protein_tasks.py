"""What GCP-VQVAE learns from: losses, optimiser, schedule, and what is measured on the way."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.geometry import superpose
from structok.metrics import codebook_spread, codebook_use, lddt_points, rmsd_points, tm_points
from structok.protein.decoder import backbone
from structok.protein.losses import (
    AdaptiveWeights,
    aligned_mse,
    backbone_direction,
    backbone_distance,
    gradient_norms,
    window_fape,
)
from structok.protein.model import GCPVQVAEConfig, GCPVQVAEModel
from structok.protein.tokenizer import GCPVQVAE
from structok.structure import Backbone
from train.protein_data import Batch

__all__ = ["ProteinTask", "Training"]

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
    lr, min_lr, warmup, steps : cosine schedule from `lr` to `min_lr` over `steps` after a linear warm-up
    betas, weight_decay : AdamW
    local : steps at the very start with the next residue's pose as the encoder's only input (`next_step` models):
        without GCPNet and transformer they are some ten times faster
    continuous : steps at the start without quantiser; k-means then starts from latents that mean something
    """

    weights: dict[str, float] = field(default_factory=lambda: {"mse": 0.002, "distance": 0.01, "direction": 0.05})
    reach: int = 4
    adaptive: bool = True
    adapt_every: int = 50
    lr: float = 1e-4
    min_lr: float = 1e-5
    warmup: int = 500
    steps: int = 100_000
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-2
    local: int = 0
    continuous: int = 0


class ProteinTask(L.LightningModule):
    """Autoencoding of backbones.

    Parameters
    ----------
    config : the model's
    settings : losses and optimiser
    out : folder that gets the tokenizer whenever validation RMSD (by the default assignment) is the best so far
    samples : folder for rebuilt validation chains as PDB, '' for none
    """

    best: Tensor

    def __init__(self, config: GCPVQVAEConfig, settings: Training, out: str = "", samples: str = "") -> None:
        super().__init__()
        if unknown := set(settings.weights) - set(_LOSSES):
            raise ValueError(f"unknown losses {sorted(unknown)}; known: {', '.join(_LOSSES)}")
        self.settings, self.out, self.samples = settings, out, samples
        self.model = GCPVQVAEModel(config)
        self.weights = AdaptiveWeights({name: weight for name, weight in settings.weights.items() if weight})
        self.register_buffer("best", torch.tensor(math.inf))
        self._latents: deque[Tensor] = deque(maxlen=64)
        self._codes: list[Tensor] = []
        self._scores: list[dict[str, float]] = []
        self._closed: list[float] = []
        self._tokenizer: GCPVQVAE | None = None

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def rebuild(self, batch: Batch) -> tuple[Float[Tensor, "b l 3 3"], Int[Tensor, "b l"], Float[Tensor, ""]]:
        """Coordinates, codes and quantiser loss; codes are -1 while the codebook has not been started."""
        model, mask = self.model, batch.mask
        graph = model.graph(batch.coords, mask, batch.types)
        local = self.global_step < self.settings.local
        latents = model.encode_steps(graph, mask) if local else model.encode(graph, mask)
        if not model.quantizer.initialised and (self.global_step < self.settings.continuous or not self.training):
            if self.training:
                self._latents.append(latents.detach()[mask].float())
            codes, loss = torch.full_like(mask, -1, dtype=torch.long), latents.new_zeros(())
        else:
            if self._latents and not model.quantizer.initialised:
                model.quantizer.initialise_(torch.cat(list(self._latents)))
                self._latents.clear()
            latents, codes, loss = model.quantizer(latents, mask)
        return backbone(model.decoder(latents, mask)), codes, loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        coords, codes, quantizer_loss = self.rebuild(batch)
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

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(
            self.parameters(), s.lr, betas=(s.betas[0], s.betas[1]), weight_decay=s.weight_decay
        )

        def factor(step: int) -> float:
            if step < s.warmup:
                return (step + 1) / s.warmup
            progress = min(1.0, (step - s.warmup) / max(1, s.steps - s.warmup))
            low = s.min_lr / s.lr
            return low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        if self.model.config.local_steps and self.model.quantizer.initialised:
            self._tokenizer = GCPVQVAE(self.model, device=str(self.device))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self._tokenizer is not None:
            coords, codes = self._as_used(self._tokenizer, batch, closed_loop=False)
            closed, _ = self._as_used(self._tokenizer, batch, closed_loop=True)
        else:
            coords, codes, _ = self.rebuild(batch)
            closed = None
        self._codes.append(codes[batch.mask].cpu())
        true, mask = torch.where(batch.mask[..., None, None], batch.target, 0.0), batch.mask
        atoms = mask.repeat_interleave(3, 1)
        moved = superpose(coords.flatten(1, 2), true.flatten(1, 2), atoms)
        rmsd = rmsd_points(moved, true.flatten(1, 2), atoms)
        lddt = lddt_points(coords[:, :, 1], true[:, :, 1], mask)
        for i, seen in enumerate(mask):
            tm = tm_points(coords[i, seen, 1], true[i, seen, 1])
            self._scores.append({"rmsd": float(rmsd[i]), "lddt": float(lddt[i]), "tm": float(tm)})
        if closed is not None:
            self._closed += rmsd_points(closed.flatten(1, 2), true.flatten(1, 2), atoms).tolist()
        if self.samples and batch_idx == 0 and self.trainer.is_global_zero and find_spec("biotite"):
            self._write_sample(moved.unflatten(1, (-1, 3))[0], batch)

    def _as_used(
        self, tokenizer: GCPVQVAE, batch: Batch, *, closed_loop: bool
    ) -> tuple[Float[Tensor, "b l 3 3"], Int[Tensor, "b l"]]:
        """Coordinates and codes by the tokenizer itself, which bridges gaps that training leaves open."""
        chains = [Backbone(x.cpu().numpy()) for x in batch.target]
        tokens = tokenizer.encode_batch(chains, closed_loop=closed_loop, beam=4, batch_size=len(chains))
        rebuilt = tokenizer.decode_batch(tokens, batch_size=len(chains))
        coords = torch.from_numpy(np.stack([b.coords for b in rebuilt])).nan_to_num()
        codes = torch.from_numpy(np.stack([t.codes for t in tokens]))
        return coords.to(self.device), codes.long().to(self.device)

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
        if self._closed:
            values["rmsd/closed"] = float(np.mean(self._closed))
        codes, size = torch.cat(self._codes), self.model.config.codebook_size
        self._scores, self._codes, self._closed, self._tokenizer = [], [], [], None
        if self.model.quantizer.initialised:
            use = codebook_use(codes.numpy(), size)
            use |= codebook_spread(self.model.quantizer.codebook.detach().float())
            values |= {f"codebook/{name}": value for name, value in use.items()}
            score = values["rmsd/closed" if self.model.config.closed_loop else "rmsd/valid"]
            if not self.trainer.sanity_checking and score < self.best and self.trainer.is_global_zero:
                self.best.fill_(score)
                self.export()
        self.log_dict(values, sync_dist=True)

    def export(self) -> None:
        """Write the tokenizer to `out`."""
        if self.out:
            model = GCPVQVAEModel(self.model.config)
            model.load_state_dict(self.model.state_dict())
            GCPVQVAE(model, Path(self.out).name).save(self.out)
