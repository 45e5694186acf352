"""Training from shards at scale: memory and time to the first batch against the size of the data set.

python -m eval.speed.streaming my_data

The data set is repeated by hard links to its shards up to `--rows`; training adds jitter, so no example comes twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet
import torch
import typer

from eval import RESULTS
from eval.clock import apart, peak_memory
from structok.data.dataset import Place
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


def read(folder: Path, batches: int) -> dict[str, Any]:
    """What it takes to read some batches; run it in a process of its own."""
    torch.set_num_threads(1)
    base = peak_memory()
    began, spent = time.perf_counter(), time.process_time()
    chains = Chains(folder, SAMPLING)
    loader = iter(chains)
    residues, slots, first = 0, 0, 0.0
    for _ in range(batches):
        batch = next(loader)
        chains.consumed(batch)
        residues += int(batch.mask.sum())
        slots += batch.mask.numel()
        first = first or time.perf_counter() - began
    found = {
        "batches": batches,
        "padding, share": round(1 - residues / slots, 3),
        "first batch after, s": round(first, 2),
        "memory before, MB": base,
        "peak memory, MB": peak_memory(),
        "residues per core second": round(residues / (time.process_time() - spent)),
    }
    again = Chains(folder, SAMPLING)
    again.load_state_dict(chains.state_dict() | {"places": {0: list(Place(0, len(chains.shards) * 3, 5, 0))}})
    began = time.perf_counter()
    next(iter(again))
    return found | {"first batch after resuming in mid-epoch, s": round(time.perf_counter() - began, 2)}


def memory_of(data: Path, name: str, steps: int, residues: int) -> int:
    """Peak memory of a short run of a tiny network, MB."""
    sizes = [f"--model.{k}={v}" for k, v in TINY.items()]
    command = [
        *(sys.executable, "-m", "train.protein", "fit", f"--data.path={data}", "--data.valid_chains=0"),
        *(f"--run.name={name}", f"--run.steps={steps}", "--run.loggers=[]", "--run.threads=1"),
        *("--run.accelerator=cpu", "--sampling.crop=128", f"--sampling.residues={residues}", "--sampling.jitter=0.02"),
        *("--training.weights={fape: 1.0, distance: 0.01}", "--training.adaptive=false", *sizes),
    ]
    process = subprocess.Popen(command, cwd=data.parent, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    memory = 0
    while process.poll() is None:  # what wait4 says of a child counts the memory of its parent
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            memory = max(memory, next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{name}: the training failed")
    return memory


def main(
    data: Annotated[Path, typer.Argument(help="Folder made by structok data build or train.protein pack.")],
    rows: Annotated[list[int], typer.Option(help="Sizes of data sets.")] = [10_000, 1_000_000],  # noqa: B006
    batches: Annotated[int, typer.Option(help="Batches read of each.")] = 600,
) -> None:
    """Measure, and put the figures into `results/training.json` under "streaming"."""
    found = []
    with tempfile.TemporaryDirectory(dir=data.parent) as scratch:
        for wanted in rows:
            folder = Path(scratch) / f"rows{wanted}"
            chains = repeated(data, wanted, folder)
            whole = memory_of(folder, f"fit{wanted}", 20, 2048)
            found.append({"chains": chains, **apart(read, folder, batches), "whole run, peak MB": whole})
    out = RESULTS / "training.json"
    old = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(old | {"streaming": found}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
