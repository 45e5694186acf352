"""What the measures of small language models share: validation structures, trained models, intervals, results files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import structok
from eval.measure.assignments import label_of
from structok.files import write_whole
from structok.tokenizer import Search
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones
from train.lm.data import chain_crops, small_molecules
from train.lm.fit import Row, folder_of, load_model
from train.lm.network import TokenModel
from train.lm.words import Pair, pair_of

__all__ = ["Held", "Trained", "figure", "trained", "update"]


@dataclass(frozen=True, eq=False)
class Held:
    """Validation structures of a row's modality: crops, one of each cluster, or QM9 molecules; and their tokens."""

    tokenizer: Any
    structures: list[Any]
    tokens: list[Tokens]
    assignment: str

    @classmethod
    @cache
    def of(cls, row: Row, data: Path) -> Held:
        """100 crops, or 500 molecules."""
        tokenizer = structok.load(row.model)
        if tokenizer.modality == "protein":
            structures: list[Any] = chain_crops(load_backbones(data / "protein" / "train.npz"), 1, 0, 0)[:100]
        else:
            structures = small_molecules(data / "molecule" / "qm9.npz", 1, 500)
        label = label_of(tokenizer.settings(Search(**row.options)))
        return cls(tokenizer, structures, row.encode(tokenizer, structures), label)

    def first(self, count: int) -> Held:
        """The first of them."""
        return replace(self, structures=self.structures[:count], tokens=self.tokens[:count])

    @property
    def pairs(self) -> list[Pair]:
        """The streams."""
        return [pair_of(t) for t in self.tokens]


@dataclass(frozen=True, eq=False)
class Trained:
    """The language models of one row and one form, one of each seed."""

    models: list[TokenModel]
    training: dict[str, Any]
    unigrams: list[int]


@cache
def trained(runs: Path, row: Row, form: AnchorText, seeds: int) -> Trained:
    """Those that `train.lm.fit.train_rows` has written."""
    found = [load_model(folder_of(runs, row, form, seed)) for seed in range(seeds)]
    return Trained([model for model, _, _ in found], *found[0][1:])


def figure(
    sums: Float[np.ndarray, "s n"], counts: Float[np.ndarray, "*s n"] | None = None, digits: int = 4
) -> dict[str, Any]:
    """Mean over seeds and structures, and its 95 % bootstrap interval, seeds and structures resampled.

    Parameters
    ----------
    sums : a figure of each structure under each seed, summed over what `counts` counts
    counts : of each structure, or of each under each seed; default 1
    """
    weights = np.broadcast_to(np.ones(1) if counts is None else np.asarray(counts, dtype=float), sums.shape)
    random = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        seeds, drawn = (random.integers(0, n, n) for n in sums.shape)
        means.append(sums[seeds][:, drawn].sum() / max(weights[seeds][:, drawn].sum(), 1e-9))
    low, high = np.quantile(means, (0.025, 0.975))
    found: dict[str, Any] = {"mean": round(float(sums.sum() / weights.sum()), digits)}
    found |= {"low": round(float(low), digits), "high": round(float(high), digits)}
    seeds = sums.sum(1) / weights.sum(1).clip(1e-9)
    return found | ({"seeds": [round(float(v), digits) for v in seeds]} if len(sums) > 1 else {})


def update(out: Path, name: str, result: dict[str, Any]) -> None:
    """Replace one entry of the results."""
    results = {**(json.loads(out.read_text()) if out.exists() else {}), name: result}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, (json.dumps(results, indent=1) + "\n").encode())
