"""PDB and mmCIF as real programs write them: no residue is lost or invented without a word."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

from structok import Backbone, read_structure
from structok.read import structure, structures
from tests.read.conftest import moved, pdb


def said(found, *words):
    """Whether one of the notes has all these words."""
    return any(all(w in note for w in words) for note in found.notes)


def same(back, chain, *, sequence=True):
    assert len(back) == len(chain) and back.mask.all()
    assert np.allclose(back.coords, chain.coords, atol=2e-3)
    assert not sequence or back.sequence == chain.sequence


def cif(atoms, columns, first=(), last="#\n", **values):
    """mmCIF text with these columns of atom_site; `values` are functions of an atom and its row number."""
    known = {
        "group_PDB": lambda a, i: "HETATM" if a.het else "ATOM", "id": lambda a, i: str(i),
        "type_symbol": lambda a, i: a.element, "label_atom_id": lambda a, i: a.name,
        "label_alt_id": lambda a, i: a.alt or ".", "label_comp_id": lambda a, i: a.residue,
        "label_asym_id": lambda a, i: a.chain, "label_entity_id": lambda a, i: "1",
        "label_seq_id": lambda a, i: str(a.number), "pdbx_PDB_ins_code": lambda a, i: a.insertion or "?",
        "Cartn_x": lambda a, i: f"{a.xyz[0]:.3f}", "Cartn_y": lambda a, i: f"{a.xyz[1]:.3f}",
        "Cartn_z": lambda a, i: f"{a.xyz[2]:.3f}", "occupancy": lambda a, i: f"{a.occupancy:.2f}",
        "auth_asym_id": lambda a, i: a.chain, "auth_seq_id": lambda a, i: str(a.number),
        "pdbx_PDB_model_num": lambda a, i: "1",
    } | values  # fmt: skip
    rows = [" ".join(known[c](a, i) for c in columns) for i, a in enumerate(atoms, 1)]
    return "\n".join([*(first or ["data_x"]), "loop_", *(f"_atom_site.{c}" for c in columns), *rows]) + "\n" + last


FULL = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
    "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_asym_id auth_seq_id pdbx_PDB_model_num"
)


# residue numbers


@pytest.mark.parametrize("first", [-9, -200, 0, 9_990])
@pytest.mark.parametrize("suffix", ["cif", "bcif", "pdb"])
def test_numbers_below_one_survive_decoding(tmp_path, chain, first, suffix):
    if suffix == "pdb" and first > 9_900:
        pytest.skip("does not fit")
    before = Backbone(chain.coords, chain.sequence, "A", range(first, first + 70), name="x")
    before.write(tmp_path / f"x.{suffix}")
    [back] = read_structure(tmp_path / f"x.{suffix}")
    same(back, before)
    assert back.residue_ids == before.residue_ids


def test_mmcif_that_counts_from_below_one_is_whole(read, atoms, chain):
    shifted = [a._replace(number=a.number - 160) for a in atoms]
    [back] = read(cif(shifted, FULL.split()), "x.cif").items
    same(back, chain)
    assert back.residue_ids[0] == "-9"


def test_hexadecimal_hybrid_and_starred_numbers_are_read_in_order(read, atoms, chain):
    def hybrid(n):
        tail = n - 10_000
        return (
            str(n)
            if tail < 0
            else f"A{tail // 1296}{tail // 36 % 36}{'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'[tail % 36]}"
        )

    def hexadecimal(n):
        return str(n) if n < 10_000 else f"{n:x}"

    for name in (hybrid, hexadecimal):
        numbered = [a._replace(number=name(a.number - 151 + 9_970)) for a in atoms]
        found = read(pdb(numbered))
        same(found.items[0], chain)
        assert found.items[0].residue_ids[-1] == "10039" and not found.notes
    starred = [a._replace(number="****" if a.number > 199 else a.number) for a in atoms]
    [back] = read(pdb(starred)).items
    same(back, chain)
    assert back.residue_ids == chain.residue_ids


def test_stripped_insertion_codes_merge_no_residues(read, atoms, chain):
    squeezed = [a._replace(number=a.number if a.number < 180 else max(180, a.number - 4)) for a in atoms]
    found = read(pdb(squeezed))
    same(found.items[0], chain)
    assert len(set(found.items[0].residue_ids)) == 70
    assert said(found, "4 residues", "insertion codes")


# alternative locations


@pytest.mark.parametrize("ids", ["12", "AB", "ab", "9$", "BA"])
def test_alternative_locations_of_any_name_lose_no_residue(read, atoms, chain, ids):
    low, high = ids
    text = []
    for a in atoms:
        if 180 <= a.number < 184:
            text.append(a._replace(alt=low, occupancy=0.3, xyz=tuple(np.add(a.xyz, 0.4))))
            text.append(a._replace(alt=high, occupancy=0.7))
        else:
            text.append(a)
    same(read(pdb(text)).items[0], chain)
    same(read(cif(text, FULL.split()), "x.cif").items[0], chain)


def test_one_location_is_taken_for_the_whole_residue(read, atoms, chain):
    """Occupancies of single atoms do not mix two conformers."""
    text = []
    for a in atoms:
        if a.number == 180:
            share = 0.6 if a.name == "C" else 0.3
            text.append(a._replace(alt="A", occupancy=share, xyz=tuple(np.add(a.xyz, 0.4))))
            text.append(a._replace(alt="B", occupancy=1 - share))
        else:
            text.append(a)
    same(read(pdb(text)).items[0], chain)


def test_locations_that_have_no_name_are_told_apart_by_their_order(read, atoms, chain):
    text = []
    for a in atoms:
        text.append(a)
        if a.number == 190:
            text.append(a._replace(xyz=tuple(np.add(a.xyz, 0.5)), occupancy=0.4))
    same(read(pdb(text)).items[0], chain)


# frames


@pytest.mark.parametrize(
    "frames",
    [
        lambda one, two: pdb(one, "END", two),
        lambda one, two: pdb(["CRYST1"], one, "END", two, "END", two),
        lambda one, two: pdb("MODEL        1", one, "ENDMDL", "MODEL        1", two, "ENDMDL"),
        lambda one, two: pdb("MODEL        1", one, "MODEL        2", two),
        lambda one, two: pdb(one, "ENDMDL", two, "ENDMDL"),
        lambda one, two: pdb("MODEL        7", one, "ENDMDL", two),
    ],
)
def test_of_several_frames_the_first_is_read_and_the_others_are_said(read, atoms, chain, frames):
    found = read(frames(atoms, moved(atoms)))
    [back] = found.items
    same(back, chain)
    assert said(found, "further frame")


def test_an_end_between_chains_of_other_ids_ends_nothing(read, atoms, chain):
    found = read(pdb(atoms, "END", moved(atoms, chain="B")))
    assert [c.chain_id for c in found.items] == ["A", "B"] and not found.notes


# chains


def test_a_ter_keeps_two_chains_of_one_id_apart(read, atoms, chain):
    for second in (moved(atoms), moved(atoms, number=lambda a: a.number + 70)):
        found = read(pdb(atoms, "TER", second, "TER"))
        assert [c.chain_id for c in found.items] == ["A", "B"]
        for back in found.items:
            assert len(back) == 70 and back.mask.all() and back.sequence == chain.sequence
        assert said(found, "chain B", "id A")


def test_chains_without_an_id_get_one_each(read, atoms):
    blank = moved(atoms, (0, 0, 0), chain="")
    second = moved(atoms, chain="", number=lambda a: a.number + 70)
    found = read(pdb(blank, "TER", second, "TER"))
    assert [(c.chain_id, len(c)) for c in found.items] == [("A", 70), ("B", 70)]
    assert said(found, "chain B", "without an id")
    assert [(c.chain_id, len(c)) for c in read(pdb(blank)).items] == [("", 70)]


def test_repeated_numbers_keep_chains_apart_where_no_ter_does(read, atoms):
    found = read(pdb(atoms, moved(atoms)))
    assert [(c.chain_id, len(c), int(c.mask.sum())) for c in found.items] == [("A", 70, 70), ("B", 70, 70)]
    assert said(found, "chain B", "id A")


def test_copies_between_each_other_are_taken_apart(read, atoms):
    other = moved(atoms, (0, 60, 0), chain="B")
    found = read(pdb(atoms, other, moved(atoms), moved(other)))
    assert [(c.chain_id, len(c)) for c in found.items] == [("A", 70), ("B", 70), ("C", 70), ("D", 70)]
    second, mixed = moved(atoms), []
    for number in range(151, 221):
        mixed += [a for a in atoms if a.number == number] + [a for a in second if a.number == number]
    found = read(pdb(mixed))
    assert [(c.chain_id, len(c), int(c.mask.sum())) for c in found.items] == [("A", 70, 70), ("B", 70, 70)]


def test_numbering_that_goes_on_behind_another_chain_is_another_chain(read, atoms):
    other = moved(atoms, (0, 60, 0), chain="B", number=lambda a: a.number + 70)
    third = moved(atoms, number=lambda a: a.number + 140)
    found = read(pdb(atoms, other, third))
    assert [(c.chain_id, len(c)) for c in found.items] == [("A", 70), ("B", 70), ("C", 70)]


def test_chain_ids_of_two_letters(read, atoms, tmp_path):
    found = read(pdb(moved(atoms, (0, 0, 0), chain="AA"), "TER", moved(atoms, chain="BA"), "TER"))
    assert [(c.chain_id, len(c)) for c in found.items] == [("AA", 70), ("BA", 70)]
    found.items[0].write(tmp_path / "back.pdb")
    assert [c.chain_id for c in read_structure(tmp_path / "back.pdb")] == ["AA"]


def test_selenomethionines_behind_the_ter_go_to_their_places(read, atoms, chain):
    mse, rest = [a for a in atoms if a.residue == "MSE"], [a for a in atoms if a.residue != "MSE"]
    water = moved(atoms[:1], name="O", residue="HOH", number=301, het=True, element="O")
    found = read(pdb(rest, "TER", mse, water))
    same(found.items[0], chain)
    assert found.items[0].residue_ids == chain.residue_ids and not found.notes
    others = moved(rest, chain="B"), moved(mse, chain="B")
    found = read(pdb(rest, "TER", others[0], "TER", mse, others[1]))
    assert [(c.chain_id, len(c), c.sequence) for c in found.items] == [(i, 70, chain.sequence) for i in "AB"]


def test_a_free_amino_acid_is_no_part_of_the_chain(read, atoms, chain):
    proline = moved([a for a in atoms if a.number == 157][:7], (25, 10, 0), number=301, het=True)
    for found in (
        read(cif([*atoms, *proline], FULL.split()), "x.cif"),
        read(pdb(atoms, proline)),
        read(pdb(atoms, "TER", proline)),
        read(pdb(atoms, "TER", moved(proline, (0, 0, 0), number=160))),
    ):
        same(found.items[0], chain)
        assert said(found, "1 ligand left out (PRO)")


def test_shuffled_atoms_are_whole_residues(read, atoms, chain):
    order = np.random.default_rng(0).permutation(len(atoms))
    for text, name in (
        (pdb([atoms[i] for i in order]), "x.pdb"),
        (cif([atoms[i] for i in order], FULL.split()), "x.cif"),
    ):
        [back] = read(text, name).items
        same(back, chain)
        assert back.residue_ids == chain.residue_ids


# missing residues


@pytest.mark.parametrize("fill", [(0.0, 0.0, 0.0), (9999.999, 9999.999, 9999.999), (999.999,) * 3, (-999.0,) * 3])
def test_placeholder_coordinates_are_missing_atoms(read, atoms, chain, fill):
    gone = {155, 170, 171, 220}
    found = read(pdb([a._replace(xyz=fill) if a.number in gone else a for a in atoms]))
    [back] = found.items
    assert [int(i) for i, seen in zip(back.residue_ids, back.mask) if not seen] == sorted(gone)
    assert back.sequence == chain.sequence and said(found, "4 residues", "placeholder")
    single = [a._replace(xyz=fill) if (a.number, a.name) == (180, "N") else a for a in atoms]
    [back] = read(pdb(single)).items
    assert np.flatnonzero(~back.mask).tolist() == [29] and back.sequence == chain.sequence


def test_an_atom_at_the_origin_among_its_own_is_an_atom(read, atoms):
    centre = np.array(next(a.xyz for a in atoms if (a.number, a.name) == (180, "CA")))
    [back] = read(pdb(moved(atoms, -centre))).items
    assert back.mask.all()


def test_unknown_coordinates_of_mmcif_are_missing_atoms(read, atoms, chain):
    unknown = {"Cartn_x": lambda a, i: "?" if a.number == 160 else f"{a.xyz[0]:.3f}"}
    [back] = read(cif(atoms, FULL.split(), **unknown), "x.cif").items
    assert np.flatnonzero(~back.mask).tolist() == [9] and back.sequence == chain.sequence


def test_a_residue_far_from_its_neighbours_is_missing(read, atoms, chain):
    far = moved([a for a in atoms if a.number == 180], (300, 200, 100))
    found = read(pdb([a for a in atoms if a.number < 180], far, [a for a in atoms if a.number > 180]))
    [back] = found.items
    assert np.flatnonzero(~back.mask).tolist() == [29] and said(found, "180", "far")


@pytest.mark.parametrize("gone", [1, 3, 5, 6, 9, 30])
def test_slots_of_a_numbering_gap_follow_the_published_rule(read, atoms, chain, gone):
    found = read(pdb([a for a in atoms if not 170 <= a.number < 170 + gone]))
    [back] = found.items
    distance = np.linalg.norm(chain.coords[19 + gone, 1] - chain.coords[18, 1])
    needed = max(0, int(np.ceil(distance / 3.8 - 0.35)) - 1)
    allowed = gone if gone <= 5 else min(gone, max(0, int(1.2 * distance / 3.8) - 1, needed))
    assert int((~back.mask).sum()) == allowed
    assert said(found, f"{allowed} slot", "gap") == (allowed > 0)


def test_remark_465_says_how_many_are_missing_and_which(read, atoms, chain, tmp_path):
    lines = [f"REMARK 465     GLY A  {n}" for n in range(170, 179)]
    [back] = read(pdb("\n".join(lines), [a for a in atoms if not 170 <= a.number < 179])).items
    assert back.residue_ids == chain.residue_ids and back.sequence[19:28] == "G" * 9
    coords = chain.coords.copy()
    coords[20:32] = np.nan
    gapped = Backbone(coords, chain.sequence, "A", chain.residue_ids)
    for suffix in ("pdb", "cif", "bcif"):
        gapped.write(tmp_path / f"gap.{suffix}")
        [again] = read_structure(tmp_path / f"gap.{suffix}")
        assert (again.sequence, again.residue_ids) == (chain.sequence, chain.residue_ids)
        assert np.array_equal(again.mask, gapped.mask)


# names


@pytest.mark.parametrize(
    ("names", "letter"),
    [
        ("HSD HSE HSP HID HIE HIP HISE HISD HISH HISA HISB NHID CHIE", "H"), ("CYX CYM CYS2 CYSH NCYX CCYS", "C"),
        ("ASH ASPP ASPH AS4", "D"), ("GLH GLUP GLUH GL4", "E"), ("LYN LYP LYSH LSN", "K"), ("ARN ARGN", "R"),
        ("TYM PTR", "Y"), ("NMET CMET MSE", "M"), ("NALA CALA DAL", "A"), ("SEP", "S"), ("TPO", "T"), ("SEC", "U"),
    ],
)  # fmt: skip
def test_names_of_force_fields_keep_their_letter(read, atoms, chain, names, letter):
    for name in names.split():
        found = read(pdb([a._replace(residue=name) if a.number == 180 else a for a in atoms]))
        assert found.items[0].sequence == chain.sequence[:29] + letter + chain.sequence[30:], name
        assert found.items[0].chain_id == "A" and not found.notes, name


def test_nucleotides_and_waters_of_force_fields_are_what_they_are(atoms, tmp_path):
    lines = [atoms[0]._replace(residue=n, name=a, number=i, xyz=(9.0 * i, 40.0, j)) for i, n in enumerate(
        ("DA5", "RU", "GUA", "TIP3", "SOL", "WAT", "SOD", "CLA")) for j, a in enumerate(("C1'", "C4'", "O"))]  # fmt: skip
    (tmp_path / "x.pdb").write_text(pdb(atoms, [x._replace(chain="N") for x in lines]))
    found = structure(tmp_path / "x.pdb")
    assert "".join(p.sequence.replace("X", "") for p in found.nucleic) == "AUG"
    assert len(found.proteins) == 1 and not found.ligands
    assert found.counts()["waters and ions"] == 5


# files


def test_byte_order_marks_and_latin_1_are_no_part_of_the_text(read, atoms, chain):
    mark = b"\xef\xbb\xbf"
    same(read(mark + pdb(atoms).encode()).items[0], chain)
    same(read(pdb(atoms).encode("utf-16")).items[0], chain)
    text = cif(atoms, FULL.split(), ["data_x", "_struct.title 'Müller'"])
    for content in (mark + text.encode(), text.encode("latin-1"), text.replace("\n", "\r\n").encode()):
        same(read(content, "x.cif").items[0], chain)
    same(read(pdb(atoms).replace("\n", "\r").encode()).items[0], chain)


@pytest.mark.parametrize("name", ["x.pdb1.gz", "x.pdb2", "x.ent.gz", "x.pdb.bz2", "x.pdb.xz", "x.pdb.zst", "x.pdbqt"])
def test_suffixes_of_assemblies_and_compressions(read, atoms, chain, name):
    content = pdb("REMARK 4 COMPLIES", atoms).encode()
    if name.endswith(".zst"):
        pa = pytest.importorskip("pyarrow")
        content = pa.compress(content, codec="zstd", asbytes=True)
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    content = packed.get(name[name.rfind(".") :], bytes)(content)
    [back] = read(content, name).items
    same(back, chain)
    assert back.name == "x"


def test_a_damaged_compression_names_what_is_accepted(read, atoms):
    for name, magic in (("x.pdb.zst", b"\x28\xb5\x2f\xfd"), ("x.pdb.bz2", b"BZh9"), ("x.pdb.xz", b"\xfd7zXZ\x00")):
        [error] = read(magic + pdb(atoms).encode(), name).errors
        assert error.startswith(str(error.split(":")[0])) and ".bz2" in error and "\n" not in error


def test_mmcif_without_the_columns_that_programs_leave_out(read, atoms, chain):
    bare = [
        "type_symbol",
        "label_atom_id",
        "label_comp_id",
        "label_asym_id",
        "label_seq_id",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
    ]
    same(read(cif(atoms, bare), "x.cif").items[0], chain)
    blank = {"label_seq_id": lambda a, i: "."}
    for columns in (bare, ["group_PDB", *bare], [*bare, "pdbx_PDB_model_num"], ["id", *bare, "occupancy"]):
        found = read(cif(atoms, columns, **blank), "x.cif")
        same(found.items[0], chain)
        assert not found.notes
    for gone in FULL.split():
        if not gone.startswith(("Cartn", "label_atom", "label_comp")):
            same(read(cif(atoms, [c for c in FULL.split() if c != gone], last=""), "x.cif").items[0], chain)


def test_pymols_mmcif_is_not_taken_for_cut_off(read, atoms, chain):
    first = ["# generated by PyMOL 3.0.0", "#", "data_obj", "_entry.id obj", "#"]
    blank = {k: (lambda a, i: ".") for k in ("label_asym_id", "label_entity_id")}
    same(read(cif(atoms, FULL.split(), first, last="", **blank), "x.cif").items[0], chain)


def test_data_blocks_are_told_apart(read, atoms, chain, tmp_path):
    one = cif(atoms, FULL.split(), ["data_first"])
    two = cif(moved(atoms), FULL.split(), ["data_second"])
    component = "data_comp_LIG\nloop_\n_chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\nLIG C1\n#\n"
    found = read(one + component + two, "x.cif")
    assert [c.name for c in found.items] == ["x_first", "x_second"]
    same(found.items[0], chain)
    assert read(one + component, "x.cif").items[0].name == "x"
    assert [s.name for s in structures(tmp_path / "x.cif")] == ["x"]
    (tmp_path / "two.cif").write_text(one + two)
    with pytest.raises(Exception, match="first, two_second"):
        structure(tmp_path / "two.cif")


def test_names_with_dots_stay_apart(read, atoms):
    names = [f"design.{i:04}.pdb" for i in (1, 2)] + ["design.pdb.gz"]
    assert [read(pdb(atoms), n).items[0].name for n in names[:2]] == ["design.0001", "design.0002"]
    assert read(gzip.compress(pdb(atoms).encode()), names[2]).items[0].name == "design"


def test_rows_that_cannot_be_read_are_errors_by_line(read, atoms):
    lines = pdb(atoms).splitlines()
    at = next(i for i, line in enumerate(lines) if " CA  ASP" in line)
    for spoiled in (lines[at][:40], lines[at][:30] + "   x.yz " + lines[at][38:]):
        found = read("\n".join([*lines[:at], spoiled, *lines[at + 1 :]]))
        assert not found.items and "coordinates" in found.errors[0]
    lines[100] = "ATOMX " + lines[100][6:]
    assert said(read("\n".join(lines)), "1 line", "ATOMX")


# everything in a file


def test_all_atoms_and_entities_are_kept(example, atoms, tmp_path):
    found = structure(example)
    [protein] = found.proteins
    assert len(protein.atoms) == 556 and len(found.solvent) == 88 and not found.ligands
    side = protein.place(["SE"])
    assert np.isfinite(side).all((1, 2)).sum() == protein.sequence.count("M") == 4
    backbone = protein.backbone()
    assert backbone.entity is protein
    [fast] = structure(example, atoms="backbone").proteins
    assert set(fast.atoms.atom_name) == {"N", "CA", "C", "O"}
    assert np.array_equal(fast.backbone().coords, backbone.coords)
    heme = [atoms[0]._replace(residue="HEM", name=n, element=n[:1], xyz=(i, 9.0, 9.0), number=300, het=True)
            for i, n in enumerate(("C1", "N1", "O1"))]  # fmt: skip
    (tmp_path / "x.pdb").write_text(pdb(atoms, "TER", heme))
    [ligand] = structure(tmp_path / "x.pdb").ligands
    assert (ligand.name, ligand.residue_id, ligand.atoms.element.tolist()) == ("HEM", "300", ["C", "N", "O"])
