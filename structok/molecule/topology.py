"""What the topology-conditioned decoder reads off the graph: references, context atoms, relations.

Its references differ from the published ones: an atom whose focal atom already carries another placed
neighbour is placed relative to that one, so that siblings, and not a torsion far away, fix the azimuth.
Two virtual atoms (V1 behind the origin, V2 beside it) serve the first atoms, so that all atoms are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from structok.molecule.graph import SP, Graph

__all__ = ["CONTEXT", "RELATIONS", "VIRTUAL", "Topology", "topology_of"]

CONTEXT = 6  # placed atoms, beside the references, whose rebuilt positions the decoder sees
VIRTUAL = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_REACH = 4  # bonds within which a context atom counts
_FAR = _REACH + 1

# Columns of Topology.relations and their number of classes. Bond types are shifted by one, 0 = no bond.
RELATIONS: dict[str, int] = {
    "bond_to_focal": 65,
    "bond_of_references": 65,
    "distance_to_c2": _FAR + 1,
    "placed_neighbours": 6,
    "shares_ring_with_c1": 2,
    "shares_ring_with_c2": 2,
    "waiting_neighbours": 6,
}


@dataclass(frozen=True)
class Topology:
    """Static index arrays of one molecule; atom indices are shifted by 2, 0 and 1 are the virtual atoms.

    Parameters
    ----------
    refs : int64 array, shape=(n, 3), focal atom and the two references of each atom
    context : int64 array, shape=(n, CONTEXT), nearest placed atoms by bonds, then latest; 0 = none
    context_distance : int64 array, shape=(n, CONTEXT), bonds to each, 0 = none
    relations : int64 array, shape=(n, len(RELATIONS))
    """

    refs: Int[np.ndarray, "n 3"]
    context: Int[np.ndarray, "n c"]
    context_distance: Int[np.ndarray, "n c"]
    relations: Int[np.ndarray, "n r"]


def topology_of(graph: Graph) -> Topology:
    """Choose references and context of each atom; a function of the graph alone.

    The focal atom is the latest earlier neighbour; c1 its own focal atom. c2 is the latest placed
    neighbour of the focal atom; failing that a placed neighbour of c1, looking past linear (sp) atoms,
    which give no direction.
    """
    n = len(graph)
    neighbours: list[list[int]] = [[] for _ in range(n)]
    bond_type = {}
    for (i, j), kind in zip(graph.bonds.tolist(), graph.bond_types.tolist()):
        neighbours[i].append(j)
        neighbours[j].append(i)
        bond_type[i, j] = bond_type[j, i] = kind + 1
    for row in neighbours:
        row.sort()
    linear = (graph.atoms[:, 2] == SP).tolist()
    in_ring = graph.atoms[:, 3] > 0
    focal = [max((j for j in row if j < i), default=-1) for i, row in enumerate(neighbours)]
    apart = _bonds_apart(graph)

    refs = np.zeros((n, 3), dtype=np.int64)
    relations = np.zeros((n, len(RELATIONS)), dtype=np.int64)
    refs[0] = (0, 0, 1)
    for i in range(1, n):
        f = focal[i]
        if f < 0:
            raise ValueError(f"atom {i} is bonded to no earlier atom")
        placed = [j for j in neighbours[f] if j < i]
        c1 = focal[f] if f > 0 else (placed[0] if placed else -2)
        others = [j for j in placed if j != c1]
        c2 = others[-1] if others else _beyond(f, c1, i, neighbours, linear)
        refs[i] = (f + 2, c1 + 2, c2 + 2)
        near = int(apart[i, c2]) if c2 >= 0 else 0
        relations[i] = (
            bond_type[f, i],
            bond_type.get((f, c1), 0),
            near,
            min(len(placed), 5),
            c1 >= 0 and in_ring[i] and in_ring[f] and in_ring[c1] and bond_type[f, i] % 8 != 1,
            c2 >= 0 and in_ring[i] and in_ring[c2] and bond_type[f, i] % 8 != 1 and near <= 3,
            min(sum(j > i for j in neighbours[f]), 5),
        )
    context, distance = _context(apart, refs)
    return Topology(refs, context, distance, relations)


def _beyond(f: int, c1: int, i: int, neighbours: list[list[int]], linear: list[bool]) -> int:
    """A placed atom off the line f - c1, or -1 (V2)."""
    came, middle = f, c1
    while middle >= 0:
        others = [j for j in neighbours[middle] if j < i and j != came]
        if not others:
            return -1
        if not linear[middle]:
            return others[0]
        came, middle = middle, others[0]
    return -1


def _bonds_apart(graph: Graph) -> Int[np.ndarray, "n n"]:
    """Bonds on the shortest path between atoms, _FAR where there are more than _REACH."""
    n = len(graph)
    bonded = np.eye(n, dtype=np.float32)
    bonded[graph.bonds[:, 0], graph.bonds[:, 1]] = bonded[graph.bonds[:, 1], graph.bonds[:, 0]] = 1
    reached = np.eye(n, dtype=np.float32)
    apart = np.where(reached > 0, 0, _FAR)
    for step in range(1, _REACH + 1):
        reached = np.minimum(reached @ bonded, 1)
        apart = np.where((reached > 0) & (apart == _FAR), step, apart)
    return apart


def _context(
    apart: Int[np.ndarray, "n n"], refs: Int[np.ndarray, "n 3"]
) -> tuple[Int[np.ndarray, "n c"], Int[np.ndarray, "n c"]]:
    n = len(apart)
    index = np.arange(n)
    distance = np.where(index[None] < index[:, None], apart, _FAR)
    real = refs >= 2
    distance[np.nonzero(real)[0], refs[real] - 2] = _FAR
    key = distance * (n + 1) - index
    k = min(CONTEXT, n)
    nearest = np.argsort(key, axis=1)[:, :k]
    reached = np.take_along_axis(distance, nearest, axis=1)
    context = np.zeros((n, CONTEXT), dtype=np.int64)
    context_distance = np.zeros((n, CONTEXT), dtype=np.int64)
    context[:, :k] = np.where(reached < _FAR, nearest + 2, 0)
    context_distance[:, :k] = np.where(reached < _FAR, reached, 0)
    return context, context_distance
