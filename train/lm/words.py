"""What the small language models read: a structure as token ids, with or without its string and its anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import Int

from structok.tokens import AnchorText, Tokens, selfies_atoms

__all__ = ["AMINO_ACIDS", "Document", "Kind", "Pair", "PairVocabulary", "pair_of"]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
CONTROL = -1  # kind of the tokens that nobody predicts


class Kind(IntEnum):
    """Kinds of tokens; a model is told which kind comes next, so that its probabilities are of that kind alone."""

    SYMBOL = 0
    CODE = 1
    ANCHOR = 2
    RADIUS = 3


@dataclass(frozen=True)
class Pair:
    """A structure and its string as aligned streams.

    Parameters
    ----------
    symbols : amino acids, or SELFIES tokens
    codes : one structure code for each; -1 where a SELFIES token owns no atom
    anchors : one for each, -1 where there is none; default none at all
    radius : of the anchors' frame, -1 without
    """

    symbols: Sequence[str]
    codes: Int[np.ndarray, " n"]
    anchors: Int[np.ndarray, " n"] | None = None
    radius: int = -1


@dataclass(frozen=True)
class Document:
    """A pair as token ids.

    Parameters
    ----------
    ids : start, symbols, end (where they are given), start, then radius, anchors and codes
    positions : of the residue or atom that a token belongs to, from 1, the same in both streams; 0 of what begins
    kinds : see `Kind`; -1 of starts
    """

    ids: Int[np.ndarray, " t"]
    positions: Int[np.ndarray, " t"]
    kinds: Int[np.ndarray, " t"]

    @property
    def ahead(self) -> Int[np.ndarray, " t"]:
        """Position of the token that comes next."""
        return np.r_[self.positions[1:], self.positions[-1:] + 1]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PairVocabulary:
    """Compact token ids: padding, two starts, then a block of ids for each kind.

    Parameters
    ----------
    symbols : the tokens of the string; others count as unknown
    codebook_size : number of codes
    anchors, radii : numbers of theirs
    """

    symbols: tuple[str, ...]
    codebook_size: int
    anchors: int = 4096
    radii: int = 24

    PAD, SYMBOLS_START, CODES_START, SYMBOLS_END, UNKNOWN = range(5)

    def block(self, kind: Kind) -> slice:
        """Ids of a kind. The first symbol ends the string, the second is unknown."""
        sizes = (2 + len(self.symbols), self.codebook_size, self.anchors, self.radii)
        start = 3 + sum(sizes[:kind])
        return slice(start, start + sizes[kind])

    def __len__(self) -> int:
        return self.block(Kind.RADIUS).stop

    def symbol_ids(self, symbols: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Ids of a string."""
        known = {s: 5 + i for i, s in enumerate(self.symbols)}
        return np.array([known.get(s, self.UNKNOWN) for s in symbols], dtype=np.int64)

    def document(self, pair: Pair, anchors: AnchorText = "none", given: bool = False) -> Document:
        """The structure of a pair, behind its string where that is given, with anchors as `Tokens.to_text` has them."""
        n = len(pair.symbols)
        parts: list[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"], int]] = []

        def add(ids: Sequence[int] | np.ndarray, positions: Sequence[int] | np.ndarray, kind: int) -> None:
            parts.append((np.asarray(ids, dtype=np.int64), np.asarray(positions, dtype=np.int64), kind))

        if given:
            add([self.SYMBOLS_START], [0], CONTROL)
            add(np.r_[self.symbol_ids(pair.symbols), self.SYMBOLS_END], np.arange(1, n + 2), Kind.SYMBOL)
        add([self.CODES_START], [0], CONTROL)
        told = (
            np.flatnonzero(pair.anchors >= 0) if pair.anchors is not None and anchors != "none" else np.array([], int)
        )
        if len(told) and pair.anchors is not None:
            add([self.block(Kind.RADIUS).start + pair.radius], [0], Kind.RADIUS)
            add(self.block(Kind.ANCHOR).start + pair.anchors[told], 1 + told, Kind.ANCHOR)
        slots = np.flatnonzero(pair.codes >= 0)
        add(self.block(Kind.CODE).start + pair.codes[slots], 1 + slots, Kind.CODE)
        ids, positions = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        kinds = np.concatenate([np.full(len(p[0]), p[2]) for p in parts])
        if anchors == "inline":  # an anchor stands before the code of its slot
            begin = len(ids) - len(slots) - len(told)
            order = np.r_[:begin, begin + np.argsort(2 * positions[begin:] + (kinds[begin:] == Kind.CODE))]
            ids, positions, kinds = ids[order], positions[order], kinds[order]
        return Document(ids, positions, kinds)

    def tokens(self, known: Tokens, document: Document, ids: Int[np.ndarray, " t"]) -> Tokens:
        """A record like the one that the document was made of, with other ids; its string stays."""

        def found(kind: Kind) -> Int[np.ndarray, " m"]:
            return ids[document.kinds == kind] - self.block(kind).start

        codes, anchors, radius = found(Kind.CODE), found(Kind.ANCHOR), found(Kind.RADIUS)
        if not len(radius) or known.anchors is None:
            return replace(known.without_anchors(), codes=codes)
        told = np.full(len(known.anchors), -1)
        told[known.anchors >= 0] = anchors
        return replace(known, codes=codes, anchors=told, radius=int(radius[0]))


def pair_of(tokens: Tokens) -> Pair:
    """The streams of a tokenized chain or molecule."""
    if tokens.selfies is not None:
        symbols = selfies_atoms(tokens.selfies)
        codes = np.full(len(symbols), -1)
        codes[[own for _, own in symbols]] = tokens.codes
        return Pair([s for s, _ in symbols], codes)
    anchors, letters = None, list(tokens.sequence or "X" * len(tokens))
    if tokens.anchors is not None and tokens.radius is not None:
        anchors = np.full(len(tokens), -1)
        anchors[:: tokens.spacing] = tokens.anchors
        return Pair(letters, tokens.codes, anchors, tokens.radius)
    return Pair(letters, tokens.codes)
