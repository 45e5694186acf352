"""Anchors whose errors cancel: of the points near each position, those that together pose every stretch of a chain.

One anchor is off by an Å or two. What a decoder makes of several neighbouring ones is off by what their errors have in
common: their mean, which shifts the stretch, and their first moment, which turns it. So anchors are chosen together,
as a noise-shaping quantiser pushes its error to where nobody listens (sigma-delta modulation).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from structok.codebook.cpu import compiled
from structok.codebook.nearest import nearest_code

__all__ = ["near_and_shaped", "shape_anchors"]

_NEAR = 16  # points near a position that may be its anchor
_SIDE = 4  # anchors on each side that a stretch reaches
_WIDTH = 2.0  # anchors, standard deviation of the Gaussian that weighs them
_LEVER = 80.0  # Å², mean square distance at which a stretch feels its turn
_STAY = 0.02  # share of an anchor's own squared error in the cost
_ROUND = 2.0  # Å, added to the size of a stretch, so that straight ones have an inertia about their axis


def near_and_shaped(positions: Float[Tensor, "n 3"], points: Float[Tensor, "k 3"], radius: float) -> Int[Tensor, " n"]:
    """Which point of a ball each position takes, of those near it, so that errors cancel.

    Parameters
    ----------
    positions : of the anchored residues in the shared frame, float64, Å
    points : of the unit ball
    radius : of the frame's ball, Å
    """
    near = nearest_code((positions / radius).float(), points, k=_NEAR)[1].long()
    pick = shape_anchors(positions, points.double()[near] * radius)
    return near.gather(1, pick[:, None])[:, 0]


def shape_anchors(
    positions: Float[Tensor, "n 3"], candidates: Float[Tensor, "n k 3"], *, sweeps: int = 6
) -> Int[Tensor, " n"]:
    """Which candidate each anchor takes, by coordinate descent from the first (nearest) of each.

    The cost is the sum over stretches of shift² + `_LEVER` turn² (to first order, radians) of the superposition of the
    true positions on the chosen points, plus `_STAY` times the squared errors.

    Parameters
    ----------
    positions : of the anchored residues in the shared frame, Å
    candidates : points near each of them, the nearest first, Å
    """
    if not len(positions):
        return torch.empty(0, dtype=torch.long)
    picks = _shape(positions.double().contiguous().numpy(), candidates.double().contiguous().numpy(), sweeps)
    return torch.from_numpy(picks)


@compiled()
def _cross(a, b):
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


@compiled()
def _stretches(x, weight):
    """Total weight, centre and inverse inertia of the stretch around each anchor."""
    n = len(x)
    total, centre, inverse = np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3, 3))
    for c in range(n):
        for j in range(max(0, c - _SIDE), min(n, c + _SIDE + 1)):
            total[c] += weight[j - c + _SIDE]
            centre[c] += weight[j - c + _SIDE] * x[j]
        centre[c] /= total[c]
        for j in range(max(0, c - _SIDE), min(n, c + _SIDE + 1)):
            r = x[j] - centre[c]
            for a in range(3):
                for b in range(3):
                    own = (r * r).sum() if a == b else 0.0
                    inverse[c, a, b] += weight[j - c + _SIDE] * (own - r[a] * r[b])
        for a in range(3):
            inverse[c, a, a] += total[c] * _ROUND**2
        inverse[c] = np.linalg.inv(inverse[c])
    return total, centre, inverse


@compiled()
def _shape(x, candidates, sweeps):
    n = len(x)
    weight = np.exp(-0.5 * ((np.arange(2 * _SIDE + 1) - _SIDE) / _WIDTH) ** 2)
    total, centre, inverse = _stretches(x, weight)
    pick, shift, moment = np.zeros(n, np.int64), np.zeros((n, 3)), np.zeros((n, 3))
    for j in range(n):
        for c in range(max(0, j - _SIDE), min(n, j + _SIDE + 1)):
            error = (candidates[j, 0] - x[j]) * weight[j - c + _SIDE]
            shift[c] += error / total[c]
            moment[c] += _cross(x[j] - centre[c], error)
    for _ in range(sweeps):
        changed = False
        for j in range(n):
            best, taken = np.inf, pick[j]
            for i in range(candidates.shape[1]):
                own = candidates[j, i] - x[j]
                move = candidates[j, i] - candidates[j, pick[j]]
                cost = _STAY * (own * own).sum()
                for c in range(max(0, j - _SIDE), min(n, j + _SIDE + 1)):
                    felt = weight[j - c + _SIDE] * move
                    away = shift[c] + felt / total[c]
                    turn = inverse[c] @ (moment[c] + _cross(x[j] - centre[c], felt))
                    cost += (away * away).sum() + _LEVER * (turn * turn).sum()
                if cost < best - 1e-9:
                    best, taken = cost, i
            if taken != pick[j]:
                move = candidates[j, taken] - candidates[j, pick[j]]
                for c in range(max(0, j - _SIDE), min(n, j + _SIDE + 1)):
                    felt = weight[j - c + _SIDE] * move
                    shift[c] += felt / total[c]
                    moment[c] += _cross(x[j] - centre[c], felt)
                pick[j], changed = taken, True
        if not changed:
            break
    return pick
