"""Which points are near each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["near_pairs"]


def near_pairs(points: Float[np.ndarray, "n 3"], limit: float) -> Int[np.ndarray, "m 2"]:
    """Pairs i < j nearer than `limit`: points sorted by cells of that size, each compared with half its neighbours."""
    if len(points) < 2:
        return np.zeros((0, 2), np.int64)
    cell = np.floor(points / limit).astype(np.int64)
    cell -= cell.min(0) - 1
    _, wide, deep = (cell.max(0) + 2).tolist()
    key = (cell[:, 0] * wide + cell[:, 1]) * deep + cell[:, 2]
    order = np.argsort(key, kind="stable")
    ordered, points = key[order], points[order]
    place = np.arange(len(points))
    found = []
    for x, y in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        row = ordered + (x * wide + y) * deep  # cells of a row have neighbouring keys
        low = place + 1 if x == y == 0 else np.searchsorted(ordered, row - 1)
        count = np.maximum(np.searchsorted(ordered, row + 1, side="right") - low, 0)
        first = np.repeat(place, count)
        second = np.arange(count.sum()) + np.repeat(low - (np.cumsum(count) - count), count)
        close = np.square(points[first] - points[second]).sum(1) < limit**2
        found.append(np.stack([order[first[close]], order[second[close]]], 1))
    return np.sort(np.concatenate(found), axis=1)
