"""The axes of StructTokenBench (Yuan et al. 2025, arXiv 2503.00089) on data that needs no download.

    python -m eval.measure.structtokenbench                       chain-vq and 3Di letters
    python -m eval.measure.structtokenbench -m gcp-vqvae,runs/mine

Sensitivity, distinctiveness and efficiency as published; effectiveness on other labels (`eval.measure.probe`).
A code's vector is its entry in the codebook; for rigid steps the nine coordinates of N, CA, C of the next residue, Å;
for 3Di letters the two of their centroid. Vectors are centred on their mean over the codebook, since steps lie far from
the origin and all point the same way; the published ones are not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from biotite.sequence import Alphabet, GeneralSequence
from biotite.sequence.align import SubstitutionMatrix, align_optimal
from jaxtyping import Bool, Float, Int
from rich.console import Console
from scipy.stats import rankdata

from eval import RESULTS
from eval.clock import machine
from eval.measure.assignments import OPEN, default_assignment, label_of
from eval.measure.axes import observed_codes
from eval.measure.model import codebook_of, load_tokenizer
from eval.measure.peers import Letters
from eval.measure.probe import Labelled, effectiveness, labelled
from eval.measure.stats import RESAMPLES, rounded
from structok.errors import StructokError
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Tokens
from train.data import load_backbones, shared_folder

__all__ = ["correlations", "distinctiveness", "efficiency", "pair_scores", "sensitivity"]

Vectors = Float[np.ndarray, "k d"]
Codes = Int[np.ndarray, " l"]
GAP = -10  # of biotite's `align_optimal`, linear
NOTHING = "position alone"  # a probe that knows no code
MODELS = ("chain-vq-64", "chain-vq-256", "chain-vq-4096", Letters.name, NOTHING)
console = Console(stderr=True)


class Pairs:
    """Pairs of conformations: chains, indices of both, mean of both TM-scores, kind, wholly unseen in training."""

    def __init__(self, path: Path, limit: int = 0) -> None:
        with np.load(path) as file:
            data = {k: file[k] for k in file.files}
        missing = (data["xyz"] == np.iinfo(np.int16).min).any((1, 2))
        coords = np.where(missing[:, None, None], np.nan, data["xyz"][:, :3] / np.float32(100))
        rows = [slice(*ends) for ends in pairwise(data["offsets"].tolist())]
        chosen = np.arange(len(data["pair_a"]))
        if limit and limit < len(chosen):
            chosen = np.sort(np.random.default_rng(0).choice(chosen, limit, replace=False))
        self.index = np.stack([data["pair_a"], data["pair_b"]], 1)[chosen]
        self.tm = (data["tm_ab"] + data["tm_ba"])[chosen] / 2
        self.kind = data["kind"][chosen]
        seen = data["in_train"] | data["pdb_in_train"] | data["seq_in_train"] | (data["train_kmer_share"] > 0.1)
        self.unseen = ~seen[self.index].any(1)
        self.chains = {i: Backbone(coords[rows[i]]) for i in np.unique(self.index).tolist()}


def centred(vectors: Vectors) -> Vectors:
    """Minus their mean, of unit length; a vector at the mean stays zero."""
    moved = vectors - vectors.mean(0)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)


def pair_scores(pairs: Sequence[tuple[Codes, Codes]], vectors: Vectors) -> Float[np.ndarray, "n 2"]:
    """Score of the global alignment of two sequences of codes, raw and per aligned residue.

    A match scores 100 times the cosine of the codes' vectors, a gap -10 (ends as well).
    """
    unit = centred(vectors)
    alphabet = Alphabet(range(len(vectors)))
    matrix = SubstitutionMatrix(alphabet, alphabet, np.rint(100 * unit @ unit.T).astype(np.int32))
    scores = []
    for pair in pairs:
        sequences = [GeneralSequence(alphabet) for _ in pair]
        for sequence, codes in zip(sequences, pair):
            sequence.code = codes
        [found] = align_optimal(*sequences, matrix, gap_penalty=GAP, max_number=1)
        aligned = int((found.trace >= 0).all(1).sum())
        scores.append((found.score, found.score / max(aligned, 1)))
    return np.array(scores)


def correlations(score: Float[np.ndarray, " n"], tm: Float[np.ndarray, " n"], seed: int = 0) -> dict[str, Any]:
    """Pearson and Spearman over pairs, each with its 95 % bootstrap interval (pairs resampled)."""
    random = np.random.default_rng(seed)
    draws = random.integers(len(tm), size=(RESAMPLES, len(tm)))

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        scale = a.std() * b.std()
        return float(((a - a.mean()) * (b - b.mean())).mean() / scale) if scale > 0 else 0.0

    found: dict[str, Any] = {"n": len(tm)}
    for name, rank in (("pearson", np.asarray), ("spearman", rankdata)):
        values = [pearson(rank(score[d]), rank(tm[d])) for d in draws]
        low, high = np.percentile(values, [2.5, 97.5])
        found[name] = {"mean": pearson(rank(score), rank(tm)), "interval": [float(low), float(high)]}
        found[name] = {k: np.round(v, 4).tolist() for k, v in found[name].items()}
    return found


def sensitivity(codes: Sequence[Codes], vectors: Vectors, pairs: Pairs) -> dict[str, Any]:
    """Correlation of alignment scores with the mean of both TM-scores: all pairs, by kind, and the unseen ones."""
    scores = pair_scores([(codes[a], codes[b]) for a, b in pairs.index], vectors)
    groups: dict[str, Bool[np.ndarray, " n"]] = {"all": np.ones(len(pairs.tm), dtype=bool)}
    groups |= {kind: pairs.kind == kind for kind in dict.fromkeys(pairs.kind.tolist())}
    groups["unseen"] = pairs.unseen
    return {
        name: {k: correlations(scores[rows, i], pairs.tm[rows]) for i, k in enumerate(("raw", "per residue"))}
        for name, rows in groups.items()
        if rows.sum() > 3
    }


def distinctiveness(vectors: Vectors, use: Float[np.ndarray, " k"]) -> dict[str, Any]:
    """Cosines of all pairs of different codes, each pair alike, and weighted by the product of the codes' shares.

    Lower is more distinct. Mean absolute cosines as well, since centred vectors have a plain mean of about zero.
    """
    result: dict[str, Any] = {}
    plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, unit in (("centred", centred(vectors)), ("as they are", plain)):
        cosines = unit @ unit.T
        for label, weight in (("plain", np.ones(len(vectors))), ("by use", use)):
            share = np.outer(weight, weight)
            np.fill_diagonal(share, 0)
            share /= share.sum()
            figures = {"mean": (share * cosines).sum(), "mean absolute": (share * abs(cosines)).sum()}
            figures["above 0.9"] = share[cosines > 0.9].sum()
            result[f"{name}, {label}"] = rounded(figures)
    return result


def efficiency(codes: Sequence[Codes], size: int) -> dict[str, Any]:
    """Utilisation (used / K) and perplexity (exp(H) / K) over the whole set, and as means over chains.

    The published code computes them for each batch, of one protein: the mean over chains is that convention.
    """

    def figures(some: Codes) -> tuple[float, float]:
        share = np.bincount(some, minlength=size) / len(some)
        share = share[share > 0]
        return len(share) / size, float(np.exp(-(share * np.log(share)).sum())) / size

    rows = [figures(np.concatenate(codes)), np.mean([figures(c) for c in codes], 0)]
    names = ("utilisation", "perplexity")
    return {how: rounded(dict(zip(names, row))) for how, row in zip(("whole set", "mean of chains"), rows)}


def measured(tokenizer: Any, how: Search | None, pairs: Pairs, sets: tuple[Labelled, Labelled]) -> dict[str, Any]:
    """All axes of one tokenizer under one assignment."""
    vectors, size = np.asarray(codebook_of(tokenizer), dtype=float), tokenizer.codebook_size

    def tokens_of(chains: Sequence[Backbone]) -> list[Tokens]:
        return list(tokenizer.encode_batch(chains, search=how) if how else tokenizer.encode_batch(chains))

    of_pairs = dict(zip(pairs.chains, observed_codes(tokens_of(list(pairs.chains.values())))))
    train, test = (tokens_of(some.chains) for some in sets)
    codes = observed_codes(test)
    use = np.bincount(np.concatenate(codes), minlength=size) / sum(map(len, codes))
    return {
        "sensitivity": sensitivity(of_pairs, vectors, pairs),
        "distinctiveness": distinctiveness(vectors, use),
        "efficiency": efficiency(codes, size),
        "effectiveness": effectiveness(vectors, train, test, sets),
    }


def main(
    models: Annotated[list[str], typer.Option("-m", "--models", help="names or folders, also by commas")] = [],  # noqa: B006
    chains: Annotated[int, typer.Option(help="training chains of the probe; a quarter as many are tested")] = 400,
    pairs: Annotated[int, typer.Option(help="pairs of conformations, 0 = all")] = 0,
    data: Annotated[Path | None, typer.Option(help="folder with pairs.npz and train.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "structtokenbench.json",
) -> None:
    """Measure and write; entries of other tokenizers stay in the file."""
    folder = data or shared_folder() / "data" / "protein"
    if missing := [name for name in ("pairs.npz", "train.npz") if not (folder / name).exists()]:
        raise typer.BadParameter(f"{folder}: no {' and no '.join(missing)}; give a folder that has them with --data")
    conformations, chosen = Pairs(folder / "pairs.npz", pairs), load_backbones(folder / "train.npz")
    sets = labelled(chosen, 0, chains), labelled(chosen, 1, chains // 4)
    record = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    record |= {
        "machine": machine(),
        "pairs": {"all": len(conformations.tm), "unseen": int(conformations.unseen.sum())},
        "chains": {name: len(some.chains) for name, some in zip(("train", "test"), sets)},
    }

    def save(name: str, assignment: str, size: int, row: dict[str, Any]) -> None:
        about = {"tokenizer": name, "assignment": assignment, "codes": size}
        record["rows"][f"{name}, {assignment}".removesuffix(", ")] = {**about, **row}
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        console.log(name, assignment, json.dumps(row["effectiveness"]), highlight=False)

    for model in [name.strip() for names in models for name in names.split(",")] or MODELS:
        if model == NOTHING:
            same = ([Tokens(np.zeros(len(c), dtype=int)) for c in some.chains] for some in sets)
            save(model, "", 1, {"effectiveness": effectiveness(np.zeros((1, 1)), *same, sets)})
            continue
        tokenizer = Letters() if model == Letters.name else load_tokenizer(model)
        if tokenizer.modality != "protein" or codebook_of(tokenizer) is None:
            raise StructokError(f"{model}: only protein tokenizers whose codes have vectors are measured")
        hows = [None] if model == Letters.name else dict.fromkeys([default_assignment(tokenizer), OPEN])
        for how in hows:
            row = measured(tokenizer, how, conformations, sets)
            save(tokenizer.name, label_of(how) if how else "its own", tokenizer.codebook_size, row)


if __name__ == "__main__":
    typer.run(main)
