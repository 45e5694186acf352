"""How well a structure was rebuilt, and how well a codebook is used. In torch, batched, model-free."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from structok.geometry import apply, kabsch, superpose

__all__ = [
    "codebook_spread",
    "codebook_use",
    "lddt",
    "lddt_points",
    "rmsd",
    "rmsd_ca",
    "rmsd_points",
    "tm_points",
    "tm_score",
]


def rmsd_points(
    a: Float[Tensor, "*b n 3"], b: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """Root-mean-square distance in Å after optimal superposition (no reflection) of `a` onto `b`."""
    a, b = a.double(), b.double()
    mask = torch.ones_like(a[..., 0], dtype=torch.bool) if mask is None else mask
    a, b = (torch.where(mask[..., None], p, 0.0) for p in (a, b))
    square = (superpose(a, b, mask) - b).square().sum(-1)
    return (torch.where(mask, square, 0.0).sum(-1) / mask.sum(-1)).sqrt()


def lddt_points(
    model: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    group: int = 1,
    radius: float = 15.0,
) -> Float[Tensor, "*b"]:
    """lDDT (Mariani et al. 2013) in [0, 1], averaged over the thresholds 0.5, 1, 2 and 4 Å.

    The share of the target's distances below `radius` Å that the model keeps, over all pairs of points.
    Points of one residue (`group` consecutive points) are not compared with each other.
    """
    n = target.shape[-2]
    mask = torch.ones_like(target[..., 0], dtype=torch.bool) if mask is None else mask
    model, target = (torch.where(mask[..., None], p.double(), 0.0) for p in (model, target))
    true, rebuilt = (torch.cdist(p, p, compute_mode="donot_use_mm_for_euclid_dist") for p in (target, model))
    residue = torch.arange(n, device=target.device) // group
    pairs = (true <= radius) & (residue[:, None] != residue) & mask[..., :, None] & mask[..., None, :]
    error = (true - rebuilt).abs()
    kept = sum((error < limit).to(true.dtype) for limit in (0.5, 1.0, 2.0, 4.0)) / 4
    return torch.where(pairs, kept, 0.0).sum((-1, -2)) / pairs.sum((-1, -2)).clamp(min=1)


def tm_points(model: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], rounds: int = 20) -> Float[Tensor, ""]:
    """TM-score of paired CA positions, superposition optimised (Zhang & Skolnick 2004), length = target's.

    Superposes on fragments of length n, n/2, n/4, ... 4 at evenly spaced starts, then repeatedly on the pairs
    that lie within d0 + 1 Å (at least 4.5 Å); the best score of all counts. All fragments run as one batch.
    """
    n = len(target)
    model, target = model.double(), target.double()
    d0 = 1.24 * (n - 15) ** (1 / 3) - 1.8 if n > 21 else 0.5
    d0 = max(d0, 0.5)
    seeds, length = [], n
    while True:
        for start in np.unique(np.linspace(0, n - length, min(n - length + 1, 2 * n // length, 24)).astype(int)):
            seed = torch.zeros(n, dtype=torch.bool)
            seed[start : start + length] = True
            seeds.append(seed)
        if length <= min(n, 4):
            break
        length = max(length // 2, min(n, 4))
    chosen = torch.stack(seeds).to(target.device)
    best = target.new_zeros(len(seeds))
    pair, goal = model.expand(len(seeds), n, 3), target.expand(len(seeds), n, 3)
    for _ in range(rounds):
        square = (apply(kabsch(pair, goal, chosen), pair) - goal).square().sum(-1)
        best = torch.maximum(best, (1 / (1 + square / d0**2)).mean(-1))
        cut = max(min(d0, 8.0), 4.5) ** 2
        new = square < cut
        # a fragment that nothing lies near keeps its three closest pairs
        new = new | (square <= square.topk(min(n, 3), largest=False).values[:, -1:])
        if torch.equal(new, chosen):
            break
        chosen = new
    return best.max()


def _pair(a: Any, b: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates [l, 3, 3] of two backbones or arrays, and where both are observed."""
    x, y = (torch.as_tensor(np.asarray(getattr(s, "coords", s)), dtype=torch.float64) for s in (a, b))
    if x.shape != y.shape or x.ndim != 3 or x.shape[1:] != (3, 3):
        raise ValueError(f"need two backbones of the same length, [L, 3, 3]; got {tuple(x.shape)} and {tuple(y.shape)}")
    observed = x.isfinite().all((1, 2)) & y.isfinite().all((1, 2))
    for s in (a, b):
        if (mask := getattr(s, "mask", None)) is not None:
            observed &= torch.as_tensor(mask)
    if observed.sum() < 2:
        raise ValueError("fewer than two residues are observed in both structures")
    return x[observed], y[observed], observed


def rmsd(a: Any, b: Any) -> float:
    """RMSD in Å over N, CA and C of the residues observed in both, after optimal superposition.

    `a` and `b` are `Backbone`s or arrays [L, 3, 3] with NaN for missing residues.
    """
    x, y, _ = _pair(a, b)
    return float(rmsd_points(x.flatten(0, 1), y.flatten(0, 1)))


def rmsd_ca(a: Any, b: Any) -> float:
    """As `rmsd`, over CA only (superposed on CA)."""
    x, y, _ = _pair(a, b)
    return float(rmsd_points(x[:, 1], y[:, 1]))


def tm_score(a: Any, b: Any) -> float:
    """TM-score of `a` against the reference `b` on CA, residues paired by slot, normalised by observed length."""
    x, y, _ = _pair(a, b)
    return float(tm_points(x[:, 1], y[:, 1]))


def lddt(a: Any, b: Any, atoms: str = "ca") -> float:
    """lDDT of `a` against the reference `b` on CA, or on N, CA and C with `atoms='backbone'`."""
    x, y, _ = _pair(a, b)
    if atoms == "ca":
        return float(lddt_points(x[:, 1], y[:, 1]))
    return float(lddt_points(x.flatten(0, 1), y.flatten(0, 1), group=3))


def codebook_use(codes: Any, size: int) -> dict[str, float]:
    """Utilisation (share of codes seen), unigram entropy in bits, and perplexity 2^entropy."""
    count = np.bincount(np.asarray(codes).ravel(), minlength=size)[:size]
    p = count[count > 0] / count.sum()
    entropy = float(-(p * np.log2(p)).sum())
    return {"utilisation": float((count > 0).mean()), "entropy_bits": entropy, "perplexity": 2.0**entropy}


def codebook_spread(codebook: Float[Tensor, "k d"], near: float = 0.1) -> dict[str, float]:
    """Effective dimension (participation ratio of the covariance's eigenvalues) and near-duplicate share.

    A code is a near-duplicate when its closest other code lies within `near` times the codes'
    root-mean-square distance from their mean.
    """
    centred = (codebook - codebook.mean(0)).double()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred)
    distance = torch.cdist(centred, centred)
    distance.fill_diagonal_(torch.inf)
    spread = centred.square().sum(1).mean().sqrt()
    return {
        "effective_dimension": float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()),
        "near_duplicates": float((distance.min(1).values < near * spread).double().mean()),
    }
