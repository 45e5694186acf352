"""What structure tokens cost a small language model to learn, beside how accurate they are.

    python -m eval.lm.learnability chain-vq-4096 --anchors none,inline,first --seeds 3

Each row (MODEL, MODEL:open, or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]) with each place of its anchors trains its
language models where `runs/lm` has none yet (`train.lm`), measures them on crops of validation clusters, or on
validation molecules, and replaces its entry in `eval/results/learnability.json`. Bits are those of a token whose kind
is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float
from rich.console import Console

from eval import RESULTS
from eval.clock import machine
from eval.lm.heldout import Held, Trained, entry, figure, trained, update
from eval.measure.stats import rounded, summary
from structok.metrics import rmsd
from structok.molecule.metrics import compare_molecules
from structok.tokens import AnchorText
from train.data import shared_folder
from train.lm.data import batches
from train.lm.fit import RUNS, Row, forms_of, train_rows
from train.lm.network import Settings, TokenModel
from train.lm.words import Kind, Pair

console = Console(stderr=True)
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
            for part in batches(documents, 4096):
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


def measure(
    row: Row, form: AnchorText, held: Held, found: Trained, paid: Mapping[str, Score], bare: Mapping[str, Score]
) -> dict[str, Any]:
    """Everything about one row and one form."""
    pairs = held.pairs
    codes = np.concatenate([p.codes[p.codes >= 0] for p in pairs])
    return {
        "model": Path(row.model).name,
        "assignment": held.assignment,
        "anchors": form,
        "codebook_size": held.tokenizer.codebook_size,
        **reconstruction(held),
        "unigram_bits": unigram_bits(codes, found.unigrams),
        "prediction": predict(paid),
        "more than without anchors": beside(paid, bare),
        "seeds": len(found.models),
        "training": found.training,
        "machine": machine(),
    }


def main(
    rows: Annotated[list[str], typer.Argument(help="MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    anchors: Annotated[str, typer.Option(help="none, inline, first: where they stand, with commas between")] = "none",
    seeds: Annotated[int, typer.Option(help="language models of each")] = 1,
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "learnability.json",
    runs: Annotated[Path, typer.Option(help="where the language models are kept")] = RUNS,
    tokens: Annotated[int, typer.Option(help="of training")] = Settings.tokens,
    residues: Annotated[int, typer.Option(help="of training crops")] = Settings.residues,
    count: Annotated[int, typer.Option(help="validation structures, 0 for all")] = 0,
) -> None:
    """Train and measure rows; the entries of other rows stay in the file."""
    settings, folder, forms = (
        Settings(tokens=tokens, residues=residues),
        data or shared_folder() / "data",
        forms_of(anchors),
    )
    for row in map(Row.parse, rows):
        train_rows(row, forms, range(seeds), folder, runs, settings)
        held = Held.of(row, folder, count)
        bare: dict[str, Score] = {}
        for form in forms:
            found = trained(runs, row, form, seeds)
            paid = scores(found.models, held.pairs, form, found.training["settings"]["given"] < 1)
            bare = paid if form == "none" else bare
            result = measure(row, form, held, found, paid, bare if form != "none" else {})
            update(out, entry(row, form, found.training), result)
            bits = result["prediction"]["structure given symbols"]["per_unit"]["mean"]
            console.log(f"{row.name}, anchors {form}: {bits} bits per {result['unit']}, given the string")


if __name__ == "__main__":
    typer.run(main)
