"""Vector quantisation with a codebook learned by exponential moving averages."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import nearest_code

__all__ = ["Quantized", "VectorQuantizer", "orthogonality", "rotate_to", "straight_through"]


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns: code vectors, codes (-1 where masked), and the loss to add."""

    vectors: Float[Tensor, "*b d"]
    codes: Int[Tensor, "*b"]
    loss: Float[Tensor, ""]


def straight_through(x: Float[Tensor, "*b d"], e: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The value of `e` with the gradient of `x`."""
    return x + (e - x).detach()


def rotate_to(x: Float[Tensor, "*b d"], e: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The value of `e`, reached from `x` by a constant rotation and scaling (Fifty et al. 2024).

    With unit vectors x̂, ê and r = (x̂ + ê) / |x̂ + ê|, the rotation in the plane of x and e is
    R = I - 2 r rᵀ + 2 ê x̂ᵀ (the rotation trick). Gradients pass through x only, so that their angle
    to the code is kept.
    """
    with torch.no_grad():
        x_unit, e_unit = normalize(x, dim=-1), normalize(e, dim=-1)
        half = normalize(x_unit + e_unit, dim=-1)
        scale = e.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True).clamp(min=1e-8)

    def along(direction: Tensor) -> Tensor:
        return (x * direction).sum(-1, keepdim=True)

    rotated = scale * (x - 2 * along(half) * half + 2 * along(x_unit) * e_unit)
    return straight_through(rotated, e)


def orthogonality(codes: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean squared cosine between different codes (times (k - 1) / k), 0 when all are orthogonal."""
    unit = normalize(codes, dim=-1)
    k = len(codes)
    return (unit @ unit.T).square().sum() / k**2 - 1 / k


class VectorQuantizer(nn.Module):
    """Nearest-code quantiser; the codebook follows the vectors it is given (van den Oord et al. 2017).

    Parameters
    ----------
    size, dim : number of codes and their dimension
    decay : of the moving averages of the codes and of their use
    commitment : weight of |x - sg(e)|² in the loss
    kmeans_iterations : Lloyd steps on the first training batch; 0 starts from random codes
    dead_below : codes whose moving average of uses per batch is lower are put on a random vector of the
        batch; choose it well below vectors per batch / size
    rotation_trick : how gradients pass, `rotate_to` rather than `straight_through`
    orthogonal, orthogonal_codes : weight of `orthogonality` over at most that many of the batch's codes.
        With it the codebook is a parameter, moved by gradient and by averaging.
    """

    bypass = False  # True lets vectors pass as they are, with codes -1: training before there is a codebook
    codebook: Tensor
    cluster_size: Tensor
    initialised: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        decay: float = 0.99,
        commitment: float = 0.25,
        kmeans_iterations: int = 10,
        dead_below: float = 2.0,
        rotation_trick: bool = True,
        orthogonal: float = 0.0,
        orthogonal_codes: int = 512,
    ) -> None:
        super().__init__()
        self.decay, self.commitment, self.dead_below = decay, commitment, dead_below
        self.kmeans_iterations, self.rotation_trick = kmeans_iterations, rotation_trick
        self.orthogonal, self.orthogonal_codes = orthogonal, orthogonal_codes
        codebook = torch.randn(size, dim) / dim**0.5
        if orthogonal:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("initialised", torch.tensor(kmeans_iterations == 0))

    def nearest(self, x: Float[Tensor, "*b d"]) -> Int[Tensor, "*b"]:
        """Index of the nearest code of each vector."""
        return nearest_code(x, self.codebook)[1].long()

    def lookup(self, codes: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """Code vectors; zero where a code is -1."""
        return self.codebook[codes.clamp(min=0)] * (codes >= 0)[..., None]

    def forward(self, x: Float[Tensor, "*b d"], mask: Bool[Tensor, "*b"] | None = None) -> Quantized:
        """Quantise; in training mode also move the codebook towards the batch.

        Parameters
        ----------
        x : latents
        mask : False at slots to leave out of everything; their vector is zero and their code -1
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            mask = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
            if self.bypass:
                # a codebook that is a parameter must not be missing from the gradient where processes share it
                loss, none = 0.0 * self.codebook.sum(), torch.full_like(mask, -1, dtype=torch.long)
                return Quantized(torch.where(mask[..., None], x, 0.0), none, loss)
            if self.training and not self.initialised:
                self.initialise_(x.detach()[mask])
            codes = self.nearest(x)
            e = self.codebook.detach()[codes].to(x.dtype)
            keep = mask[..., None]
            difference = torch.where(keep, x - e, 0.0)
            loss = self.commitment * difference.square().sum() / (mask.sum().clamp(min=1) * x.shape[-1])
            if self.training and self.orthogonal:
                loss = loss + self.orthogonal * self._orthogonality(codes[mask])
            passed = (rotate_to if self.rotation_trick else straight_through)(x, e)
            if self.training:
                self.update_(x.detach(), codes, mask)
            return Quantized(torch.where(keep, passed, 0.0), torch.where(mask, codes, -1), loss)

    def _orthogonality(self, codes: Int[Tensor, " m"]) -> Float[Tensor, ""]:
        active = codes.unique()
        chosen = torch.randperm(len(active), device=active.device)[: self.orthogonal_codes]
        return orthogonality(self.codebook[active[chosen]])

    @torch.no_grad()
    def initialise_(self, x: Float[Tensor, "m d"]) -> None:
        """Set the codes to k-means centres of `x`; rows are repeated when there are fewer than codes."""
        size = len(self.codebook)
        x = x.repeat(-(-size // len(x)), 1) if len(x) < size else x
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ())))
        self.codebook.copy_(kmeans(x, size, iterations=self.kmeans_iterations, generator=generator))
        self.cluster_size.copy_(torch.bincount(self.nearest(x), minlength=size))
        self._agree_()
        self.initialised.fill_(True)

    @torch.no_grad()
    def update_(self, x: Float[Tensor, "*b d"], codes: Int[Tensor, "*b"], mask: Bool[Tensor, "*b"]) -> None:
        """One step of the moving averages, then revive the codes that died.

        The usual pair of averages (sum of vectors, number of uses) amounts to moving each code by
        (1 - decay) · (sum - uses · code) / average uses, which needs no stored sum.
        """
        flat, weight = x.flatten(0, -2), mask.flatten().to(x.dtype)
        count, total = self._statistics(flat, codes.flatten(), weight)
        rate = 1 - self.decay
        self.cluster_size.lerp_(count, rate)
        step = (total - count[:, None] * self.codebook) / self.cluster_size.clamp(min=1e-6)[:, None]
        self.codebook.add_(rate * step)
        if self.dead_below > 0:
            self.revive_(flat[mask.flatten()])

    @torch.no_grad()
    def revive_(self, x: Float[Tensor, "m d"]) -> None:
        """Put dead codes, rarest first, on random rows of `x`, each row used once.

        They count as used as often as the average code, so that they have time to attract vectors.
        """
        dead = self.cluster_size.sort().indices
        dead = dead[self.cluster_size[dead] < self.dead_below][: len(x)]
        self.codebook[dead] = x[torch.randperm(len(x), device=x.device)[: len(dead)]].to(self.codebook.dtype)
        self.cluster_size[dead] = self.cluster_size.mean().clamp(min=self.dead_below)
        self._agree_()

    def _statistics(
        self, x: Float[Tensor, "m d"], codes: Int[Tensor, " m"], weight: Float[Tensor, " m"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
        """Uses of each code and the sum of its vectors, over all processes."""
        x, weight = x.to(self.codebook.dtype), weight.to(self.codebook.dtype)
        count = torch.zeros_like(self.cluster_size).index_add_(0, codes, weight.to(self.cluster_size.dtype))
        total = torch.zeros_like(self.codebook).index_add_(0, codes, x * weight[:, None])
        if dist.is_initialized():
            dist.all_reduce(count)
            dist.all_reduce(total)
        return count, total

    def _agree_(self) -> None:
        """All processes take the codebook of the first."""
        if dist.is_initialized():
            dist.broadcast(self.codebook.data, 0)
            dist.broadcast(self.cluster_size, 0)
