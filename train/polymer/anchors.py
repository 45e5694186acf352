"""Learn the points that anchors are quantised to: k-means on where residues lie in the balls of their chains.

python -m train.polymer.anchors ../shared/data/protein/train.npz -o checkpoints/anchors-4096
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from structok.checkpoint import write_checkpoint
from structok.codebook.kmeans import kmeans
from structok.codebook.nearest import nearest_code
from structok.geometry import apply, invert
from structok.polymer.anchors import RADII, AnchorPointsConfig, body_frame, radius_code
from train.data import Backbones, load_backbones

console = Console(stderr=True)


def unit_positions(
    data: Backbones, chains: np.ndarray, per_chain: int, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of random residues in their body frames, in units of the ball's radius [n, 3], and the radii [n], Å."""
    units, radii = [], []
    for i in chains:
        ca = data[i][:, 1].double()
        ca = ca[ca.isfinite().all(1)]
        if len(ca) < 3:
            continue
        local = apply(invert(body_frame(ca, torch.ones(len(ca), dtype=torch.bool))), ca)
        size = RADII[radius_code(local.norm(dim=1).max())]
        units.append((local[random.integers(0, len(ca), per_chain)] / size).float())
        radii.append(size.expand(per_chain))
    return torch.cat(units), torch.cat(radii)


def main(
    source: Annotated[Path, typer.Argument(help="npz or parquet of backbones, or a folder of structures")],
    out: Annotated[Path, typer.Option("-o", "--out", help="checkpoint folder")],
    points: int = 4096,
    sample: Annotated[int, typer.Option(help="positions for k-means")] = 200_000,
    spread: Annotated[float, typer.Option(help="share of them drawn evenly from the ball, for complexes")] = 0.12,
    iterations: int = 12,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write `config.json`, `model.safetensors` and `training.json` to the checkpoint folder."""
    if (out / "model.safetensors").exists() and not force:
        raise typer.BadParameter(f"{out} holds a model already; --force replaces it")
    began = time.time()
    random = np.random.default_rng(seed)
    data = load_backbones(source)
    training, unseen = (data.one_per_cluster(np.flatnonzero(data.split == k), random) for k in (0, 1))
    even = random.normal(size=(int(sample * spread), 3))
    even *= random.random((len(even), 1)) ** (1 / 3) / np.linalg.norm(even, axis=1, keepdims=True)
    real, _ = unit_positions(data, training, -(-(sample - len(even)) // len(training)), random)
    found = kmeans(
        torch.cat([real, torch.from_numpy(even).float()]),
        points,
        iterations=iterations,
        generator=torch.Generator().manual_seed(seed),
        report=lambda i, error: console.log(f"k-means {i}: {error**0.5:.4f} of the radius"),
    )
    places, size = unit_positions(data, unseen, 60, random)
    far = nearest_code(places, found)[0].flatten().double()
    error = float((far * size**2).mean().sqrt())
    console.log(f"validation: {error:.3f} Å rms, {float(far.mean().sqrt()):.4f} of the radius")
    write_checkpoint(out, "anchors", AnchorPointsConfig(points), {"points": found})
    record = {
        "command": f"python -m train.polymer.anchors {source} -o {out} --points {points} --sample {sample}"
        f" --spread {spread} --iterations {iterations} --seed {seed}",
        "seconds": round(time.time() - began),
        "torch": torch.__version__,
        "validation_rms": error,
        "training_clusters": sorted({int(c) for c in data.cluster[training]}),
    }
    (out / "training.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    typer.run(main)
