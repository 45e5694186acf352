"""The small inputs that went wrong, where the shared data lies beside the checkout."""

import json

import pytest

from structok.molecule.conformer import prepare
from tests.read.conftest import said

SEQUENCE = "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"
WHOLE = """
base.pdb p02b_neg.pdb p28_numeric_altloc.pdb p03_vmd_end.pdb p12b_freeaa_biotite.cif p21b_inscode_stripped.pdb
p01_pymol.cif p17a_label_only.cif p17c_no_group.cif p25d_mse_at_end.pdb p09e_bom.pdb p09a_latin1.cif
p08b_two_blocks.cif p13b.pdb.bz2 p13c.pdbqt p15c_hex.pdb p15e_numstars.pdb p25_shuffled.pdb
"""


@pytest.fixture
def case(shared, read):
    def call(name):
        return read((shared / "cases" / name).read_bytes(), name)

    return call


@pytest.mark.parametrize("name", WHOLE.split())
def test_whole_chains(case, name):
    [chain] = case(name).items
    assert chain.sequence == SEQUENCE and chain.mask.all() and len(set(chain.residue_ids)) == 70


def test_chains(case):
    for name, ids in (("p04_samechain", "AB"), ("p04b_amber_blank", "AB"), ("p05_twochar", ["AA", "BA"])):
        found = case(f"{name}.pdb")
        assert [(c.chain_id, c.sequence, c.mask.all()) for c in found.items] == [(i, SEQUENCE, True) for i in ids]
    assert said(case("p03_vmd_end.pdb"), "1 further frame")
    assert said(case("p04_samechain.pdb"), "chain B", "id A")


def test_names(case, shared):
    names = json.loads((shared / "cases" / "p06_names.json").read_text())
    [chain] = case("p06_ff_names.pdb").items
    found = {names[i]: letter for i, letter in zip(chain.residue_ids, chain.sequence) if i in names}
    expected = {"HSE": "H", "GLH": "E", "HSD": "H", "CYX": "C", "ASH": "D", "LYP": "K", "NMET": "M", "CALA": "A"}
    assert {name: found[name] for name in expected} == expected and "".join(found.values()).count("X") == 2


def test_missing_residues(case):
    for name, missing, words in (("p14_zeros", 3, "placeholder"), ("p14c_9999", 1, "placeholder")):
        found = case(f"{name}.pdb")
        assert (len(found.items[0]), int((~found.items[0].mask).sum())) == (70, missing) and said(found, words)
    found = case("p11_gap.pdb")
    assert int(found.items[0].mask.sum()) == 63 and said(found, "slots added")
    [error] = case("p13d.cif.zst").errors
    assert ".zst" in error and "mmCIF" in error


def test_molecules(case):
    counts = {"m02_multi.mol": 3, "m13_suffix_clash.sdf": 3, "m14_longtitle.sdf": 4, "m05_planar_no3dflag.sdf": 1}
    counts |= {"m06e_bom.sdf": 1, "m06f_cr.sdf": 1, "m12_gaff.mol2": 1}
    for name, count in counts.items():
        found = case(name)
        names = [m.GetProp("_Name") for m in found.items]
        assert len(set(names)) == len(names) == count and not found.errors
        assert all(len(prepare(m)) > 8 for m in found.items) and "\ufeff" not in "".join(names)
