"""What small language models write: whole chains from nothing and for a given sequence, and molecules.

    python -m eval.lm.generation chain-vq-4096 --anchors none,inline,first --seeds 3
    python -m eval.lm.generation molstructok

Language models are those of `eval.lm.learnability`, samples are drawn at temperature 1. Chains have the lengths of
validation crops, which stand beside them as 'real'; kinds of tokens follow the text form, so that every sample is well
formed. Chains are decoded as any tokens are, repair included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from eval import RESULTS
from eval.clock import machine
from eval.lm.chains import chain_figures, distances, nearest_tm
from eval.lm.heldout import Held, entry, figure, trained, update
from eval.lm.molecules import molecule_figures, sample_molecules
from structok import metrics
from structok.polymer.anchors import spacing_for
from structok.structure import Backbone
from structok.tokens import AnchorText, Tokens
from train.data import load_backbones, shared_folder
from train.lm.data import chain_crops
from train.lm.fit import RUNS, Row, forms_of
from train.lm.network import TokenModel, sample
from train.lm.words import Kind, pair_of

console = Console(stderr=True)
ALIGNED = 10  # samples that are aligned with training chains, each with all of them


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


def chains(
    row: Row, form: AnchorText, held: Held, models: Sequence[TokenModel], known: Sequence[Backbone]
) -> dict[str, Any]:
    """Figures of chains sampled unconditionally, and given the sequence."""
    found: dict[str, Any] = {}
    for name, given in (("unconditional", False), ("given the sequence", True)):
        made = [sample_chains(m, held.tokenizer, held.structures, form, given, s) for s, m in enumerate(models)]
        together = [chain for part in made for chain in part]
        found[name] = chain_figures(made) | {"distance to real": distances(together, held.structures)}
        found[name]["nearest training chain, TM"] = figure(nearest_tm(made[0][:ALIGNED], known))
        found[name]["among themselves, TM"] = figure(nearest_tm(made[0][:ALIGNED]))
        if given:
            right = [[float(metrics.tm_score(b, c)) for b, c in zip(part, held.structures)] for part in made]
            found[name]["TM to the true chain"] = figure(np.array(right))
        console.log(f"{row.name}, {form}, {name}: {found[name]['compactness']['mean']} of a globule's radius")
    return found


def real(held: Held, known: Sequence[Backbone]) -> dict[str, Any]:
    """The same figures of the validation crops; distances between their halves."""
    half = len(held.structures) // 2
    found = chain_figures([held.structures])
    found["distance to real"] = distances(held.structures[:half], held.structures[half:])
    found["nearest training chain, TM"] = figure(nearest_tm(held.structures[:ALIGNED], known))
    found["among themselves, TM"] = figure(nearest_tm(held.structures[:ALIGNED]))
    return {"real": found}


def main(
    rows: Annotated[list[str], typer.Argument(help="MODEL, MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    anchors: Annotated[str, typer.Option(help="none, inline, first: where they stand, with commas between")] = "none",
    seeds: Annotated[int, typer.Option(help="language models of each")] = 1,
    count: Annotated[int, typer.Option(help="samples of each model")] = 24,
    training: Annotated[int, typer.Option(help="training chains that samples are compared with")] = 30,
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "generation.json",
    runs: Annotated[Path, typer.Option(help="where the language models are kept")] = RUNS,
) -> None:
    """Sample and measure rows; the entries of other rows stay in the file."""
    folder = data or shared_folder() / "data"
    for row in map(Row.parse, rows):
        held = Held.of(row, folder, count)
        protein = held.tokenizer.modality == "protein"
        crops = load_backbones(folder / "protein" / "train.npz") if protein else None
        known = chain_crops(crops, 0, 200 * training, 1)[:training] if crops is not None else []
        if known:
            about = {"chains": len(held.structures), "training_chains": len(known), "aligned": ALIGNED}
            update(out, "real", about | real(held, known))
        for form in forms_of(anchors):
            found = trained(runs, row, form, seeds)
            result: dict[str, Any] = {
                "model": Path(row.model).name,
                "assignment": held.assignment,
                "codebook_size": held.tokenizer.codebook_size,
                "anchors": form,
                "sampled": len(held.structures),
                "seeds": seeds,
                "training_tokens": found.training["settings"]["tokens"],
            }
            if known:
                result |= {"unit": "chain", **chains(row, form, held, found.models, known)}
            else:
                made = sample_molecules(found.models[0], held.tokenizer, len(held.structures), 0)
                result |= {"unit": "molecule", **molecule_figures(made, held, folder)}
            update(out, entry(row, form, found.training), result | {"machine": machine()})


if __name__ == "__main__":
    typer.run(main)
