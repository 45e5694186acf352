"""How the plain molecule tokenizer learns: open loop as published, then closed loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from structok.codebook.nearest import nearest_code
from structok.codebook.quantizer import VectorQuantizer, straight_through
from structok.geometry import superpose
from structok.molecule.batch import pad
from structok.molecule.model import MolStrucTokConfig, MolStrucTokModel
from structok.molecule.placement import Placement, TablePlacement, position_tables
from structok.molecule.search import closed_loop
from structok.molecule.spherical import describe, normalise, to_local
from structok.molecule.tokenizer import MolStrucTok
from train.molecule.data import Sample
from train.molecule.tasks import Task, coordinates, cycle

__all__ = ["PlainTask", "PlainTraining"]


@dataclass(frozen=True)
class PlainTraining:
    """How the plain tokenizer learns: first open loop, as published, then closed loop.

    Parameters
    ----------
    decoder : 'branch' or 'shared'
    schedule : steps in all
    open_steps : of them open loop: VQ-VAE with squared error on the three normalised quantities, cross
        entropy on the sign (of the atoms that have one), commitment loss and a codebook of moving averages
    lr, weight_decay : AdamW, one-cycle schedule over the open-loop steps
    closed_lr : learning rate after them, falling to zero
    commitment, decay : of the quantizer
    bond_weight, beam : of the closed-loop assignment, in training (greedy) and in the finished tokenizer
    """

    decoder: Literal["branch", "shared"] = "branch"
    schedule: int = 4000
    open_steps: int = 2500
    lr: float = 2e-3
    closed_lr: float = 2e-4
    weight_decay: float = 0.0
    commitment: float = 0.25
    decay: float = 0.99
    bond_weight: float = 0.5
    codebook_size: int = 512
    dim: int = 64
    beam: int = 8


class PlainTask(Task):
    """The published VQ-VAE, and then its codebook and decoder under the assignment they will serve.

    In the second phase codes are assigned in closed loop; decoder and codebook move each code's table entry
    towards the positions it was used for, in the rebuilt frames (Lloyd's step by gradient), and the encoder
    follows so that open-loop codes stay sound. Batch norms keep their statistics.
    """

    def __init__(self, settings: PlainTraining):
        super().__init__()
        self.settings = settings
        self.config = MolStrucTokConfig(
            decoder=settings.decoder, codebook_size=settings.codebook_size, dim=settings.dim,
            closed_loop=settings.open_steps < settings.schedule, beam=settings.beam, bond_weight=settings.bond_weight,
        )  # fmt: skip
        self.model = MolStrucTokModel(self.config)
        self.quantizer = VectorQuantizer(
            settings.codebook_size, settings.dim, decay=settings.decay, commitment=settings.commitment,
            rotation_trick=False,
        )  # fmt: skip

    def prepare_from(self, samples: list[Sample]) -> None:
        """Nothing: the quantizer starts from its first batch."""

    def placement(self, samples: list[Sample]) -> Placement:
        self.model.eval()
        refs = pad([s.refs for s in samples], torch.long, str(self.device))
        return TablePlacement(self.model, self.model.table().detach(), refs, self.settings.bond_weight)

    def learning_rate(self, step: int) -> float:
        s = self.settings
        if step < s.open_steps:
            return cycle(step / s.open_steps)
        return s.closed_lr / s.lr * cycle((step - s.open_steps) / max(1, s.schedule - s.open_steps))

    def training_step(self, batch: list[list[Sample]], batch_idx: int) -> Tensor:
        opened = self.global_step < self.settings.open_steps
        self.model.train(opened)
        loss = self._open_loss(batch) if opened else self._closed_loss(batch)
        self.log("train/open" if opened else "train/closed", loss, prog_bar=True)
        return loss

    def _open_loss(self, batch: list[list[Sample]]) -> Tensor:
        g, signed = (torch.cat(parts) for parts in zip(*(self._descriptors(samples) for samples in batch)))
        quantized = self.quantizer(self.model.latent(g))
        self.model.codebook.data.copy_(self.quantizer.codebook)
        return self._reconstruction(self.model.decoder, quantized.vectors, g, signed) + quantized.loss

    def _descriptors(self, samples: list[Sample]) -> tuple[Float[Tensor, "a 4"], Bool[Tensor, " a"]]:
        """Descriptors of all atoms, and whether their sign says anything (not in the first three)."""
        coords, mask = (t.to(self.device) for t in coordinates(samples))
        g = describe(coords, pad([s.refs for s in samples], torch.long, str(self.device)))
        signed = torch.arange(mask.shape[1], device=self.device).expand_as(mask) >= 3
        return g[mask], signed[mask]

    def _reconstruction(
        self, decoder: Callable[[Tensor], tuple[Tensor, Tensor]], code: Tensor, g: Tensor, signed: Tensor
    ) -> Tensor:
        mean, logits = decoder(code)
        wanted = normalise(g).float()
        sign = nn.functional.cross_entropy(logits[signed], (wanted[signed, 3] + 1).round().long())
        return (mean - wanted[:, :3]).square().mean() + sign

    def _closed_loss(self, batch: list[list[Sample]]) -> Tensor:
        tables = position_tables(self.model.table())
        loss = torch.zeros((), device=self.device)
        for samples in batch:
            coords, mask = (t.to(self.device) for t in coordinates(samples))
            placement = self.placement(samples)
            codes = closed_loop(placement, coords, mask, beam=1)
            rebuilt = placement.rebuild(codes)
            target = superpose(coords, rebuilt, mask)
            y = to_local(rebuilt, placement.refs, target)
            y[:, :3] = target[:, :3]  # atoms 1 and 2 are placed in the molecule's own axes
            place = (torch.arange(mask.shape[1], device=self.device) - 1).clamp(0, 2).expand_as(mask)
            mask[:, 0] = False
            local = tables[place[mask], codes[mask]]
            length = placement.bond_lengths(coords)[mask].float()
            cost = (local - y[mask].float()).square().sum(-1)
            cost = cost + self.settings.bond_weight * (local.norm(dim=-1) - length).square()
            loss = loss + cost.mean() / len(batch)
        # the encoder learns to find the codes as they now are; decoder and codebook are held fixed for that
        g, signed = (torch.cat(parts) for parts in zip(*(self._descriptors(samples) for samples in batch)))
        z = self.model.latent(g)
        e = self.model.codebook.detach()[nearest_code(z, self.model.codebook)[1].long()]
        fixed = {k: v.detach() for k, v in self.model.decoder.state_dict().items()}
        decode = partial(functional_call, self.model.decoder, fixed)
        follow = self._reconstruction(decode, straight_through(z, e), g, signed)
        return loss + 0.1 * (follow + self.settings.commitment * (z - e).square().mean())

    def export(self, folder: str) -> None:
        """Write the tokenizer."""
        MolStrucTok(self.model.cpu(), self.config).save(folder)
