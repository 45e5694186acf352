"""Descriptors and rebuilding are exact inverses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structok.molecule.spherical import (
    FIRST_ATOM,
    describe,
    frames,
    levels,
    orient,
    rebuild,
    reference_atoms,
    spherical_to_local,
)


def round_trip(coords: np.ndarray, bonds: np.ndarray) -> float:
    """Largest deviation (Å) of coordinates rebuilt from their descriptors."""
    refs = reference_atoms(bonds, len(coords))
    x, r = torch.from_numpy(coords)[None], torch.from_numpy(refs)[None]
    back = rebuild(describe(x, r), r)
    return float((back - orient(x)).abs().max())


@st.composite
def trees(draw):
    """A random tree whose atoms are bonded to earlier ones, some ring bonds, and random coordinates."""
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bonds = [(int(rng.integers(i)), i) for i in range(1, n)]
    bonds += [(int(rng.integers(i)), i) for i in range(3, n, 5)]
    return rng.normal(scale=2.0, size=(n, 3)), np.array(bonds, dtype=np.int64).reshape(-1, 2)


@given(trees())
@settings(deadline=None, max_examples=60)
def test_round_trip(tree):
    assert round_trip(*tree) < 1e-6


@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_collinear_references(turn):
    """H-C#C-C#C-CH3, exactly linear: the frames' azimuth is free, yet the round trip is exact."""
    along = np.array([[0, 0, 0], [1.06, 0, 0], [2.26, 0, 0], [3.64, 0, 0], [4.84, 0, 0], [6.3, 0, 0]])
    angle = np.deg2rad([0, 120, 240])
    hydrogens = np.stack([np.full(3, 6.67), 1.02 * np.cos(angle), 1.02 * np.sin(angle)], axis=1)
    coords = np.concatenate([along, hydrogens])
    c, s = np.cos(turn), np.sin(turn)
    coords = coords @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    bonds = np.array([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (5, 8)])
    assert round_trip(coords, bonds) < 1e-6


def test_invariant_under_rigid_motion():
    rng = np.random.default_rng(0)
    coords = rng.normal(size=(12, 3))
    bonds = np.array([(max(0, i - 1 - i % 3), i) for i in range(1, 12)])
    refs = torch.from_numpy(reference_atoms(bonds, 12))[None]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    a, b = (describe(torch.from_numpy(x)[None], refs) for x in (coords, coords @ rotation.T + 5))
    torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
    mirrored = describe(torch.from_numpy(coords * [1, 1, -1])[None], refs)
    # the frame's z-axis is a cross product, so the mirror shows in theta alone
    a[0, 3:, 1] = torch.pi - a[0, 3:, 1]
    torch.testing.assert_close(mirrored, a, atol=1e-9, rtol=0)


def test_published_references():
    # 0 - 1 - 2 and branches: 3 on 2, 4 on 1, 5 on 3, 6 on 0 (which upstream does not allow)
    bonds = np.array([(0, 1), (1, 2), (2, 3), (1, 4), (3, 5), (0, 6)])
    refs = reference_atoms(bonds, 7)
    assert refs[3:].tolist() == [[2, 1, 0], [1, 0, 2], [3, 2, 1], [0, 1, 2]]
    assert levels(refs).tolist() == [0, 0, 0, 1, 1, 2, 1]


def test_first_atoms_borrow_constants():
    refs = torch.from_numpy(reference_atoms(np.array([(0, 1), (1, 2)]), 3))[None]
    g = describe(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0]]]), refs)[0]
    torch.testing.assert_close(g[0], torch.tensor(FIRST_ATOM).double())
    torch.testing.assert_close(g[1], torch.tensor([1.0, *FIRST_ATOM[1:]]).double())
    torch.testing.assert_close(g[2], torch.tensor([2**0.5, FIRST_ATOM[1], torch.pi / 4, 0.0]).double())


def test_unconnected_atom_is_named():
    with pytest.raises(ValueError, match="atom 2"):
        reference_atoms(np.array([(0, 1), (2, 3)]), 4)


def test_frames_are_right_handed():
    torch.manual_seed(0)
    axes = frames(*torch.randn(3, 50, 3).double())
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).double().expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(50).double())


def test_sign_zero_lies_in_the_plane():
    local = spherical_to_local(torch.tensor([[1.5, 1.2, 2.0, 0.0]]))
    assert local[0, 1] == 0 and local[0, 0] > 0
