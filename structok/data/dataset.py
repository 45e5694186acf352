"""Shards as a stream of batches for training: shuffled, of similar lengths, shared out among processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from structok.batching import by_length
from structok.data.shards import columns_of, coordinates, find_shards, pyarrow, read_rows
from structok.errors import InputError

__all__ = ["ShardBatch", "ShardDataset"]

_Row = tuple[str, str, Float[np.ndarray, "l w"]]  # id, text, coordinates


@dataclass(frozen=True)
class ShardBatch:
    """Structures padded to the longest.

    Parameters
    ----------
    coords : Å, shape=(b, l, 3, 3) of N, CA, C, or (b, l, 3) of atoms; NaN where missing or padded
    mask : shape=(b, l), True where observed
    texts : sequences of chains, or SELFIES of molecules
    ids : names
    """

    coords: Float[Tensor, "b l *atoms 3"]
    mask: Bool[Tensor, "b l"]
    texts: tuple[str, ...]
    ids: tuple[str, ...]


class ShardDataset(IterableDataset[ShardBatch]):
    """Batches of a data set made by `structok data build`, read as a stream in bounded memory.

    Row groups (256 structures each) come in random order, and structures in random order within a buffer of several
    row groups. A buffer is sorted by length and cut into batches, which come in random order. All follows from the
    seed and the epoch. Every structure comes once per epoch, whatever the number of loader workers and processes.

    Parameters
    ----------
    source : folder of a data set, or one shard
    split : 'train' or 'validation'; None = all
    size : residues or atoms per batch, padding included; a longer structure is a batch of its own
    shuffle : False keeps the order of the shards, but for the lengths within a buffer
    buffer : structures held at once
    rank, world_size : which share of the data this process reads; by default as torch.distributed says

    Raises
    ------
    InputError
        If there are no shards.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        split: str | None = "train",
        *,
        size: int = 4096,
        shuffle: bool = True,
        seed: int = 0,
        buffer: int = 2048,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.shards = find_shards(source, split)
        self.size, self.shuffle, self.seed, self.buffer = size, shuffle, seed, buffer
        self.epoch = 0
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if spread else 0
        self.world_size = world_size or (torch.distributed.get_world_size() if spread else 1)
        names = columns_of(self.shards[0])
        self._text = "sequence" if "sequence" in names else "selfies"
        if not {"id", "coords", self._text} <= set(names):
            raise InputError(
                f"{self.shards[0]}: no shard of structok data build; it has the columns {', '.join(names)}"
            )
        self._columns = ["id", self._text, "coords", *(["centre"] if "centre" in names else [])]

    def set_epoch(self, epoch: int) -> None:
        """Choose another order; call it before each pass over the data."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[ShardBatch]:
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        share, shares = self.rank * count + index, self.world_size * count
        groups = [(p, g) for p in self.shards for g in range(pyarrow().parquet.read_metadata(p).num_row_groups)]
        order = np.arange(len(groups))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(groups))
        rng = np.random.default_rng((self.seed, self.epoch, share))
        held: list[_Row] = []
        for i in order[share::shares]:
            path, group = groups[i]
            held += self._rows(path, group)
            if len(held) >= self.buffer:
                yield from self._batches(held, rng)
                held = []
        yield from self._batches(held, rng)

    def _rows(self, path: Any, group: int) -> Iterator[_Row]:
        for table in read_rows(path, self._columns, [group]):
            xyz = coordinates(table, 9 if self._text == "sequence" else 3)
            yield from zip(table["id"].to_pylist(), table[self._text].to_pylist(), xyz)

    def _batches(self, rows: list[_Row], rng: np.random.Generator) -> Iterator[ShardBatch]:
        if self.shuffle:
            rows = [rows[i] for i in rng.permutation(len(rows))]
        batches = by_length([len(xyz) for *_, xyz in rows], max(1, len(rows)), most=self.size)
        for k in rng.permutation(len(batches)) if self.shuffle else range(len(batches)):
            yield self._batch([rows[i] for i in batches[k]])

    def _batch(self, rows: list[_Row]) -> ShardBatch:
        ids, texts, xyz = zip(*rows)
        shape = (-1, 3, 3) if self._text == "sequence" else (-1, 3)
        coords = pad_sequence([torch.from_numpy(x.reshape(shape)) for x in xyz], True, torch.nan)
        mask = coords.isfinite().flatten(2).all(-1)
        return ShardBatch(coords, mask, texts, ids)
