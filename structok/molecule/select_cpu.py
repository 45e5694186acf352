"""The best extensions of a beam's hypotheses by a code each, compiled."""

from __future__ import annotations

import numpy as np

from structok.codebook.cpu import compiled
from structok.molecule.topo_cpu import TILE, code_position

__all__ = ["select", "select_room"]

_FAST = {"contract", "reassoc", "nnan", "nsz"}
_MOST = 1e30  # Å², more than any code costs and less than those that fill the last tile
_SLACK = 1e-6  # Å, far more than the rounding of distances
_ROUNDING = 1e-12  # of a sum that another one is compared with, relative


@compiled(fastmath=_FAST)
def _measure(position, length, count, y, true_length, bond_weight, cost):
    """Cost of each of the first codes."""
    for j in range(count):
        square = (position[0, j] - y[0]) ** 2 + (position[1, j] - y[1]) ** 2 + (position[2, j] - y[2]) ** 2
        cost[j] = square + bond_weight * (length[j] - true_length) ** 2


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
def _at_most(cost, least, most):
    """What the last of the best extensions costs at most: the codes that are best at their place in a tile are some."""
    least[:] = _MOST
    for t in range(len(cost)):
        for j in range(TILE):
            least[j] = min(least[j], cost[t, j])
    if len(most) > TILE:
        return _MOST
    held = 0
    for j in range(TILE):
        if held < len(most) or least[j] < most[-1]:
            _insert(least[j], held, most)
            held = min(held + 1, len(most))
    return most[-1]


@compiled()
def _list_near(cost, limit, listed):
    """Codes that cost at most so much, in order, and how many there are."""
    count = 0
    for t in range(len(cost)):
        within = np.int32(0)
        for j in range(TILE):
            within += np.int32(cost[t, j] <= limit)
        if within:
            for j in range(TILE):  # without a branch, since none could be foretold
                listed[count] = t * TILE + j
                count += cost[t, j] <= limit
    return count


@compiled()
def select_room(n_codes, beam):
    """Arrays that `select` works in."""
    tiles = -(-n_codes // TILE)
    most, extensions = tiles * TILE, beam * tiles * TILE
    listed, rival = np.empty(most + 1, np.int64), np.empty((extensions, 2), np.int64)
    cost, least, near_by = np.empty((tiles, TILE)), np.empty(TILE), np.empty((3, most))
    length, value, local = np.empty(most), np.empty(most), np.empty(3)
    return cost, least, listed, near_by, length, value, local, rival, np.empty(extensions), np.empty(beam)


@compiled()
def select(y, alive, so_far, table, lengths, true_length, spread, hidden, which, network, settings, room, new):
    """The best extensions of the hypotheses by a code each; returns how many there are, `beam` or all.

    `spread` is how far, as a square root of cost, codes of each hypothesis may be off the table, as of `spread_of`; 0
    where it is theirs, as it is the first one's. Goals of other hypotheses lie close to that of the first: codes far
    from it are far from all. What is left is bounded, then measured exactly where the bound does not rule it out. Ties
    go to the earlier hypothesis, then to the lower code. `new` is filled: parent, code, cost and position in the
    parent's frame.
    """
    bond_weight, beam, reach = settings
    cost, least, listed, near_by, length, value, local, rival, lowest, most = room
    parent, code, best, place = new
    for t in range(len(table)):
        _measure(table[t], lengths[t], TILE, y[0], true_length, bond_weight, cost[t])
    limit = min((so_far[0] + _at_most(cost, least, most)) * (1 + _ROUNDING), _MOST)
    widest, used = 0.0, 0
    for h in range(alive):
        if so_far[h] > limit:
            break
        apart = np.sqrt((y[h, 0] - y[0, 0]) ** 2 + (y[h, 1] - y[0, 1]) ** 2 + (y[h, 2] - y[0, 2]) ** 2)
        off = apart + spread[h, 0] * reach + spread[h, 1] + _SLACK
        widest = max(widest, np.sqrt(limit - so_far[h]) + off)
        used = h + 1
    count = _list_near(cost, min(widest * widest, _MOST), listed)
    for i in range(count):
        t, j = listed[i] // TILE, listed[i] % TILE
        near_by[0, i], near_by[1, i], near_by[2, i] = table[t, 0, j], table[t, 1, j], table[t, 2, j]
        length[i] = lengths[t, j]
    held, rivals = 0, 0
    for h in range(used):
        if so_far[h] > limit:
            break
        _measure(near_by, length, count, y[h], true_length, bond_weight, value)
        near = (np.sqrt(limit - so_far[h]) + spread[h, 0] * reach + spread[h, 1] + _SLACK) ** 2
        for i in range(count):
            if value[i] > near:
                continue
            low = high = so_far[h] + value[i]
            if spread[h, 1] > 0:
                root, off = np.sqrt(value[i]), spread[h, 0] * network.reach[listed[i]] + spread[h, 1]
                low, high = so_far[h] + max(root - off, 0.0) ** 2, so_far[h] + (root + off) ** 2
            if low > limit:
                continue
            rival[rivals, 0], rival[rivals, 1], lowest[rivals] = h, i, low
            rivals += 1
            if held < beam or high < most[beam - 1]:
                _insert(high, held, most)
                held = min(held + 1, beam)
            if held == beam:
                limit = min(limit, most[beam - 1])
    held = 0
    for r in range(rivals):
        h, i, total = rival[r, 0], rival[r, 1], lowest[r]
        if total > limit or (held == beam and total > best[beam - 1]):
            continue
        local[:] = near_by[:, i]
        if spread[h, 1] > 0:
            code_position(network, listed[i], hidden[which[h]], local)
            total = (local[0] - y[h, 0]) ** 2 + (local[1] - y[h, 1]) ** 2 + (local[2] - y[h, 2]) ** 2
            far = np.sqrt(local[0] * local[0] + local[1] * local[1] + local[2] * local[2])
            total = so_far[h] + total + bond_weight * (far - true_length) ** 2
        if held == beam and total >= best[beam - 1]:
            continue
        at = min(held, beam - 1)
        first = _insert(total, held, best)
        while at > first:
            parent[at], code[at], place[at] = parent[at - 1], code[at - 1], place[at - 1]
            at -= 1
        parent[at], code[at] = h, listed[i]
        place[at] = local
        held = min(held + 1, beam)
    return held
