"""Neighbours in space, against brute force."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from structok.polymer.near import near_pairs, near_points


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.integers(0, 1000), st.floats(0.5, 4))
def test_near_pairs_are_those_of_brute_force(n, seed, limit):
    points = np.random.default_rng(seed).uniform(-8, 8, (n, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert set(map(tuple, near_pairs(points, limit).tolist())) == set(zip(*np.nonzero(np.triu(distance < limit, 1))))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000), st.floats(0.5, 4))
def test_near_points_are_those_of_brute_force(q, n, seed, limit):
    random = np.random.default_rng(seed)
    queries, points = random.uniform(-12, 12, (q, 3)), random.uniform(-8, 8, (n, 3))
    distance = np.linalg.norm(queries[:, None] - points[None], axis=-1)
    found = list(map(tuple, near_points(queries, points, limit).tolist()))
    assert sorted(found) == sorted(zip(*np.nonzero(distance < limit)))
