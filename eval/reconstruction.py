"""Reconstruction error of protein tokenizers on chains that they were not trained on.

python -m eval.reconstruction ../shared/data/protein -o eval/results/reconstruction.json
"""

from __future__ import annotations

import json
import platform
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

import structok
from structok.metrics import codebook_use
from structok.report import compare_backbones
from train.data import Backbones, load_backbones

console = Console(stderr=True)
BINS = (0, 64, 128, 256, 512, 4096)
FEWEST = 25  # residues; the shortest chain that counts


def sets(folder: Path) -> dict[str, tuple[Backbones, np.ndarray]]:
    """Validation chains (whole, and with gaps) and CASP14, as (data, chain indices)."""
    data, casp = load_backbones(folder / "train.npz"), load_backbones(folder / "casp14.npz")
    held_out = np.flatnonzero(data.split == 1)
    return {
        "validation, complete": (data, held_out[data.complete[held_out]]),
        "validation, with gaps": (data, held_out[~data.complete[held_out]]),
        "CASP14": (casp, np.arange(len(casp))),
    }


def measure(tokenizer: Any, data: Backbones, chains: np.ndarray, **options: Any) -> dict[str, Any]:
    """Mean, median, p95 and max of each metric; RMSD by length; what was left out and why."""
    kept, excluded = [], {}
    for i in chains:
        observed = int(data.observed[data.offsets[i] : data.offsets[i + 1]].sum())
        if observed < FEWEST:
            excluded[data.names[i]] = f"{observed} observed residues"
        elif data.lengths[i] > tokenizer.max_length:
            excluded[data.names[i]] = f"{data.lengths[i]} residues, longer than max_length"
        else:
            kept.append(i)
    backbones = [structok.Backbone(data[i], name=data.names[i]) for i in kept]
    tokens = tokenizer.encode_batch(backbones, **options)
    rebuilt = tokenizer.decode_batch(tokens)
    pairs = list(zip(backbones, rebuilt))
    rows = [compare_backbones(a, b, tokenizer.codebook_size) for a, b in track(pairs, "comparing", console=console)]
    result: dict[str, Any] = {"chains": len(rows), "residues": sum(r["length"] for r in rows), "excluded": excluded}
    for name in ("rmsd", "rmsd_ca", "tm_score", "lddt"):
        values = np.array([r[name] for r in rows])
        figures = {"mean": values.mean(), "median": np.median(values), "p95": np.percentile(values, 95)}
        result[name] = {
            k: round(float(v), 4) for k, v in (figures | {"max": values.max(), "min": values.min()}).items()
        }
    lengths = np.array([r["length"] for r in rows])
    result["rmsd_by_length"] = {
        f"{low + 1}-{high}": round(float(np.mean([r["rmsd"] for r, here in zip(rows, inside) if here])), 4)
        for low, high in pairwise(BINS)
        if (inside := (lengths > low) & (lengths <= high)).any()
    }
    use = codebook_use(np.concatenate([t.codes for t in tokens]), tokenizer.codebook_size)
    result["codebook"] = {k: round(v, 4) for k, v in use.items()}
    return result


def main(
    folder: Annotated[Path, typer.Argument(help="folder with train.npz and casp14.npz")],
    out: Annotated[Path, typer.Option("-o", "--out")] = Path("eval/results/reconstruction.json"),
    model: Annotated[list[str], typer.Option("-m", "--model", help="default: every protein model")] = [],  # noqa: B006
    beams: Annotated[str, typer.Option(help="further beams to measure on complete chains, such as 1,4,16")] = "",
) -> None:
    """Measure models; results of models that are not named stay in the file."""
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in model or [m for m in structok.list_models() if structok.load(m).modality == "protein"]:
        tokenizer = structok.load(name)
        results[name] = {"codes": tokenizer.codebook_size, "beam": getattr(tokenizer.config, "beam", None)}
        for label, (data, chains) in sets(folder).items():
            console.log(f"{name}: {label}")
            results[name][label] = {"closed loop": measure(tokenizer, data, chains)}
            if label != "validation, with gaps":
                results[name][label]["open loop"] = measure(tokenizer, data, chains, closed_loop=False)
            for beam in map(int, filter(None, beams.split(","))):
                if label == "validation, complete":
                    results[name][label][f"beam {beam}"] = measure(tokenizer, data, chains, beam=beam)
        results[name]["machine"] = f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
