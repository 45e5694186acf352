"""Which points are near each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["near_pairs", "near_points"]


def near_pairs(points: Float[np.ndarray, "n 3"], limit: float) -> Int[np.ndarray, "m 2"]:
    """Pairs i < j nearer than `limit`: points sorted by cells of that size, each compared with half its neighbours."""
    if len(points) < 2:
        return np.zeros((0, 2), np.int64)
    key, wide, deep = _cells(points, points, limit)
    order = np.argsort(key, kind="stable")
    ordered, points = key[order], points[order]
    place = np.arange(len(points))
    found = []
    for x, y in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        row = ordered + (x * wide + y) * deep  # cells of a row have neighbouring keys
        low = place + 1 if x == y == 0 else np.searchsorted(ordered, row - 1)
        first, second = _ranges(low, np.searchsorted(ordered, row + 1, side="right"))
        close = np.square(points[first] - points[second]).sum(1) < limit**2
        found.append(np.stack([order[first[close]], order[second[close]]], 1))
    return np.sort(np.concatenate(found), axis=1)


def near_points(
    queries: Float[np.ndarray, "q 3"], points: Float[np.ndarray, "n 3"], limit: float
) -> Int[np.ndarray, "m 2"]:
    """Pairs of a query and a point nearer than `limit`, in the same way."""
    if not len(queries) or not len(points):
        return np.zeros((0, 2), np.int64)
    key, wide, deep = _cells(points, points, limit)
    order = np.argsort(key, kind="stable")
    ordered, points = key[order], points[order]
    own = _cells(queries, points, limit)[0]
    found = []
    for x, y in np.ndindex(3, 3):
        row = own + ((x - 1) * wide + y - 1) * deep
        first, second = _ranges(np.searchsorted(ordered, row - 1), np.searchsorted(ordered, row + 1, side="right"))
        close = np.square(queries[first] - points[second]).sum(1) < limit**2
        found.append(np.stack([first[close], order[second[close]]], 1))
    return np.concatenate(found)


def _cells(
    points: Float[np.ndarray, "n 3"], box: Float[np.ndarray, "m 3"], limit: float
) -> tuple[Int[np.ndarray, " n"], int, int]:
    """Keys of the points' cells in the box of others, and how many cells wide and deep it is, with a margin."""
    low, high = (np.floor(f(box, 0) / limit).astype(np.int64) for f in (np.min, np.max))
    cell = np.floor(points / limit).astype(np.int64) - low + 1
    _, wide, deep = (high - low + 3).tolist()
    return (cell[:, 0] * wide + cell[:, 1]) * deep + cell[:, 2], wide, deep


def _ranges(
    low: Int[np.ndarray, " n"], high: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Row i and each number of its range, for all rows."""
    count = np.maximum(high - low, 0)
    second = np.arange(count.sum()) + np.repeat(low - (np.cumsum(count) - count), count)
    return np.repeat(np.arange(len(low)), count), second
