"""Measures of protein tokenizers: accuracy, stability, robustness, what the codes tell. All RMSD in Å."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Bool, Float, Int

from eval.sets import ProteinSet
from eval.stats import by_bins, leakage, share, spread
from structok import metrics
from structok.report import compare_backbones
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["CROPS", "JITTERS", "RATES", "accuracy", "observed_codes", "residue_leakage", "robustness", "stability"]

BINS = (0, 64, 128, 256, 512, 4096)
JITTERS = (0.05, 0.1, 0.2)  # Å, standard deviation of each coordinate
CROPS = (5, 20, 50)  # residues taken from an end
RATES = (0.001, 0.01, 0.05)  # share of codes replaced
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
ENOUGH = 25  # residues that a cropped chain must keep

Same = Bool[np.ndarray, " l"]


def accuracy(
    tokenizer: Any, chosen: ProteinSet, options: dict[str, Any], random: np.random.Generator
) -> tuple[list[Tokens], dict[str, Any]]:
    """Tokens of a set, and its reconstruction: each metric over chains, RMSD by length, exclusions, seconds."""
    fits = [len(c) <= tokenizer.max_length for c in chosen.chains]
    excluded = chosen.excluded | {
        c.name: f"{len(c)} residues, longer than max_length {tokenizer.max_length}"
        for c, fit in zip(chosen.chains, fits)
        if not fit
    }
    chains = [c for c, fit in zip(chosen.chains, fits) if fit]
    start = time.perf_counter()
    tokens = tokenizer.encode_batch(chains, **options)
    encoded = time.perf_counter()
    rebuilt = tokenizer.decode_batch(tokens)
    decoded = time.perf_counter()
    rows = [compare_backbones(a, b, tokenizer.codebook_size) for a, b in zip(chains, rebuilt)]
    lengths = [len(c) for c in chains]
    result: dict[str, Any] = {"chains": len(rows), "residues": sum(lengths), "excluded": excluded}
    for name in ("rmsd", "rmsd_ca", "tm_score", "lddt"):
        result[name] = spread([r[name] for r in rows], random)
    result["rmsd_by_length"] = by_bins(lengths, [r["rmsd"] for r in rows], BINS)
    result["seconds"] = {"encode": round(encoded - start, 3), "decode": round(decoded - encoded, 4)}
    return tokens, result


def observed_codes(tokens: Sequence[Tokens]) -> list[Int[np.ndarray, " l"]]:
    """Codes of observed residues, chain by chain."""
    return [t.codes[t.mask & (t.codes >= 0)] for t in tokens]


def _changed(chain: Backbone, coords: Float[np.ndarray, "l 3 3"], rows: slice = slice(None)) -> Backbone:
    return Backbone(coords[rows].astype(np.float32), chain.sequence[rows], name=chain.name)


def _agreement(before: Tokens, after: Tokens, rows: slice = slice(None)) -> Same:
    """Where the observed codes of `rows` stayed as they were."""
    seen = before.mask[rows]
    return np.asarray((before.codes[rows] == after.codes)[seen])


def stability(
    tokenizer: Any,
    chains: Sequence[Backbone],
    options: dict[str, Any],
    random: np.random.Generator,
    *,
    brief: bool = False,
) -> dict[str, Any]:
    """Share of codes that a change leaves as they are.

    Jitter adds normal noise to every coordinate; cropping takes residues from an end and compares those that
    stay, in chains that keep at least 25; a new pose is a random rotation and a shift of up to 50 Å (float32);
    re-encoding compares codes with those of their own reconstruction. `brief`: jitter, and 20 residues off the start.
    """
    before = tokenizer.encode_batch(chains, **options)

    def after(change: Callable[[Backbone], Backbone]) -> dict[str, Any]:
        again = tokenizer.encode_batch([change(c) for c in chains], **options)
        return share([_agreement(a, b) for a, b in zip(before, again)], random)

    def jittered(scale: float) -> Callable[[Backbone], Backbone]:
        return lambda c: _changed(c, c.coords + random.normal(scale=scale, size=c.coords.shape))

    result: dict[str, Any] = {"chains": len(chains)}
    result["jitter"] = {f"{s:g}": after(jittered(s)) for s in JITTERS}
    for end in ("start",) if brief else ("start", "end"):
        result[f"crop {end}"] = {
            str(n): share(_cropped(tokenizer, chains, before, n, end, options), random)
            for n in (CROPS[1:2] if brief else CROPS)
        }
    if brief:
        return result
    rebuilt = tokenizer.decode_batch(before)
    again = tokenizer.encode_batch(rebuilt, **options)
    result["encoded again"] = share([_agreement(a, b) for a, b in zip(before, again)], random)
    torch.manual_seed(int(random.integers(1 << 31)))

    def moved(chain: Backbone) -> Backbone:
        turn = o3.rand_matrix().double().numpy()
        return _changed(chain, chain.coords @ turn.T + random.uniform(-50, 50, 3))

    result["new pose"] = after(moved)
    return result


def _cropped(
    tokenizer: Any, chains: Sequence[Backbone], before: Sequence[Tokens], n: int, end: str, options: dict[str, Any]
) -> list[Same]:
    parts = []
    for chain, tokens in zip(chains, before):
        rows = slice(n, None) if end == "start" else slice(None, len(chain) - n)
        if chain.mask[rows].sum() >= ENOUGH:
            parts.append((tokens, rows, _changed(chain, chain.coords, rows)))
    again = tokenizer.encode_batch([short for *_, short in parts], **options)
    return [_agreement(tokens, new, rows) for (tokens, rows, _), new in zip(parts, again)]


def robustness(
    tokenizer: Any,
    chains: Sequence[Backbone],
    tokens: Sequence[Tokens],
    random: np.random.Generator,
    draws: int = 2,
) -> dict[str, Any]:
    """RMSD, TM-score and lDDT after each code was replaced, with a given chance, by any other code."""
    result = {}
    for rate in RATES:
        rows: list[dict[str, float]] = []
        hit = 0
        for _ in range(draws):
            broken = [corrupt(t, rate, tokenizer.codebook_size, random) for t in tokens]
            hit += sum(int((a.codes != b.codes).sum()) for a, b in zip(tokens, broken))
            for chain, back in zip(chains, tokenizer.decode_batch(broken)):
                rows.append({k: getattr(metrics, k)(back, chain) for k in ("rmsd", "tm_score", "lddt")})
        found = {k: spread([r[k] for r in rows], random) for k in rows[0]}
        result[f"{rate:g}"] = {"draws": draws, "replaced": hit, **found}
    return result


def corrupt(tokens: Tokens, rate: float, size: int, random: np.random.Generator) -> Tokens:
    """Each code is replaced with probability `rate` by one of the other `size` - 1 codes."""
    hit = (random.random(len(tokens)) < rate) & (tokens.codes >= 0)
    other = (tokens.codes + random.integers(1, size, len(tokens))) % size
    return dataclasses.replace(tokens, codes=np.where(hit, other, tokens.codes))


def residue_leakage(tokens: Sequence[Tokens], groups: Sequence[int], size: int) -> dict[str, Any] | None:
    """What single codes tell about the residue type of their slot, see `eval.stats.leakage`."""
    index = {letter: i for i, letter in enumerate(LETTERS)}
    kept = [t.mask & (t.codes >= 0) for t in tokens]
    codes = [t.codes[k] for t, k in zip(tokens, kept)]
    types = [np.array([index.get(x, -1) for x in t.sequence or ""])[k] for t, k in zip(tokens, kept)]
    if not any((t >= 0).any() for t in types):
        return None
    return leakage(codes, types, groups, size)
