"""The molecular graph as integer arrays: what a SELFIES says of each atom and bond, for models without RDKit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["ATOM_FEATURES", "BOND_TYPES", "Graph", "bonds_of", "graph_of"]

# Atomic numbers with their own class; 0 stands for "no atom", the last class for every other element.
_ELEMENTS = (0, 1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53)
_ELEMENT_CLASS = {z: i for i, z in enumerate(_ELEMENTS)}
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


def _ring_class(size: int) -> int:
    return 0 if not size else min(size, 9) - 2


def bonds_of(mol: Mol) -> Int[np.ndarray, "m 2"]:
    """Bonded pairs of atoms, lower index first."""
    from rdkit import Chem

    i, j = Chem.GetAdjacencyMatrix(mol).nonzero()
    return np.stack([i, j], axis=1)[i < j]


def graph_of(mol: Mol) -> Graph:
    """Read the graph of a sanitised molecule with explicit hydrogens, atoms as they are numbered."""
    # ring sizes from the ring list: one pass instead of a query per atom and bond
    info = mol.GetRingInfo()
    atom_ring = [0] * mol.GetNumAtoms()
    bond_ring = [0] * mol.GetNumBonds()
    for members, target in ((info.AtomRings(), atom_ring), (info.BondRings(), bond_ring)):
        for ring in members:
            for i in ring:
                target[i] = min(target[i] or len(ring), len(ring))
    hybridisation = {name: 1 + i for i, name in enumerate(_HYBRIDISATIONS)}
    atoms = list(mol.GetAtoms())
    numbers = [atom.GetAtomicNum() for atom in atoms]
    hydrogens = [0] * len(atoms)
    bonds, kinds = [], []
    for bond, ring in zip(mol.GetBonds(), bond_ring):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        hydrogens[i] += numbers[j] == 1
        hydrogens[j] += numbers[i] == 1
        order = 3 if bond.GetIsAromatic() else min(max(int(bond.GetBondTypeAsDouble()), 1), 3) - 1
        bonds.append((min(i, j), max(i, j)))
        kinds.append((order * 2 + bond.GetIsConjugated()) * 8 + _ring_class(ring))
    rows = [
        (
            _ELEMENT_CLASS.get(numbers[i], len(_ELEMENTS)),
            min(atom.GetDegree(), 7),
            hybridisation.get(atom.GetHybridization().name, 0),
            _ring_class(atom_ring[i]),
            min(max(atom.GetFormalCharge(), -2), 2) + 2,
            atom.GetIsAromatic(),
            min(hydrogens[i], 4),
        )
        for i, atom in enumerate(atoms)
    ]
    pairs = np.array(bonds, dtype=np.int64).reshape(-1, 2)
    tree = np.zeros(len(atoms), dtype=np.int64)
    np.maximum.at(tree, pairs[:, 1], pairs[:, 0])
    # one order of bonds, however the molecule was written: that of a SMILES, rings last
    at = np.lexsort((pairs[:, 0], pairs[:, 1], pairs[:, 0] != tree[pairs[:, 1]]))
    return Graph(np.array(rows, dtype=np.int8), pairs[at], np.array(kinds, dtype=np.int64)[at])
