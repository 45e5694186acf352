"""What structure tokens cost a language model to learn, beside how accurate they are; one row per tokenizer.

    python -m eval.lm.learnability chain-vq-4096:open chain-vq-4096:closed:0 molstructok:closed

Each row trains its small language model where `runs/lm/ROW` has none yet (`train/lm`), measures it on crops of
validation clusters, or on validation molecules, and replaces its entry in `eval/results/learnability.json`.
"""

from __future__ import annotations

import fcntl
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from transformers import Qwen3ForCausalLM

import structok
from eval import RESULTS
from eval.lm.samples import (
    clashing,
    molecule_geometry,
    protein_geometry,
    sample_chains,
    sample_molecules,
)
from structok.metrics import rmsd
from structok.molecule.metrics import compare_molecules
from train.data import load_backbones, shared_folder
from train.lm.data import Pair, PairVocabulary, batches, chain_crops, pair_of, small_molecules
from train.lm.fit import Row, Settings, loss_of, train_row

console = Console(stderr=True)
RUNS = Path("runs/lm")


def figure(sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Mean per token and its 95 % bootstrap interval, documents resampled."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(sums), (1000, len(sums)))
    means = sums[draws].sum(1) / np.maximum(counts[draws].sum(1), 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {k: round(float(v), 4) for k, v in (("mean", sums.sum() / counts.sum()), ("low", low), ("high", high))}


@torch.no_grad()
def predict(model: Qwen3ForCausalLM, vocabulary: PairVocabulary, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Bits per token and share of tokens predicted right, of each stream, alone and knowing the other.

    Codes that stand for nothing (SELFIES tokens without an atom) and control tokens do not count.
    """
    kinds = ("codes", "codes given symbols", "symbols", "symbols given codes")
    rows: dict[str, list[tuple[float, int, int]]] = {kind: [] for kind in kinds}
    for codes_first in (False, True):
        documents = [vocabulary.document(p, codes_first) for p in pairs]
        for part in batches(documents, 4096):
            loss, best = loss_of(model, part)
            for document, nats, likeliest in zip(part, loss.numpy(), best.numpy()):
                ids = document.ids[1:]
                hit = likeliest[: len(ids)] == ids
                symbols = (ids > vocabulary.CODES_END) & (ids < vocabulary.first_code)
                for name, chosen in (("codes", document.is_code[1:]), ("symbols", symbols)):
                    other = "symbols" if name == "codes" else "codes"
                    second = bool(document.second[1:][chosen].all())
                    here = nats[: len(ids)][chosen]
                    kind = f"{name} given {other}" if second else name
                    rows[kind].append((float(here.sum()) / math.log(2), int(hit[chosen].sum()), int(chosen.sum())))
    found = {}
    for kind, values in rows.items():
        bits, hits, counts = np.array(values).T
        found[kind] = {
            "bits": figure(bits, counts),
            "accuracy": round(float(hits.sum() / counts.sum()), 4),
            "tokens": int(counts.sum()),
        }
    return found


def unigram_bits(codes: np.ndarray, unigrams: Sequence[int]) -> float:
    """Bits per code under the frequencies of the training codes, one added to each."""
    p = np.array(unigrams) + 1.0
    return round(float(-np.log2(p / p.sum())[codes].mean()), 4)


def entropy(counts: np.ndarray) -> float:
    """Of a distribution given by counts, in bits."""
    p = counts[counts > 0] / counts.sum()
    return round(float(-(p * np.log2(p)).sum()), 4)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, 95th percentile."""
    array = np.array(values)
    summary = {"mean": array.mean(), "median": np.median(array), "p95": np.quantile(array, 0.95)}
    return {k: round(float(v), 4) for k, v in summary.items()}


def proteins(row: Row, tokenizer: Any, data: Path, samples: int) -> tuple[list[Pair], dict[str, Any], Any]:
    """Validation pairs, reconstruction error, and what measures samples."""
    crops = chain_crops(load_backbones(data / "protein" / "train.npz"), 1, 0, 0)
    tokens = row.encode(tokenizer, crops)
    errors = [rmsd(back, crop) for back, crop in zip(tokenizer.decode_batch(tokens), crops)]
    result = {"unit": "residue", "validation": {"crops": len(crops), "residues": sum(map(len, tokens))}}
    result["rmsd"] = spread(errors)
    result["real_geometry"] = protein_geometry([c.coords for c in crops])

    def measure(model: Qwen3ForCausalLM, vocabulary: PairVocabulary) -> dict[str, Any]:
        return sample_chains(model, vocabulary, tokenizer, samples, 0)

    return [pair_of(t) for t in tokens], result, measure


def molecules(row: Row, tokenizer: Any, data: Path, samples: int) -> tuple[list[Pair], dict[str, Any], Any]:
    """As `proteins`, for QM9."""
    mols = small_molecules(data / "molecule" / "qm9.npz", 1, 500)
    tokens = row.encode(tokenizer, mols)
    rebuilt = tokenizer.decode_batch(tokens)
    result: dict[str, Any] = {"unit": "atom", "validation": {"molecules": len(mols), "atoms": sum(map(len, tokens))}}
    result["rmsd"] = spread([compare_molecules(m, b, t)["rmsd"] for m, b, t in zip(mols, rebuilt, tokens)])
    result["real_geometry"] = {"molecules": len(mols), "molecules_clashing": clashing(mols)}
    result["rebuilt_geometry"] = molecule_geometry(mols, rebuilt, tokens)

    def measure(model: Qwen3ForCausalLM, vocabulary: PairVocabulary) -> dict[str, Any]:
        return sample_molecules(model, vocabulary, tokenizer, mols[:samples], tokens[:samples], 0)

    return [pair_of(t) for t in tokens], result, measure


def measure_row(row: Row, data: Path, run: Path, samples: int) -> dict[str, Any]:
    """Everything about one row whose language model is trained."""
    tokenizer = structok.load(row.model)
    training = json.loads((run / "training.json").read_text())
    record = json.loads((run / "vocabulary.json").read_text())
    unigrams = record.pop("unigrams")
    vocabulary = PairVocabulary(tuple(record["symbols"]), record["codebook_size"])
    model = Qwen3ForCausalLM.from_pretrained(run).eval()
    of = proteins if tokenizer.modality == "protein" else molecules
    pairs, result, sampled = of(row, tokenizer, data, samples)
    codes = np.concatenate([p.codes[p.codes >= 0] for p in pairs])
    units = result["validation"][f"{result['unit']}s"]
    counts = np.zeros((len(vocabulary.symbols) + 1,), dtype=np.int64)
    np.add.at(counts, np.concatenate([vocabulary.symbol_ids(p.symbols) for p in pairs]) - 5, 1)
    return {
        "model": Path(row.model).name,
        "assignment": row.assignment,
        "codebook_size": tokenizer.codebook_size,
        "codes_per_unit": round(len(codes) / units, 4),
        **result,
        "unigram_bits": unigram_bits(codes, unigrams),
        "symbol_entropy_bits": entropy(counts),
        "prediction": predict(model, vocabulary, pairs),
        "samples": sampled(model, vocabulary),
        "training": training,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }


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


def main(
    rows: Annotated[list[str], typer.Argument(help="MODEL:open or MODEL:closed[:LATENT_WEIGHT[:RATE_WEIGHT]]")],
    data: Annotated[Path | None, typer.Option(help="folder with protein/train.npz and molecule/qm9.npz")] = None,
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "learnability.json",
    runs: Annotated[Path, typer.Option(help="where the language models are kept")] = RUNS,
    residues: Annotated[int, typer.Option(help="training budget of the protein rows")] = Settings.residues,
    molecules: Annotated[int, typer.Option(help="training budget of the molecule rows")] = Settings.molecules,
    samples: int = 64,
) -> None:
    """Train and measure rows; the entries of other rows stay in the file."""
    torch.manual_seed(0)
    settings = Settings(residues=residues, molecules=molecules)
    folder = data or shared_folder() / "data"
    for row in map(Row.parse, rows):
        train_row(row, folder, runs / row.name, settings)
        result = measure_row(row, folder, runs / row.name, samples)
        update(out, row.name, result)
        bits = result["prediction"]["codes given symbols"]["bits"]["mean"]
        console.log(f"{row.name}: {bits} bits per code given the symbols, RMSD {result['rmsd']['mean']} Å")


if __name__ == "__main__":
    typer.run(main)
