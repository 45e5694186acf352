"""How the topology-conditioned decoder learns: deterministic annealing under noise on the references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from structok.codebook.kmeans import kmeans
from structok.molecule.batch import topo_batch
from structok.molecule.model import MolStrucTokConfig
from structok.molecule.placement import Placement, TopoPlacement
from structok.molecule.tokenizer import MolStrucTok
from structok.molecule.topo import TopoBatch, TopoDecoder, local_frames, with_virtual
from train.molecule.data import Sample
from train.molecule.tasks import Task, coordinates

__all__ = ["TopoTask", "TopoTraining"]


@dataclass(frozen=True)
class TopoTraining:
    """How the topology-conditioned decoder learns.

    Each atom is an independent example: its references and context are the true positions plus noise, as
    large as what earlier codes leave, and the table must cover where the atom may then be wanted. All codes
    share the error by a softmax over -cost / temperature, which cools until it is the nearest code.

    Parameters
    ----------
    lr, weight_decay : AdamW, one-cycle schedule over `schedule` steps
    noise : largest standard deviation of the noise per coordinate (Å); drawn anew for each molecule
    hot, cold : temperature (Å²) at the start and from `cooled` (share of the schedule) on
    bond_weight : weight of the squared bond-length error, in training and in closed-loop assignment
    width, hidden, rounds, n_fixed : sizes of `TopoDecoder`
    beam : the tokenizer's default
    """

    schedule: int = 10_000
    lr: float = 3e-3
    weight_decay: float = 1e-4
    noise: float = 0.05
    hot: float = 0.1
    cold: float = 1e-4
    cooled: float = 0.7
    bond_weight: float = 2.0
    width: int = 64
    hidden: int = 128
    rounds: int = 3
    n_fixed: int = 32
    codebook_size: int = 512
    beam: int = 8


class TopoTask(Task):
    """Deterministic annealing of per-atom tables under noise on the references."""

    def __init__(self, settings: TopoTraining):
        super().__init__()
        self.settings = settings
        self.decoder = TopoDecoder(
            settings.codebook_size, settings.n_fixed, settings.width, settings.hidden, settings.rounds
        )

    def prepare_from(self, samples: list[Sample]) -> None:
        """Spread the fixed codes over the local positions that occur; start all others at their mean."""
        y, *_ = self._examples(samples, noise=0.0)
        generator = torch.Generator().manual_seed(0)
        self.decoder.fixed.copy_(kmeans(y, self.settings.n_fixed, iterations=20, generator=generator))
        with torch.no_grad():
            self.decoder.table_out.bias.copy_(y.mean(0).repeat(self.decoder.n_free))

    def _examples(
        self, samples: list[Sample], noise: float
    ) -> tuple[Float[Tensor, "a 3"], Float[Tensor, " a"], Float[Tensor, "a g"], Bool[Tensor, "b n"], TopoBatch]:
        """Wanted local position, true bond length and visible geometry of every atom but each molecule's first."""
        batch = topo_batch([s.graph for s in samples], [s.topology for s in samples], str(self.device))
        coords, mask = (t.to(self.device) for t in coordinates(samples))
        coords = coords.float()
        mirror = torch.randint(2, (len(coords), 1), device=self.device) * 2 - 1
        coords = torch.cat([coords[..., :2], coords[..., 2:] * mirror[..., None]], dim=-1)
        sigma = torch.rand(len(coords), 1, 1, device=self.device) * noise
        seen = with_virtual(coords + torch.randn_like(coords) * sigma)
        focal, axes, geometry = local_frames(seen, batch.refs, batch.context)
        true_focal = with_virtual(coords).gather(1, batch.refs[..., :1].expand(-1, -1, 3))
        y = torch.einsum("bnij,bnj->bni", axes, coords - focal)
        mask[:, 0] = False
        return y[mask], (coords - true_focal).norm(dim=-1)[mask], geometry[mask], mask, batch

    def training_step(self, batch: list[list[Sample]], batch_idx: int) -> Tensor:
        s = self.settings
        progress = min(1.0, self.global_step / (s.cooled * s.schedule))
        temperature = s.hot * (s.cold / s.hot) ** progress
        loss = torch.zeros((), device=self.device)
        for samples in batch:
            y, length, geometry, mask, graphs = self._examples(samples, s.noise)
            table = self.decoder.table(self.decoder.static(graphs)[mask], geometry)
            loss = loss + _annealed_cost(table, y, length, s.bond_weight, temperature) / len(batch)
        self.log_dict({"train/cost": loss, "train/temperature": temperature}, prog_bar=True)
        return loss

    def placement(self, samples: list[Sample]) -> Placement:
        graphs = topo_batch([s.graph for s in samples], [s.topology for s in samples], str(self.device))
        return TopoPlacement(self.decoder, graphs, self.settings.bond_weight)

    def export(self, folder: str) -> None:
        """Write the tokenizer."""
        s = self.settings
        config = MolStrucTokConfig(
            decoder="topo", codebook_size=s.codebook_size, width=s.width, hidden=s.hidden, rounds=s.rounds,
            n_fixed=s.n_fixed, closed_loop=True, beam=s.beam, bond_weight=s.bond_weight,
        )  # fmt: skip
        MolStrucTok(self.decoder.cpu(), config).save(folder)


class _AnnealedCost(torch.autograd.Function):
    """Softmax-weighted mean cost; its gradient with the weights held fixed, without keeping the big products."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, y: Tensor, length: Tensor, bond_weight: float, temperature: float) -> Tensor:
        radius = table.norm(dim=-1).clamp(min=1e-6)
        gradient = table - y[:, None]
        stretch = radius - length[:, None]
        cost = gradient.square().sum(-1) + bond_weight * stretch.square()
        weight = torch.softmax(-cost / temperature, dim=-1)
        gradient += (bond_weight * stretch / radius)[..., None] * table
        gradient *= (weight * (2 / len(y)))[..., None]
        ctx.save_for_backward(gradient)
        return (weight * cost).sum(-1).mean()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None


def _annealed_cost(
    table: Float[Tensor, "a k 3"], y: Float[Tensor, "a 3"], length: Float[Tensor, " a"], bond_weight: float,
    temperature: float,
) -> Tensor:  # fmt: skip
    return _AnnealedCost.apply(table, y, length, bond_weight, temperature)
