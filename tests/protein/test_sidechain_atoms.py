"""The tables of side-chain atoms against the component dictionary, and the measures against biotite."""

import numpy as np
import pytest
from biotite.sequence import ProteinSequence
from biotite.structure import dihedral_side_chain, info

from structok.protein.sidechain_atoms import ALIKE, ATOMS, BONDS, CHIS, LETTERS
from structok.protein.sidechain_metrics import chi_angles, clashes, compare_atoms, with_alike_names


@pytest.mark.parametrize("letter", LETTERS)
def test_atoms_and_bonds_are_those_of_the_component_dictionary(letter):
    residue = info.residue(ProteinSequence.convert_letter_1to3(letter))
    heavy = (residue.element != "H") & (residue.atom_name != "OXT")
    assert set(residue.atom_name[heavy]) == set(ATOMS[letter])
    names, bonds = residue.atom_name, residue.bonds.as_array()
    known = {frozenset((names[i], names[j])) for i, j, _ in bonds if heavy[i] and heavy[j]}
    assert known == {frozenset(bond) for bond in BONDS[letter]}
    assert all(set(chi) <= set(ATOMS[letter]) for chi in CHIS.get(letter, ()))


@pytest.mark.parametrize("letter", ALIKE)
def test_exchanging_alike_names_keeps_the_bonds(letter):
    turned = {a: b for one, other in ALIKE[letter] for a, b in ((one, other), (other, one))}
    bonds = {frozenset(bond) for bond in BONDS[letter]}
    assert {frozenset(turned.get(name, name) for name in bond) for bond in bonds} == bonds


def test_chi_angles_agree_with_biotite(ideal):
    for letter in CHIS:
        residue = ideal(letter)
        atoms = np.full((1, 14, 3), np.nan)
        atoms[0, : len(residue)] = residue.coord
        ours, theirs = chi_angles(atoms, letter)[0], dihedral_side_chain(residue)[0][:4]
        seen = np.isfinite(theirs)
        assert np.allclose(np.exp(1j * ours[seen]), np.exp(1j * theirs[seen]), atol=1e-3), letter
        assert seen.sum() == np.isfinite(ours).sum()


def test_bonded_atoms_do_not_clash_and_others_do(ideal):
    atoms = np.full((2, 14, 3), np.nan)
    residue = ideal("K")
    atoms[0, : len(residue)] = residue.coord
    assert clashes(atoms, "KA") == set()
    end, before = (residue.coord[ATOMS["K"].index(name)] for name in ("NZ", "CE"))
    atoms[1, 4] = end + (end - before)  # 1.5 Å on
    assert clashes(atoms, "KA") == {(ATOMS["K"].index("NZ"), 18)}


def test_alike_names_count_as_right_and_methyls_of_leucine_do_not(ideal):
    def both(letter, other):
        atoms = np.full((1, 14, 3), np.nan)
        residue = ideal(letter)
        atoms[0, : len(residue)] = residue.coord
        compared = compare_atoms(other(atoms), atoms, letter)
        return compared.rmsd, compared.rmsd_alike

    strict, alike = both("D", lambda x: with_alike_names(x, "D"))
    assert strict > 0.5 and alike < 1e-6
    order = [*range(6), 7, 6, *range(8, 14)]  # CD1 and CD2
    assert min(both("L", lambda x: x[:, order])) > 0.5
