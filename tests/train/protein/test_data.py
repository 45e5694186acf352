"""Training batches of backbones: packed, streamed, cropped, damaged on purpose."""

import itertools

import numpy as np
import pytest
import torch

from structok.data.dataset import Row
from structok.errors import InputError
from train.data import load_backbones
from train.protein.data import Chains, Sampling, collate, fixed_batches, with_gaps
from train.protein.fit import main


def test_packed_arrays_are_a_data_set(folder):
    data = load_backbones(folder / "chains.npz")
    packed = load_backbones(folder / "shards")
    order = [data.names.index(n) for n in packed.names]
    assert sorted(order) == list(range(40)) and (data.split[order] == packed.split).all()
    for i, j in enumerate(order):
        torch.testing.assert_close(packed[i], data[j], equal_nan=True)
    with pytest.raises(InputError, match="exists"):
        main(["pack", "--source", str(folder / "chains.npz"), "--out", str(folder / "shards")])


def test_unexplained_breaks_get_a_missing_slot(folder):
    [row] = [r for r in _rows(folder) if r.id == "0"]
    chain = with_gaps(row)
    assert len(chain.coords) == len(chain.types) == 31
    missing = (~chain.coords.isfinite().all((1, 2))).nonzero()[:, 0].tolist()
    assert missing == [5, 6, 7, 20]


def _rows(folder):
    data = load_backbones(folder / "chains.npz")
    return [Row(n, "X" * len(data[i]), data[i].reshape(-1, 9).numpy()) for i, n in enumerate(data.names)]


def test_batches_keep_the_budget_and_are_damaged_on_purpose(folder):
    sampling = Sampling(crop=48, residues=200, lose_chance=0.5, jitter=0.1)
    run = list(itertools.islice(Chains(folder / "shards", sampling, seed=3), 40))
    again = list(itertools.islice(Chains(folder / "shards", sampling, seed=3), 40))
    for batch, same in zip(run, again):
        torch.testing.assert_close(batch.coords, same.coords, equal_nan=True)
        assert batch.mask.numel() <= 200 and batch.mask.shape[1] <= 48
        assert batch.target[batch.mask].isfinite().all() and batch.mask.any(1).all()
        assert 0.05 < (batch.coords - batch.target)[batch.mask].std() < 0.15
    assert any((b.target.isfinite().all((2, 3)) & ~b.mask).any() for b in run)  # lost on purpose
    assert {b.origin[2].epoch for b in run} > {0, 1}
    other = next(iter(Chains(folder / "shards", sampling, seed=4)))
    assert other.names != run[0].names


def test_examples_grow_with_the_steps(folder):
    sampling = Sampling(crop=30, longer={4: 40, 8: 60}, residues=100, buffer=10)
    assert [sampling.crop_at(s) for s in (0, 3, 4, 7, 8, 100)] == [30, 30, 40, 40, 60, 60]
    longest = [b.mask.shape[1] for b in itertools.islice(Chains(folder / "shards", sampling, accumulate=5), 80)]
    assert max(longest[:20]) == 30 and max(longest[25:40]) == 40 and max(longest[50:]) == 60


def test_chains_with_little_in_them_are_left_out(folder):
    names = set()
    for batch in itertools.islice(Chains(folder / "shards", Sampling(shortest=28, residues=100)), 60):
        names |= set(batch.names)
    assert "0" not in names and len(names) == 37  # "0" lacks three of its thirty residues; two are for validation


def test_validation_chains_are_whole_and_not_trained_on(folder):
    data = load_backbones(folder / "chains.npz")
    batches = fixed_batches(folder / "shards", 10, 60, Sampling(residues=500))
    names = {n for b in batches for n in b.names}
    assert names and names == {data.names[i] for i in np.flatnonzero(data.split == 1) if data.lengths[i] <= 60}
    trained = itertools.islice(Chains(folder / "shards", Sampling(residues=200)), 30)
    assert not names & {n for b in trained for n in b.names}


def test_collate_pads_with_missing(folder):
    batch = collate([with_gaps(row) for row in _rows(folder)[:3]])
    assert batch.mask.shape == (3, 36) and batch.mask.sum(1).tolist() == [27, 33, 36]
