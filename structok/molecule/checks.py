"""Checks of molecules before they are tokenized: coordinates, bonds, and whether a SELFIES holds them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from structok.errors import InputError
from structok.read.molecules import bond_lengths, is_drawing

if TYPE_CHECKING:
    from rdkit.Chem import Atom, Mol

__all__ = ["check_graph", "checked_coordinates", "difference", "is_plain", "mapped"]

# Molecules of these elements, without radicals and not larger, are what decodes from their SELFIES: the encoder checks
# the valences that its decoder keeps to. Others are read back and compared.
_UNCOMMON = "[!#1!#5!#6!#7!#8!#9!#14!#15!#16!#17!#34!#35!#53]"
_SHORT = 500  # atoms
_ODD = ("[#0]", "*~;!-;!=;!#;!:*")  # dummy atoms, and bonds that SELFIES does not know
_COINCIDENT = 0.05  # Å; no two nuclei of a molecule are this close
_USUAL = (0.75, 1.35)  # the median bond of a molecule, as part of the sum of radii; 0.95 to 1.05 in four data sets
_BROKEN = (0.25, 2.5)  # any bond; 0.78 to 1.33 in these, but noise of some tenths of Å breaks no molecule
_UNPLACED = 1.5  # a bond of an atom at the very origin, where programs put what they have no place for


def checked_coordinates(mol: Mol, name: str) -> Float[np.ndarray, "n 3"]:
    """Coordinates of a conformer, Å.

    Raises
    ------
    InputError
        If there are none, or they are flat, not finite, or cannot be those of a molecule.
    """
    if not mol.GetNumConformers():
        raise InputError(f"{name}: no conformer; embed one first (rdkit.Chem.AllChem.EmbedMolecule)")
    conformer = mol.GetConformer()
    coords = np.asarray(conformer.GetPositions(), dtype=np.float64)
    if not np.isfinite(coords).all():
        atom = int(np.argmin(np.isfinite(coords).all(1)))
        raise InputError(f"{name}: atom {atom} has no finite coordinates")
    if len(coords) > 1:
        i, j = _closest(coords)
        if np.linalg.norm(coords[i] - coords[j]) < _COINCIDENT:
            raise InputError(f"{name}: atoms {i} and {j} lie on the same spot; the conformer is broken")
    if len(coords) > 3 and is_drawing(mol):
        raise InputError(f"{name}: a flat (2D) drawing; embed it in 3D first (rdkit.Chem.AllChem.EmbedMolecule)")
    bonds, lengths, ratio = bond_lengths(mol)
    if not len(bonds) or (ratio.min() > _USUAL[0] and ratio.max() < _USUAL[1]):
        return coords
    if not _USUAL[0] < np.median(ratio) < _USUAL[1]:
        raise InputError(f"{name}: bonds have {np.median(ratio):.2f} of their usual lengths; give coordinates in Å")
    most = np.where(coords[bonds].any(2).all(1), _BROKEN[1], _UNPLACED)
    broken = (ratio < _BROKEN[0]) | (ratio > most)
    if broken.any():
        worst = (broken * np.abs(np.log(ratio))).argmax()
        i, j = bonds[worst]
        far = f"atoms {i} and {j} are bonded and {lengths[worst]:.2f} Å apart"
        raise InputError(f"{name}: {far}; the conformer is broken")
    return coords


def _closest(coords: Float[np.ndarray, "n 3"]) -> tuple[int, int]:
    squared = np.zeros((len(coords), len(coords)))
    for x in coords.T:
        squared += np.square(x[:, None] - x)
    np.fill_diagonal(squared, np.inf)
    i, j = divmod(int(squared.argmin()), len(coords))
    return min(i, j), max(i, j)


def check_graph(mol: Mol, name: str) -> None:
    """Raise `InputError` unless a molecule is one fragment of atoms and bonds that SELFIES can write."""
    from rdkit import Chem, rdBase

    if mol.GetNumAtoms() > 1 and not mol.GetNumBonds():
        raise InputError(f"{name}: {mol.GetNumAtoms()} atoms and no bonds; give the bonds too, or the atoms one by one")
    if len(Chem.GetMolFrags(mol)) > 1:
        fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
        with rdBase.BlockLogs():
            named = ", ".join(Chem.MolToSmiles(Chem.RemoveHs(f, sanitize=False)) for f in fragments)
        raise InputError(f"{name}: {len(fragments)} fragments ({named}); tokenize them one by one, without salts")
    whole = mol.GetNumAtoms(onlyExplicit=False) == mol.GetNumAtoms()
    if whole and not any(mol.HasSubstructMatch(_query(smarts)) for smarts in _ODD):
        return
    for atom in mol.GetAtoms():
        if atom.GetTotalNumHs():
            raise InputError(
                f"{name}: atom {atom.GetIdx()} ({atom.GetSymbol()}) has implicit hydrogens; "
                "give all atoms, or add them (add_hs=True, or rdkit.Chem.AddHs(mol, addCoords=True))"
            )
        if not atom.GetAtomicNum():
            raise InputError(f"{name}: atom {atom.GetIdx()} is a dummy, not an element; remove it or name it")
    kinds = Chem.BondType
    known = (kinds.SINGLE, kinds.DOUBLE, kinds.TRIPLE, kinds.AROMATIC)
    for bond in mol.GetBonds():
        if bond.GetBondType() not in known:
            raise InputError(
                f"{name}: bond {bond.GetBeginAtom().GetSymbol()}{bond.GetBeginAtomIdx()}-"
                f"{bond.GetEndAtom().GetSymbol()}{bond.GetEndAtomIdx()} is {bond.GetBondType().name.lower()}, "
                "which SELFIES cannot write; use single, double or triple bonds and charges"
            )


def is_plain(mol: Mol) -> bool:
    """Whether nothing but the bonds has to be said: no metals, no radicals, no length beyond three digits."""
    if mol.GetNumAtoms() > _SHORT or mol.HasSubstructMatch(_query(_UNCOMMON)):
        return False
    return not mol.GetAtomsMatchingQuery(_radical())


# queries are compared in RDKit's own code, much faster than in a loop over atoms


@cache
def _query(smarts: str) -> Mol:
    from rdkit import Chem

    return Chem.MolFromSmarts(smarts)


@cache
def mapped() -> Atom:
    from rdkit.Chem import rdqueries

    return rdqueries.HasPropQueryAtom("molAtomMapNumber")


@cache
def _radical() -> Atom:
    from rdkit.Chem import rdqueries

    return rdqueries.NumRadicalElectronsGreaterQueryAtom(0)


def difference(mol: Mol, order: list[int], back: Mol) -> str:
    """What differs between the molecule and its SELFIES read back, '' if nothing does."""
    from rdkit import Chem

    if back.GetNumAtoms() != len(order):
        return f"{len(order)} atoms became {back.GetNumAtoms()}"
    kind = Chem.Atom
    said = {"element": kind.GetSymbol, "charge": kind.GetFormalCharge, "radical": kind.GetNumRadicalElectrons}
    for what, of in said.items():
        for i, atom in enumerate(order):
            a, b = of(mol.GetAtomWithIdx(atom)), of(back.GetAtomWithIdx(i))
            if a != b:
                return f"{what} {a} of atom {atom} became {b}"
    before, after = (Chem.GetAdjacencyMatrix(m, useBO=True) for m in (mol, back))
    changed = np.argwhere(before[np.ix_(order, order)] != after)
    if len(changed):
        i, j = (order[k] for k in changed[0])
        return f"the bond of atoms {i} and {j} changed"
    return ""
