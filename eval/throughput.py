"""Speed and memory of protein encoding and decoding on this machine.

python -m eval.throughput ../shared/data/protein/train.npz -o eval/results/throughput.json
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import structok
from train.data import load_backbones


def best_of(repeats: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Shortest time in seconds of several runs, and the last result."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return min(times), result


def main(
    data: Annotated[Path, typer.Argument(help="npz, parquet or folder of backbones")],
    out: Annotated[Path, typer.Option("-o", "--out")] = Path("eval/results/throughput.json"),
    chains: int = 96,
    repeats: int = 3,
    device: str = "cpu",
) -> None:
    """Residues per second at batch sizes 1 and 32, and the process's peak memory."""
    backbones = load_backbones(data)
    pool = np.flatnonzero((backbones.split == 1) & backbones.complete)
    chosen = [structok.Backbone(backbones[i]) for i in np.random.default_rng(0).permutation(pool)[:chains]]
    residues = sum(map(len, chosen))
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, device {device}",
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "chains": len(chosen),
        "residues": residues,
        "models": {},
    }
    for name in structok.list_models():
        tokenizer = structok.load(name, device=device)
        if tokenizer.modality != "protein":
            continue
        row: dict[str, float] = {}
        few = chosen[:12]
        for label, some, size in (("one by one", few, 1), ("batch 32", chosen, 32)):
            n = sum(map(len, some))
            seconds, tokens = best_of(repeats, lambda: tokenizer.encode_batch(some, batch_size=size))  # noqa: B023
            row[f"encode, {label}, residues/s"] = round(n / seconds)
        seconds, _ = best_of(repeats, lambda: tokenizer.decode_batch(tokens))  # noqa: B023
        row["decode, residues/s"] = round(residues / seconds)
        row["peak memory of the process, MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        results["models"][name] = row
        print(name, row)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
