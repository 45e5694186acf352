"""The molecular graph as integer arrays: what a SELFIES says of each atom and bond, for models without RDKit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["ATOM_FEATURES", "BOND_TYPES", "Graph", "bonds_of", "graph_of", "graphs_of"]

# Atomic numbers with their own class; 0 stands for "no atom", the last class for every other element.
_ELEMENTS = (0, 1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53)
_ELEMENT_CLASS = np.full(256, len(_ELEMENTS))
_ELEMENT_CLASS[list(_ELEMENTS)] = range(len(_ELEMENTS))
_HYBRIDISATIONS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
SP = 1 + _HYBRIDISATIONS.index("SP")

# Columns of Graph.atoms and their number of classes; class 0 of the first column means "no atom".
ATOM_FEATURES: dict[str, int] = {
    "element": len(_ELEMENTS) + 1,
    "degree": 8,
    "hybridisation": len(_HYBRIDISATIONS) + 1,
    "ring": 8,  # smallest ring: 0 none, then 3 to 8, 9 and above
    "charge": 5,  # -2 to +2, shifted
    "aromatic": 2,
    "hydrogens": 5,
}
BOND_TYPES = 4 * 2 * 8  # order (1, 2, 3, aromatic) × conjugated × smallest ring, as for atoms


@dataclass(frozen=True)
class Graph:
    """A molecular graph in token order.

    Parameters
    ----------
    atoms : int8 array, shape=(n, len(ATOM_FEATURES)), class of each feature
    bonds : int64 array, shape=(m, 2), lower index first
    bond_types : int64 array, shape=(m,), below BOND_TYPES
    """

    atoms: Int[np.ndarray, "n f"]
    bonds: Int[np.ndarray, "m 2"]
    bond_types: Int[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.atoms)


@cache
def _hybridisation_classes() -> Int[np.ndarray, " h"]:
    """Class of each of RDKit's hybridisations, whose numbers change with its version; 0 for rare ones."""
    from rdkit.Chem import HybridizationType

    known = {int(value): name for name, value in HybridizationType.names.items()}
    names = [known.get(i, "") for i in range(max(known) + 1)]
    return np.array([1 + _HYBRIDISATIONS.index(n) if n in _HYBRIDISATIONS else 0 for n in names])


def _ring_classes(sizes: list[int]) -> Int[np.ndarray, " n"]:
    """0 outside of rings, then 1 for rings of three."""
    return (np.array(sizes, dtype=np.int64).clip(max=9) - 2).clip(min=0)


def bonds_of(mol: Mol) -> Int[np.ndarray, "m 2"]:
    """Bonded pairs of atoms, lower index first."""
    from rdkit import Chem

    i, j = Chem.GetAdjacencyMatrix(mol).nonzero()
    return np.stack([i, j], axis=1)[i < j]


def graph_of(mol: Mol) -> Graph:
    """Read the graph of a sanitised molecule with explicit hydrogens, atoms as they are numbered."""
    return graphs_of([mol])[0]


def graphs_of(mols: Sequence[Mol]) -> list[Graph]:
    """As `graph_of`, for many: arrays are made for all at once."""
    atoms: list[tuple[int, ...]] = []
    bonds: list[tuple[float, ...]] = []
    atom_ring: list[int] = []
    bond_ring: list[int] = []
    for mol in mols:
        # ring sizes from the ring list: one pass instead of a query per atom and bond
        info, n, m = mol.GetRingInfo(), mol.GetNumAtoms(), mol.GetNumBonds()
        for members, target, size in ((info.AtomRings(), atom_ring, n), (info.BondRings(), bond_ring, m)):
            sizes = [0] * size
            for ring in members:
                for i in ring:
                    sizes[i] = min(sizes[i] or len(ring), len(ring))
            target += sizes
        atoms += [
            (a.GetAtomicNum(), a.GetHybridization(), a.GetFormalCharge(), a.GetIsAromatic())
            for a in map(mol.GetAtomWithIdx, range(n))  # faster than GetAtoms
        ]
        bonds += [
            (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble(), b.GetIsAromatic(), b.GetIsConjugated())
            for b in map(mol.GetBondWithIdx, range(m))
        ]
    numbers, hybridisation, charge, aromatic = np.array(atoms, dtype=np.int64).reshape(-1, 4).T
    first, second, order, in_aromatic, conjugated = np.array(bonds, dtype=np.int64).reshape(-1, 5).T
    atom_end, bond_end = (
        np.cumsum([0, *counts]) for counts in zip(*((m.GetNumAtoms(), m.GetNumBonds()) for m in mols))
    )
    owner = np.repeat(np.arange(len(mols)), np.diff(bond_end))
    pairs = np.sort(np.stack([first, second], axis=1), axis=1) + atom_end[owner, None]
    order = np.where(in_aromatic, 3, order.clip(1, 3) - 1)
    kinds = (order * 2 + conjugated) * 8 + _ring_classes(bond_ring)
    ends, others = pairs.reshape(-1), pairs[:, ::-1].reshape(-1)
    rows = np.stack(
        [
            _ELEMENT_CLASS[numbers],
            np.bincount(ends, minlength=len(atoms)).clip(max=7),
            _hybridisation_classes()[hybridisation],
            _ring_classes(atom_ring),
            charge.clip(-2, 2) + 2,
            aromatic,
            np.bincount(ends[numbers[others] == 1], minlength=len(atoms)).clip(max=4),
        ],
        axis=1,
    ).astype(np.int8)
    tree = np.zeros(len(atoms), dtype=np.int64)
    np.maximum.at(tree, pairs[:, 1], pairs[:, 0])
    # one order of bonds, however the molecule was written: that of a SMILES, rings last
    at = np.lexsort((pairs[:, 0], pairs[:, 1], pairs[:, 0] != tree[pairs[:, 1]], owner))
    pairs, kinds = (pairs - atom_end[owner, None])[at], kinds[at]
    spans = zip(atom_end, atom_end[1:], bond_end, bond_end[1:])
    return [Graph(rows[a:b], pairs[c:d], kinds[c:d]) for a, b, c, d in spans]
