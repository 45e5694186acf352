"""Numbers, locations, frames, chains and gaps as real programs write them: nothing is lost or invented in silence."""

import time

import numpy as np
import pytest

from structok import Backbone, read_structure
from tests.read.conftest import FULL, cif, moved, pdb, said, same

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


def test_a_free_amino_acid_with_a_number_of_a_gap_does_not_fill_it(read, atoms):
    gapped = [a for a in atoms if not 170 <= a.number < 174]
    glycine = moved([a for a in atoms if a.number == 156][:4], (40, 0, 0), number=172, het=True)
    found = read(pdb(gapped, "TER", glycine))
    assert int(found.items[0].mask.sum()) == 66 and said(found, "1 ligand left out (GLY)")


def test_a_long_file_of_loose_residues_is_read_in_time(read, atoms):
    """Nothing is bonded, nothing is tried against everything."""
    lines = [a._replace(number=i, xyz=(3.0 * i, 0.0, 0.5)) for i in range(3000) for a in atoms[1:2]]
    began = time.perf_counter()
    assert "CA-only" in read(pdb(lines)).errors[0]
    assert time.perf_counter() - began < 20


def test_a_second_oxygen_ends_a_chain_where_nothing_else_does(read, atoms):
    """Numbers that go on, one id, no TER: the chains are told apart by OXT, or by how far they are from each other."""
    assert any(a.name == "OXT" for a in atoms)
    second = moved(atoms, (25, 0, 0), number=lambda a: a.number + 70)
    found = read(pdb(atoms, second))
    assert [(c.chain_id, len(c)) for c in found.items] == [("A", 70), ("B", 70)] and said(found, "chain B", "id A")
    bare = [a for a in atoms if a.name != "OXT"]
    found = read(pdb(bare, moved(bare, (200, 0, 0), number=lambda a: a.number + 70)))
    assert [(c.chain_id, len(c)) for c in found.items] == [("A", 70), ("B", 70)]
