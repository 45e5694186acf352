"""The loops of `topology`, compiled."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled

__all__ = ["choose"]


@compiled()
def choose(bonds, kinds, linear, in_ring, reach, refs, relations, context, context_distance):
    """Fill the arrays of a `Topology`; returns the first atom that is bonded to no earlier one, 0 where all are."""
    n = len(refs)
    start, neighbour, kind = _rows(n, bonds, kinds)
    apart = _bonds_apart(n, start, neighbour, reach)
    focal = np.full(n, -1)
    for i in range(n):
        for j in neighbour[start[i] : start[i + 1]]:
            if j < i:
                focal[i] = j
    refs[0] = (0, 0, 1)
    for i in range(1, n):
        f = focal[i]
        if f < 0:
            return i
        row = neighbour[start[f] : start[f + 1]]
        placed = 0
        while placed < len(row) and row[placed] < i:
            placed += 1
        c1 = -2
        if f > 0:
            c1 = focal[f]
        elif placed:
            c1 = row[0]
        c2 = -1
        for j in row[:placed]:
            if j != c1:
                c2 = j
        if c2 < 0:
            c2 = _beyond(f, c1, i, start, neighbour, linear)
        refs[i] = (f + 2, c1 + 2, c2 + 2)
        to_focal = kind[start[f] + placed]  # row[placed] is atom i
        of_references = 0
        for k in range(len(row)):
            if row[k] == c1:
                of_references = kind[start[f] + k]
        near = apart[i, c2] if c2 >= 0 else 0
        ring = in_ring[i] and to_focal % 8 != 1
        relations[i, 0], relations[i, 1], relations[i, 2] = to_focal, of_references, near
        relations[i, 3] = min(placed, 5)
        relations[i, 4] = ring and c1 >= 0 and in_ring[f] and in_ring[c1]
        relations[i, 5] = ring and c2 >= 0 and in_ring[c2] and near <= 3
        relations[i, 6] = min(len(row) - placed - 1, 5)
    _nearest(apart, reach, refs, context, context_distance)
    return 0


@compiled()
def _rows(n, bonds, kinds):
    """Neighbours of each atom, sorted, and types of their bonds, shifted by one; atom i has start[i]:start[i + 1]."""
    start = np.zeros(n + 1, np.int64)
    for i, j in bonds:
        start[i + 1] += 1
        start[j + 1] += 1
    start = np.cumsum(start)
    end, neighbour, kind = start[:-1].copy(), np.empty(2 * len(bonds), np.int64), np.empty(2 * len(bonds), np.int64)
    for b in range(len(bonds)):
        for side in range(2):
            i, j = bonds[b, side], bonds[b, 1 - side]
            at = end[i]
            while at > start[i] and neighbour[at - 1] > j:
                neighbour[at], kind[at] = neighbour[at - 1], kind[at - 1]
                at -= 1
            neighbour[at], kind[at] = j, kinds[b] + 1
            end[i] += 1
    return start, neighbour, kind


@compiled()
def _bonds_apart(n, start, neighbour, reach):
    """Bonds on the shortest path between atoms, reach + 1 where there are more than `reach`."""
    apart, queue = np.full((n, n), reach + 1), np.empty(n, np.int64)
    for i in range(n):
        row, queue[0], first, last = apart[i], i, 0, 1
        row[i] = 0
        while first < last:
            a = queue[first]
            first += 1
            if row[a] == reach:
                break
            for b in neighbour[start[a] : start[a + 1]]:
                if row[b] > reach:
                    row[b], queue[last] = row[a] + 1, b
                    last += 1
    return apart


@compiled()
def _beyond(f, c1, i, start, neighbour, linear):
    """A placed atom off the line f - c1, or -1 (V2)."""
    came, middle = f, c1
    while middle >= 0:
        found = -1
        for j in neighbour[start[middle] : start[middle + 1]]:
            if j < i and j != came:
                found = j
                break
        if found < 0 or not linear[middle]:
            return found
        came, middle = middle, found
    return -1


@compiled()
def _nearest(apart, reach, refs, context, context_distance):
    """The placed atoms that are nearest by bonds and no references; of equal ones the latest come first."""
    for i in range(len(refs)):
        held = 0
        for j in range(i - 1, -1, -1):
            d = apart[i, j]
            if d > reach or j + 2 == refs[i, 0] or j + 2 == refs[i, 1] or j + 2 == refs[i, 2]:
                continue
            if held == context.shape[1] and d >= context_distance[i, held - 1]:
                continue
            at = min(held, context.shape[1] - 1)
            while at > 0 and context_distance[i, at - 1] > d:
                context[i, at], context_distance[i, at] = context[i, at - 1], context_distance[i, at - 1]
                at -= 1
            context[i, at], context_distance[i, at] = j + 2, d
            held = min(held + 1, context.shape[1])
