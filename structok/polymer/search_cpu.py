"""The beam search of `search`, compiled for the CPU: one chain after the other, in float64.

Codes are cut into tiles of near ones, each within a box. A hypothesis pays at least for the way from its goal to the
box, whichever code of the tile it takes; a tile is passed over where that is more than the last of the `beam` best
extensions so far costs. The result is that of measuring all codes for all hypotheses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor

from structok.codebook.cpu import compiled
from structok.polymer.search import pose_rows

__all__ = ["CompiledSearch"]

_TILE = 64  # codes in a tile: few enough for small boxes, enough to keep vector units busy
_LANES = 16  # parts of the first tile whose minima give the first limit, for a beam up to that
_FAR = 1e150  # Å, steps that fill the last tile
_SLACK = 1e-9  # Å, by which boxes are larger than the codes: more than the rounding of a difference
_FAST = {"contract", "reassoc", "nnan", "nsz"}


class Tiles(NamedTuple):
    """A codebook of steps, cut into tiles.

    Parameters
    ----------
    code : number of the code in each place of each tile, ascending; -1 in places that are left over
    step : the codes, component by component, Å
    vector : the same in the latent space
    low, high : corners of each tile's box, Å
    pose : of each code by number, its rotation row by row, then its origin, Å
    group : of each code by number, see `Prior`
    """

    code: Int[Array, "t s"]
    step: Float[Array, "t 9 s"]
    vector: Float[Array, "t d s"]
    low: Float[Array, "9 t"]
    high: Float[Array, "9 t"]
    pose: Float[Array, "k 12"]
    group: Int[Array, " k"]


def _tile(
    steps: Float[Array, "k 9"], poses: Float[Array, "k 12"], vectors: Float[Array, "k d"], group: Int[Array, " k"]
) -> Tiles:
    """Halve the codes along the component in which they vary most, until each part fits into a tile."""

    def halves(rows: Int[Array, " n"]) -> list[Int[Array, " m"]]:
        if len(rows) <= _TILE:
            return [np.sort(rows)]
        widest = steps[rows].var(0).argmax()
        rows = rows[steps[rows, widest].argsort(kind="stable")]
        middle = -(-len(rows) // (2 * _TILE)) * _TILE
        return halves(rows[:middle]) + halves(rows[middle:])

    parts = halves(np.arange(len(steps)))
    code = np.stack([np.pad(rows, (0, _TILE - len(rows)), constant_values=-1) for rows in parts])
    held = np.where(code[..., None] < 0, _FAR, steps[code])
    low = np.stack([steps[rows].min(0) - _SLACK for rows in parts])
    high = np.stack([steps[rows].max(0) + _SLACK for rows in parts])

    def rows(x: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Codes, or tiles, along the last axis: vector units read neighbours."""
        return np.ascontiguousarray(np.swapaxes(x, -1, -2), dtype=np.float64)

    return Tiles(code, rows(held), rows(vectors[code]), rows(low), rows(high), poses, group.astype(np.int64))


class CompiledSearch:
    """A codebook of steps, ready to be searched; one object serves several threads.

    Parameters
    ----------
    steps : step k as nine numbers, Å
    transforms : the same steps as frames
    vectors : of the codes in the latent space
    group : group of each code, see `Prior`
    """

    def __init__(
        self,
        steps: Float[Tensor, "k 9"],
        transforms: Float[Tensor, "k 4 4"],
        vectors: Float[Tensor, "k d"],
        group: Int[Tensor, " k"],
    ) -> None:
        self._tiles = _tile(steps.double().numpy(), pose_rows(transforms).numpy(), vectors.numpy(), group.numpy())
        # without prices all codes are of one group, whose row stays in cache
        self._ungrouped = self._tiles._replace(group=np.zeros_like(self._tiles.group))
        self._free = self._in_tiles(torch.zeros(2, len(steps)))
        self._kept: tuple[Tensor | None, tuple[Array, Array]] = None, self._free

    def __call__(
        self,
        coords: Float[Tensor, "b l 3 3"],
        length: Int[Tensor, " b"],
        weight: Float[Tensor, "b l"],
        start: Float[Tensor, "b 4 4"],
        latents: Float[Tensor, "b l d"] | None = None,
        pull: Float[Tensor, "b l"] | None = None,
        *,
        price: Float[Tensor, "g+1 k"] | None = None,
        beam: int,
    ) -> Int[Tensor, "b l"]:
        """Codes of all residues but the first, -1 elsewhere; arguments as for `ChainSearch`, poses in float64."""
        tiles, prices = self._ungrouped, self._free
        if price is not None:
            kept, prices = self._kept
            if kept is not price:
                prices = self._in_tiles(price)
                self._kept = price, prices
            tiles = self._tiles
        codes = torch.full(weight.shape, -1)
        if latents is None or pull is None:
            latents, pull = weight.new_zeros(*weight.shape, 0), torch.zeros_like(weight)
        told = [x.contiguous().numpy() for x in (coords.flatten(2), length, weight, latents.double(), pull)]
        _search(*told, pose_rows(start).numpy(), tiles, prices, beam, codes.numpy())
        return codes

    def _in_tiles(self, price: Float[Tensor, "g+1 k"]) -> tuple[Float[Array, "g+1 t s"], Float[Array, "g+1 t"]]:
        """The price of the code in each place, and the least of each tile."""
        tiled = np.ascontiguousarray(price.numpy()[:, self._tiles.code])
        return tiled, tiled.min(-1).astype(np.float64)


@compiled(fastmath=_FAST)
def _bounds(goal, scale, cost, group, alive, low, high, cheapest, bound):
    """What any code of each tile costs at least, whatever it extends."""
    bound[:] = np.inf
    for h in range(alive):
        g, so_far = group[h], cost[h]
        for t in range(len(bound)):
            square = 0.0
            for i in range(9):
                square += max(low[i, t] - goal[h, i], goal[h, i] - high[i, t], 0.0) ** 2
            bound[t] = min(bound[t], so_far + scale * square + cheapest[g, t])


@compiled(fastmath=_FAST)
def _measure(t, goal, scale, cost, group, alive, step, price, extra, limit, total, hits):
    """The total of each hypothesis with each code of tile t, and how many are within the limit."""
    for h in range(alive):
        g, so_far = group[h], cost[h]
        for j in range(_TILE):
            square = 0.0
            for i in range(9):
                square += (goal[h, i] - step[t, i, j]) ** 2
            total[h, j] = so_far + scale * square + price[g, t, j] + extra[j]
        within = np.int32(0)
        for j in range(_TILE):
            within += np.int32(total[h, j] <= limit)
        hits[h] = within


@compiled(fastmath=_FAST)
def _latent_term(t, z, pull, vector, extra):
    """λ |z - e|² of each code of tile t."""
    extra[:] = 0.0
    for i in range(len(z)):
        for j in range(_TILE):
            extra[j] += pull * (z[i] - vector[t, i, j]) ** 2


@compiled(fastmath=_FAST)
def _first_limit(total, alive, low):
    """A limit that at least `_LANES` of the totals are within."""
    low[:] = np.inf
    for h in range(alive):
        for start in range(0, _TILE, _LANES):
            for j in range(_LANES):
                low[j] = min(low[j], total[h, start + j])
    return low.max()


@compiled()
def _precedes(total, h, k, other, other_h, other_k):
    """Ties go to the earlier hypothesis, then to the lower code."""
    return total < other or (total == other and (h < other_h or (h == other_h and k < other_k)))


@compiled()
def _extend(goal, scale, cost, group, alive, z, pull, arrays, room, parent, code, best):
    """The best extensions of the hypotheses by a code each; returns how many there are, `beam` or all."""
    label, step, vector, low, high, price, cheapest = arrays
    bound, todo, extra, total, hits, lanes, found = room
    beam, left, held, limit = len(best), len(bound), 0, np.inf
    _bounds(goal, scale, cost, group, alive, low, high, cheapest, bound)
    extra[:] = 0.0
    for t in range(left):
        todo[t] = t
    while left:
        at = 0
        for i in range(1, left):
            if bound[todo[i]] < bound[todo[at]]:
                at = i
        t = todo[at]
        if bound[t] > limit:
            break
        left -= 1
        todo[at] = todo[left]
        if pull > 0:
            _latent_term(t, z, pull, vector, extra)
        _measure(t, goal, scale, cost, group, alive, step, price, extra, limit, total, hits)
        if left == len(bound) - 1:
            # most tiles are ruled out at once, and need not be compared again
            limit = _first_limit(total, alive, lanes) if beam <= _LANES else limit
            near = 0
            for i in range(left):
                if bound[todo[i]] <= limit:
                    todo[near] = todo[i]
                    near += 1
            left = near
        for h in range(alive):
            if not hits[h]:
                continue
            within = 0
            for j in range(_TILE):  # without a branch, since none could be foretold
                found[within] = j
                within += total[h, j] <= limit
            for j in found[:within]:
                value, k = total[h, j], label[t, j]
                at = min(held, beam - 1)
                if k < 0 or (held == beam and not _precedes(value, h, k, best[at], parent[at], code[at])):
                    continue
                while at > 0 and _precedes(value, h, k, best[at - 1], parent[at - 1], code[at - 1]):
                    best[at], parent[at], code[at] = best[at - 1], parent[at - 1], code[at - 1]
                    at -= 1
                best[at], parent[at], code[at] = value, h, k
                held = min(held + 1, beam)
                if held == beam:
                    limit = min(limit, best[beam - 1])
    return held


@compiled()
def _search(coords, length, weight, latents, pull, start, tiles, prices, beam, out):
    """Chain after chain, residue after residue: goals, the best extensions, their poses; then the way back."""
    price, cheapest = prices
    arrays = (tiles.code, tiles.step, tiles.vector, tiles.low, tiles.high, price, cheapest)
    poses, groups, count = tiles.pose, tiles.group, tiles.low.shape[1]
    room = (
        np.empty(count),
        np.empty(count, np.int64),
        np.empty(_TILE),
        np.empty((beam, _TILE)),
        np.empty(beam, np.int32),
        np.empty(_LANES),
        np.empty(_TILE + 1, np.int64),
    )
    pose, moved, goal = np.empty((beam, 12)), np.empty((beam, 12)), np.empty((beam, 9))
    group, cost, best = np.empty(beam, np.int64), np.empty(beam), np.empty(beam)
    for row in range(len(coords)):
        parents, codes = np.empty((length[row], beam), np.int32), np.empty((length[row], beam), np.int32)
        for i in range(12):  # as one assignment it would be compiled with the text of its errors, half as long again
            pose[0, i] = start[row, i]
        group[0], cost[0] = len(price) - 1, 0.0
        alive = min(beam, 1)  # a plain 1 would be a type of its own, and everything compiled twice
        for n in range(1, length[row]):
            for h in range(alive):
                for i in range(9):
                    atom, x, value = i // 3 * 3, i % 3, 0.0
                    for y in range(3):
                        value += (coords[row, n, atom + y] - pose[h, 9 + y]) * pose[h, 3 * y + x]
                    goal[h, i] = value
            parent, code, scale = parents[n], codes[n], weight[row, n]
            z, force = latents[row, n], pull[row, n]
            alive = _extend(goal, scale, cost, group, alive, z, force, arrays, room, parent, code, best)
            for h in range(alive):
                old, step = pose[parent[h]], poses[code[h]]
                for x in range(3):
                    turn = old[3 * x], old[3 * x + 1], old[3 * x + 2]
                    for y in range(3):
                        moved[h, 3 * x + y] = turn[0] * step[y] + turn[1] * step[3 + y] + turn[2] * step[6 + y]
                    moved[h, 9 + x] = old[9 + x] + turn[0] * step[9] + turn[1] * step[10] + turn[2] * step[11]
                group[h] = groups[code[h]]
            pose, moved, cost, best = moved, pose, best, cost
        at = 0
        for n in range(length[row] - 1, 0, -1):
            out[row, n] = codes[n, at]
            at = parents[n, at]
