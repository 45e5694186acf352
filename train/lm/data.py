"""What the small language models learn from: crops of chains and small molecules, and batches of their documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structok import Backbone
from structok.errors import InputError
from structok.molecule.conformer import prepare
from train.data import Backbones
from train.lm.words import Document
from train.molecule.data import npz_molecules

__all__ = ["LONGEST", "SHORTEST", "batches", "chain_crops", "small_molecules"]

SHORTEST, LONGEST = 50, 200  # residues of a crop


def chain_crops(data: Backbones, split: int, residues: int, seed: int) -> list[Backbone]:
    """Crops of 50 to 200 bonded, observed residues, one of each cluster in turn, until there are `residues` of them.

    The same arguments give the same crops, and more residues give the same ones first. `residues = 0` stops after
    one crop of each cluster.
    """
    random = np.random.default_rng(seed)
    observed = data.observed
    flaw = data.break_before | ~observed
    pool = np.flatnonzero(data.split == split)
    found: list[Backbone] = []
    total = 0
    while not found or total < residues:
        for i in data.one_per_cluster(pool, random):
            start, stop = (int(v) for v in data.offsets[i : i + 2])
            # a crop may begin at a break, but not at a missing residue
            edges = np.unique(np.r_[start, start + np.flatnonzero(flaw[start:stop]), stop])
            runs = [
                (a if observed[a] else a + 1, b)
                for a, b in zip(edges[:-1].tolist(), edges[1:].tolist())
                if b - a > SHORTEST
            ]
            if not runs:
                continue
            weight = np.array([b - a for a, b in runs], dtype=float)
            a, b = runs[int(random.choice(len(runs), p=weight / weight.sum()))]
            a = int(random.integers(a, max(a + 1, b - LONGEST + 1)))
            b = min(b, a + LONGEST)
            if data.sequence is None:
                raise InputError("the chains have no sequence to learn from")
            letters = bytes(data.sequence[a:b].astype(np.uint8)).decode("ascii")
            found.append(Backbone(data.coords[a:b], letters, name=f"{data.names[i]}:{a - start}"))
            total += b - a
            if 0 < residues <= total:
                return found
        if not residues or not found:
            break
    return found


def small_molecules(path: Path, split: int, count: int) -> list[Any]:
    """`count` random molecules of a packed file (`train.molecule.data`), in random order; 0 = all.

    Those that the tokenizers refuse are left out.
    """
    kept = []
    for _, mol in npz_molecules(path, split, count):
        try:
            prepare(mol)
        except InputError:
            continue
        kept.append(mol)
    return [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]


def batches(documents: Sequence[Document], count: int) -> list[list[Document]]:
    """Documents in `count` batches of about as many tokens, each of documents of like lengths, in random order."""
    ordered = sorted(documents, key=len)
    ends = np.cumsum([len(d) for d in ordered])
    found: list[list[Document]] = [[] for _ in range(count)]
    for document, place in zip(ordered, (ends - 1) * count // ends[-1]):
        found[place].append(document)
    return [found[i] for i in np.random.default_rng(0).permutation(count) if found[i]]
