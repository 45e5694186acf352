"""Losses of GCP-VQVAE: each per structure, over observed residues; lengths in Å.

`mask` is True at observed residues. A chain break is told by at least one masked slot between its ends, so a
loss that needs bonded neighbours takes only neighbouring slots that are both observed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from structok.geometry import apply, backbone_frames, invert, kabsch

__all__ = [
    "AdaptiveWeights",
    "aligned_mse",
    "backbone_direction",
    "backbone_distance",
    "gradient_norms",
    "window_fape",
]


Loss = Callable[..., Float[Tensor, " b"]]


def _full_precision(loss: Loss) -> Loss:
    """Distances in Å and products of vectors are too coarse in the half precision of autocast."""

    @functools.wraps(loss)
    def run(predicted: Tensor, *args: Tensor, **options: float) -> Tensor:
        with torch.autocast(predicted.device.type, enabled=False):
            return loss(predicted, *args, **options)

    return run


@_full_precision
def aligned_mse(
    predicted: Float[Tensor, "b l 3 3"], true: Float[Tensor, "b l 3 3"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Mean squared distance of N, CA, C after the truth is superposed on the prediction (no reflection).

    No gradient passes through the superposition.
    """
    atoms = mask.repeat_interleave(3, 1)
    predicted, true = predicted.flatten(1, 2), torch.where(atoms[..., None], true.flatten(1, 2), 0.0)
    with torch.no_grad():
        target = apply(kabsch(true, predicted, atoms), true)
    return _mean((predicted - target).square().sum(-1), atoms)


@_full_precision
def backbone_distance(
    predicted: Float[Tensor, "b l 3 3"],
    true: Float[Tensor, "b l 3 3"],
    mask: Bool[Tensor, "b l"],
    *,
    cap: float = 25.0,
) -> Float[Tensor, " b"]:
    """Mean over all pairs of N, CA, C atoms of min((D - D̂)², cap)."""
    atoms = mask.repeat_interleave(3, 1)
    predicted, true = (torch.where(atoms[..., None], x.flatten(1, 2), 0.0) for x in (predicted, true))
    exact = "donot_use_mm_for_euclid_dist"
    error = (torch.cdist(true, true, compute_mode=exact) - torch.cdist(predicted, predicted, compute_mode=exact)) ** 2
    weight = atoms.to(error.dtype)[..., None]
    return (weight.mT @ (error.clamp(max=cap) @ weight)).flatten() / atoms.sum(1).clamp(min=1) ** 2


@_full_precision
def backbone_direction(
    predicted: Float[Tensor, "b l 3 3"],
    true: Float[Tensor, "b l 3 3"],
    mask: Bool[Tensor, "b l"],
    *,
    cap: float = 20.0,
) -> Float[Tensor, " b"]:
    """Mean over all pairs of backbone vectors of min((v·w - v̂·ŵ)², cap), six vectors per residue.

    They are N->CA, CA->C, C->N₊₁, -(N->CA × CA->C), C₋₁->N × N->CA and CA->C × C->N₊₁, of their own lengths;
    those that would reach into a gap are left out.
    """
    known = _known_vectors(mask)
    a, b = (
        torch.where(known[..., None], _backbone_vectors(torch.where(mask[..., None, None], x, 0.0)), 0.0).flatten(1, 2)
        for x in (predicted, true)
    )
    # vectors left out are zero in both, so their products agree and add nothing
    error = (a @ a.mT - b @ b.mT).square().clamp(max=cap)
    return error.sum((1, 2)) / known.flatten(1).sum(1).clamp(min=1) ** 2


def _backbone_vectors(x: Float[Tensor, "b l 3 3"]) -> Float[Tensor, "b l 6 3"]:
    n, ca, c = x.unbind(2)
    n_ca, ca_c, c_n = ca - n, c - ca, pad(n[:, 1:] - c[:, :-1], (0, 0, 0, 1))
    before = pad(c_n[:, :-1], (0, 0, 1, 0))
    cross = torch.linalg.cross
    return torch.stack([n_ca, ca_c, c_n, -cross(n_ca, ca_c), cross(before, n_ca), cross(ca_c, c_n)], 2)


def _known_vectors(mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l 6"]:
    after, before = mask & pad(mask[:, 1:], (0, 1)), mask & pad(mask[:, :-1], (1, 0))
    return torch.stack([mask, mask, after, mask, before, after], 2)


@_full_precision
def window_fape(
    predicted: Float[Tensor, "b l 3 3"],
    true: Float[Tensor, "b l 3 3"],
    mask: Bool[Tensor, "b l"],
    *,
    reach: int = 4,
    cap: float = 10.0,
) -> Float[Tensor, " b"]:
    """Frame-aligned point error within windows, Å: how atoms near residue i look from residue i's frame.

    Mean over residues i and the atoms of residues i - reach .. i + reach of min(|T⁻¹x - T̂⁻¹x̂|, cap)
    (Jumper et al. 2021, there over all residues). What the chained head learns from: its far errors are
    products of near ones, and with a wide window they drown the near ones' gradient. Windows end at gaps.
    """
    reach = min(reach, mask.shape[1] - 1)
    local = []
    for x in (predicted, true):
        x = torch.where(mask[..., None, None], x, 0.0)
        near = pad(x, (0, 0, 0, 0, reach, reach)).unfold(1, 2 * reach + 1, 1)  # b l atoms 3 window
        local.append(apply(invert(backbone_frames(x)), near.permute(0, 1, 4, 2, 3).flatten(2, 3)))
    error = ((local[0] - local[1]).square().sum(-1) + 1e-8).sqrt().clamp(max=cap)
    stretch = torch.where(mask, (~mask).cumsum(1), -1)  # numbers the stretches between gaps
    near_stretch = pad(stretch, (reach, reach), value=-1).unfold(1, 2 * reach + 1, 1)
    seen = (near_stretch == stretch[..., None]) & mask[..., None]
    return _mean(error.flatten(1), seen.repeat_interleave(3, -1).flatten(1))


def _mean(values: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def gradient_norms(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, float]:
    """Norm of each loss's gradient with respect to the parameters; the graph is kept."""
    parameters = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = [g.square().sum() for g in gradients if g is not None]
        norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return norms


class AdaptiveWeights(nn.Module):
    """Loss weights that keep gradients neither too large nor too small.

    Each weight is a base times a factor in [0.01, 100]; `adjust_` (published: every 50 steps) lowers the
    factor by 2 % where the gradient norm of the weighted loss exceeds 5, and raises it where below 0.05.

    Parameters
    ----------
    base : name of each loss -> its weight
    """

    factors: Tensor

    def __init__(self, base: Mapping[str, float]) -> None:
        super().__init__()
        self.base = dict(base)
        self.register_buffer("factors", torch.ones(len(self.base)))

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss times its present weight."""
        if set(losses) != set(self.base):
            raise ValueError(f"expected the losses {sorted(self.base)}, got {sorted(losses)}")
        factors = self.factors.clone()  # `adjust_` may come before the backward pass
        return {name: losses[name] * w * factors[i] for i, (name, w) in enumerate(self.base.items())}

    def adjust_(self, norms: Mapping[str, float]) -> None:
        """Move the factors by the gradient norms of the weighted losses."""
        for i, name in enumerate(self.base):
            self.factors[i] *= 0.98 if norms[name] > 5 else 1.02 if norms[name] < 0.05 else 1.0
        self.factors.clamp_(0.01, 100)
