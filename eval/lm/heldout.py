"""What the measures of small language models share: validation structures, trained models, intervals, results files."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import structok
from eval.measure.assignments import label_of
from structok.tokenizer import Search
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones
from train.lm.data import chain_crops, small_molecules
from train.lm.fit import Row, folder_of, load_model
from train.lm.network import TokenModel
from train.lm.words import Pair, pair_of

__all__ = ["Held", "Trained", "entry", "figure", "trained", "update"]


@dataclass(frozen=True)
class Held:
    """Validation structures of a row's modality: crops, one of each cluster, or QM9 molecules; and their tokens."""

    tokenizer: Any
    structures: list[Any]
    tokens: list[Tokens]
    assignment: str

    @classmethod
    def of(cls, row: Row, data: Path, count: int = 0) -> Held:
        """At most `count` of them, 0 for all; molecules are 500."""
        tokenizer = structok.load(row.model)
        if tokenizer.modality == "protein":
            structures: list[Any] = chain_crops(load_backbones(data / "protein" / "train.npz"), 1, 0, 0)
        else:
            structures = small_molecules(data / "molecule" / "qm9.npz", 1, 500)
        structures = structures[: count or None]
        label = label_of(tokenizer.settings(Search(**row.options)))
        return cls(tokenizer, structures, row.encode(tokenizer, structures), label)

    @property
    def pairs(self) -> list[Pair]:
        """The streams."""
        return [pair_of(t) for t in self.tokens]


@dataclass(frozen=True)
class Trained:
    """The language models of one row and one form, one of each seed."""

    models: list[TokenModel]
    folders: list[Path]
    training: dict[str, Any]
    unigrams: list[int]


def entry(row: Row, form: AnchorText, training: Mapping[str, Any]) -> str:
    """What a row is called in the results, such as 'chain-vq-64-inline-400k' after 400,000 tokens of training."""
    return f"{row.name}-{form}-{training['settings']['tokens'] // 1000}k"


def trained(runs: Path, row: Row, form: AnchorText, seeds: int) -> Trained:
    """Those that `train.lm` has written."""
    folders = [folder_of(runs, row, form, seed) for seed in range(seeds)]
    found = [load_model(folder) for folder in folders]
    return Trained([model for model, _, _ in found], folders, found[0][1], found[0][2])


def figure(
    sums: Float[np.ndarray, "s n"] | Sequence[float], counts: Float[np.ndarray, " n"] | None = None, digits: int = 4
) -> dict[str, Any]:
    """Mean over seeds and structures, and its 95 % bootstrap interval, seeds and structures resampled.

    Parameters
    ----------
    sums : a figure of each structure under each seed, summed over what `counts` counts
    counts : of each structure; default 1
    """
    sums = np.atleast_2d(np.asarray(sums, dtype=float))
    weights = np.ones(sums.shape[1]) if counts is None else np.asarray(counts, dtype=float)
    random = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        seeds, drawn = random.integers(0, len(sums), len(sums)), random.integers(0, len(weights), len(weights))
        means.append(sums[seeds][:, drawn].sum() / (len(sums) * max(weights[drawn].sum(), 1e-9)))
    low, high = np.quantile(means, (0.025, 0.975))
    total = sums.sum(1) / weights.sum()
    found: dict[str, Any] = {"mean": round(float(total.mean()), digits)}
    found |= {"low": round(float(low), digits), "high": round(float(high), digits)}
    return found | ({"seeds": [round(float(v), digits) for v in total]} if len(sums) > 1 else {})


def update(out: Path, name: str, result: dict[str, Any]) -> None:
    """Replace one entry of the results; two runs may write at the same time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        results = {**(json.loads(text) if text else {}), name: result}
        file.truncate(0)
        file.write(json.dumps(results, indent=1) + "\n")
