"""Shards as batches: everything once per epoch, in another order each time, whatever reads it."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from structok import Backbone, StructokError
from structok.data import shards
from structok.data.build import build
from structok.data.dataset import ShardDataset
from structok.data.options import BuildOptions
from structok.data.shards import read_structures
from train.data import load_backbones
from train.protein.data import Chains, Sampling

OPTIONS = BuildOptions(min_length=5, validation=0.2, shard_size=40, max_missing=1)


@pytest.fixture(scope="module", params=["float32", "int16"])
def folder(request, tmp_path_factory, helix):
    """120 chains of 10 to 69 residues in shards of 40, in row groups of 8."""
    where = tmp_path_factory.mktemp("data")
    for i in range(120):
        chain = helix(10 + i % 60, i)
        if i % 7 == 0:
            coords = chain.coords.copy()
            coords[3:5] = np.nan
            chain = Backbone(coords, chain.sequence)
        chain.write(where / "in" / f"{i:03d}.pdb")
    size, shards.ROW_GROUP = shards.ROW_GROUP, 8
    build([str(where / "in")], where / "out", replace(OPTIONS, coords=request.param))
    shards.ROW_GROUP = size
    return where / "out"


def ids(batches):
    return [i for batch in batches for i in batch.ids]


def test_each_structure_comes_once(folder):
    train = ids(ShardDataset(folder, "train"))
    validation = ids(ShardDataset(folder, "validation"))
    assert sorted(train + validation) == [f"{i:03d}_A" for i in range(120)]
    assert sorted(ids(ShardDataset(folder, None))) == sorted(train + validation)


def test_batches_are_the_chains_padded(folder):
    chains = {c.name: c for c in read_structures(folder, "protein")}
    dataset = ShardDataset(folder, None, size=500, buffer=50)
    for batch in dataset:
        assert batch.mask.numel() <= 500
        assert batch.coords.dtype == torch.float32
        for coords, mask, text, name in zip(batch.coords, batch.mask, batch.texts, batch.ids):
            chain = chains[name]
            assert np.array_equal(coords[: len(chain)].numpy(), chain.coords, equal_nan=True)
            assert np.array_equal(mask.numpy(), np.r_[chain.mask, np.zeros(len(mask) - len(chain), bool)])
            assert text == chain.sequence
    padding = sum(b.mask.numel() for b in dataset) / sum(len(c) for c in chains.values())
    assert padding < 1.25


def test_the_order_follows_seed_and_epoch(folder):
    dataset = ShardDataset(folder, None, size=500, buffer=30, seed=3)
    first = ids(dataset)
    assert ids(dataset) == first
    dataset.set_epoch(1)
    assert ids(dataset) != first
    assert sorted(ids(dataset)) == sorted(first)
    assert ids(ShardDataset(folder, None, size=500, buffer=30, seed=4)) != first


def test_without_shuffling_the_order_is_that_of_the_shards(folder):
    found = ids(ShardDataset(folder, "train", size=1, shuffle=False, buffer=1))
    written = [c.name for c in read_structures(folder, "protein", "train")]
    assert sorted(found) == sorted(written)
    assert [set(found[i : i + 8]) for i in range(0, 40, 8)] == [set(written[i : i + 8]) for i in range(0, 40, 8)]


@pytest.mark.parametrize(("workers", "world"), [(2, 1), (0, 3), (2, 2)])
def test_workers_and_ranks_share_without_duplicates(folder, workers, world):
    found = []
    for rank in range(world):
        dataset = ShardDataset(folder, None, size=400, rank=rank, world_size=world)
        share = ids(DataLoader(dataset, batch_size=None, num_workers=workers))
        assert share
        found += share
    assert sorted(found) == [f"{i:03d}_A" for i in range(120)]


def test_training_code_reads_the_folder(folder):
    data = load_backbones(folder)
    chains = {c.name: c for c in read_structures(folder, "protein")}
    validation = {c.name for c in read_structures(folder, "protein", "validation")}
    assert len(data) == 120
    for i, name in enumerate(data.names):
        assert np.array_equal(data[i].numpy(), chains[name].coords, equal_nan=True)
        assert (data.split[i] == 1) == (name in validation)
        rows = slice(data.offsets[i], data.offsets[i + 1])
        assert data.sequence[rows].tobytes().decode() == chains[name].sequence
    assert len(np.unique(data.cluster)) == 120
    one = load_backbones(next(folder.glob("validation-*.parquet")))
    assert set(one.names) == validation
    assert next(iter(Chains(folder, Sampling(crop=32, residues=128, shortest=5)))).coords.isfinite().any()


def test_no_shards(tmp_path):
    with pytest.raises(StructokError, match="structok data build"):
        ShardDataset(tmp_path)
    with pytest.raises(StructokError, match="structok data build"):
        list(read_structures(tmp_path, "protein"))
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(StructokError, match=r"x\.parquet"):
        list(read_structures(tmp_path / "x.parquet", "protein"))


def used(dataset, workers, stop):
    """Ids of the batches that a process used, and its state after them."""
    found = []
    for batch in itertools.islice(DataLoader(dataset, batch_size=None, num_workers=workers), stop):
        dataset.consumed(batch)
        found.append(batch.ids)
    return found, dataset.state_dict()


@pytest.mark.parametrize("workers", [0, 3])
def test_a_stream_goes_on_at_the_same_batch(folder, workers):
    options = {"size": 300, "buffer": 20, "seed": 5, "endless": True, "rank": 1, "world_size": 2}
    whole, end = used(ShardDataset(folder, **options), workers, 60)
    assert end["places"][0][0] >= 1  # into the second epoch
    for stop in (1, 7, 31):
        first, state = used(ShardDataset(folder, **options), workers, stop)
        dataset = ShardDataset(folder, **options)
        dataset.load_state_dict(json.loads(json.dumps(state)))
        rest, last = used(dataset, workers, 60 - stop)
        assert first + rest == whole and last == end


def test_finite_passes_resume_too(folder):
    _, state = used(ShardDataset(folder, "train", size=300, buffer=20), 2, 5)
    dataset = ShardDataset(folder, "train", size=300, buffer=20)
    dataset.load_state_dict(state)
    rest, _ = used(dataset, 2, None)
    first, _ = used(ShardDataset(folder, "train", size=300, buffer=20), 2, 5)
    assert sorted(itertools.chain(*first, *rest)) == sorted(ids(ShardDataset(folder, "train")))
    dataset.set_epoch(1)
    assert sorted(ids(dataset)) == sorted(ids(ShardDataset(folder, "train")))


def test_with_other_workers_a_new_epoch_is_begun(folder):
    _, state = used(ShardDataset(folder, size=300, endless=True), 2, 3)
    dataset = ShardDataset(folder, size=300, endless=True)
    dataset.load_state_dict(state)
    assert next(iter(dataset)).origin[2].epoch == 1


def test_more_shares_than_row_groups(folder):
    shard = next(folder.glob("validation-*.parquet"))
    shares = [ids(ShardDataset(shard, size=200, rank=r, world_size=7)) for r in range(7)]
    assert sorted(itertools.chain(*shares)) == sorted(ids(ShardDataset(shard)))
    assert sum(map(bool, shares)) == 7
    with pytest.raises(StructokError, match="too few"):
        list(Nothing(shard, endless=True))


class Nothing(ShardDataset):
    def lengths(self, rows, before):
        return np.zeros(len(rows), dtype=int)


def test_one_per_cluster(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(next(folder.glob("train-*.parquet")))
    cluster = np.arange(len(table)) // 4
    table = table.set_column(table.schema.get_field_index("cluster"), "cluster", [cluster])
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=8)
    of = dict(zip(table["id"].to_pylist(), cluster.tolist()))
    dataset = ShardDataset(tmp_path / "x.parquet", one_per_cluster=True)
    seen = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        seen.append(ids(dataset))
        assert sorted(of[i] for i in seen[-1]) == sorted(set(of.values()))
    assert len({frozenset(s) for s in seen}) == 3
    shares = [ids(ShardDataset(tmp_path / "x.parquet", one_per_cluster=True, rank=r, world_size=3)) for r in range(3)]
    assert sorted(itertools.chain(*shares)) == sorted(seen[0])
