"""What small language models write: whole chains from nothing and for a given sequence, and molecules.

Samples are drawn at temperature 1. Chains have the lengths of validation crops, which stand beside them as 'real';
kinds of tokens follow the text form, so that every sample is well formed. Chains are decoded as any tokens are, repair
included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from eval.lm.chains import chain_figures, distances, nearest_tm
from eval.lm.heldout import Held, Trained, figure
from eval.lm.molecules import molecule_figures
from structok import metrics
from structok.polymer.anchors import spacing_for
from structok.structure import Backbone
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones
from train.lm.data import chain_crops
from train.lm.network import TokenModel, sample
from train.lm.words import Kind, pair_of

KNOWN = 30  # training crops that samples are aligned with
ALIGNED = 10  # samples of each model that are aligned with them, and with each other


def blank(crop: Backbone, spacing: int) -> Tokens:
    """A record of a chain's length and sequence that says nothing else."""
    length = len(crop)
    every = spacing_for(length, spacing)
    anchors = np.zeros(-(-length // every), dtype=int)
    return Tokens(np.zeros(length, dtype=int), sequence=crop.sequence, anchors=anchors, spacing=every, radius=0)


def sample_chains(
    model: TokenModel, tokenizer: Any, crops: Sequence[Backbone], form: AnchorText, given: bool, seed: int
) -> list[Backbone]:
    """Chains of the crops' lengths, of their sequences if given, out of the model's samples."""
    anchoring = getattr(tokenizer.config, "anchors", None)
    empty = [blank(crop, anchoring.spacing if anchoring else 6) for crop in crops]
    documents = [model.vocabulary.document(pair_of(t), form, given) for t in empty]
    fixed = [np.isin(d.kinds, (-1, Kind.SYMBOL)) for d in documents]
    ids = sample(model, documents, fixed, seed)
    return tokenizer.decode_batch([model.vocabulary.tokens(t, d, i) for t, d, i in zip(empty, documents, ids)])


@cache
def known_chains(data: Path) -> list[Backbone]:
    """Training crops, none of them of the language models' own seed."""
    return chain_crops(load_backbones(data / "protein" / "train.npz"), 0, 200 * KNOWN, 1)[:KNOWN]


def beside_real(
    seeds: Sequence[Sequence[Backbone]], real: Sequence[Backbone], known: Sequence[Backbone]
) -> dict[str, Any]:
    """Figures of chains sampled under several seeds."""
    apart = [distances(part, real) for part in seeds]
    return chain_figures(seeds) | {
        "distance to real": {name: figure(np.array([[d[name]] for d in apart])) for name in apart[0]},
        "nearest training chain, TM": figure(np.array([nearest_tm(part[:ALIGNED], known) for part in seeds])),
        "among themselves, TM": figure(np.array([nearest_tm(part[:ALIGNED]) for part in seeds])),
    }


@cache
def real_chains(data: Path, count: int) -> dict[str, Any]:
    """Figures of the validation crops themselves; distances between their halves."""
    crops = chain_crops(load_backbones(data / "protein" / "train.npz"), 1, 0, 0)[:count]
    apart = distances(crops[: count // 2], crops[count // 2 :])
    halves = {"distance to real": {name: {"mean": value} for name, value in apart.items()}}
    return beside_real([crops], crops, known_chains(data)) | halves


def measure(held: Held, found: Mapping[AnchorText, Trained], form: AnchorText, data: Path) -> dict[str, Any]:
    """Chains sampled unconditionally and given the sequence, beside the validation crops; or molecules."""
    models = found[form].models
    if held.tokenizer.modality == "molecule":
        return {"unit": "molecule", **molecule_figures(models, held, data)}
    crops, known = held.structures, known_chains(data)
    result: dict[str, Any] = {"unit": "chain", "training_chains": KNOWN, "aligned": ALIGNED}
    result["real"] = real_chains(data, len(crops))
    for name, given in (("unconditional", False), ("given the sequence", True)):
        made = [sample_chains(m, held.tokenizer, crops, form, given, seed) for seed, m in enumerate(models)]
        result[name] = beside_real(made, crops, known)
    right = [[float(metrics.tm_score(b, c)) for b, c in zip(part, crops)] for part in made]
    result[name]["TM to the true chain"] = figure(np.array(right))
    return result
