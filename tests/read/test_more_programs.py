"""More ways of real programs: columns that mean two things, overflowing fields, free amino acids, names that meet."""

import bz2
import gzip

import numpy as np
import pytest
from rdkit import Chem

from structok.errors import InputError
from structok.molecule.conformer import prepare
from structok.read.inputs import read_inputs
from tests.read.conftest import FULL, Atom, _Log, cif, moved, pdb, said, same


@pytest.mark.parametrize("ids", ["1A", "2B", "HA", "P1", "AB"])
def test_a_chain_id_in_column_21_is_no_part_of_a_residue_name(read, atoms, chain, ids):
    found = read(pdb(moved(atoms, chain="B"), moved(atoms, (0, 0, 0), chain=ids)))
    assert [c.chain_id for c in found.items] == ["B", ids]
    same(found.items[1], chain)


@pytest.mark.parametrize("name, letter", [("CYSD", "C"), ("HSPE", "H"), ("LYSH", "K"), ("GLUX", "E")])
@pytest.mark.parametrize("chain_id", ["A", ""])
def test_names_of_four_letters_beside_a_chain_id_split_no_chain(read, atoms, chain, name, letter, chain_id):
    named = [a._replace(residue=name if a.number == 170 else a.residue, chain=chain_id) for a in atoms]
    for text, kind in ((pdb(named), "x.pdb"), (cif(named, FULL.split()), "x.cif")):
        if chain_id or kind == "x.pdb":
            [back] = read(text, kind).items
            same(back, chain, sequence=False)
            assert back.sequence == chain.sequence[:19] + letter + chain.sequence[20:]


def test_segments_of_charmm_keep_chains_apart_and_charges_do_not(read, atoms, chain):
    def ending(part, text):
        return [str(a)[:72] + text for a in part]

    one = moved(atoms, (0, 0, 0), chain="")
    other = moved(atoms, (12, 0, 0), chain="", number=lambda a: a.number + 200)
    found = read("\n".join(ending(one, "PROA") + ending(other, "PROB")))
    assert [c.chain_id for c in found.items] == ["A", "B"]
    same(found.items[0], chain)
    charged = [f"{str(a)[:70]}{0.01 * (i % 90):6.3f} C" for i, a in enumerate(one)]
    [back] = read("\n".join(charged), "x.pdbqt").items
    same(back, chain)


def test_a_location_without_a_name_counts_by_its_occupancy(read, atoms, chain):
    more = [a._replace(alt="B", occupancy=0.4) for a in moved(atoms, (0.3, 0, 0)) if 160 <= a.number < 165]
    [back] = read(pdb(atoms, more)).items
    same(back, chain)


def glutamate(chain, number, het=True):
    spots = {"N": (0, 0, 0), "CA": (1.46, 0, 0), "C": (2, 1.4, 0), "O": (1.3, 2.4, 0), "OXT": (3.2, 1.6, 0)}
    return [
        Atom(name, "GLU", number, tuple(np.add(xyz, 60.0)), chain, het=het, element=name[0])
        for name, xyz in spots.items()
    ]


@pytest.mark.parametrize("id, number, het", [("A", 301, False), ("B", 301, True), ("B", 1, False), ("A", 221, True)])
def test_a_free_amino_acid_is_a_ligand_under_any_id_and_record(read, atoms, chain, id, number, het):
    def block(a, i):
        return "A" if i <= len(atoms) else "C"

    free = glutamate(id, number, het)
    for found in (read(pdb(atoms, "TER", free)), read(cif(atoms + free, FULL.split(), label_asym_id=block), "x.cif")):
        [back] = found.items
        same(back, chain)
        assert said(found, "ligand", "GLU")


def test_a_free_amino_acid_before_the_chain_invents_no_slots(read, atoms, chain):
    found = read(pdb(glutamate("A", 1), atoms))
    same(found.items[0], chain)
    assert said(found, "ligand", "GLU")


def test_an_amino_acid_alone_in_a_file_is_a_chain(read):
    assert len(read(pdb(glutamate("A", 1))).items) == 1


def test_coordinates_wider_than_their_columns_are_read_or_refused(read, atoms, chain):
    far = moved(atoms, (-1100.0, 2000.0, -3000.0))
    [back] = read(pdb(far)).items
    assert np.allclose(back.coords - chain.coords, [-1100, 2000, -3000], atol=2e-3)
    filled = [a._replace(xyz=(-9999.0,) * 3) if a.number == 170 else a for a in atoms]
    found = read(pdb(filled))
    assert said(found, "placeholder") and int((~found.items[0].mask).sum()) == 1
    shifted = "\n".join(f"{str(a)[:6]}{100_000 + i}{str(a)[11:]}" for i, a in enumerate(atoms))  # serial too wide
    cut = "\n".join(str(a)[:50] for a in atoms)
    wide = "\n".join(f"ATOM {100_000 + i}{str(a)[11:]}" for i, a in enumerate(atoms))
    under = "\n".join(str(a)[:36] + "_" + str(a)[37:] for a in atoms)  # a number to Python
    for text, word in ((shifted, "coordinates"), (cut, "line 1 ends"), (wide, "serial"), (under, "coordinates")):
        found = read(text)
        assert not found.items and word in found.errors[0] and "\n" not in found.errors[0]


def test_an_atom_torn_from_its_residue_is_missing(read, atoms, chain):
    torn = [a._replace(xyz=(500.0, 20, 30)) if (a.number, a.name) == (170, "CA") else a for a in atoms]
    found = read(pdb(torn))
    assert np.flatnonzero(~found.items[0].mask).tolist() == [19] and said(found, "1 residue", "far from each other")


def test_tags_of_mmcif_are_found_where_they_are_and_nowhere_else(read, atoms, chain):
    text = cif(atoms, FULL.split())
    for changed in (
        text.replace("_atom_site.", "_ATOM_SITE."),
        text.replace("\n_", "\n  _").replace("\nloop_", "\n\tloop_"),
        text.replace("data_x\n", "data_x\n_struct.title\n;A title of\ndata_collection\nloop_\n_atom_site.foo\n#\n;\n"),
        cif(atoms, FULL.split(), label_atom_id=lambda a, i: f"' {a.name} '" if i % 5 else a.name),
    ):
        found = read(changed, "x.cif")
        assert not found.errors
        same(found.items[0], chain)


def test_blocks_of_one_name_and_files_of_one_stem_have_names_that_differ(read, atoms, tmp_path):
    text = cif(atoms, FULL.split())
    assert [c.name for c in read(text + text, "x.cif").items] == ["x_x", "x_x_2"]
    for folder, id in (("one", "A"), ("two", "B")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "prot.pdb").write_text(pdb(moved(atoms, chain=id)))
    log = _Log()
    inputs = [str(tmp_path / "one"), str(tmp_path / "two" / "prot.pdb")]
    names = [c.name for _, _, c in read_inputs(inputs, log, chain=None, add_hs=False)]
    assert names == ["prot", "prot_2"] and any("prot_2" in note for note in log.notes)


def test_what_a_file_is_says_its_content(read, atoms, chain):
    text = pdb(atoms)
    for name, other in (("x.cif", "pdb"), ("x.pdb", "cif")):
        [error] = read(cif(atoms, FULL.split()) if other == "cif" else text, name).errors
        assert f"looks like {other}" in error
    [error] = read(bz2.compress(text.encode())[:1000], "x.pdb.bz2").errors
    assert "ended before" in error and "ValueError" not in error
    joined = b"\xef\xbb\xbf" + text[:-4].encode() + b"\xef\xbb\xbf" + pdb(moved(atoms, chain="B")).encode()
    assert [c.mask.all() for c in read(joined).items] == [True, True]


@pytest.fixture
def ligand(example):
    return (example.parent / "ligand.sdf").read_text()


def test_molecule_files_are_decompressed_and_decoded_by_content(read, ligand):
    for content, name in (
        (gzip.compress(ligand.encode()), "x.sdf"),
        (ligand, "x.sdf.gz"),
        (ligand.encode("utf-16"), "x.sdf"),
    ):
        found = read(content, name)
        assert [m.GetProp("_Name") for m in found.items] == ["imatinib"] and not found.errors
    assert "holds no molecule" in read("", "x.sdf").errors[0]


def test_broken_molecules_are_refused_by_their_reason(ligand):
    far = Chem.MolFromMolBlock(ligand, removeHs=False)
    far.GetConformer().SetAtomPosition(3, (999.999, 999.999, 999.999))
    with pytest.raises(InputError, match=r"atoms \d+ and \d+ are bonded and [\d.]+ Å apart"):
        prepare(far)
    bare = Chem.MolFromXYZBlock("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")  # as a MOL2 file without bonds
    with pytest.raises(InputError, match="3 atoms and no bonds"):
        prepare(bare)


def test_elements_in_capitals_are_atom_types_of_mol2(read):
    atoms = ["1 C1 0.0 0.0 0.0 C.3", "2 CL1 1.77 0.0 0.0 CL"]
    atoms += [f"{i} H{i} -0.36 {y} {z} H" for i, (y, z) in enumerate(((1.02, 0), (-0.51, 0.88), (-0.51, -0.88)), 3)]
    bonds = [f"{i} 1 {i + 1} 1" for i in range(1, 5)]
    text = ["@<TRIPOS>MOLECULE", "x", "5 4 1 0 0", "SMALL", "NO_CHARGES", "", "@<TRIPOS>ATOM"]
    text += [*atoms, "@<TRIPOS>BOND", *bonds, ""]
    [mol] = read("\n".join(text), "x.mol2").items
    assert [a.GetSymbol() for a in mol.GetAtoms()] == ["C", "Cl", "H", "H", "H"]
