"""Ligands of structure files as molecules: bonds and charges from the component dictionary, hydrogens placed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from structok.errors import InputError
from structok.structure import Ligand, Note, Structure, many

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["ligand_molecule", "ligand_molecules"]

_BOUND = 2.1  # Å; heavy atoms of two entities this near are bonded, not neighbours
_METALS = {"LI", "NA", "K", "MG", "CA", "MN", "FE", "CO", "NI", "CU", "ZN", "CD", "HG", "MO", "W", "V", "PT", "RU"}


def ligand_molecules(structure: Structure, notes: list[Note]) -> list[Mol]:
    """Molecules of the ligands of a file, read with `atoms='all'`; `notes` says what was invented or left out.

    Ligands that are bound covalently to something else, are not in the dictionary or lack atoms are left out: their
    bonds would be a guess.
    """
    bodies = [p.atoms.coord for p in structure.polymers] + [x.atoms.coord for x in structure.ligands]
    found, added = [], 0
    for i, ligand in enumerate(structure.ligands):
        others = bodies[: len(structure.polymers) + i] + bodies[len(structure.polymers) + i + 1 :]
        try:
            mol = ligand_molecule(ligand, others)
        except InputError as error:
            notes.append(Note("ligands left out", 1, f"{error}", ligand.chain_id))
            continue
        added += mol.GetNumAtoms() - len(_heavy(ligand))
        found.append(mol)
    if added:
        text = f"bonds of {many(len(found), 'ligand')} from the component dictionary, {added} hydrogens placed"
        notes.append(Note("ligand hydrogens", added, text))
    return found


def ligand_molecule(ligand: Ligand, others: Sequence[Float[np.ndarray, "n 3"]] = ()) -> Mol:
    """One ligand with bonds and charges as the component dictionary has them, hydrogens placed by their geometry.

    Parameters
    ----------
    others : atoms of everything else that it may be bound to, Å

    Raises
    ------
    InputError
        If the component is unknown, lacks atoms, or is bound covalently.
    """
    from biotite.interface.rdkit import to_mol
    from biotite.structure.info import residue
    from rdkit import Chem

    where = f"ligand {ligand.name} {ligand.chain_id} {ligand.residue_id}"
    seen = _heavy(ligand)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # biotite's notes on atoms without ideal coordinates, which are not used
            component = residue(ligand.name)
    except KeyError:
        raise InputError(f"{where}: not in the component dictionary, its bonds are unknown; give it as SDF") from None
    place = dict(zip(ligand.atoms.atom_name[seen].tolist(), ligand.atoms.coord[seen]))
    heavy = np.flatnonzero(component.element != "H")
    names = component.atom_name[heavy].tolist()
    if lacking := [n for n in names if n not in place]:
        raise InputError(f"{where}: lacks {', '.join(lacking[:5])}; bound covalently, or incomplete: give it as SDF")
    if strange := [n for n in place if n not in names]:
        raise InputError(f"{where}: {', '.join(strange[:5])} is not in the component dictionary's {ligand.name}")
    own = np.array([place[n] for n in names])
    for other in others:
        gap = np.linalg.norm(own[:, None] - other, axis=-1)
        gap[np.isin(component.element[heavy], list(_METALS))] = np.inf  # coordination is no covalent bond
        if gap.size and gap.min() < _BOUND:
            raise InputError(f"{where}: bound covalently (an atom {gap.min():.1f} Å away); left out")
    component = component[heavy]
    component.coord = own
    mol = to_mol(component, kekulize=True, explicit_hydrogen=False)
    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:
        raise InputError(f"{where}: RDKit rejects its bonds ({str(error).splitlines()[0]})") from None
    full = Chem.AddHs(mol, addCoords=True)
    full.SetProp("_Name", f"{ligand.name}_{ligand.chain_id}_{ligand.residue_id}")
    return full


def _heavy(ligand: Ligand) -> np.ndarray:
    return np.flatnonzero((ligand.atoms.element != "H") & (ligand.atoms.element != "D"))
