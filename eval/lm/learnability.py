"""What structure tokens cost a small language model to learn, beside how accurate they are.

Language models are measured on crops of validation clusters, or on validation molecules. Bits are those of a token
whose kind is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from eval.lm.heldout import Held, Trained, figure
from eval.measure.stats import rounded, summary
from structok.metrics import rmsd
from structok.molecule.metrics import compare_molecules
from structok.tokens import AnchorText
from train.lm.data import batches
from train.lm.network import TokenModel
from train.lm.words import Kind, Pair

STREAMS = {
    "codes": (Kind.CODE,),
    "anchors": (Kind.ANCHOR, Kind.RADIUS),
    "structure": (Kind.CODE, Kind.ANCHOR, Kind.RADIUS),
}


@dataclass(frozen=True)
class Score:
    """What models pay for one stream of each pair: bits, tokens predicted right, tokens, and residues or atoms."""

    bits: Float[np.ndarray, "s n"]
    hits: Float[np.ndarray, "s n"]
    counts: Float[np.ndarray, " n"]
    units: Float[np.ndarray, " n"]


@torch.no_grad()
def scores(
    models: Sequence[TokenModel], pairs: Sequence[Pair], form: AnchorText, alone: bool = True
) -> dict[str, Score]:
    """Of codes, of anchors with radius, and of both together as 'structure': alone, and 'given symbols'; of symbols.

    Models that never saw a structure alone (of molecules) are not asked about one: `alone=False`.
    """
    found: dict[str, Score] = {}
    units = np.array([(p.codes >= 0).sum() for p in pairs])
    for given in (False, True) if alone else (True,):
        streams = STREAMS | ({"symbols": (Kind.SYMBOL,)} if given else {})
        documents = [models[0].vocabulary.document(p, form, given) for p in pairs]
        place = {id(d): i for i, d in enumerate(documents)}
        bits, hits = (np.zeros((len(streams), len(models), len(pairs))) for _ in range(2))
        counts = np.zeros((len(streams), len(pairs)))
        for m, model in enumerate(models):
            for part in batches(documents, 1 + sum(map(len, documents)) // 512):
                loss, best = model(part)
                for document, nats, likeliest in zip(part, loss.numpy(), best.numpy()):
                    ids, kinds, i = document.ids[1:], document.kinds[1:], place[id(document)]
                    for s, chosen in enumerate(streams.values()):
                        at = np.isin(kinds, chosen)
                        bits[s, m, i] = nats[: len(ids)][at].sum() / math.log(2)
                        hits[s, m, i] = (likeliest[: len(ids)] == ids)[at].sum()
                        counts[s, i] = at.sum()
        for s, name in enumerate(streams):
            if counts[s].any():
                full = f"{name} given symbols" if given and name != "symbols" else name
                found[full] = Score(bits[s], hits[s], counts[s], units)
    return found


def predict(found: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Bits per token, share of tokens predicted right; `per_unit` is bits per residue or atom."""
    return {
        name: {
            "bits": figure(s.bits, s.counts),
            "accuracy": round(float(s.hits.sum() / (len(s.hits) * s.counts.sum())), 4),
            "tokens": int(s.counts.sum()),
            "per_unit": figure(s.bits, s.units),
        }
        for name, s in found.items()
    }


def beside(found: Mapping[str, Score], bare: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Bits per residue more than without anchors, on the same chains with the same seeds."""
    return {name: figure(s.bits - bare[name].bits, s.units) for name, s in found.items() if name in bare}


def unigram_bits(codes: np.ndarray, unigrams: Sequence[int]) -> float:
    """Bits per code under the frequencies of the training codes, one added to each."""
    p = np.array(unigrams) + 1.0
    return round(float(-np.log2(p / p.sum())[codes].mean()), 4)


def reconstruction(held: Held) -> dict[str, Any]:
    """RMSD, Å, of the same validation structures, and what they are."""
    rebuilt = held.tokenizer.decode_batch(held.tokens)
    if held.tokenizer.modality == "protein":
        errors = [rmsd(back, crop) for back, crop in zip(rebuilt, held.structures)]
        size = {"crops": len(held.tokens), "residues": sum(map(len, held.tokens))}
        return {"unit": "residue", "validation": size, "rmsd": rounded(summary(errors))}
    compared = (compare_molecules(m, b, t)["rmsd"] for m, b, t in zip(held.structures, rebuilt, held.tokens))
    size = {"molecules": len(held.tokens), "atoms": sum(map(len, held.tokens))}
    return {"unit": "atom", "validation": size, "rmsd": rounded(summary(float(v or 0) for v in compared))}


@cache
def paid(held: Held, own: Trained) -> dict[str, Score]:
    """Scores of a row's own models."""
    return scores(own.models, held.pairs, own.training["anchors"], own.training["settings"]["given"] < 1)


def measure(held: Held, found: Mapping[AnchorText, Trained], form: AnchorText, data: Path) -> dict[str, Any]:
    """Everything about one form, and what it costs more than none."""
    codes, mine = np.concatenate([p.codes[p.codes >= 0] for p in held.pairs]), paid(held, found[form])
    return {
        **reconstruction(held),
        "unigram_bits": unigram_bits(codes, found[form].unigrams),
        "prediction": predict(mine),
        "more than without anchors": beside(mine, paid(held, found["none"])) if form != "none" else {},
    }
