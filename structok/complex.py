"""Complexes: polymers and ligands in one frame, read from and written to one file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from structok.errors import InputError, StructokError
from structok.files import write_whole
from structok.nucleic.chain import NucleicChain
from structok.read import structure
from structok.read.formats import MOLECULES, stem_of, suffix_kind
from structok.read.inputs import with_atoms
from structok.read.ligands import ligand_molecules
from structok.read.molecules import read_molecules
from structok.structure import CHAIN_IDS, Backbone, Note, many
from structok.write.structures import cif_bytes, cif_file, pdb_text, structure_bytes

if TYPE_CHECKING:
    from biotite.structure import AtomArray
    from rdkit.Chem import Mol

__all__ = ["Complex", "Entity", "complex_bytes", "read_complex"]

Entity = Any  # Backbone, AtomChain, NucleicChain or an RDKit Mol


@dataclass
class Complex:
    """Polymers and ligands in one frame.

    Parameters
    ----------
    polymers : chains; the first is the receptor, whose body frame is that of the tokens
    ligands : RDKit Mols with hydrogens and one conformer each
    name : usually a file's stem
    notes : what reading left out, invented or changed
    """

    polymers: list[Backbone | NucleicChain] = field(default_factory=list)
    ligands: list[Mol] = field(default_factory=list)
    name: str = ""
    notes: list[Note] = field(default_factory=list)

    @property
    def entities(self) -> list[Entity]:
        """Polymers, then ligands."""
        return [*self.polymers, *self.ligands]

    def to_atom_array(self, *, oxygen: bool = False) -> AtomArray:
        """All atoms as a biotite `AtomArray`; ligands are hetero residues of chains of their own."""
        from biotite.structure import concatenate

        parts = [p.to_atom_array(oxygen=oxygen) for p in self.polymers]
        taken = {p.chain_id for p in self.polymers}
        for number, mol in enumerate(self.ligands, 1):
            parts.append(_ligand_atoms(mol, _free_id(taken), number))
        if not sum(map(len, parts)):
            raise InputError(f"{self.name or 'complex'}: no atoms")
        return concatenate(parts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one .pdb, .cif or .bcif file, whole or not at all.

        Raises
        ------
        InputError
            If the suffix is unknown, or it does not fit the PDB format.
        """
        path = Path(path)
        kind = suffix_kind(path.name)
        if kind not in ("pdb", "cif", "bcif"):
            raise InputError(f"{path}: unknown suffix; use .pdb, .cif or .bcif")
        write_whole(path, complex_bytes(self, kind, str(path)))


def complex_bytes(complex: Complex, kind: str, label: str = "output", *, oxygen: bool = False) -> bytes:
    """A file's content: 'pdb', 'cif' or 'bcif'; `oxygen` as for `Backbone.write`."""
    from biotite.structure.io import pdbx

    if not complex.ligands:
        return structure_bytes(complex.polymers, kind, oxygen=oxygen, label=label)  # type: ignore[arg-type]
    atoms = complex.to_atom_array(oxygen=oxygen)
    if kind == "pdb":
        long = [c for c in set(atoms.chain_id.tolist()) if len(c) != 1]
        if long or len(atoms) > 99_999 or np.abs(atoms.coord).max() > 999 or atoms.res_id.max() > 9999:
            raise InputError(f"{label}: does not fit the PDB format; write .cif instead")
        return (pdb_text(atoms) + "END\n").encode()
    file = cif_file(kind)
    pdbx.set_structure(file, atoms, data_block=complex.name or "structok")
    return cif_bytes(file)


def read_complex(*sources: str | os.PathLike[str], ligands: bool = False, all_atom: bool = False) -> Complex:
    """Everything that lies in one frame: a structure file, or several, such as a receptor and the SDF docked to it.

    Parameters
    ----------
    sources : PDB, mmCIF or BinaryCIF files (polymers), SDF, MOL or MOL2 files (ligands)
    ligands : also those of the structure files, bonds from the component dictionary, hydrogens placed; `notes` says
        which were left out
    all_atom : proteins with side chains

    Raises
    ------
    InputError
        If a file cannot be read, or nothing is in them.
    """
    found = Complex(name="_".join(stem_of(os.fspath(s)) for s in sources[:1]))
    taken: set[str] = set()
    for source in sources:
        label = os.fspath(source)
        if suffix_kind(label) in MOLECULES:
            for _, mol in read_molecules(label):
                if isinstance(mol, StructokError):
                    raise mol
                found.ligands.append(mol)
            continue
        read = structure(label)
        found.notes += read.notes
        for polymer in read.polymers:
            chain = polymer.backbone() if polymer.kind == "protein" and not all_atom else with_atoms(polymer)
            if chain.chain_id in taken:
                chain.chain_id = _free_id(taken)
            taken.add(chain.chain_id)
            chain.name = found.name
            found.polymers.append(chain)
        if ligands:
            found.ligands += ligand_molecules(read, found.notes)
        elif read.ligands:
            names = ", ".join(x.name for x in read.ligands[:5])
            text = f"{many(len(read.ligands), 'ligand')} left out ({names}); ligands=True reads them"
            found.notes.append(Note("ligands left out", len(read.ligands), text))
    if not found.entities:
        raise InputError(f"{', '.join(os.fspath(x) for x in sources)}: nothing to tokenize")
    return found


def _free_id(taken: set[str]) -> str:
    free = next(c for c in [*CHAIN_IDS, *(a + b for a in CHAIN_IDS for b in CHAIN_IDS)] if c not in taken)
    taken.add(free)
    return free


def _ligand_atoms(mol: Mol, chain_id: str, number: int) -> AtomArray:
    from biotite.interface.rdkit import from_mol
    from biotite.structure import create_atom_names

    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    component = name.split("_")[0]
    component = component if component.isalnum() and component.isupper() and len(component) <= 3 else "LIG"
    atoms = from_mol(mol, conformer_id=mol.GetConformer().GetId(), add_hydrogen=False)
    atoms.bonds = None
    atoms.atom_name = create_atom_names(atoms)
    atoms.chain_id[:] = np.array([chain_id])
    atoms.res_name[:] = np.array([component])
    atoms.res_id[:] = number
    atoms.hetero[:] = True
    return atoms
