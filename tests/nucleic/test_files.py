"""Nucleic acids as files have them: names of older programs, DNA and RNA in one chain, what is no DNA or RNA."""

import io

import numpy as np
import pytest
from biotite.structure import concatenate, info
from biotite.structure.io.pdb import PDBFile

import structok
from structok.nucleic.chain import NucleicChain
from structok.read.ligands import ligand_molecules
from structok.read.structures import structure
from structok.structure import Note

OLD = {"OP1": "O1P", "OP2": "O2P", "C7": "C5M"}


@pytest.fixture(scope="module")
def chain():
    """A made-up chain, DNA after RNA."""
    random = np.random.default_rng(3)
    codes, conformers = random.integers(0, 2000, 8), random.integers(0, 3000, 8)
    tokens = structok.Tokens(codes, "nucleic", sequence="GCAUgcat", conformers=conformers)
    return structok.load("nucleic-vq-4096").decode(tokens)


def read(array):
    """The structure of a PDB file with these atoms."""
    file = PDBFile()
    file.set_structure(array)
    return structure(io.BytesIO(str(file).encode()), format="pdb", name="x")


def rename(array, atoms, residues):
    renamed = array.copy()
    renamed.atom_name = np.array([atoms(name) for name in array.atom_name])
    renamed.res_name = np.array([residues(r, i) for r, i in zip(array.res_name, array.res_id)], dtype="U5")
    return renamed


PROGRAMS = {
    "PDB": (lambda name: name, lambda residue, number: residue),
    "old PDB": (lambda name: OLD.get(name, name).replace("'", "*"), lambda residue, number: residue[-1]),
    "AMBER": (lambda name: name, lambda residue, number: residue.rjust(2, "R") + {1: "5", 8: "3"}.get(number, "")),
    "CHARMM": (
        lambda name: OLD.get(name, name),
        lambda residue, number: {"A": "ADE", "C": "CYT", "G": "GUA", "T": "THY", "U": "URA"}[residue[-1]],
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_chain_of_dna_and_rna_is_read_under_the_names_of(chain, program):
    [polymer] = read(rename(chain.to_atom_array(), *PROGRAMS[program])).nucleic
    found = NucleicChain.of(polymer)
    assert found.sequence == chain.sequence
    assert np.allclose(found.atoms, chain.atoms, atol=2e-3, equal_nan=True)


def test_hydrogens_and_a_third_phosphate_oxygen_are_left_out(chain):
    array = chain.to_atom_array()
    extra = array[:3].copy()
    extra.atom_name, extra.element = np.array(["H5T", "HO5'", "OP3"]), np.array(["H", "H", "O"])
    extra.coord += 1.0
    [polymer] = read(concatenate([extra, array])).nucleic
    assert np.allclose(NucleicChain.of(polymer).atoms, chain.atoms, atol=2e-3, equal_nan=True)


def placed(name, number, chain_id, at):
    residue = info.residue(name)
    residue = residue[residue.element != "H"]
    residue.coord = np.random.default_rng(number).normal(size=(len(residue), 3)).astype(np.float32) + at
    residue.chain_id[:], residue.res_id[:], residue.hetero[:] = chain_id, number, True
    return residue


def test_a_peptide_nucleic_acid_is_said_to_be_no_chain(chain):
    parts = [placed(name, i, "P", [30.0, 0.0, 6.0 * i]) for i, name in enumerate(("APN", "CPN", "GPN", "TPN"), 1)]
    found = read(concatenate([chain.to_atom_array(), *parts]))
    assert [p.chain_id for p in found.polymers] == ["A"] and len(found.ligands) == 4
    said = [n.text for n in found.notes if n.kind == "peptide nucleic acid"]
    assert said == [
        "chain P: peptide nucleic acid, neither a protein nor DNA or RNA; no chain is made of its 4 residues"
    ]


def test_sugars_and_lipids_are_molecules_unless_bound_or_incomplete(chain):
    array, notes = chain.to_atom_array(), []
    free = [ideal(name, i, [60.0, 30.0 * i, 0.0]) for i, name in enumerate(("GLC", "PLM"), 1)]
    bound = ideal("NAG", 3, np.zeros(3))
    bound.coord += array.coord[0] + [1.0, 1.0, 0.0] - bound.coord[0]
    half = ideal("OLC", 4, [60.0, 120.0, 0.0])[:6]
    molecules = ligand_molecules(read(concatenate([array, *free, bound, half])), notes)
    assert [m.GetProp("_Name") for m in molecules] == ["GLC_S_1", "PLM_S_2"]
    left = [n.text for n in notes if n.kind == "ligands left out"]
    assert "ligand NAG S 3: bound covalently" in left[0] and "ligand OLC S 4: lacks" in left[1]
    assert all(isinstance(n, Note) for n in notes)
    tokens = structok.load("molstructok").encode(molecules[0])
    assert tokens.modality == "molecule" and len(tokens) == molecules[0].GetNumAtoms()


def ideal(name, number, at):
    residue = info.residue(name)
    residue = residue[residue.element != "H"]
    residue.coord += np.asarray(at, dtype=np.float32)
    residue.chain_id[:], residue.res_id[:], residue.hetero[:] = "S", number, True
    return residue
