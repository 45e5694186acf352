"""What a language model's own mistakes cost: its samples in place of true tokens of real chains, decoded.

At a share of the slots the true code, and in a second case the true anchor and radius as well, give way to a sample of
the model that has read the true tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from eval.lm.heldout import Held, Trained, figure
from structok import metrics
from structok.tokens import AnchorText, Tokens
from train.lm.network import TokenModel
from train.lm.words import Document, Kind

RATES = (0.01, 0.05, 0.2, 1.0)
CASES = {"codes": (Kind.CODE,), "codes and anchors": (Kind.CODE, Kind.ANCHOR, Kind.RADIUS)}
METRICS: dict[str, Callable[..., float]] = {"rmsd": metrics.rmsd, "tm_score": metrics.tm_score, "lddt": metrics.lddt}


def replaced(
    document: Document, drawn: Int[np.ndarray, " t"], kinds: Sequence[Kind], rate: float, seed: int
) -> Int[np.ndarray, " t"]:
    """Ids of a document with samples at a share of the tokens of some kinds; the same codes in every form."""
    ids = document.ids.copy()
    for kind in kinds:
        at = np.flatnonzero(document.kinds == kind)
        at = at[np.random.default_rng((seed, kind)).random(len(at)) < rate]
        ids[at] = drawn[at]
    return ids


def damaged(
    model: TokenModel, held: Held, form: AnchorText, kinds: Sequence[Kind], rate: float, seed: int
) -> tuple[list[Tokens], float]:
    """Tokens of the held-out chains with samples of the model, and the share of codes that differ."""
    documents = [model.vocabulary.document(p, form) for p in held.pairs]
    drawn = model.draws(documents, seed)
    found = [
        model.vocabulary.tokens(t, d, replaced(d, s, kinds, rate, 1000 * seed + i))
        for i, (t, d, s) in enumerate(zip(held.tokens, documents, drawn))
    ]
    wrong = [a.codes != b.codes for a, b in zip(found, held.tokens)]
    return found, round(float(np.concatenate(wrong).mean()), 4)


def of_model(model: TokenModel, held: Held, form: AnchorText, seed: int) -> dict[str, Any]:
    """RMSD, TM-score and lDDT of each chain, and the share of codes that differ, by case and rate."""
    found: dict[str, Any] = {}
    cases = CASES if form != "none" else {"codes": CASES["codes"]}
    for case, kinds in cases.items():
        for rate in RATES:
            tokens, wrong = damaged(model, held, form, kinds, rate, seed)
            rebuilt = held.tokenizer.decode_batch(tokens)
            here: dict[str, Any] = {"wrong_codes": wrong}
            for name, of in METRICS.items():
                here[name] = [float(of(b, c)) for b, c in zip(rebuilt, held.structures)]
            found.setdefault(case, {})[f"{rate:g}"] = here
    return found


def measure(held: Held, found: Mapping[AnchorText, Trained], form: AnchorText, data: Path) -> dict[str, Any]:
    """Means over seeds and chains with intervals, by case and rate."""
    parts = [of_model(model, held, form, seed) for seed, model in enumerate(found[form].models)]
    result: dict[str, Any] = {"residues": sum(map(len, held.tokens))}
    for case, rates in parts[0].items():
        for rate in rates:
            same = [part[case][rate] for part in parts]
            result.setdefault(case, {})[rate] = {
                "wrong_codes": round(float(np.mean([p["wrong_codes"] for p in same])), 4),
                **{name: figure(np.array([p[name] for p in same])) for name in METRICS},
            }
    return result
