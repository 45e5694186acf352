"""What is measured of any tokenizer: accuracy, stability under noise, robustness against wrong codes.

What differs between proteins and molecules is in `eval.measure.protein` and `eval.measure.molecules`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.measure.sets import StructureSet
from eval.measure.stats import by_bins, share, spread
from structok.tokens import Tokens

__all__ = ["JITTERS", "RATES", "Kind", "accuracy", "agreement", "corrupt", "observed_codes", "robustness", "stability"]

JITTERS = (0.05, 0.1, 0.2)  # Å, standard deviation of each coordinate
RATES = (0.001, 0.01, 0.05)  # share of codes replaced
Report = dict[str, Any]
Random = np.random.Generator


class Kind:
    """Proteins or molecules."""

    name, unit, size = "structures", "points", "points"  # what results call a structure, its parts, their number
    metrics: tuple[str, ...] = ("rmsd",)
    bins: tuple[int, ...] = ()  # edges of the sizes
    draws = 1  # of wrong codes

    def steady(self, chosen: StructureSet, count: int, longest: int) -> list[Any]:
        """At most `count` structures for the measures that encode many times."""
        return chosen.structures[:count]

    def compare(self, true: Any, back: Any, tokens: Tokens) -> Report:
        """The metrics, and the size under `unit`."""
        raise NotImplementedError

    def errors(self, true: Any, back: Any, tokens: Tokens) -> dict[str, float]:
        """What wrong codes are judged by."""
        raise NotImplementedError

    def places(self, structure: Any) -> Float[np.ndarray, "..."]:
        """Coordinates in Å."""
        raise NotImplementedError

    def moved(self, structure: Any, coords: Float[np.ndarray, "..."]) -> Any:
        """The structure at other coordinates."""
        raise NotImplementedError

    def leakage(self, tokens: Sequence[Tokens], chosen: StructureSet, size: int) -> Report | None:
        """What single codes tell about their slot, see `eval.measure.stats.leakage`."""
        raise NotImplementedError

    def encode(self, tokenizer: Any, structures: Sequence[Any], options: dict[str, Any]) -> list[Tokens | None]:
        """Tokens; None for what is refused."""
        return list(tokenizer.encode_batch(structures, **options))

    def summary(self, rows: Sequence[Report], chosen: StructureSet) -> Report:
        """More about the accuracy, from what `compare` found."""
        return {}

    def cropped(self, tokenizer: Any, structures: Sequence[Any], before: Sequence[Tokens], options: dict[str, Any],
                random: Random, brief: bool) -> Report:  # fmt: skip
        """Share of codes that stay when parts are cut off."""
        return {}

    def posed(self, after: Callable[[Callable[[Any], Any]], Report], random: Random) -> Report:
        """Share of codes that stay in a new pose; `after` measures a change."""
        return {}


def accuracy(
    kind: Kind, tokenizer: Any, chosen: StructureSet, options: dict[str, Any], random: Random
) -> tuple[list[Tokens], Report]:
    """Tokens of a set, and its reconstruction: each metric over structures, RMSD by size, exclusions, seconds."""
    start = time.perf_counter()
    tokens = tokenizer.encode_batch(chosen.structures, **options)
    encoded = time.perf_counter()
    rebuilt = tokenizer.decode_batch(tokens)
    decoded = time.perf_counter()
    rows = [kind.compare(a, b, t) for a, b, t in zip(chosen.structures, rebuilt, tokens)]
    sizes = [int(row[kind.unit] or 0) for row in rows]
    result: dict[str, Any] = {kind.name: len(rows), kind.unit: sum(sizes), "excluded": chosen.excluded}
    for name in kind.metrics:
        result[name] = spread([row[name] for row in rows], random)
    result[f"rmsd_by_{kind.size}"] = by_bins(sizes, [float(row["rmsd"] or 0) for row in rows], kind.bins)
    result |= kind.summary(rows, chosen)
    result["seconds"] = {"encode": round(encoded - start, 3), "decode": round(decoded - encoded, 4)}
    return tokens, result


def observed_codes(tokens: Sequence[Tokens]) -> list[Int[np.ndarray, " l"]]:
    """Codes of observed residues or atoms, structure by structure."""
    return [t.codes[t.mask & (t.codes >= 0)] for t in tokens]


def agreement(before: Tokens, after: Tokens | None, rows: slice = slice(None)) -> Bool[np.ndarray, " l"]:
    """Where the observed codes of `rows` stayed as they were; nowhere in what was refused or has another string."""
    seen = before.mask[rows]
    if after is None or after.selfies != before.selfies:
        return np.zeros(int(seen.sum()), dtype=bool)
    return np.asarray((before.codes[rows] == after.codes)[seen])


def stability(
    kind: Kind,
    tokenizer: Any,
    structures: Sequence[Any],
    options: dict[str, Any],
    random: Random,
    *,
    brief: bool = False,
) -> Report:
    """Share of codes that a change leaves as they are: normal noise on every coordinate, cutting residues off an end,
    encoding the reconstruction, a new pose; the latter two only where there is a decoder. `brief`: noise, and 20
    residues off the start."""
    before = tokenizer.encode_batch(structures, **options)

    def after(change: Callable[[Any], Any]) -> Report:
        again = kind.encode(tokenizer, [change(s) for s in structures], options)
        return share([agreement(a, b) for a, b in zip(before, again)], random)

    def jittered(scale: float) -> Callable[[Any], Any]:
        return lambda s: kind.moved(s, kind.places(s) + random.normal(scale=scale, size=kind.places(s).shape))

    result: dict[str, Any] = {kind.name: len(structures)}
    result["jitter"] = {f"{s:g}": after(jittered(s)) for s in JITTERS}
    result |= kind.cropped(tokenizer, structures, before, options, random, brief)
    if brief or not hasattr(tokenizer, "decode_batch"):
        return result
    again = kind.encode(tokenizer, tokenizer.decode_batch(before), options)
    result["encoded again"] = share([agreement(a, b) for a, b in zip(before, again)], random)
    return result | kind.posed(after, random)


def robustness(
    kind: Kind, tokenizer: Any, structures: Sequence[Any], tokens: Sequence[Tokens], random: Random
) -> Report:
    """Errors after each code and each anchor was replaced, with a given chance, by any other."""
    result = {}
    sizes = {s.name: s.size for s in tokenizer.streams}
    for rate in RATES:
        rows: list[dict[str, float]] = []
        hit = 0
        for _ in range(kind.draws):
            broken = [corrupt(t, rate, sizes, random) for t in tokens]
            hit += sum(int((a.codes != b.codes).sum()) for a, b in zip(tokens, broken))
            rows += [kind.errors(a, b, t) for a, b, t in zip(structures, tokenizer.decode_batch(broken), tokens)]
        found = {k: spread([r[k] for r in rows], random) for k in rows[0]}
        result[f"{rate:g}"] = {"draws": kind.draws, "replaced": hit, **found}
    return result


def corrupt(tokens: Tokens, rate: float, sizes: dict[str, int], random: Random) -> Tokens:
    """Each code, and each anchor if there are any, is replaced with probability `rate` by one of the others."""
    changed = {}
    for name in ("codes", "anchors"):
        if (values := getattr(tokens, name)) is not None:
            hit = (random.random(len(values)) < rate) & (values >= 0)
            other = (values + random.integers(1, sizes[name], len(values))) % sizes[name]
            changed[name] = np.where(hit, other, values)
    return dataclasses.replace(tokens, **changed)
