"""Training from shards at scale: memory and time to the first batch against the size of the data set, what the loader
costs beside the model, and two processes against one.

python -m eval.speed.streaming my_data

The data set is repeated by hard links to its shards up to `--rows`; training adds jitter, so no example comes twice.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet
import torch
import typer
from torch.utils.data import DataLoader

from eval import RESULTS
from structok.data.dataset import Place
from structok.protein.losses import aligned_mse, backbone_direction, backbone_distance
from structok.protein.model import PRESETS, GCPVQVAEModel
from train.protein.data import Chains, Sampling

SAMPLING = Sampling(crop=256, residues=4096, jitter=0.02)
TINY = {
    "codebook_size": "256", "graph.layers": "1", "graph.node_scalars": "32", "graph.node_vectors": "4",
    "graph.messages": "2", "encoder": '{"dim": 64, "depth": 1, "heads": 1, "kv_heads": 1}',
    "quantizer": '{"dim": 16, "dead_below": 0.1}', "decoder": '{"dim": 64, "depth": 2, "heads": 1, "kv_heads": 1}',
}  # fmt: skip


def repeated(source: Path, rows: int, folder: Path) -> int:
    """A data set of about so many training chains by hard links to the shards of another; how many it has."""
    shards = sorted(source.glob("train-*-of-*.parquet"))
    sizes = [pyarrow.parquet.read_metadata(p).num_rows for p in shards]
    chosen: list[int] = []
    while sum(sizes[i] for i in chosen) < rows:
        chosen.append(len(chosen) % len(shards))
    folder.mkdir()
    for n, i in enumerate(chosen):
        os.link(shards[i], folder / f"train-{n:05d}-of-{len(chosen):05d}.parquet")
    return sum(sizes[i] for i in chosen)


def peak(pid: int) -> float:
    """Largest resident memory of a process so far, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def read(folder: Path, batches: int, workers: int) -> dict[str, Any]:
    """What it takes to read some batches; run it in a process of its own."""
    torch.set_num_threads(1)
    base = peak(os.getpid())
    began, spent = time.perf_counter(), time.process_time()
    chains = Chains(folder, SAMPLING)
    loader = iter(DataLoader(chains, batch_size=None, num_workers=workers))
    residues, slots, first, early = 0, 0, 0.0, 0.0
    for n in range(batches):
        batch = next(loader)
        chains.consumed(batch)
        residues += int(batch.mask.sum())
        slots += batch.mask.numel()
        first = first or time.perf_counter() - began
        if n == batches // 4:
            early = peak(os.getpid())
    found: dict[str, Any] = {
        "workers": workers,
        "batches": batches,
        "residues": residues,
        "padding, share": round(1 - residues / slots, 3),
        "first batch after, s": round(first, 2),
        "memory before, MB": round(base),
        "peak memory after a quarter, MB": round(early),
        "peak memory, MB": round(peak(os.getpid())),
    }
    if workers:
        found["peak memory of each worker, MB"] = [round(peak(w.pid)) for w in loader._workers]  # type: ignore[attr-defined]
    else:
        found["residues per core second"] = round(residues / (time.process_time() - spent))
        state = chains.state_dict()
        again = Chains(folder, SAMPLING)
        again.load_state_dict(state | {"places": {0: list(Place(0, len(chains.shards) * 3, 5, 0))}})
        began = time.perf_counter()
        next(iter(again))
        found["first batch after resuming in mid-epoch, s"] = round(time.perf_counter() - began, 2)
    return found


def model_speed(repeats: int = 3) -> dict[str, Any]:
    """Residues per core second of training steps of the mini model, on batches of the same size."""
    torch.set_num_threads(1)
    model = GCPVQVAEModel(PRESETS["mini"]).train()
    model.quantizer.initialised.fill_(True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    from eval.speed.training import batch

    coords, mask, types = batch(16, 256, "cpu")
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        made = model(model.graph(coords, mask, types), mask)
        losses = [f(made.coords, coords, mask).mean() for f in (aligned_mse, backbone_distance, backbone_direction)]
        (torch.stack(losses).sum() + made.quantizer_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        spent.append(time.process_time() - began)
    return {"model": "mini", "batch": [16, 256], "residues per core second": round(mask.numel() / min(spent))}


def trained(data: Path, name: str, steps: int, residues: int, *options: str) -> tuple[list[float], float]:
    """Loss of each step of a short run of a tiny network, and its peak memory in MB."""
    sizes = [f"--model.{k}={v}" for k, v in TINY.items()]
    command = [
        *(sys.executable, "-m", "train.protein", "fit", f"--data.path={data}", "--data.valid_chains=0"),
        *(f"--run.name={name}", f"--run.steps={steps}", "--run.loggers=[csv]", "--run.log_every=1", "--run.threads=1"),
        *("--run.accelerator=cpu", "--sampling.crop=128", f"--sampling.residues={residues}", "--sampling.jitter=0.02"),
        *("--training.lr=0.002", "--training.warmup=10", "--training.weights={fape: 1.0, distance: 0.01}"),
        *("--training.adaptive=false", *sizes, *options),
    ]
    process = subprocess.Popen(command, cwd=data.parent, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    memory = 0.0
    while process.poll() is None:  # what wait4 says of a child counts the memory of its parent
        with contextlib.suppress(OSError, StopIteration):
            memory = max(memory, peak(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{name}: the training failed")
    with next((data.parent / "runs" / name).glob("version_*/metrics.csv")).open() as file:
        losses = [float(row["loss/total"]) for row in csv.DictReader(file) if row["loss/total"]]
    return losses, memory


def windows(losses: list[float], width: int = 10) -> list[float]:
    """Means over windows of steps."""
    return [round(float(np.mean(losses[i : i + width])), 3) for i in range(0, len(losses), width)]


def main(
    data: Annotated[Path, typer.Argument(help="Folder made by structok data build or train.protein pack.")],
    rows: Annotated[list[int], typer.Option(help="Sizes of data sets.")] = [10_000, 1_000_000],  # noqa: B006
    batches: Annotated[int, typer.Option(help="Batches read of each.")] = 600,
    steps: Annotated[int, typer.Option(help="Steps of each short training.")] = 80,
    parts: Annotated[list[str], typer.Option(help="What to measure anew.")] = ["loader", "model", "fit", "loss"],  # noqa: B006
    only: Annotated[str, typer.Option(help="Read one folder in this process; JSON on stdout.")] = "",
    workers: Annotated[int, typer.Option(help="With --only.")] = 0,
) -> None:
    """Measure, and add the figures to `results/training.json` under "streaming"."""
    if only:
        print(json.dumps(read(Path(only), batches, workers)))
        return
    out = RESULTS / "training.json"
    old = json.loads(out.read_text()) if out.exists() else {}
    record: dict[str, Any] = old.get("streaming", {}) | {part: [] for part in parts}
    with tempfile.TemporaryDirectory(dir=data.parent) as scratch:
        for wanted in rows:
            folder = Path(scratch) / f"rows{wanted}"
            count = repeated(data, wanted, folder)
            for n in (0, 2) if "loader" in parts else ():
                command = [sys.executable, "-m", "eval.speed.streaming", str(data), "--only", str(folder)]
                command += ["--workers", str(n), "--batches", str(batches)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                record["loader"].append({"chains": count, **found})
            if "fit" in parts:
                _, memory = trained(folder, f"fit{wanted}", 20, 2048)
                record["fit"].append({"chains": count, "steps": 20, "peak memory, MB": round(memory)})
        folder = Path(scratch) / f"rows{rows[0]}"
        if "loss" in parts:
            ways = {
                "one process, 2048 residues": (2048,),
                "two processes, 1024 residues each": (1024, "--run.devices=2", "--run.strategy=ddp"),
            }
            record["loss"] = {
                way: [windows(trained(folder, f"{n}{seed}", steps, *how, f"--run.seed={seed}")[0]) for seed in range(3)]
                for n, (way, how) in enumerate(ways.items())
            }
    if "model" in parts:
        record["model"] = model_speed()
    out.write_text(json.dumps(old | {"streaming": record}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
