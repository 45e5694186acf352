"""Numbers about numbers: spreads with bootstrap intervals, shares, entropies of codes, and what codes tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = ["by_bins", "code_rate", "leakage", "rank_frequency", "rounded", "share", "spread", "summary"]

RESAMPLES = 1000
FOLDS = 5
PRIOR = 20.0  # pseudo-counts that a code's class counts get from the overall distribution, in `leakage`

Codes = Int[np.ndarray, " l"]


def rounded(values: dict[str, Any], digits: int = 4) -> dict[str, Any]:
    """Floats of a flat dict, rounded for a results file."""
    return {k: round(float(v), digits) if isinstance(v, (float, np.floating)) else v for k, v in values.items()}


def _interval(samples: Float[np.ndarray, " r"]) -> list[float]:
    return [round(float(q), 4) for q in np.percentile(samples, [2.5, 97.5])]


def summary(values: Iterable[float]) -> dict[str, Any]:
    """Count, mean, median, 95th percentile and maximum, as they are."""
    x = np.array(list(values), dtype=float)
    figures = {"mean": x.mean(), "median": np.median(x), "p95": np.percentile(x, 95), "max": x.max()}
    return {"n": len(x), **{name: float(value) for name, value in figures.items()}}


def spread(values: Sequence[float | None], random: np.random.Generator) -> dict[str, Any]:
    """Count, mean with its 95 % bootstrap interval, median, 5th and 95th percentile, minimum and maximum.

    None and NaN (nothing to measure) are left out.
    """
    x = np.array([v for v in values if v is not None], dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return {"n": 0}
    means = x[random.integers(len(x), size=(RESAMPLES, len(x)))].mean(1)
    figures = {"mean": x.mean(), "median": np.median(x), "p5": np.percentile(x, 5), "p95": np.percentile(x, 95)}
    figures |= {"min": x.min(), "max": x.max()}
    return {"n": len(x), "interval": _interval(means), **rounded(figures)}


def share(same: Sequence[np.ndarray], random: np.random.Generator) -> dict[str, Any]:
    """Share of True over all codes, its 95 % interval over resampled structures, and of structures all True."""
    same = [np.asarray(s, dtype=bool) for s in same if len(s)]
    if not same:
        return {"structures": 0}
    kept, total = np.array([s.sum() for s in same]), np.array([len(s) for s in same])
    picks = random.integers(len(same), size=(RESAMPLES, len(same)))
    ratios = kept[picks].sum(1) / total[picks].sum(1)
    return {
        "structures": len(same),
        "codes": round(float(kept.sum() / total.sum()), 4),
        "interval": _interval(ratios),
        "whole": round(float((kept == total).mean()), 4),
    }


def by_bins(sizes: Sequence[int], values: Sequence[float], edges: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Count, mean, median and 95th percentile of the values by size, bins (low, high]; empty bins are left out."""
    size, value = np.asarray(sizes), np.asarray(values, dtype=float)
    out = {}
    for low, high in pairwise(edges):
        inside = value[(size > low) & (size <= high)]
        if len(inside):
            figures = {"mean": inside.mean(), "median": np.median(inside), "p95": np.percentile(inside, 95)}
            out[f"{low + 1}-{high}"] = {"n": len(inside), **rounded(figures)}
    return out


def code_rate(rows: Sequence[Codes], size: int) -> dict[str, Any]:
    """Bits per token: log2 of the codebook, unigram entropy, and entropy given the code before.

    Counting pairs in a sample far smaller than size² makes the plug-in conditional entropy too low; a bigram
    model (Witten-Bell interpolation) fitted on one half of the structures and scored on the other is too high.
    The true value lies between the two. The unigram entropy gets the Miller-Madow correction beside it.
    """
    codes = np.concatenate(rows)
    p = np.bincount(codes, minlength=size) / len(codes)
    unigram = float(-(p[p > 0] * np.log2(p[p > 0])).sum())
    before, after = _pairs(rows)
    joint = np.unique(before.astype(np.int64) * size + after, return_counts=True)[1] / max(len(before), 1)
    first = np.bincount(before, minlength=size) / max(len(before), 1)
    low = float(-(joint * np.log2(joint)).sum() + (first[first > 0] * np.log2(first[first > 0])).sum())
    result = {
        "bits": float(np.log2(size)),
        "tokens": len(codes),
        "unigram_bits": unigram,
        "unigram_bits_corrected": min(
            unigram + ((p > 0).sum() - 1) / (2 * len(codes) * np.log(2)), float(np.log2(size))
        ),
        "bigram_bits_low": low,
        "distinct_pairs": len(joint),
    }
    if len(rows) > 1:
        halves = rows[0::2], rows[1::2]
        scores = [_bigram_score(halves[i], halves[1 - i], size) for i in (0, 1)]
        result["bigram_bits_high"] = sum(s for s, _ in scores) / max(sum(n for _, n in scores), 1)
    return rounded(result)


def _pairs(rows: Sequence[Codes]) -> tuple[Codes, Codes]:
    return np.concatenate([r[:-1] for r in rows]), np.concatenate([r[1:] for r in rows])


def _bigram_score(fit: Sequence[Codes], test: Sequence[Codes], size: int) -> tuple[float, int]:
    """Bits that an interpolated bigram model of `fit` spends on the pairs of `test`, and how many pairs."""
    seen = np.bincount(np.concatenate(fit), minlength=size)
    unigram = (seen + 0.5) / (seen.sum() + 0.5 * size)
    before, after = _pairs(fit)
    keys, count = np.unique(before.astype(np.int64) * size + after, return_counts=True)
    follows = np.bincount(before, minlength=size)  # how often a code is followed
    kinds = np.bincount((keys // size).astype(int), minlength=size)  # by how many different ones
    b, a = _pairs(test)
    wanted = b.astype(np.int64) * size + a
    at = np.searchsorted(keys, wanted).clip(max=max(len(keys) - 1, 0))
    hits = np.where(keys[at] == wanted, count[at], 0) if len(keys) else np.zeros(len(wanted))
    weight = follows[b] + kinds[b]
    p = np.where(weight > 0, (hits + kinds[b] * unigram[a]) / np.maximum(weight, 1), unigram[a])
    return float(-np.log2(p).sum()), len(b)


def leakage(
    codes: Sequence[Codes], classes: Sequence[Int[np.ndarray, " l"]], groups: Sequence[Any], size: int
) -> dict[str, Any] | None:
    """How much a single code tells about a class (such as the residue type) of its slot.

    A linear probe on one-hot codes: its optimum is each code's most frequent class, counted with `PRIOR`
    pseudo-counts of the overall distribution. Fitted on all groups (clusters) but those it is scored on.

    Parameters
    ----------
    classes : small non-negative integers beside the codes; -1 = unknown, left out
    groups : structures of one group are never on both sides

    Returns
    -------
    result : accuracy, that of always saying the most frequent class, and bits told per slot (held-out log
        likelihood beyond the overall distribution's); None with fewer than two groups
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return None
    folds = min(FOLDS, len(names))
    fold = {name: i % folds for i, name in enumerate(names)}
    kinds = max(int(c.max()) for c in classes if len(c)) + 1
    right = base = total = 0
    bits = 0.0
    for k in range(folds):
        train, test = (
            [np.concatenate(part) for part in zip(*[(c, t) for c, t, g in zip(codes, classes, groups) if inside(g)])]
            for inside in (lambda g: fold[g] != k, lambda g: fold[g] == k)  # noqa: B023
        )
        (c, t), (c_new, t_new) = (tuple(a[part[1] >= 0] for a in part) for part in (train, test))
        prior = (np.bincount(t, minlength=kinds) + 1) / (len(t) + kinds)
        table = np.zeros((size, kinds))
        np.add.at(table, (c, t), 1)
        table = (table + PRIOR * prior) / (table.sum(1, keepdims=True) + PRIOR)
        right += int((table[c_new].argmax(1) == t_new).sum())
        base += int((t_new == prior.argmax()).sum())
        total += len(t_new)
        bits += float((np.log2(table[c_new, t_new]) - np.log2(prior[t_new])).sum())
    return rounded({"slots": total, "accuracy": right / total, "majority": base / total, "bits": bits / total})


def rank_frequency(codes: Codes, size: int, points: int = 40) -> list[list[float]]:
    """(rank, share of all tokens) of the codes sorted by use, at evenly spaced logarithms of the rank."""
    shares = np.sort(np.bincount(codes, minlength=size)[:size])[::-1] / len(codes)
    ranks = np.unique(np.geomspace(1, size, points).astype(int))
    return [[int(r), round(float(shares[r - 1]), 7)] for r in ranks]
