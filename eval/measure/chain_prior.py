"""Step codebooks with a prior at several rate weights: RMSD, bits, steadiness on validation chains.

python -m eval.measure.chain_prior checkpoints/chain-vq-4096 runs/other -o eval/results/chain_prior.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import structok
from eval.measure.stats import code_rate
from structok import metrics
from structok.structure import Backbone
from train.data import Backbones, load_backbones, shared_folder

RATES = (0.0, 0.005, 0.015, 0.03)  # Å² per bit
NOISE = 0.1  # Å, standard deviation of each coordinate


def validation_chains(data: Backbones, count: int, seed: int, longest: int = 1000) -> list[Backbone]:
    """One chain of each of `count` validation clusters, of any length, gaps and breaks included."""
    observed = np.add.reduceat(data.observed.astype(int), data.offsets[:-1])
    pool = np.flatnonzero((data.split == 1) & (observed >= 25) & (data.lengths <= longest))
    chosen = data.one_per_cluster(pool, np.random.default_rng(seed))[:count]
    return [Backbone(data[i].numpy(), name=data.names[i]) for i in chosen]


def measure(tokenizer: Any, chains: list[Backbone], rate: float, seed: int) -> dict[str, float]:
    """Accuracy, bits and steadiness at one rate weight."""
    tokens = tokenizer.encode_batch(chains, rate_weight=rate)
    rebuilt = tokenizer.decode_batch(tokens)
    rmsd = [metrics.rmsd(a, b) for a, b in zip(rebuilt, chains)]
    random = np.random.default_rng(seed)
    moved = [Backbone(c.coords + random.normal(scale=NOISE, size=c.coords.shape).astype(np.float32)) for c in chains]
    again = tokenizer.encode_batch(moved, rate_weight=rate)
    kept = np.concatenate([(a.codes == b.codes)[a.mask] for a, b in zip(tokens, again)])
    codes = np.concatenate([t.codes for t in tokens])
    bits = tokenizer.model.prior.cross_entropy([torch.from_numpy(t.codes) for t in tokens])
    return {
        "rmsd mean": round(float(np.mean(rmsd)), 4),
        "rmsd p95": round(float(np.quantile(rmsd, 0.95)), 4),
        "prior bits": round(bits, 3),
        "unigram bits": round(
            code_rate([t.codes for t in tokens], tokenizer.codebook_size)["unigram_bits_corrected"], 3
        ),
        "codes kept": round(float(kept.mean()), 4),
        "codes used": len(np.unique(codes)),
    }


def main(
    models: Annotated[list[str], typer.Argument(help="chain-vq checkpoints with a prior")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file")],
    data: Annotated[Path | None, typer.Option(help="npz with a split")] = None,
    count: Annotated[int, typer.Option(help="validation chains")] = 120,
    seed: Annotated[int, typer.Option(help="which chains, which noise")] = 0,
) -> None:
    """Measure and write."""
    chains = validation_chains(load_backbones(data or shared_folder() / "data/protein/train.npz"), count, seed)
    residues = sum(int(c.mask.sum()) for c in chains)
    record: dict[str, Any] = {"chains": len(chains), "residues": residues, "noise": NOISE, "seed": seed, "models": {}}
    for model in models:
        tokenizer = structok.load(model)
        rows = {f"{rate:g}": measure(tokenizer, chains, rate, seed) for rate in RATES}
        record["models"][tokenizer.name] = {"beam": tokenizer.config.beam, "rates": rows}
        print(json.dumps({tokenizer.name: rows}, indent=1))
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
