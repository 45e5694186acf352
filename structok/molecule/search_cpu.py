"""The beam search of `search`, compiled for the CPU: a few molecules at a time, hypothesis by hypothesis in float64.

Codes are measured for the best hypothesis; others have goals close to its own, so that most codes are out of reach for
them too. Where `TopoDecoder` draws a table for each atom and hypothesis, only that of the best is made: hypotheses see
almost the same geometry, and a code moves by at most `Network.reach` times the change of the hidden vector. A code of
another hypothesis is made by itself, where that bound does not rule it out. The result is that of measuring all codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor
from torch.nn.functional import pad

from structok.batching import in_threads
from structok.codebook.cpu import compiled
from structok.molecule.frames_cpu import ROOM, frame, superposed
from structok.molecule.select_cpu import select, select_room
from structok.molecule.topo_cpu import ROWS, TILE, Network, dense, hidden_rows, positions, spread_of

__all__ = ["Atoms", "Tables", "in_parts", "search"]

_GROUP = 16  # molecules searched together, so that a weight that has been read serves several
_PART = 64  # molecules that a thread takes at once
_FAR = 1e150  # Å, codes that fill the last tile


class Atoms(NamedTuple):
    """A padded batch of molecules to be rebuilt.

    Parameters
    ----------
    target : true positions, posed by `orient`, Å
    length : true distance to the focal atom, Å
    size : atoms of each molecule
    refs : focal atom and two references; indices count the virtual atoms
    context, static : as of `TopoBatch` and `TopoDecoder.static`; no columns without a network
    virtual : positions of the atoms in front of the first one
    """

    target: Float[Tensor, "b n 3"]
    length: Float[Tensor, "b n"]
    size: Int[Tensor, " b"]
    refs: Int[Tensor, "b n 3"]
    context: Int[Tensor, "b n c"]
    static: Float[Tensor, "b n h"]
    virtual: Float[Tensor, "v 3"]


class Tables(NamedTuple):
    """Positions of the codes of atom 1, of atom 2, and of all later ones, in tiles."""

    position: Float[Array, "p t 3 s"]
    length: Float[Array, "p t s"]

    @classmethod
    def of(cls, positions: Float[Tensor, "p k 3"]) -> Tables:
        """Tables of positions in Å."""
        held = pad(positions.double(), (0, 0, 0, -positions.shape[1] % TILE), value=_FAR)
        tiles = held.unflatten(1, (-1, TILE)).transpose(2, 3).contiguous()
        return cls(tiles.numpy(), tiles.norm(dim=2).numpy())


def search(
    atoms: Atoms, tables: Float[Tensor, "p k 3"] | Network, *, bond_weight: float, beam: int
) -> Int[Tensor, "b n"]:
    """Codes of all atoms but the first, -1 elsewhere; torch's number of threads share the molecules.

    Parameters
    ----------
    atoms : of a batch
    tables : positions of the codes of atom 1, of atom 2, and of all later ones, Å, or what draws them for each atom
    bond_weight : weight of the squared error of the distance to the focal atom
    beam : hypotheses kept; 1 is greedy
    """
    if isinstance(tables, Network):
        held, network, n_codes = Tables.of(torch.empty(3, 0, 3)), tables, len(tables.code_bias)
    else:
        held, network, n_codes = Tables.of(tables), Network.none(tables.shape[1]), tables.shape[1]
    codes = torch.full(atoms.length.shape, -1)
    found, weight = codes.numpy(), float(bond_weight)
    in_parts(atoms, lambda some, rows: _search(some, held, network, n_codes, weight, beam, found[rows]))
    return codes


def in_parts(atoms: Atoms, work: Callable[[Atoms, slice], None]) -> None:
    """Let torch's number of threads share a batch: `work` takes some molecules, as arrays, and their rows."""
    *arrays, virtual = (x.contiguous().numpy() for x in atoms)

    def part(start: int) -> None:
        rows = slice(start, start + _PART)
        work(Atoms._make((*(x[rows] for x in arrays), virtual)), rows)

    in_threads(part, range(0, len(arrays[0]), _PART), several=True)


@compiled()
def _goals(atoms, row, step, alive, true_total, state, axes, goal, room):
    """Frame of an atom in each hypothesis, and where in it the atom should be."""
    coords, total, product, basis, _ = state
    moved, matrices = room
    f, c1, c2 = atoms.refs[row, step]
    target = atoms.target[row, step]
    posed = atoms.static.shape[2] == 0 and step < 3  # the pose is that of the first three atoms
    if posed:
        f = 0
    if step > 2:
        superposed(target, true_total, total, product, step, alive, basis, matrices, moved)
    else:
        moved[:] = target
    for h in range(alive):
        x, turn = coords[h], axes[h]
        if posed:
            turn[:] = 0.0
            turn[0, 0] = turn[1, 1] = turn[2, 2] = 1.0
        else:
            frame(x[f], x[c1], x[c2], turn)
        for i in range(3):
            goal[h, i] = 0.0
            for j in range(3):
                goal[h, i] += turn[i, j] * (moved[h, j] - x[f, j])
    return f


@compiled()
def _advance(target, f, at, alive, extensions, axes, old, new):
    """Hypotheses after their extension, as `select` gives it."""
    parent, _, best, place = extensions
    for h in range(alive):
        p = parent[h]
        coords, total, product, basis, cost = new[0][h], new[1][h], new[2][h], new[3][h], new[4]
        coords[:at], total[:], product[:], basis[:] = old[0][p, :at], old[1][p], old[2][p], old[3][p]
        cost[h] = best[h]
        for i in range(3):
            turn = axes[p]
            value = coords[f, i] + turn[0, i] * place[h, 0] + turn[1, i] * place[h, 1] + turn[2, i] * place[h, 2]
            coords[at, i] = value
            total[i] += value
            for j in range(3):
                product[j, i] += target[j] * value


@compiled()
def _search(atoms, tables, network, n_codes, bond_weight, beam, out):
    """Groups of molecules, atom by atom: goals, the best extensions, new states; then the way back."""
    n, plain, ahead = atoms.refs.shape[1], atoms.static.shape[2] == 0, len(atoms.virtual)
    shape = (2, _GROUP, beam)
    coords, total = np.zeros((*shape, ahead + n, 3)), np.zeros((*shape, 3))
    product, basis, cost = np.zeros((*shape, 3, 3)), np.zeros((*shape, 3, 3)), np.zeros(shape)
    axes, goal, spread = np.empty((_GROUP, beam, 3, 3)), np.empty((_GROUP, beam, 3)), np.empty((beam, 2))
    true_total, focal, alive = np.empty((_GROUP, 3)), np.empty(_GROUP, np.int64), np.empty(_GROUP, np.int64)
    rows, width = 0 if plain else _GROUP * beam + ROWS, len(network.mix.bias) * TILE
    inputs = np.zeros((rows, network.geometry.weight.shape[1]), np.float32)
    pre = np.empty((rows, len(network.mix.bias), TILE), np.float32)
    hidden = np.empty(pre.shape, np.float32)
    vectors, base = hidden.reshape(rows, width), np.zeros((_GROUP, width), np.float32)
    which, owner = np.empty((_GROUP, beam), np.int64), np.empty(rows, np.int64)
    sums = np.empty((rows // ROWS + 1, ROWS * TILE), np.float32)
    made = np.empty((_GROUP, len(network.table.bias), TILE), np.float32)
    drawn, reach = np.empty((len(made[0]) // 3, 3, TILE)), np.empty((len(made[0]) // 3, TILE))
    parent, code = np.empty((_GROUP, n, beam), np.int64), np.empty((_GROUP, n, beam), np.int64)
    best, place = np.empty(beam), np.empty((beam, 3))
    matrices = np.empty((beam, 3)), np.empty(ROOM)
    farthest, room_of_select = network.reach.max(), select_room(n_codes, beam)
    settings = bond_weight, beam, farthest
    for first in range(0, len(out), _GROUP):
        group = min(_GROUP, len(out) - first)
        for m in range(group):
            coords[0, m, 0] = 0.0
            coords[0, m, 0, :ahead] = atoms.virtual
            coords[1, m, :, :ahead] = atoms.virtual
            total[0, m, 0], product[0, m, 0], basis[0, m, 0], cost[0, m, 0] = 0.0, 0.0, np.eye(3), 0.0
            true_total[m] = 0.0
            alive[m] = min(beam, 1)
        for step in range(1, atoms.size[first : first + group].max()):
            now, then = 1 - step % 2, step % 2
            for m in range(group):
                if step < atoms.size[first + m]:
                    true_total[m] += atoms.target[first + m, step - 1]
                    state = coords[now, m], total[now, m], product[now, m], basis[now, m], cost[now, m]
                    focal[m] = _goals(
                        atoms, first + m, step, alive[m], true_total[m], state, axes[m], goal[m], matrices
                    )
            if not plain:
                room = inputs, pre, hidden, sums, owner
                hidden_rows(atoms, first, group, step, alive, coords[now], axes, focal, network, room, which)
                for m in range(group):
                    if step < atoms.size[first + m]:
                        base[m] = vectors[which[m, 0]]
                dense(base, group, network.table, sums, made)
            for m in range(group):
                if step >= atoms.size[first + m]:
                    continue
                spread[:] = 0.0
                if plain:
                    table, lengths = tables.position[min(step, 3) - 1], tables.length[min(step, 3) - 1]
                else:
                    positions(made[m], drawn, reach)
                    table, lengths = drawn, reach
                    for h in range(alive[m]):
                        if which[m, h] != which[m, 0]:
                            spread_of(vectors[which[m, h]], base[m], farthest, bond_weight, spread[h])
                true_length = atoms.length[first + m, step]
                kept, old, new = alive[m], cost[now, m], (parent[m, step], code[m, step], best, place)
                alive[m] = select(
                    goal[m],
                    kept,
                    old,
                    table,
                    lengths,
                    true_length,
                    spread,
                    vectors,
                    which[m],
                    network,
                    settings,
                    room_of_select,
                    new,
                )
                before = coords[now, m], total[now, m], product[now, m], basis[now, m], cost[now, m]
                after = coords[then, m], total[then, m], product[then, m], basis[then, m], cost[then, m]
                target, at = atoms.target[first + m, step], ahead + step
                _advance(target, focal[m], at, alive[m], new, axes[m], before, after)
        for m in range(group):
            at = 0
            for step in range(atoms.size[first + m] - 1, 0, -1):
                out[first + m, step] = code[m, step, at]
                at = parent[m, step, at]
