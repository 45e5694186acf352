"""Structure files in and out: what counts as a residue, a gap, a chain, and what is refused."""

import gzip
import io
import logging

import numpy as np
import pytest

from structok import Backbone, StructokError, read_structure
from structok.errors import InputError
from structok.read import as_backbone
from structok.write.structures import write_structure

SUFFIXES = ["pdb", "ent", "cif", "bcif", "pdb.gz", "cif.gz", "bcif.gz"]


def line(name, residue, number, xyz, *, chain="A", alt=" ", insertion=" ", occupancy=1.0, record="ATOM"):
    """One PDB atom line."""
    x, y, z = xyz
    return (
        f"{record:<6}{1:>5} {' ' + name if len(name) < 4 else name:<4}{alt}{residue:>3} {chain}{number:>4}{insertion}"
        f"   {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0:6.2f}          {name[0]:>2}\n"
    )


def residue(coords, number, name="ALA", **fields):
    """N, CA, C lines of one residue."""
    return "".join(line(a, name, number, xyz, **fields) for a, xyz in zip(("N", "CA", "C"), coords))


def cif_rows(example):
    return gzip.decompress(example.read_bytes()).decode().splitlines(keepends=True)


def read_pdb(tmp_path, text, **options):
    path = tmp_path / "x.pdb"
    path.write_text(text + "END\n")
    return read_structure(path, **options)


@pytest.fixture(scope="module")
def short(make_chain):
    return make_chain(12, seed=3)


# reading


def test_example(chain):
    assert (chain.name, chain.chain_id, len(chain), chain.mask.all()) == ("1a8o", "A", 70, True)
    assert chain.coords.dtype == np.float32
    assert chain.sequence.startswith("MDIRQGPKEPFRDYVDRFYKTLRAEQ")
    assert (chain.residue_ids[0], chain.residue_ids[-1]) == ("151", "220")
    assert np.allclose(np.linalg.norm(chain.coords[:, 1] - chain.coords[:, 0], axis=-1), 1.46, atol=0.1)


def test_selenomethionine_keeps_its_parents_letter(example, chain):
    names = [row.split() for row in cif_rows(example) if row.startswith(("ATOM", "HETATM"))]
    numbers = {row[21] for row in names if row[5] == "MSE"}
    assert {chain.residue_ids.index(n) for n in numbers} == {i for i, c in enumerate(chain.sequence) if c == "M"}
    assert numbers


def test_binary_file_objects_are_told_apart_by_content(tmp_path, chain, example):
    for suffix in ("pdb", "cif", "bcif", "bcif.gz"):
        chain.write(tmp_path / f"x.{suffix}")
        with open(tmp_path / f"x.{suffix}", "rb") as file:
            [back] = read_structure(file)
        assert (back.name, back.sequence) == ("stdin", chain.sequence)
    [back] = read_structure(io.BytesIO(example.read_bytes()), name="mine")
    assert back.name == "mine"


def test_altloc_with_the_highest_occupancy_counts(tmp_path, short):
    text = ""
    for i, xyz in enumerate(short.coords):
        if i == 4:
            text += residue(xyz + 0.5, i, alt="A", occupancy=0.3) + residue(xyz, i, alt="B", occupancy=0.7)
        else:
            text += residue(xyz, i)
    [back] = read_pdb(tmp_path, text)
    assert np.allclose(back.coords, short.coords, atol=1e-3)


def test_of_two_residues_at_one_position_the_more_occupied_counts(tmp_path, short):
    text = ""
    for i, xyz in enumerate(short.coords):
        if i == 4:
            text += residue(xyz + 0.5, i, "SER", alt="A", occupancy=0.4)
            text += residue(xyz, i, "GLY", alt="B", occupancy=0.6)
        else:
            text += residue(xyz, i)
    [back] = read_pdb(tmp_path, text)
    assert back.sequence == "AAAAGAAAAAAA"
    assert np.allclose(back.coords, short.coords, atol=1e-3)


def test_only_the_first_model_is_read(tmp_path, short):
    body = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords))
    moved = "".join(residue(xyz + 9, i) for i, xyz in enumerate(short.coords))
    [back] = read_pdb(tmp_path, f"MODEL        1\n{body}ENDMDL\nMODEL        2\n{moved}ENDMDL\n")
    assert np.allclose(back.coords, short.coords, atol=1e-3)


def test_blank_occupancy_column_is_accepted(tmp_path, short):
    lines = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords)).splitlines()
    [back] = read_pdb(tmp_path, "".join(f"{x[:54]}{'':12}{x[66:]}\n" for x in lines))
    assert len(back) == 12


def test_insertion_codes_are_kept_and_are_no_gaps(tmp_path, short):
    keys = [(50, " "), (51, " "), (52, " "), (52, "A"), (52, "B"), *((n, " ") for n in range(53, 60))]
    text = "".join(residue(xyz, n, insertion=c) for xyz, (n, c) in zip(short.coords, keys))
    [back] = read_pdb(tmp_path, text)
    assert back.residue_ids == [f"{n}{c}".strip() for n, c in keys]
    assert back.mask.all()


def test_free_amino_acids_and_water_are_no_residues(tmp_path, short):
    text = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords))
    text += residue(short.coords[0] + 30, 100, "GLY", record="HETATM")
    text += line("O", "HOH", 200, (1, 2, 3), record="HETATM")
    [back] = read_pdb(tmp_path, text)
    assert len(back) == 12


def test_bonded_hetatm_residue_is_kept(tmp_path, short):
    text = "".join(
        residue(xyz, i, "MSE" if i == 5 else "ALA", record="HETATM" if i == 5 else "ATOM")
        for i, xyz in enumerate(short.coords)
    )
    [back] = read_pdb(tmp_path, text)
    assert back.sequence == "AAAAAMAAAAAA"


def test_a_residue_that_is_called_as_a_nucleotide_is(tmp_path, short):
    text = "".join(residue(x, i, "ASU" if i == 6 else "ALA") for i, x in enumerate(short.coords, 1))
    [chain] = read_pdb(tmp_path, text)
    assert chain.mask.all() and len(chain) == 12 and chain.sequence[5] != "A"


def test_incomplete_residue_is_a_missing_slot_with_its_letter(tmp_path, short):
    text = ""
    for i, xyz in enumerate(short.coords):
        text += line("CA", "TRP", i, xyz[1]) if i == 5 else residue(xyz, i)
    [back] = read_pdb(tmp_path, text)
    assert np.flatnonzero(~back.mask).tolist() == [5]
    assert back.sequence[5] == "W"


def test_calcium_is_no_alpha_carbon(tmp_path, short):
    text = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords))
    text += f"HETATM    1 CA    CA A 300    {1:8.3f}{2:8.3f}{3:8.3f}{1:6.2f}{0:6.2f}          CA\n"
    [back] = read_pdb(tmp_path, text)
    assert len(back) == 12


def test_chains_without_protein_are_skipped_with_a_note(tmp_path, short, caplog):
    text = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords))
    text += "".join(line(a, "DA", 1, (9, 9, i), chain="B") for i, a in enumerate(("P", "C1'", "N9")))
    with caplog.at_level(logging.INFO, logger="structok"):
        [back] = read_pdb(tmp_path, text)
    assert back.chain_id == "A"
    assert "chain B skipped" in caplog.text
    with pytest.raises(InputError, match="'B'"):
        read_pdb(tmp_path, text, chain="B")


def test_one_chain_of_several(tmp_path, short):
    two = [Backbone(short.coords + 40 * i, chain_id=c, name="two") for i, c in enumerate("HL")]
    write_structure(two, tmp_path / "two.cif")
    assert [c.chain_id for c in read_structure(tmp_path / "two.cif")] == ["H", "L"]
    [light] = read_structure(tmp_path / "two.cif", chain="L")
    assert np.allclose(light.coords, two[1].coords, atol=1e-3)
    with pytest.raises(InputError, match="no chain 'Z'; it has H, L"):
        read_structure(tmp_path / "two.cif", chain="Z")
    with pytest.raises(InputError, match="H, L"):
        as_backbone(tmp_path / "two.cif")


# gaps


def without(short, gone, numbers=None):
    numbers = range(1, 13) if numbers is None else numbers
    return "".join(residue(xyz, n) for i, (n, xyz) in enumerate(zip(numbers, short.coords)) if i not in gone)


def test_pdb_numbering_gives_the_missing_slots(tmp_path):
    straight = make_line(12)
    [back] = read_pdb(tmp_path, without(straight, {4, 5, 6}))
    assert np.flatnonzero(~back.mask).tolist() == [4, 5, 6]
    assert back.sequence == "AAAAXXXAAAAA"
    assert back.residue_ids == [str(i) for i in range(1, 13)]


def make_line(length):
    """A straight chain, its residues 3.4 Å apart: a gap in it is as long as its numbers say."""
    one = np.array([[0.0, 0.0, 0.0], [1.2, 0.8, 0.0], [2.3, 0.0, 0.3]])
    return Backbone(one + np.arange(length)[:, None, None] * np.array([3.4, 0.0, 0.0]))


def test_bonded_residues_are_no_gap_whatever_their_numbers(tmp_path, short):
    numbers = [*range(1, 7), *range(20, 26)]
    [back] = read_pdb(tmp_path, without(short, (), numbers))
    assert back.mask.all()
    assert back.residue_ids == [str(n) for n in numbers]


@pytest.mark.parametrize("numbers", [range(1, 10), [*range(1, 5), *range(500, 505)], [*range(90, 94), *range(1, 6)]])
def test_break_that_numbers_do_not_explain_gets_the_slots_its_length_needs(tmp_path, numbers):
    straight = make_line(12)
    kept = Backbone(np.delete(straight.coords, [4, 5, 6], axis=0))
    [back] = read_pdb(tmp_path, without(kept, (), numbers))
    assert np.flatnonzero(~back.mask).tolist() == [4, 5, 6]
    assert [i for i, seen in zip(back.residue_ids, back.mask) if seen] == [str(n) for n in numbers]
    assert len(set(back.residue_ids)) == len(back)


def test_mmcif_sequence_fills_gaps_with_its_letters(tmp_path, example, chain):
    """Residues 160..164 cut from the coordinates, not from the sequence."""
    gone = {str(n) for n in range(160, 165)}
    rows = cif_rows(example)
    kept = [r for r in rows if not (r.startswith("ATOM") and r.split()[21] in gone)]
    path = tmp_path / "gap.cif"
    path.write_text("".join(kept))
    [back] = read_structure(path)
    assert {i for i, seen in zip(back.residue_ids, back.mask) if not seen} == gone
    assert back.sequence == chain.sequence
    assert back.residue_ids == chain.residue_ids


# writing


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("oxygen", [False, True])
def test_what_is_written_is_read_back(tmp_path, chain, suffix, oxygen):
    path = tmp_path / f"a b é.{suffix}"
    ids = [*chain.residue_ids[:3], "153A", "153B", *map(str, range(154, 219))]
    before = Backbone(chain.coords, chain.sequence, "K", ids)
    before.write(path, oxygen=oxygen)
    [back] = read_structure(path)
    assert np.abs(back.coords - before.coords).max() <= 1e-3
    assert (back.sequence, back.residue_ids, back.chain_id) == (before.sequence, ids, "K")
    assert np.isfinite(back.oxygen).all() == oxygen
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == suffix.endswith(".gz")


@pytest.mark.parametrize("suffix", ["pdb", "cif", "bcif"])
def test_missing_residues_are_not_written_and_come_back_as_slots(tmp_path, suffix):
    coords = make_line(12).coords
    coords[4:7] = np.nan
    Backbone(coords).write(tmp_path / f"x.{suffix}")
    [back] = read_structure(tmp_path / f"x.{suffix}")
    assert np.flatnonzero(~back.mask).tolist() == [4, 5, 6]


def test_long_chain_ids_fit_mmcif_and_are_refused_by_pdb(tmp_path, short):
    long = Backbone(short.coords, chain_id="AA-2")
    long.write(tmp_path / "x.cif")
    assert read_structure(tmp_path / "x.cif")[0].chain_id == "AA-2"
    with pytest.raises(InputError, match="AA-2"):
        long.write(tmp_path / "x.pdb")
    assert not (tmp_path / "x.pdb").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: Backbone(c.coords + 5000),
        lambda c: Backbone(c.coords, residue_ids=range(9_995, 10_007)),
        lambda c: Backbone(np.full_like(c.coords, np.nan)),
    ],
    ids=["coordinates", "numbers", "nothing observed"],
)
def test_what_does_not_fit_a_pdb_file_is_refused(tmp_path, short, change):
    with pytest.raises(InputError, match="pdb"):
        change(short).write(tmp_path / "x.pdb")


def test_unknown_suffix_is_refused(tmp_path, short):
    with pytest.raises(InputError, match="xyz"):
        short.write(tmp_path / "x.xyz")


def test_placed_oxygens_are_where_the_crystal_has_them(chain):
    placed = Backbone(chain.coords).place_oxygen()
    error = np.linalg.norm(placed - chain.oxygen, axis=-1)
    assert error[:-1].mean() < 0.05  # the last has no next residue to fix its plane
    assert error[:-1].max() < 0.25
    assert np.allclose(np.linalg.norm(placed - chain.coords[:, 2], axis=-1), 1.23, atol=0.02)


def test_oxygens_that_were_read_stay(chain):
    assert np.array_equal(chain.place_oxygen(), chain.oxygen)


def test_atom_array_there_and_back(chain):
    atoms = chain.to_atom_array(oxygen=True)
    assert atoms.array_length() == 4 * len(chain)
    back = as_backbone(atoms)
    assert np.array_equal(back.coords, chain.coords)
    assert (back.sequence, back.residue_ids) == (chain.sequence, chain.residue_ids)


# Backbone


def test_one_nan_makes_the_residue_missing(short):
    coords = short.coords.copy()
    coords[3, 2, 1] = np.nan
    back = Backbone(coords)
    assert np.flatnonzero(~back.mask).tolist() == [3]
    assert np.isnan(back.coords[3]).all()
    assert np.isfinite(coords[3, 0]).all()  # the caller's array is left alone


@pytest.mark.parametrize(
    "arguments",
    [
        {"coords": np.zeros((0, 3, 3))},
        {"coords": np.zeros((4, 4, 3))},
        {"coords": np.zeros((4, 9))},
        {"coords": "text"},
        {"coords": np.full((2, 3, 3), np.inf)},
        {"coords": np.zeros((2, 3, 3)), "sequence": "A"},
        {"coords": np.zeros((2, 3, 3)), "residue_ids": [1]},
        {"coords": np.zeros((2, 3, 3)), "oxygen": np.zeros((3, 3))},
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments):
    with pytest.raises(InputError):
        Backbone(**arguments)


# refusals


def cut_cif(example, rows):
    return "".join(cif_rows(example)[:rows])


def test_mmcif_cut_inside_a_line_is_refused(tmp_path, example):
    path = tmp_path / "cut.cif"
    path.write_text(cut_cif(example, 900)[:-20])
    with pytest.raises(InputError, match=r"cut\.cif"):
        read_structure(path)


def test_mmcif_cut_between_two_atoms_is_refused(tmp_path, example):
    path = tmp_path / "cut.cif"
    path.write_text(cut_cif(example, 900))
    with pytest.raises(InputError, match=r"cut\.cif"):
        read_structure(path)


@pytest.mark.parametrize("suffix", ["pdb", "cif", "bcif", "cif.gz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\n \n", b"\x1f\x8b\x08\x00broken", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", b"hello\n", b"\x00" * 99],
    ids=["empty", "blank", "broken gzip", "pdf", "text", "zeros"],
)
def test_garbage_is_one_line_that_names_the_file(tmp_path, suffix, content):
    path = tmp_path / f"bad file.{suffix}"
    path.write_bytes(content)
    with pytest.raises(StructokError) as caught:
        read_structure(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_ca_only_model_is_refused(tmp_path, short):
    with pytest.raises(InputError, match="CA-only"):
        read_pdb(tmp_path, "".join(line("CA", "ALA", i, x[1]) for i, x in enumerate(short.coords)))


@pytest.mark.parametrize("value", ["     nan", "     inf"])
def test_non_finite_coordinates_are_refused_by_residue(tmp_path, short, value):
    rows = "".join(residue(xyz, i) for i, xyz in enumerate(short.coords)).splitlines(keepends=True)
    rows[16] = rows[16][:30] + value + rows[16][38:]
    with pytest.raises(InputError, match=r"x\.pdb.*chain A.*ALA 5"):
        read_pdb(tmp_path, "".join(rows))
