"""Batches of backbones for training: streamed from shards, cropped, damaged on purpose, grouped by length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import by_length
from structok.data.dataset import Place, Row, ShardDataset
from structok.geometry import BOND_LIMIT
from structok.protein.anchored import Anchors
from structok.protein.features import residue_types
from train.protein.sketch import Sketcher

__all__ = ["Batch", "Chain", "Chains", "Sampling", "collate", "fixed_batches", "with_gaps"]


@dataclass(frozen=True)
class Sampling:
    """How training examples are made.

    Parameters
    ----------
    crop : longest example in residues; longer chains give a random window
    longer : steps from which `crop` is another, as {100000: 1280}: short examples first, long ones later
    residues : residues per batch, padding included
    shortest : observed residues that a chain needs to be used
    observed : share of its residues that a chain needs to be used
    buffer : chains that each worker holds, from which batches of similar length are made
    one_per_cluster : of each cluster, another random chain in each epoch; else every chain in every epoch
    lose_chance, lose_most : share of examples that lose a few stretches, and how many residues at most
    jitter : standard deviation of noise on the input coordinates in Å; the target stays clean

    The encoder and the losses do not change under rigid motions, so random rotations would add nothing.
    """

    crop: int = 256
    longer: dict[int, int] = field(default_factory=dict)
    residues: int = 4096
    shortest: int = 25
    observed: float = 0.8
    buffer: int = 2048
    one_per_cluster: bool = False
    lose_chance: float = 0.05
    lose_most: int = 50
    jitter: float = 0.0

    def crop_at(self, step: int) -> int:
        """Longest example at an optimiser step."""
        begun = [s for s in self.longer if s <= step]
        return self.longer[max(begun)] if begun else self.crop


@dataclass(frozen=True)
class Chain:
    """One example: N, CA, C (NaN = missing), residue types, a name, and perhaps anchors and their ball's radius (Å)."""

    coords: Float[Tensor, "l 3 3"]
    types: Int[Tensor, " l"]
    name: str = ""
    anchors: Float[Tensor, "a 3"] | None = None
    radius: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Examples padded to the longest. `coords` is what the encoder sees, `target` what it should rebuild.

    Anchors, if there are any, are in the target's frame.
    """

    coords: Float[Tensor, "b l 3 3"]
    target: Float[Tensor, "b l 3 3"]
    mask: Bool[Tensor, "b l"]
    types: Int[Tensor, "b l"]
    names: tuple[str, ...] = ()
    origin: tuple[int, int, Place] = (0, 1, Place())
    anchors: Anchors | None = None

    def to(self, device: torch.device) -> Batch:
        moved = {k: getattr(self, k).to(device) for k in ("coords", "target", "mask", "types")}
        anchors = Anchors(*(x.to(device) for x in self.anchors)) if self.anchors else None
        return replace(self, anchors=anchors, **moved)


def with_gaps(row: Row) -> Chain:
    """A chain with a missing slot where neighbours are not bonded, so that no loss bridges the break."""
    coords = row.coords.reshape(-1, 3, 3)
    gap = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=-1)  # NaN at missing residues
    at = np.flatnonzero(gap > BOND_LIMIT) + 1
    letters = np.insert(np.frombuffer(row.text.encode("ascii"), dtype=np.uint8), at, ord("X"))
    coords = np.insert(coords, at, np.nan, axis=0)
    return Chain(torch.from_numpy(coords), residue_types(letters.tobytes().decode("ascii")), row.id)


def collate(
    chains: Sequence[Chain],
    inputs: Sequence[Float[Tensor, "l 3 3"]] | None = None,
    origin: tuple[int, int, Place] = (0, 1, Place()),
) -> Batch:
    """Pad examples; `inputs` are the coordinates for the encoder where they differ from the target."""
    target = pad_sequence([c.coords for c in chains], True, torch.nan)
    coords = target if inputs is None else pad_sequence(list(inputs), True, torch.nan)
    mask = coords.isfinite().all((-1, -2))
    types = pad_sequence([c.types for c in chains], True)
    anchors = None
    if sketched := [c.anchors for c in chains if c.anchors is not None]:
        positions = pad_sequence(sketched, True, torch.nan)
        known = positions.isfinite().all(-1)
        anchors = Anchors(positions.nan_to_num(), known, torch.tensor([c.radius for c in chains]))
    return Batch(coords, target, mask, types, tuple(c.name for c in chains), origin, anchors)


class Chains(ShardDataset):
    """Endless training batches from a data set of `structok data build`.

    Parameters
    ----------
    source : its folder
    sampling : how examples are made
    seed : with the epoch and the number of workers and processes, all that batches depend on
    accumulate : batches per optimiser step, for `Sampling.longer`
    sketcher : adds anchors
    """

    def __init__(
        self,
        source: str | Path,
        sampling: Sampling,
        *,
        seed: int = 0,
        accumulate: int = 1,
        sketcher: Sketcher | None = None,
    ) -> None:
        super().__init__(
            source, size=sampling.residues, seed=seed, buffer=sampling.buffer, endless=True,
            one_per_cluster=sampling.one_per_cluster,
        )  # fmt: skip
        self.sampling, self.accumulate, self.sketcher = sampling, accumulate, sketcher

    def lengths(self, rows: Sequence[Row], before: int) -> Int[np.ndarray, " n"]:
        crop = self.sampling.crop_at(before // self.accumulate)
        return np.array([min(len(r.coords), crop) if _usable(r, self.sampling) else 0 for r in rows])

    def make(self, rows: list[Row], rng: np.random.Generator, origin: tuple[int, int, Place], length: int) -> Batch:
        whole = [sketched(with_gaps(row), self.sketcher, rng) for row in rows]
        chains = [self._window(chain, min(len(row.coords), length), rng) for chain, row in zip(whole, rows)]
        return collate(chains, [self._damage(c.coords, rng) for c in chains], origin)

    def _window(self, chain: Chain, length: int, rng: np.random.Generator) -> Chain:
        spacing = self.sketcher.spacing if self.sketcher else 1  # windows begin at an anchor
        for _ in range(10):  # a window may fall on a long gap
            start = int(rng.integers((len(chain.coords) - length) // spacing + 1)) * spacing
            window = slice(start, start + length)
            if chain.coords[window].isfinite().all((-1, -2)).sum() >= min(self.sampling.shortest, length) // 2:
                break
        anchors = chain.anchors
        if anchors is not None:
            anchors = anchors[start // spacing : -(-(start + length) // spacing)]
        return Chain(chain.coords[window], chain.types[window], chain.name, anchors, chain.radius)

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
            noise = rng.standard_normal(coords.shape, dtype=np.float32) * np.float32(s.jitter)
            coords = coords + torch.from_numpy(noise)
        return coords


def sketched(chain: Chain, sketcher: Sketcher | None, rng: np.random.Generator) -> Chain:
    """The chain with anchors, about its centroid, if there is a sketcher."""
    if sketcher is None:
        return chain
    coords, anchors, radius = sketcher(chain.coords, rng)
    return replace(chain, coords=coords, anchors=anchors, radius=radius)


def _usable(row: Row, sampling: Sampling) -> bool:
    seen = int(np.isfinite(row.coords).all(1).sum())
    return seen >= sampling.shortest and seen >= sampling.observed * len(row.coords)


class _Single(ShardDataset):
    """Chains one by one, in random order."""

    def make(self, rows: list[Row], rng: np.random.Generator, origin: tuple[int, int, Place], length: int) -> list[Row]:
        return rows


def fixed_batches(
    source: str | Path, count: int, longest: int, sampling: Sampling, sketcher: Sketcher | None = None
) -> list[Batch]:
    """Whole validation chains, one per cluster, at most `count` of at most `longest` residues; the same each time."""
    stream = iter(_Single(source, "validation", size=1, rank=0, world_size=1, one_per_cluster=True))
    rows: Iterator[Row] = (row for rows in stream for row in rows)
    short = (row for row in rows if len(row.coords) <= longest and _usable(row, sampling))
    rng = np.random.default_rng(0)
    chains = [sketched(with_gaps(row), sketcher, rng) for row in itertools.islice(short, count)]
    groups = by_length([len(c.coords) for c in chains], max(1, len(chains)), most=sampling.residues)
    return [collate([chains[i] for i in group]) for group in reversed(groups)]
