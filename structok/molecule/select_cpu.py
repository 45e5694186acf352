"""The best extensions of a beam's hypotheses by a code each, compiled."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.molecule.topo_cpu import TILE, code_position

__all__ = ["select"]

_FAST = {"contract", "reassoc", "nnan", "nsz"}


@compiled(fastmath=_FAST)
def _measure(position, length, y, true_length, bond_weight, limit, cost):
    """Cost of each code of a tile, and how many are within the limit."""
    for j in range(TILE):
        square = (position[0, j] - y[0]) ** 2 + (position[1, j] - y[1]) ** 2 + (position[2, j] - y[2]) ** 2
        cost[j] = square + bond_weight * (length[j] - true_length) ** 2
    within = np.int32(0)
    for j in range(TILE):
        within += np.int32(cost[j] <= limit)
    return within


@compiled()
def _insert(value, held, values):
    """Place of a value among the lowest so far, which are sorted; equal ones that came before stay before it."""
    at = min(held, len(values) - 1)
    while at > 0 and value < values[at - 1]:
        values[at] = values[at - 1]
        at -= 1
    values[at] = value
    return at


@compiled()
def select(
    y, alive, so_far, table, lengths, true_length, spread, hidden, which, network, settings, room, parent, code, best
):
    """The best extensions of the hypotheses by a code each; returns how many there are, `beam` or all.

    `spread` is how far, as a square root of cost, codes of each hypothesis may be off the table; 0 where it is theirs.
    A first pass finds what the last of the best costs at most; what may cost less is then measured exactly. Ties go to
    the earlier hypothesis, then to the lower code.
    """
    n_codes, bond_weight, beam = settings
    cost, found, local, rival, rival_code, least, most = room
    held, rivals, limit = 0, 0, np.inf
    for h in range(alive):
        if so_far[h] > limit:
            break
        for t in range(len(table)):
            near = limit - so_far[h]
            if spread[h] > 0:
                near = (np.sqrt(max(near, 0.0)) + spread[h]) ** 2
            if not _measure(table[t], lengths[t], y[h], true_length, bond_weight, near, cost):
                continue
            within = 0
            for j in range(TILE):  # without a branch, since none could be foretold
                found[within] = j
                within += cost[j] <= near
            for j in found[:within]:
                if t * TILE + j >= n_codes:
                    continue
                low = high = so_far[h] + cost[j]
                if spread[h] > 0:
                    root = np.sqrt(cost[j])
                    low, high = so_far[h] + max(root - spread[h], 0.0) ** 2, so_far[h] + (root + spread[h]) ** 2
                if low > limit:
                    continue
                rival[rivals], rival_code[rivals], least[rivals] = h, t * TILE + j, low
                rivals += 1
                if held < beam or high < most[beam - 1]:
                    _insert(high, held, most[:beam])
                    held = min(held + 1, beam)
                if held == beam:
                    limit = most[beam - 1]
    held = 0
    for i in range(rivals):
        h, k, total = rival[i], rival_code[i], least[i]
        if total > limit or (held == beam and total > best[beam - 1]):
            continue
        if spread[h] > 0:
            code_position(network, k, hidden[which[h]], local)
            value = (local[0] - y[h, 0]) ** 2 + (local[1] - y[h, 1]) ** 2 + (local[2] - y[h, 2]) ** 2
            reach = np.sqrt(local[0] * local[0] + local[1] * local[1] + local[2] * local[2])
            total = so_far[h] + value + bond_weight * (reach - true_length) ** 2
        if held == beam and total >= best[beam - 1]:
            continue
        at = min(held, beam - 1)
        place = _insert(total, held, best[:beam])
        while at > place:
            parent[at], code[at] = parent[at - 1], code[at - 1]
            at -= 1
        parent[at], code[at] = h, k
        held = min(held + 1, beam)
    return held
