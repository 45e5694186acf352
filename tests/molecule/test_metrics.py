"""Measures of molecules, on cases that can be worked out by hand."""

import numpy as np
import pytest

from structok.molecule.conformer import add_conformer, prepare
from structok.molecule.metrics import angle_mae, bond_mae, chirality, compare_molecules, rmsd
from structok.tokens import Tokens
from tests.molecule.conftest import embed

BONDS = np.array([(0, 1), (1, 2)])
BENT = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]])


def test_rmsd_ignores_motion_but_not_mirrors():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(9, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    assert rmsd(a, a @ rotation.T + 2) == pytest.approx(0, abs=1e-6)
    assert rmsd(a, a * [1, 1, -1]) > 0.3
    assert rmsd(a, a + np.eye(9, 3) * 0, np.arange(9) < 4) == pytest.approx(0, abs=1e-6)


def test_bonds_and_angles():
    stretched = BENT * [1.2, 1.0, 1.0]
    assert bond_mae(BENT, stretched, BONDS) == pytest.approx(0.1)
    assert angle_mae(BENT, stretched, BONDS) == pytest.approx(0)
    opened = np.array([[1.0, 0, 0], [0, 0, 0], [-1.0, 0, 0]])
    assert angle_mae(BENT, opened, BONDS) == pytest.approx(90)
    assert np.isnan(bond_mae(BENT, BENT, BONDS[:0])) and np.isnan(angle_mae(BENT, BENT, BONDS[:1]))


def test_chirality():
    alanine = embed("C[C@H](N)C(=O)O")
    coords = alanine.GetConformer().GetPositions()
    assert chirality(alanine, coords) == (1, 1)
    assert chirality(alanine, coords * [1, 1, -1]) == (0, 1)


def test_comparison_follows_the_atom_order():
    mol = embed("CCO")
    conformer = prepare(mol)
    tokens = Tokens(np.zeros(9, int), "molecule", selfies=conformer.selfies, atom_order=conformer.order)
    measures = compare_molecules(mol, add_conformer(conformer.mol, conformer.coords), tokens)
    assert measures["atoms"] == 9
    assert measures["rmsd"] == pytest.approx(0, abs=1e-6) and measures["bond_mae"] == 0


def test_nothing_to_measure_is_none():
    mol = embed("[H][H]")
    conformer = prepare(mol)
    tokens = Tokens(np.zeros(2, int), "molecule", selfies=conformer.selfies, atom_order=conformer.order)
    measures = compare_molecules(mol, add_conformer(conformer.mol, conformer.coords), tokens)
    assert measures["rmsd_heavy"] is None and measures["angle_mae"] is None
