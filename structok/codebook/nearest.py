"""Nearest-code lookup: exact k nearest codebook entries of many vectors, in bounded memory."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["nearest_code", "smallest"]

_BLOCK = 1 << 22  # entries of a score block held at once: 16 MB in float32
_SPARE = 8  # candidates beyond k that are measured exactly


@torch.no_grad()
def nearest_code(
    x: Float[Tensor, "*batch d"], codebook: Float[Tensor, "n d"], k: int = 1
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """Squared Euclidean distance and index of the `k` nearest codes of each vector.

    One matrix product ranks the codes by |e|²/2 - x·e about the codebook's mean; the leading candidates are
    measured again as |x - e|² in float64. Rows where the rounding of the product could hide a nearer code
    (near-duplicate codes, vectors far from the codebook) are measured in full, so the answer is that of an
    exhaustive float64 search. Memory beyond the answer is bounded, whatever the number of vectors.

    Parameters
    ----------
    x : vectors, any leading shape, any float type
    codebook : the codes
    k : how many, nearest first; for k = 1 the last axis is dropped

    Returns
    -------
    distance : float32, squared, shape (*batch, k), or (*batch) for k = 1
    index : int32, likewise; ties go to the lowest index

    Raises
    ------
    ValueError
        If shapes do not fit, the codebook is empty, or k is out of range.
    """
    if codebook.ndim != 2 or not len(codebook) or x.shape[-1:] != codebook.shape[1:]:
        raise ValueError(f"x [..., d] and codebook [n, d] do not fit: {tuple(x.shape)}, {tuple(codebook.shape)}")
    n, d = codebook.shape
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not between 1 and the codebook size {n}")
    flat, codes = x.reshape(-1, d), codebook.double()
    centre = codes.mean(0)
    centred = (codes - centre).float()
    half_norm = centred.square().sum(1) / 2
    reach = centred.norm(dim=1).max()
    distance = torch.empty(len(flat), k, device=x.device)
    index = torch.empty(len(flat), k, dtype=torch.int32, device=x.device)
    rows, m = max(1, _BLOCK // max(n, 16 * d)), min(n, k + _SPARE)
    for i in range(0, len(flat), rows):
        block = flat[i : i + rows].double()
        local = (block - centre).float()
        score = torch.addmm(half_norm, local, centred.T, alpha=-1.0)
        candidate = smallest(score, m).sort(dim=1).values
        near, at = _measure(block, codes[candidate], k)
        picked = candidate.gather(1, at)
        if m < n:
            # every code left out scores at least as high as the worst candidate, up to rounding
            length = local.norm(dim=1)
            rounding = (d + 4) * torch.finfo(torch.float32).eps * (length * reach + reach**2)
            floor = 2 * (score.gather(1, candidate).amax(1) - rounding) + length**2 * (1 - 1e-5)
            unsure = ~(near[:, -1] < floor)
            if unsure.any():
                near[unsure], picked[unsure] = _exhaustive(block[unsure], codes, k)
        distance[i : i + rows] = near
        index[i : i + rows] = picked
    shape = x.shape[:-1] if k == 1 else (*x.shape[:-1], k)
    return distance.reshape(shape), index.reshape(shape)


def smallest(score: Float[Tensor, "r n"], m: int) -> Int[Tensor, "r m"]:
    """Indices of the `m` smallest entries of each row, in no particular order.

    The m smallest lie in the m blocks with the smallest minima, so long rows are first reduced to those
    blocks: one streaming pass instead of a selection over the whole row.
    """
    n = score.shape[1]
    size = 64
    if n % size or n // size <= 2 * m:
        return score.topk(m, dim=1, largest=False, sorted=False).indices
    blocks = score.unflatten(1, (-1, size))
    kept = blocks.amin(-1).topk(m, dim=1, largest=False, sorted=False).indices
    inside = blocks.gather(1, kept[:, :, None].expand(-1, -1, size)).flatten(1)
    best = inside.topk(m, dim=1, largest=False, sorted=False).indices
    return kept.gather(1, best // size) * size + best % size


def _measure(
    x: Float[Tensor, "r d"], codes: Float[Tensor, "r m d"], k: int
) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
    """The k nearest of each row's own codes; a stable sort gives ties to the first."""
    distance, order = (x[:, None] - codes).square().sum(-1).sort(dim=1, stable=True)
    return distance[:, :k], order[:, :k]


def _exhaustive(
    x: Float[Tensor, "r d"], codes: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "r k"], Int[Tensor, "r k"]]:
    rows = max(1, _BLOCK // codes.numel())
    parts = [_measure(part, codes.expand(len(part), *codes.shape), k) for part in x.split(rows)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
