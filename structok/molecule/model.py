"""MolStrucTok: encoder, codebook, and the two decoders that turn a code into one local position.

Descriptors (d, theta, |phi|, sign) go through a small MLP and are quantised by the nearest of `codebook_size`
vectors (Gao et al. 2024, arXiv 2412.01564). The branch-decoupled decoder (Pei et al. 2026, arXiv
2606.22138) has one head per quantity directly on the code; the original shares a trunk. Either way a code
decodes to one fixed descriptor, so decoding is a lookup in `MolStrucTokModel.table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from structok.molecule.spherical import normalise

__all__ = ["BranchDecoder", "MolStrucTokConfig", "MolStrucTokModel", "SharedDecoder"]


@dataclass(frozen=True)
class MolStrucTokConfig:
    """Settings of a molecule tokenizer, saved as `config.json`.

    Parameters
    ----------
    decoder : 'branch' (published, decoupled heads), 'shared' (published before, shared trunk), or 'topo'
        (a table per atom, drawn from the graph around it)
    codebook_size : number of codes
    dim : channels of codes and layers ('branch', 'shared')
    width, hidden, rounds, n_fixed : sizes of `TopoDecoder` ('topo')
    closed_loop : assign codes against the reconstruction by default
    beam : hypotheses of closed-loop assignment by default
    bond_weight : weight of the squared bond-length error beside the squared distance in that assignment
    max_length : atoms per molecule at most
    """

    decoder: Literal["branch", "shared", "topo"] = "branch"
    codebook_size: int = 512
    dim: int = 64
    width: int = 64
    hidden: int = 128
    rounds: int = 3
    n_fixed: int = 32
    closed_loop: bool = False
    beam: int = 8
    bond_weight: float = 0.0
    max_length: int = 1000


def _mlp(d_in: int, width: int, d_out: int | None = None, layers: int = 2) -> nn.Sequential:
    """`layers` times (linear, batch norm, ReLU), then a linear layer if `d_out` is given."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(d_in if i == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*parts, *([] if d_out is None else [nn.Linear(width, d_out)]))


class BranchDecoder(nn.Module):
    """Four separate heads on the code: length, angle, torsion magnitude, sign of the torsion."""

    def __init__(self, dim: int):
        super().__init__()
        self.length, self.angle, self.torsion = (_mlp(dim, dim, 1) for _ in range(3))
        self.sign = _mlp(dim, dim, 3)

    def forward(self, code: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
        """Normalised d, theta, |phi|, and logits of sign -1, 0, +1."""
        return torch.cat([self.length(code), self.angle(code), self.torsion(code)], dim=1), self.sign(code)


class SharedDecoder(nn.Module):
    """The decoder of the original paper: a trunk that length, angle, torsion and sign share."""

    def __init__(self, dim: int):
        super().__init__()
        self.trunk = _mlp(dim, dim)
        self.mean = _mlp(dim, dim, 3, layers=1)
        self.sign = _mlp(dim, dim, 3, layers=1)

    def forward(self, code: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
        """Normalised d, theta, |phi|, and logits of sign -1, 0, +1."""
        shared = self.trunk(code)
        return self.mean(shared), self.sign(shared)


class MolStrucTokModel(nn.Module):
    """Encoder, codebook and decoder of the plain tokenizer."""

    def __init__(self, config: MolStrucTokConfig):
        super().__init__()
        self.encoder = _mlp(4, config.dim, config.dim)
        self.codebook = nn.Parameter(torch.randn(config.codebook_size, config.dim))
        self.decoder = BranchDecoder(config.dim) if config.decoder == "branch" else SharedDecoder(config.dim)

    def latent(self, g: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b d"]:
        """Encoder output of descriptors (Å, radians)."""
        return self.encoder(normalise(g).float().reshape(-1, 4)).reshape(*g.shape[:-1], -1)

    def table(self) -> Float[Tensor, "k 4"]:
        """Descriptor (d in Å, theta, |phi|, sign) of every code."""
        mean, logits = self.decoder(self.codebook)
        sign = logits.argmax(dim=1, keepdim=True) - 1
        return torch.cat([mean[:, :1].exp() - 1, mean[:, 1:] * torch.pi, sign.to(mean)], dim=1)
