"""Ways in which tokens go wrong between a tokenizer and a decoder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from structok.lm import Vocabulary
from structok.tokens import Tokens

__all__ = ["KINDS", "damage"]

_RUN = 4  # codes of a run of wrong ones
_CODE = re.compile(r"<S \d+>")
Random = np.random.Generator


def damage(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    """Random codes and anchors in place of some; those that are none stay so."""
    return _anchors(_codes(tokens, rate, codes, points, random), rate, codes, points, random)


def _codes(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    hit = (random.random(len(tokens)) < rate) & (tokens.codes >= 0)
    return replace(tokens, codes=np.where(hit, random.integers(codes, size=len(tokens)), tokens.codes))


def _anchors(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    if tokens.anchors is None:
        return tokens
    hit = (random.random(len(tokens.anchors)) < rate) & (tokens.anchors >= 0)
    return replace(tokens, anchors=np.where(hit, random.integers(points, size=len(hit)), tokens.anchors))


def _runs(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    starts = np.flatnonzero(random.random(len(tokens)) < rate / _RUN)
    hit = np.isin(np.arange(len(tokens)), starts[:, None] + np.arange(_RUN))
    return replace(tokens, codes=np.where(hit, random.integers(codes, size=len(tokens)), tokens.codes))


def _deleted(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    return _reread(tokens, lambda code: "" if random.random() < rate else code)


def _inserted(tokens: Tokens, rate: float, codes: int, points: int, random: Random) -> Tokens:
    return _reread(tokens, lambda code: f"<S {random.integers(codes)}>" * (random.random() < rate) + code)


def _reread(tokens: Tokens, edit: Callable[[str], str]) -> Tokens:
    """What the parser makes of the text whose codes are edited; cut or filled up behind the last anchor."""
    text = _CODE.sub(lambda match: edit(match[0]), _words().wrap_structure(tokens))
    parsed = _words().parse(text, model=tokens.model, id=tokens.id, spacing=tokens.spacing)
    [read] = parsed.structures or parsed.partial
    codes = np.full(len(tokens), -1)
    kept = min(len(read), len(tokens))
    codes[:kept] = read.codes[:kept]
    anchors = np.full(len(tokens.anchors), -1)
    kept = min(len(read.anchors), len(anchors)) if read.spacing == tokens.spacing else 0
    anchors[:kept] = read.anchors[:kept]
    return replace(tokens, codes=codes, anchors=anchors)


@cache
def _words() -> Vocabulary:
    return Vocabulary.preset("structok")


KINDS: dict[str, Callable[[Tokens, float, int, int, Random], Tokens]] = {
    "codes only": _codes,
    "anchors only": _anchors,
    f"codes, in runs of {_RUN}": _runs,
    "codes deleted": _deleted,
    "codes inserted": _inserted,
}
