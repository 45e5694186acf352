"""Shards as a stream of batches for training: shuffled, of similar lengths, shared out, resumable at any batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from structok.batching import by_length
from structok.data.columns import WIDTHS
from structok.data.shards import columns_of, coordinates, find_shards, modality_of, read_rows
from structok.errors import InputError
from structok.files import pyarrow
from structok.nucleic.atoms import IN_FRAME

__all__ = ["Place", "Row", "ShardBatch", "ShardDataset"]


class Row(NamedTuple):
    """A structure: its id, its sequence or SELFIES, and its coordinates in Å (w is 9, 69 or 3)."""

    id: str
    text: str
    coords: Float[np.ndarray, "l w"]


class Place(NamedTuple):
    """Where a worker's stream goes on: at batch `batch` of a buffer of an epoch; `before` came before that buffer."""

    epoch: int = 0
    buffer: int = 0
    batch: int = 0
    before: int = 0


@dataclass(frozen=True)
class ShardBatch:
    """Structures padded to the longest.

    Parameters
    ----------
    coords : Å, shape=(b, l, 3, 3) of N, CA, C, (b, l, 23, 3) of nucleotides or (b, l, 3) of atoms; NaN where missing or
        padded
    mask : shape=(b, l), True where observed
    texts : sequences of chains, or SELFIES of molecules
    ids : names
    origin : the worker that made it, of how many, and the place after it
    """

    coords: Float[Tensor, "b l *atoms 3"]
    mask: Bool[Tensor, "b l"]
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    origin: tuple[int, int, Place]


class ShardDataset(IterableDataset[Any]):
    """Batches of a data set made by `structok data build`, read as a stream in bounded memory.

    Row groups (256 structures each) come in random order, and structures in random order within a buffer of several
    row groups. A buffer is sorted by length and cut into batches, which come in random order. All follows from the
    seed, the epoch and the number of workers and processes. Every structure comes once per epoch, whatever that number.

    To go on where a run stopped, call `consumed` for each batch that was used, keep `state_dict` (one for each
    process), and give it to `load_state_dict` before iterating again: the next batch is the one that would have come.
    Subclasses may override `lengths` and `make`.

    Parameters
    ----------
    source : folder of a data set, or one shard
    split : 'train' or 'validation'; None = all
    size : residues or atoms per batch, padding included; a longer structure is a batch of its own
    shuffle : False keeps the order of the shards, but for the lengths within a buffer
    buffer : structures held at once, about
    rank, world_size : which share of the data this process reads; by default as torch.distributed says
    endless : epoch after epoch, as training by steps wants it: no process waits for one that has more batches
    one_per_cluster : of each cluster, another random structure in each epoch (holds 16 bytes per structure)

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
        endless: bool = False,
        one_per_cluster: bool = False,
    ) -> None:
        self.shards = find_shards(source, split)
        self.size, self.shuffle, self.seed, self.buffer = size, shuffle, seed, buffer
        self.endless, self.one_per_cluster = endless, one_per_cluster
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
        self._modality = modality_of(self.shards[0])
        self._turn = 0  # batches used in this process
        self._places: dict[int, Place] = {}  # of each worker, after the batches used
        self._sharing = (0, 0)  # workers and processes that these places are for

    def set_epoch(self, epoch: int) -> None:
        """Choose another order; call it before each pass over the data."""
        if epoch != self.epoch:
            self.epoch, self._places = epoch, {}

    def consumed(self, batch: Any) -> None:
        """Note that a batch was used."""
        worker, workers, place = batch.origin
        self._turn += 1
        self._places[worker] = place
        self._sharing = workers, self.world_size

    def state_dict(self) -> dict[str, Any]:
        """Where to go on after the batches that were `consumed`: numbers only."""
        places = {w: list(p) for w, p in self._places.items()}
        return {"turn": self._turn, "places": places, "workers": self._sharing[0], "processes": self._sharing[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there.

        With another number of workers or processes the shares are others: then the next epoch is begun.
        """
        self._turn, self._sharing = state["turn"], (state["workers"], state["processes"])
        self._places = {int(w): Place(*p) for w, p in state["places"].items()}
        self.epoch = min((p.epoch for p in self._places.values()), default=self.epoch)

    def lengths(self, rows: Sequence[Row], before: int) -> Int[np.ndarray, " n"]:
        """Residues or atoms that each row will have in its batch; 0 leaves it out.

        `before` is the number of batches that this process has used by then, about.
        """
        return np.array([len(row.coords) for row in rows])

    def make(self, rows: list[Row], rng: np.random.Generator, origin: tuple[int, int, Place], length: int) -> Any:
        """A batch; `length` is the greatest of its rows' `lengths`."""
        shape = (-1, 3) if self._modality == "molecule" else (-1, WIDTHS[self._modality] // 3, 3)
        coords = pad_sequence([torch.from_numpy(row.coords.reshape(shape)) for row in rows], True, torch.nan)
        frame = coords[:, :, IN_FRAME] if self._modality == "nucleic" else coords
        mask = frame.isfinite().flatten(2).all(-1)
        return ShardBatch(coords, mask, tuple(r.text for r in rows), tuple(r.id for r in rows), origin)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        index, workers = (0, 1) if info is None else (info.id, info.num_workers)
        place = Place(self.epoch)
        if self._places and self._sharing == (workers, self.world_size):
            index = (self._turn + index) % workers  # whose turn it would be
            place = self._places.get(index, place)
        elif self._places:
            place = Place(1 + max(p.epoch for p in self._places.values()))
        groups, idle = self._groups(), 0
        while self.endless or place.epoch == self.epoch:
            epoch, idle = place.epoch, idle + 1
            for batch, after in self._pass(place, index, workers, groups):
                idle, place = 0, after
                yield batch
            if place.epoch == epoch:  # there was nothing, or nothing left
                place = Place(epoch + 1, before=place.before)
            if idle == 10:
                raise InputError(f"{self.shards[0].parent}: too few usable structures for {workers} workers")

    def _groups(self) -> tuple[Int[np.ndarray, "g 2"], Int[np.ndarray, " g+1"]]:
        """Shard and number of every row group, and the first row of each."""
        found, rows = [], [0]
        for i, path in enumerate(self.shards):
            data = pyarrow().parquet.read_metadata(path)
            found += [(i, g) for g in range(data.num_row_groups)]
            rows += [data.row_group(g).num_rows for g in range(data.num_row_groups)]
        return np.array(found, dtype=np.int32).reshape(-1, 2), np.cumsum(rows)

    def _pass(
        self, place: Place, worker: int, workers: int, groups: tuple[np.ndarray, np.ndarray]
    ) -> Iterator[tuple[Any, Place]]:
        """The rest of an epoch from a place in it: each batch, and the place after it."""
        share, shares, epoch = self.rank * workers + worker, self.world_size * workers, place.epoch
        (where, first), before = groups, place.before
        parts = -(-shares // max(1, len(where)))  # row groups are divided where there are more shares than those
        order = np.arange(len(where) * parts)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(order))
        mine = order[share::shares]
        chosen = self._representatives(epoch) if self.one_per_cluster else None
        each = max(1, self.buffer * len(order) // max(1, first[-1]))  # units per buffer
        buffers = -(-len(mine) // each)
        for b in range(place.buffer, buffers):
            rows: list[Row] = []
            for unit in mine[b * each : (b + 1) * each]:
                g = unit // parts
                keep = None if chosen is None else chosen[first[g] : first[g + 1]]
                rows += self._rows(self.shards[where[g, 0]], int(where[g, 1]), keep, slice(unit % parts, None, parts))
            rng = np.random.default_rng((self.seed, epoch, share, b))
            lengths = self.lengths(rows, before * workers)
            batches = self._plan(lengths, rng)
            for k in range(place.batch if b == place.buffer else 0, len(batches)):
                at_end = k + 1 == len(batches)
                after = Place(epoch, b + 1, 0, before + k + 1) if at_end else Place(epoch, b, k + 1, before)
                if at_end and b + 1 == buffers:
                    after = Place(epoch + 1, 0, 0, before + k + 1)
                noise = np.random.default_rng((self.seed, epoch, share, b, k))
                longest = int(lengths[batches[k]].max())
                yield self.make([rows[i] for i in batches[k]], noise, (worker, workers, after), longest), after
            before += len(batches)

    def _plan(self, lengths: Int[np.ndarray, " n"], rng: np.random.Generator) -> list[Int[np.ndarray, " m"]]:
        """Rows of each batch of a buffer."""
        order = rng.permutation(len(lengths)) if self.shuffle else np.arange(len(lengths))
        order = order[lengths[order] > 0]
        batches = by_length(lengths[order].tolist(), max(1, len(order)), most=self.size)
        chosen = rng.permutation(len(batches)) if self.shuffle else range(len(batches))
        return [order[batches[k]] for k in chosen]

    def _representatives(self, epoch: int) -> Bool[np.ndarray, " rows"]:
        """The same in every worker and process."""
        tables = (table for path in self.shards for table in read_rows(path, ["cluster"]))
        cluster = np.concatenate([table["cluster"].to_numpy() for table in tables])
        order = np.lexsort((np.random.default_rng((self.seed, epoch, 1)).random(len(cluster)), cluster))
        first = np.diff(cluster[order], prepend=cluster[order[:1]] - 1) != 0
        chosen = np.zeros(len(cluster), dtype=bool)
        chosen[order[first]] = True
        return chosen

    def _rows(self, path: Path, group: int, keep: Bool[np.ndarray, " r"] | None, part: slice) -> Iterator[Row]:
        for table in read_rows(path, self._columns, [group]):
            rows = np.arange(len(table))[part]
            rows = rows if keep is None else rows[keep[rows]]
            if not len(rows):
                continue
            table = table if len(rows) == len(table) else table.take(rows)
            xyz = coordinates(table, WIDTHS[self._modality])
            yield from map(Row, table["id"].to_pylist(), table[self._text].to_pylist(), xyz)
