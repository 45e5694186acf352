"""SDF, MOL and MOL2 as real programs write them: no molecule is lost, and what tokens do not hold is said."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from structok.errors import InputError
from structok.molecule.conformer import prepare
from structok.read.molecules import is_drawing, read_molecules
from tests.read.conftest import said

GAFF = """@<TRIPOS>MOLECULE
methanol
 6 5 1 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
 1 C1 -0.377  0.004  0.010 c3 1 LIG 0.0
 2 O1  0.916  0.541 -0.093 oh 1 LIG 0.0
 3 H1 -0.901  0.510  0.838 h1 1 LIG 0.0
 4 H2 -0.312 -1.082  0.170 h1 1 LIG 0.0
 5 H3 -0.920  0.203 -0.926 h1 1 LIG 0.0
 6 H4  1.594 -0.176  0.001 ho 1 LIG 0.0
@<TRIPOS>BOND
 1 1 2 1
 2 1 3 1
 3 1 4 1
 4 1 5 1
 5 2 6 1
"""


def embedded(smiles, title="", seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    mol.SetProp("_Name", title)
    return mol


def block(smiles, title="", seed=1):
    return Chem.MolToMolBlock(embedded(smiles, title, seed))


def names(found):
    return [m.GetProp("_Name") for m in found.items]


@pytest.mark.parametrize("end", ["$$$$\n", "", "> <energy>\n1.0\n\n$$$$\n"])
@pytest.mark.parametrize("name", ["x.mol", "x.sdf"])
def test_every_record_of_a_file_is_a_molecule(read, end, name):
    found = read("".join(block(s, s) + end for s in ("CCO", "CCN", "c1ccccc1")), name)
    assert names(found) == ["CCO", "CCN", "c1ccccc1"] and not found.errors


def test_titles_that_come_again_get_numbers_and_it_is_said(read):
    found = read("".join(block("CCO", t) + "$$$$\n" for t in ("lig", "lig_2", "lig", "", "lig")), "x.sdf")
    assert names(found) == ["lig", "lig_2", "lig_3", "x-4", "lig_4"]
    assert said(found, "lig comes again", "lig_3") and len(found.notes) == 2


def test_line_ends_and_byte_order_marks(read):
    text = block("CCO", "ethanol") + "$$$$\n" + block("CCN", "müller") + "$$$$\n"
    for content in (
        text.replace("\n", "\r").encode(),
        text.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("latin-1"),
    ):
        assert names(read(content, "x.sdf")) == ["ethanol", "müller"]


def test_no_error_prints_a_whole_file(read):
    found = read(("x" * 3000 + "\n") * 50, "x.sdf")
    assert found.errors and all(len(e) < 400 and "\n" not in e for e in found.errors)


def test_isotopes_and_atom_maps_are_dropped_with_a_word(read):
    found = read(block("[13CH3][CH2:7]O") + "$$$$\n" + block("CCO"), "x.sdf")
    assert said(found, "1 isotope not kept") and said(found, "1 atom map number not kept") and len(found.notes) == 2
    assert prepare(found.items[0]).selfies == prepare(found.items[1]).selfies


@pytest.mark.parametrize("smiles", ["c1ccccc1", "C=C", "O=C=O", "ClC(Cl)=C(Cl)Cl", "c1ccc2ccccc2c1", "N#N", "C#C"])
def test_planar_molecules_are_told_from_drawings_by_their_bonds(read, smiles):
    mol = embedded(smiles)
    AllChem.MMFFOptimizeMolecule(mol)
    flat = mol.GetConformer().GetPositions()
    flat -= flat.mean(0)
    axes = np.linalg.svd(flat)[2]
    flat = flat @ axes.T
    flat[:, 2] = 0
    mol.GetConformer().SetPositions(flat)
    text = Chem.MolToMolBlock(mol).replace("          3D", "            ")
    [back] = read(text, "x.sdf").items
    assert len(prepare(back)) == mol.GetNumAtoms()
    drawn = Chem.Mol(mol)
    AllChem.Compute2DCoords(drawn)
    if mol.GetNumAtoms() > 3:
        assert is_drawing(drawn)
        with pytest.raises(InputError, match="drawing"):
            prepare(drawn)


def test_atom_types_of_gaff_are_read_and_unknown_ones_named(read):
    [mol] = read(GAFF, "x.mol2").items
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "CO" and len(prepare(mol)) == 6
    [error] = read(GAFF.replace(" c3 ", " CT "), "x.mol2").errors
    assert "CT" in error and "SYBYL" in error


def test_an_element_that_is_none_is_an_error_of_its_record(read):
    good = block("CCO", "good")
    bad = good.replace(" O   0", " R#  0").replace("M  END", "M  ISO  1   1 999\nM  END").replace("good", "bad")
    found = read(f"{bad}$$$$\n{good}$$$$\n", "x.sdf")
    assert "good" in names(found) and all("\n" not in e for e in found.errors)


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "CCCO", "c1ccccc1C"])
@pytest.mark.parametrize("says", ["2D", "3D", "  "])
def test_no_hydrogens_are_added_to_a_drawing(tmp_path, smiles, says):
    mol = Chem.MolFromSmiles(smiles)
    AllChem.Compute2DCoords(mol)
    path = tmp_path / "x.sdf"
    path.write_text(Chem.MolToMolBlock(mol).replace("RDKit          2D", f"RDKit          {says}"))
    [(_, found)] = read_molecules(path, add_hs=True)
    if says != "3D" or "@" in smiles:
        assert "drawing" in str(found)
    else:  # a planar molecule that says so: nothing tells that it was drawn
        assert found.GetConformer().Is3D()


def test_mol2_without_hydrogens_is_no_radical(read):
    lines = GAFF.replace(" 6 5 1", " 2 1 1").split("\n")
    text = "\n".join(
        line for line in lines if " h" not in line and not line.startswith((" 2 1 3", " 3 1", " 4 1", " 5 2"))
    )
    [error] = read(text, "x.mol2").errors
    assert "hydrogens are missing" in error and "SDF" in error
