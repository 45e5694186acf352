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
    from structok.molecule.topology_cpu import choose

    n = len(graph)
    refs, relations = np.zeros((n, 3), dtype=np.int64), np.zeros((n, len(RELATIONS)), dtype=np.int64)
    context, distance = np.zeros((2, n, CONTEXT), dtype=np.int64)
    linear, in_ring = graph.atoms[:, 2] == SP, graph.atoms[:, 3] > 0
    if lost := choose(graph.bonds, graph.bond_types, linear, in_ring, _REACH, refs, relations, context, distance):
        raise ValueError(f"atom {lost} is bonded to no earlier atom")
    return Topology(refs, context, distance, relations)
