"""Batches of backbones for training: drawn by cluster, cropped, damaged on purpose, grouped by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from structok.protein.features import residue_types
from train.data import Backbones

__all__ = ["Batch", "Batches", "Chain", "Sampling", "chain_of", "collate", "fixed_batches", "usable"]


@dataclass(frozen=True)
class Sampling:
    """How training examples are made.

    Parameters
    ----------
    crop : longest example in residues; longer chains give a random window
    residues : residues per batch, padding included
    shortest : observed residues that a chain needs to be used
    lose_chance, lose_most : share of examples that lose a few stretches, and how many residues at most
    jitter : standard deviation of noise on the input coordinates in Å; the target stays clean

    The encoder and the losses do not change under rigid motions, so random rotations would add nothing.
    """

    crop: int = 256
    residues: int = 4096
    shortest: int = 25
    lose_chance: float = 0.05
    lose_most: int = 50
    jitter: float = 0.0


@dataclass(frozen=True)
class Chain:
    """One example: N, CA, C (NaN = missing), residue types, and a name."""

    coords: Float[Tensor, "l 3 3"]
    types: Int[Tensor, " l"]
    name: str = ""


@dataclass(frozen=True)
class Batch:
    """Examples padded to the longest. `coords` is what the encoder sees, `target` what it should rebuild."""

    coords: Float[Tensor, "b l 3 3"]
    target: Float[Tensor, "b l 3 3"]
    mask: Bool[Tensor, "b l"]
    types: Int[Tensor, "b l"]
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        moved = {k: getattr(self, k).to(device) for k in ("coords", "target", "mask", "types")}
        return replace(self, **moved)


def chain_of(data: Backbones, i: int) -> Chain:
    """Chain i with a missing slot where neighbours are not bonded, so that no loss bridges the break."""
    rows = slice(data.offsets[i], data.offsets[i + 1])
    coords = data.coords[rows]
    observed = np.isfinite(coords).all((1, 2))
    letters = b"X" * len(coords) if data.sequence is None else data.sequence[rows].tobytes()
    broken = data.break_before[rows].copy()
    broken[0] = False
    broken[1:] &= observed[1:] & observed[:-1]
    at = np.flatnonzero(broken)
    letters_with_gaps = np.insert(np.frombuffer(letters, dtype=np.uint8), at, ord("X")).tobytes().decode("ascii")
    coords = np.insert(coords, at, np.nan, axis=0)
    return Chain(torch.from_numpy(coords), residue_types(letters_with_gaps), data.names[i])


def usable(data: Backbones, split: int, shortest: int) -> Int[np.ndarray, " m"]:
    """Chains of a split with enough observed residues, and no more than a fifth of them missing."""
    seen = np.add.reduceat(data.observed, data.offsets[:-1])
    return np.flatnonzero((data.split == split) & (seen >= shortest) & (seen >= 0.8 * data.lengths))


def collate(chains: Sequence[Chain], inputs: Sequence[Float[Tensor, "l 3 3"]] | None = None) -> Batch:
    """Pad examples; `inputs` are the coordinates for the encoder where they differ from the target."""
    target = pad_sequence([c.coords for c in chains], True, torch.nan)
    coords = target if inputs is None else pad_sequence(list(inputs), True, torch.nan)
    mask = coords.isfinite().all((-1, -2))
    return Batch(coords, target, mask, pad_sequence([c.types for c in chains], True), tuple(c.name for c in chains))


class Batches(IterableDataset[Batch]):
    """Endless random batches. Batch k depends on the seed, k and the process alone, so runs resume anywhere.

    Clusters are drawn uniformly, then a chain of each; of four batches' worth of examples, sorted by length,
    one batch is kept.
    """

    def __init__(self, data: Backbones, sampling: Sampling, *, seed: int = 0, first: int = 0, rank: int = 0) -> None:
        self.data, self.sampling, self.seed, self.first, self.rank = data, sampling, seed, first, rank
        self.world_size = 1
        pool = usable(data, 0, sampling.shortest)
        if not len(pool):
            raise ValueError(f"no training chain has {sampling.shortest} observed residues")
        pool = pool[np.argsort(data.cluster[pool], kind="stable")]
        self.clusters = np.split(pool, np.flatnonzero(np.diff(data.cluster[pool])) + 1)

    def consumed(self, batch: Batch) -> None:
        """Note that the model has learned from this batch."""
        self.first += 1

    def state_dict(self) -> dict[str, int]:
        """How many batches were used."""
        return {"batches": self.first}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after so many batches."""
        self.first = state["batches"]

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, stride = (self.first, 1) if worker is None else (self.first + worker.id, worker.num_workers)
        while True:
            yield self.batch(np.random.default_rng((self.seed, self.rank, step)))
            step += stride

    def batch(self, rng: np.random.Generator) -> Batch:
        """One random batch."""
        s = self.sampling
        chosen: list[tuple[int, int]] = []
        total = 0
        while total < 4 * s.residues:
            cluster = self.clusters[rng.integers(len(self.clusters))]
            i = int(cluster[rng.integers(len(cluster))])
            length = min(int(self.data.lengths[i]), s.crop)
            chosen.append((length, i))
            total += length
        groups = list(_groups(sorted(chosen, reverse=True), s.residues))
        chains = [self._example(i, rng) for i in groups[rng.integers(len(groups))]]
        return collate(chains, [self._damage(c.coords, rng) for c in chains])

    def _example(self, i: int, rng: np.random.Generator) -> Chain:
        chain, crop = chain_of(self.data, i), self.sampling.crop
        for _ in range(10):  # a window may fall on a long gap
            start = int(rng.integers(max(1, len(chain.coords) - crop + 1)))
            window = slice(start, start + crop)
            if chain.coords[window].isfinite().all((-1, -2)).sum() >= min(self.sampling.shortest, crop) // 2:
                break
        return Chain(chain.coords[window], chain.types[window], chain.name)

    def _damage(self, coords: Float[Tensor, "l 3 3"], rng: np.random.Generator) -> Float[Tensor, "l 3 3"]:
        """Lose stretches, add noise."""
        s, length = self.sampling, len(coords)
        if rng.random() < s.lose_chance:
            coords, left = coords.clone(), int(rng.integers(1, max(1, min(s.lose_most, length // 3)) + 1))
            while left > 0:
                run = int(rng.integers(1, left + 1))
                start = int(rng.integers(length - run + 1))
                coords[start : start + run] = torch.nan
                left -= run
        if s.jitter:
            noise = rng.normal(scale=s.jitter, size=coords.shape).astype(np.float32)
            coords = coords + torch.from_numpy(noise)
        return coords


def _groups(chosen: Sequence[tuple[int, int]], residues: int) -> Iterator[list[int]]:
    """Chains, longest first, in groups that fill `residues` when padded to their longest."""
    group: list[int] = []
    longest = 0
    for length, i in chosen:
        longest = max(longest, length)
        if group and (len(group) + 1) * longest > residues:
            yield group
            group, longest = [], length
        group.append(i)
    if group:
        yield group


def fixed_batches(data: Backbones, count: int, longest: int, residues: int, shortest: int) -> list[Batch]:
    """Whole validation chains, one per cluster, at most `count` of at most `longest` residues."""
    pool = usable(data, 1, shortest)
    pool = pool[data.lengths[pool] <= longest]
    pool = data.one_per_cluster(pool, np.random.default_rng(0))[:count] if len(pool) else pool
    chosen = sorted(((int(data.lengths[i]), int(i)) for i in pool), reverse=True)
    return [collate([chain_of(data, i) for i in group]) for group in _groups(chosen, residues)]
