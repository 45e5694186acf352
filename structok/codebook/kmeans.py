"""k-means for codebooks: k-means++ seeding and Lloyd iterations over the exact nearest-code lookup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.codebook.nearest import nearest_code

__all__ = ["centroids", "kmeans", "spread_seeds"]


def spread_seeds(
    x: Float[Tensor, "n d"], k: int, generator: torch.Generator, known: Float[Tensor, "m d"] | None = None
) -> Float[Tensor, "k d"]:
    """k-means++ (Arthur & Vassilvitskii 2007): each seed is drawn with probability ∝ its squared distance
    from the seeds so far (and from the `known` codes). Random seeds crowd where the data is dense; these do not.
    """
    seeds = x.new_empty(k, x.shape[1])
    if known is None:
        nearest = torch.full((len(x),), torch.inf, device=x.device)
        pick = torch.randint(len(x), (1,), generator=generator)
    else:
        nearest = nearest_code(x, known)[0]
        pick = _draw(nearest, generator)
    for i in range(k):
        seeds[i] = x[pick]
        nearest = torch.minimum(nearest, (x - seeds[i]).square().sum(1))
        pick = _draw(nearest, generator)
    return seeds


def _draw(weight: Float[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, "1"]:
    total = weight.double().cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * total[-1]
    return torch.searchsorted(total, point.to(total.device)).clamp(max=len(weight) - 1)


def centroids(
    x: Float[Tensor, "n d"], index: Int[Tensor, " n"], codes: Float[Tensor, "k d"], prior: float = 0.0
) -> Float[Tensor, "k d"]:
    """Mean of the vectors assigned to each code; a code that nothing chose stays (as do all by `prior` counts)."""
    index = index.long()
    count = torch.bincount(index, minlength=len(codes)).to(x.dtype)[:, None]
    total = torch.zeros_like(codes).index_add_(0, index, x)
    return torch.where(count > 0, (total + prior * codes) / (count + prior).clamp(min=1e-9), codes)


def kmeans(
    x: Float[Tensor, "n d"],
    k: int,
    *,
    iterations: int = 10,
    generator: torch.Generator | None = None,
    report: Callable[[int, float], None] | None = None,
) -> Float[Tensor, "k d"]:
    """`k` codes of least mean squared distance to `x`; k-means++ seeds, then Lloyd iterations.

    Raises
    ------
    ValueError
        If there are fewer vectors than codes.
    """
    if len(x) < k:
        raise ValueError(f"{len(x)} vectors cannot make {k} codes")
    codes = spread_seeds(x, k, generator or torch.Generator().manual_seed(0))
    for i in range(iterations):
        distance, index = nearest_code(x, codes)
        codes = centroids(x, index, codes)
        if report:
            report(i, float(distance.mean()))
    return codes
