"""Tokenizers of chains of rigid frames: tokens with anchors, and decoding that poses and repairs chains by them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structok.batching import by_length, in_batches
from structok.errors import InputError, TokensError
from structok.polymer.anchors import RADII, Anchoring, AnchorPoints, load_points, spacing_for
from structok.polymer.chain import ChainModel
from structok.polymer.repair import Repairer, Repairs
from structok.tokenizer import Search, Tokenizer
from structok.tokens import Tokens

__all__ = ["ChainTokenizer"]

Chain = TypeVar("Chain", bound=Any)  # has `mask` and `repairs`

_TRIES = 4  # to leave out anchors that chain and codes contradict
_TOGETHER = 32  # chains of similar length whose anchors are chosen at once


class ChainTokenizer(Tokenizer[Chain, Chain]):
    """What tokenizers with a `ChainModel` share; `config.anchors` (`Anchoring`) says which anchors tokens carry.

    A rebuilt chain lies where its anchors say, and codes and anchors that contradict each other are repaired
    (`polymer.repair`): `back.repairs` says which.
    """

    model: ChainModel

    @abstractmethod
    def plain(self, item: Chain, codes: Int[np.ndarray, "*n l"]) -> Tokens:
        """The record of a chain and its codes, without anchors."""

    @abstractmethod
    def trace(self, chain: Chain) -> Float[np.ndarray, "l 3"]:
        """Positions that anchors stand for, of the frames' middle atoms, Å."""

    @abstractmethod
    def built(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"]) -> Chain:
        """The chain of tokens whose frames' atoms lie at `coords`, Å."""

    @cached_property
    def points(self) -> AnchorPoints:
        """What anchors are quantised to."""
        return load_points((self.config.anchors or Anchoring()).points)

    @cached_property
    def repairer(self) -> Repairer:
        """Poses and repairs chains by their anchors."""
        return Repairer(self.model, self.points)

    def encode(self, x: Any, *, spacing: int | None = None, search: Search | None = None, **options: Any) -> Tokens:
        return self.encode_batch([x], spacing=spacing, search=search, **options)[0]

    def encode_batch(
        self,
        xs: Sequence[Any],
        *,
        batch_size: int | None = None,
        spacing: int | None = None,
        search: Search | None = None,
        **options: Any,
    ) -> list[Tokens]:
        """As `encode`, for many structures, `batch_size` of similar size at a time; equal to one by one.

        `spacing` is the number of slots from anchor to anchor, 0 for none; default the checkpoint's.
        """
        how = self.settings(Search(**options) if search is None else search)
        chains = self.prepare_many(xs)
        found = self.assign(chains, how, self.sizes[0] if batch_size is None else batch_size)
        if spacing is None:
            spacing = self.config.anchors.spacing if self.config.anchors else 0
        plain = [self.plain(chain, codes) for chain, codes in zip(chains, found)]
        return self._anchored(plain, chains, spacing, bool(how.closed_loop))

    def tokens(self, item: Chain, codes: Int[np.ndarray, "*n l"]) -> Tokens:
        spacing = self.config.anchors.spacing if self.config.anchors else 0
        return self._anchored([self.plain(item, codes)], [item], spacing, True)[0]

    def _anchored(self, many: Sequence[Tokens], chains: Sequence[Chain], spacing: int, trust: bool) -> list[Tokens]:
        """With the anchors of their own frames, `trust`: none that would make `decode` repair the codes as they are.

        Codes of an open loop drift from their anchors, so those are what is right: all stay, and `decode` repairs.
        """
        if spacing < 0:
            raise InputError(f"spacing must be at least 0, not {spacing}")
        if not spacing:
            return [tokens.without_anchors() for tokens in many]
        out = list(many)
        for part in by_length([len(chain) for chain in chains], _TOGETHER):
            for every in {spacing_for(len(chains[i]), spacing) for i in part}:
                some = [i for i in part if spacing_for(len(chains[i]), spacing) == every]
                where = pad_sequence([torch.from_numpy(self.trace(chains[i])) for i in some], True, torch.nan)
                mask = pad_sequence([torch.from_numpy(chains[i].mask) for i in some], True)
                sketch = self.points.sketch(where, mask, every)
                for i, anchors, radius in zip(some, sketch.anchors.numpy(), sketch.radius.tolist()):
                    anchors = anchors[: -(-len(chains[i]) // every)]
                    out[i] = replace(many[i], anchors=anchors, spacing=every, radius=radius)
        if not trust:
            return out
        return [self.trusted(tokens, coords) for tokens, coords in zip(out, self._rows(out, _TOGETHER))]

    @property
    def posed(self) -> bool:  # type: ignore[override]
        return self.config.anchors is not None

    def contradictions(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"] | None = None) -> Repairs:
        """What `decode` would repair of tokens that are as they were encoded; `coords` is their chain, if known."""
        assert tokens.anchors is not None and tokens.radius is not None
        told = tokens.codes, tokens.anchors, tokens.spacing, tokens.radius
        _, repairs = self.repairer(*told, coords=coords, shared=bool(tokens.frame))
        return repairs

    def trusted(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"] | None = None) -> Tokens:
        """Without the anchors that would make `decode` repair the codes as they are; `coords` as above."""
        for width in range(_TRIES):
            assert tokens.anchors is not None
            if not (repairs := self.contradictions(tokens, coords)):
                return tokens
            anchors = tokens.anchors.copy()
            around = [slot // tokens.spacing + k for slot in repairs.slots for k in range(-width, width + 2)]
            anchors[list(repairs.rejected) or [k for k in around if 0 <= k < len(anchors)]] = -1
            tokens = replace(tokens, anchors=anchors)
        return replace(tokens, anchors=np.full_like(tokens.anchors, -1))

    def check(self, tokens: Tokens) -> None:
        lost = tokens.codes.min(initial=0) < 0 and self._lost(tokens).any()
        super().check(replace(tokens, codes=self._filled(tokens)) if lost else tokens)
        if tokens.anchors is not None and (tokens.radius is None or tokens.radius >= len(RADII)):
            raise TokensError(f"{tokens.where}: radius {tokens.radius} is outside 0..{len(RADII) - 1}")

    def decode(self, tokens: Tokens, *, relax: bool = False, repair: bool = True) -> Chain:
        return self.decode_batch([tokens], relax=relax, repair=repair)[0]

    def decode_batch(
        self, many: Sequence[Tokens], *, batch_size: int | None = None, relax: bool = False, repair: bool = True
    ) -> list[Chain]:
        """As `decode`, for many structures; `repair=False` takes every code and anchor at its word."""
        for tokens in many:
            self.check(tokens)
        return self.rebuild(many, self.sizes[1] if batch_size is None else batch_size, repair)

    def rebuild(self, many: Sequence[Tokens], batch_size: int, repair: bool = True) -> list[Chain]:
        rows = self._rows(many, batch_size)
        return [self._placed(tokens, coords, repair) for tokens, coords in zip(many, rows)]

    def _rows(self, many: Sequence[Tokens], batch_size: int) -> list[Float[Tensor, "l 3 3"]]:
        """Chains of codes, Å, in the frame of their first residue."""

        def work(part: list[int]) -> Float[Tensor, "b l 3 3"]:
            codes = pad_sequence([torch.from_numpy(self._filled(many[i])) for i in part], batch_first=True)
            return self.model.decode(codes.to(self.device)).cpu()

        return in_batches(work, [len(t) for t in many], batch_size)

    def _lost(self, tokens: Tokens) -> Bool[np.ndarray, " l"]:
        """Slots of residues whose code a text has lost; without anchors nothing makes up for it."""
        lost: Bool[np.ndarray, " l"] = (tokens.codes < 0) & tokens.mask & (tokens.anchors is not None)
        return lost

    def _filled(self, tokens: Tokens) -> Int[np.ndarray, " l"]:
        """Codes, lost ones as the bonded one before (else after) them: most residues go on as their neighbours do."""
        codes = tokens.codes.astype(np.int64)
        if codes.min(initial=0) >= 0:
            return codes
        bonded = np.flatnonzero((codes >= 0) & (codes < self.codebook_size - self.config.n_break))
        if len(bonded):
            lost = np.flatnonzero(self._lost(tokens))
            codes[lost] = codes[bonded[(np.searchsorted(bonded, lost) - 1).clip(min=0)]]
        return codes

    def _placed(self, tokens: Tokens, coords: Float[Tensor, "l 3 3"], repair: bool) -> Chain:
        """The chain where its anchors say, repaired."""
        if not self.config.anchors or tokens.anchors is None or tokens.radius is None:
            return self.built(tokens, coords)
        codes = self._filled(tokens)
        placed, repairs = self.repairer(
            codes, tokens.anchors, tokens.spacing, tokens.radius,
            coords=coords, shared=bool(tokens.frame), repair=repair,
        )  # fmt: skip
        back = self.built(tokens, torch.from_numpy(placed))
        if tokens.codes.min(initial=0) < 0:
            repairs = _with_lost(repairs, np.flatnonzero(self._lost(tokens)), codes)
        back.repairs = repairs
        return back


def _with_lost(repairs: Repairs, lost: Int[np.ndarray, " n"], codes: Int[np.ndarray, " l"]) -> Repairs:
    """Lost codes count as repaired, -1 before, also where what they were filled with has stayed."""
    found = dict(zip(repairs.slots, zip(repairs.old, repairs.new)))
    found |= {int(s): (-1, found[s][1] if s in found else int(codes[s])) for s in lost}
    slots = sorted(found)
    return replace(
        repairs, slots=tuple(slots), old=tuple(found[s][0] for s in slots), new=tuple(found[s][1] for s in slots)
    )
