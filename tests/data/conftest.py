"""Chains made up for the tests of data sets, and what is in a folder."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from structok import Backbone
from structok.data.shards import find_shards

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


@pytest.fixture(scope="session")
def helix():
    """helix(length, seed, **fields): bonded residues on a helix, with a sequence of their own."""

    def make(length, seed, **fields):
        t = np.arange(3 * length)
        angle = t * np.deg2rad(100 / 3)
        coords = np.stack([2.3 * np.cos(angle), 2.3 * np.sin(angle), 0.5 * t], -1).reshape(-1, 3, 3)
        rng = np.random.default_rng(seed)
        sequence = "".join(rng.choice(LETTERS, length))
        return Backbone(coords + rng.normal(size=3), fields.pop("sequence", sequence), **fields)

    return make


@pytest.fixture(scope="session")
def rows_of():
    """rows_of(folder, split=None): all rows of a data set."""

    def read(folder, split=None):
        return [row for path in find_shards(folder, split) for row in pq.read_table(path).to_pylist()]

    return read


@pytest.fixture(scope="session")
def tree():
    """tree(folder): content of every file below."""

    def read(folder):
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return read
