"""What the learnability language models read: crops of chains and small molecules as two aligned streams of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from structok import Backbone
from structok.errors import InputError
from structok.molecule.conformer import prepare
from structok.tokens import Tokens, selfies_atoms
from train.data import Backbones
from train.molecule.data import npz_molecules

__all__ = [
    "AMINO_ACIDS",
    "Document",
    "Pair",
    "PairVocabulary",
    "batches",
    "chain_crops",
    "padded",
    "pair_of",
    "small_molecules",
]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SHORTEST, LONGEST = 32, 256  # residues of a crop


@dataclass(frozen=True)
class Pair:
    """A molecule as two aligned streams.

    Parameters
    ----------
    symbols : amino acids, or SELFIES tokens
    codes : one structure code for each; -1 where a SELFIES token owns no atom
    """

    symbols: Sequence[str]
    codes: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Document:
    """A pair as token ids, one stream after the other.

    Parameters
    ----------
    ids : start, one stream, end, start, the other, end
    positions : both streams count 0, 1, 2, ..., so that a residue or atom has the same position in both
    second : which tokens are content of the second stream (predicted knowing the first)
    is_code : which tokens are structure codes
    """

    ids: Int[np.ndarray, " t"]
    positions: Int[np.ndarray, " t"]
    second: Bool[np.ndarray, " t"]
    is_code: Bool[np.ndarray, " t"]


@dataclass(frozen=True)
class PairVocabulary:
    """Compact token ids: padding, four control tokens, symbols, codes and 'no code'.

    Parameters
    ----------
    symbols : the tokens of the first stream; others count as unknown
    codebook_size : number of codes
    """

    symbols: tuple[str, ...]
    codebook_size: int

    PAD, SYMBOLS_START, SYMBOLS_END, CODES_START, CODES_END = range(5)

    @property
    def first_code(self) -> int:
        """Id of code 0."""
        return 5 + 1 + len(self.symbols)

    def __len__(self) -> int:
        return self.first_code + self.codebook_size + 1

    def symbol_ids(self, symbols: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Ids of a stream of symbols."""
        known = {s: 6 + i for i, s in enumerate(self.symbols)}
        return np.array([known.get(s, 5) for s in symbols], dtype=np.int64)

    def code_ids(self, codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Ids of a stream of codes; -1 has the last id."""
        return self.first_code + np.where(codes < 0, self.codebook_size, codes).astype(np.int64)

    def document(self, pair: Pair, codes_first: bool) -> Document:
        """Both streams of a pair in one order."""
        length = len(pair.symbols)
        symbols = np.r_[self.SYMBOLS_START, self.symbol_ids(pair.symbols), self.SYMBOLS_END]
        codes = np.r_[self.CODES_START, self.code_ids(pair.codes), self.CODES_END]
        inner = np.r_[False, np.ones(length, dtype=bool), False]
        has_code = np.r_[False, pair.codes >= 0, False]
        none = np.zeros(length + 2, dtype=bool)
        order = [(codes, has_code), (symbols, none)]
        if not codes_first:
            order.reverse()
        return Document(
            ids=np.concatenate([ids for ids, _ in order]),
            positions=np.tile(np.arange(length + 2), 2),
            second=np.r_[none, inner],
            is_code=np.concatenate([flag for _, flag in order]),
        )


def pair_of(tokens: Tokens) -> Pair:
    """The two streams of a tokenized chain or molecule."""
    if tokens.selfies is None:
        return Pair(list(tokens.sequence or "X" * len(tokens)), tokens.codes)
    symbols = selfies_atoms(tokens.selfies)
    codes = np.full(len(symbols), -1)
    codes[[own for _, own in symbols]] = tokens.codes
    return Pair([s for s, _ in symbols], codes)


def chain_crops(data: Backbones, split: int, residues: int, seed: int) -> list[Backbone]:
    """Crops of 32 to 256 bonded, observed residues, one of each cluster in turn, until there are `residues` of them.

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


def batches(documents: Sequence[Document], tokens: int, window: int = 256) -> list[list[Document]]:
    """Documents in their order, `window` at a time sorted by length into batches of about `tokens` padded tokens."""
    out: list[list[Document]] = []
    for start in range(0, len(documents), window):
        part = sorted(documents[start : start + window], key=lambda d: len(d.ids))
        here: list[list[Document]] = [[]]
        for document in part:
            if here[-1] and (len(here[-1]) + 1) * len(document.ids) > tokens:
                here.append([])
            here[-1].append(document)
        order = np.random.default_rng(start).permutation(len(here))
        out += [here[i] for i in order]
    return out


def padded(documents: Sequence[Document]) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Ids and positions of a batch, padding behind."""
    longest = max(len(d.ids) for d in documents)
    ids = np.zeros((len(documents), longest), dtype=np.int64)
    positions = np.zeros((len(documents), longest), dtype=np.int64)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = document.ids
        positions[row, : len(document.ids)] = document.positions
    return torch.from_numpy(ids), torch.from_numpy(positions)
