"""What a language model's own mistakes cost: its samples in place of true tokens of real chains, decoded.

    python -m eval.lm.tolerance chain-vq-4096 --anchors none,inline,first --seeds 3

At a share of the slots the true code, and in a second case the true anchor and radius as well, give way to a sample of
the model that has read the true tokens before it. Language models are those of `eval.lm.learnability`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Int
from rich.console import Console

from eval import RESULTS
from eval.clock import machine
from eval.lm.heldout import Held, Trained, entry, figure, trained, update
from structok import metrics
from structok.tokens import AnchorText, Tokens
from train.data import shared_folder
from train.lm.fit import RUNS, Row, forms_of
from train.lm.network import TokenModel
from train.lm.words import Document, Kind

console = Console(stderr=True)
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
            console.log(f"{form}, seed {seed}, {case}, {rate:g}: {np.mean(here['rmsd']):.2f} Å")
    return found


def measure(held: Held, form: AnchorText, found: Trained) -> dict[str, Any]:
    """Means over seeds and chains with intervals, by case and rate.

    What one language model gave is kept beside it, so that a further seed costs only itself.
    """
    parts = []
    for seed, (model, folder) in enumerate(zip(found.models, found.folders)):
        file = folder / f"tolerance-{len(held.tokens)}.json"
        if not file.exists():
            file.write_text(json.dumps(of_model(model, held, form, seed)))
        parts.append(json.loads(file.read_text()))
    result: dict[str, Any] = {}
    for case, rates in parts[0].items():
        for rate in rates:
            same = [part[case][rate] for part in parts]
            result.setdefault(case, {})[rate] = {
                "wrong_codes": round(float(np.mean([p["wrong_codes"] for p in same])), 4),
                **{name: figure(np.array([p[name] for p in same])) for name in METRICS},
            }
    return result


def main(
    rows: Annotated[list[str], typer.Argument(help="MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    anchors: Annotated[str, typer.Option(help="none, inline, first: where they stand, with commas between")] = "none",
    seeds: Annotated[int, typer.Option(help="language models of each")] = 1,
    chains: Annotated[int, typer.Option(help="validation crops")] = 40,
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "tolerance.json",
    runs: Annotated[Path, typer.Option(help="where the language models are kept")] = RUNS,
) -> None:
    """Measure rows; the entries of other rows stay in the file."""
    for row in map(Row.parse, rows):
        held = Held.of(row, data or shared_folder() / "data", chains)
        for form in forms_of(anchors):
            found = trained(runs, row, form, seeds)
            result = {
                "model": Path(row.model).name,
                "assignment": held.assignment,
                "codebook_size": held.tokenizer.codebook_size,
                "anchors": form,
                "chains": len(held.tokens),
                "residues": sum(map(len, held.tokens)),
                "seeds": seeds,
                "training_tokens": found.training["settings"]["tokens"],
                **measure(held, form, found),
                "machine": machine(),
            }
            update(out, entry(row, form, found.training), result)


if __name__ == "__main__":
    typer.run(main)
