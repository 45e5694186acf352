"""Bulk tokenisation on this machine: time, memory, Ray beside local, and where the time goes.

    python -m eval.speed.bulk /tmp/bulk --chains 5000

The folder is filled with structure files first, where it has none: chains of the training data in six formats, loose
and in an archive, and one broken file per hundred. Other work on the machine changes the wall clock but hardly the CPU
seconds, so both are given.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from eval import RESULTS
from eval.clock import machine
from structok import Backbone, load
from structok.read.inputs import find_inputs, read_units
from structok.work.log import Log
from structok.write.structures import structure_bytes
from train.data import load_backbones, shared_folder

FORMATS = ("pdb", "cif", "bcif", "pdb.gz", "cif.gz", "bcif.gz")
BROKEN = {"pdb": b"", "cif": b"data_none\n_entry.id none\n#\n", "bcif": bytes(range(256)) * 20, "cif.gz": b"\x1f\x8b"}
COMMAND = [sys.executable, "-c", "from structok.cli import main; main()", "quantize"]


def files(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of structure files; every hundredth is broken."""
    data = load_backbones(shared_folder() / "data" / "protein" / "train.npz")
    for i, row in enumerate(np.random.default_rng(0).permutation(len(data))[:count].tolist()):
        suffix = FORMATS[i % len(FORMATS)]
        content = structure_bytes([Backbone(data[row].numpy(), name=data.names[row])], suffix.removesuffix(".gz"))
        yield f"{data.names[row]} {i}.{suffix}", gzip.compress(content) if suffix.endswith("gz") else content
        if i % 100 == 99:
            suffix, content = list(BROKEN.items())[i // 100 % len(BROKEN)]
            yield f"broken {i}.{suffix}", content


def write(folder: Path, count: int) -> None:
    """Every fifth file goes into an archive, the others into ten folders."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        for i, (name, content) in enumerate(files(count)):
            if i % 5 == 0:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                (folder / str(i % 10)).mkdir(exist_ok=True)
                (folder / str(i % 10) / name).write_bytes(content)


def watch(session: int, memory: dict[str, int], spent: dict[str, int]) -> None:
    """Peak resident memory in MB of the command, 'parent', and of its largest worker; CPU ticks of each, so far."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                spent[folder.name] = int(fields[11]) + int(fields[12])
                lines = (folder / "status").read_text().splitlines()
                kilobytes = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
                who = "parent" if folder.name == str(session) else "worker"
                memory[who] = max(memory.get(who, 0), round(kilobytes / 1024))


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run one command to its end: time, memory, and what it said; looks at it (Linux) five times a second."""
    load_before, began, memory, spent = os.getloadavg()[0], time.monotonic(), dict[str, int](), dict[str, int]()
    # Ray's workers are as nice as others, or a busy machine starves them
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, env=environment, start_new_session=True)
    talk: list[bytes] = []
    reader = threading.Thread(target=lambda: talk.extend(process.stderr or []))
    reader.start()
    while reader.is_alive():
        watch(process.pid, memory, spent)
        reader.join(0.2)
    status = process.wait()
    return {
        "exit status": status,
        "seconds": round(time.monotonic() - began, 1),
        "CPU seconds": round(sum(spent.values()) / os.sysconf("SC_CLK_TCK"), 1),
        "peak memory, MB": memory,
        "load before": round(load_before, 1),
        "said": talk[-1].decode().partition(": ")[2].strip() if talk else "",
    }


def costs(inputs: Path, model: str, per_kind: int) -> dict[str, Any]:
    """CPU milliseconds per chain, one thread: reading by kind of file, and encoding."""
    torch.set_num_threads(1)
    tokenizer, log = load(model), Log()
    units: dict[str, list[Any]] = {}
    for unit in find_inputs([str(inputs)]):
        zipped = ".gz" if unit.source.endswith(".gz") else ""
        if not unit.error and unit.content is None and "broken" not in unit.source:
            units.setdefault(unit.kind + zipped, []).append(unit)
    rows: dict[str, Any] = {}
    chains: list[Any] = []
    for kind, found in sorted(units.items()):
        some = random.Random(0).sample(found, min(per_kind, len(found)))
        list(read_units(some[:5], log, chain=None, add_hs=False))  # imports and caches
        began = time.process_time()
        read = [item[2] for item in read_units(some, log, chain=None, add_hs=False)]
        rows[f"read {kind}"] = round(1000 * (time.process_time() - began) / len(read), 2)
        chains += read
    tokenizer.encode_batch(chains[:2])  # compiles or loads what is compiled
    for gaps, name in {False: "complete chains", True: "chains with gaps"}.items():
        some = [chain for chain in chains if (not chain.mask.all()) == gaps]
        began = time.process_time()
        tokenizer.encode_batch(some, batch_size=32)
        spent, residues = time.process_time() - began, sum(map(len, some))
        rows[f"encode, {name}"] = round(1000 * spent / len(some), 2)
        rows[f"encode, {name}, µs per residue"] = round(1e6 * spent / residues, 1)
    mean = sum(map(len, chains)) / len(chains)
    return {"CPU ms per chain": rows, "chains": len(chains), "mean residues": round(mean, 1)}


def main(
    folder: Annotated[Path, typer.Argument(help="structures; made where it is not there")],
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "bulk.json",
    model: str = "chain-vq-4096",
    chains: int = 5000,
    shard_size: int = 64,
    part: int = 10,
) -> None:
    """Measure everything; takes minutes on a free machine."""
    if not folder.exists():
        write(folder, chains)
    results: dict[str, Any] = {**machine(), "model": model}

    def save(name: str, value: Any) -> None:
        results[name] = value
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, value, flush=True)

    with tempfile.TemporaryDirectory(prefix="bulk_") as work:
        common = [str(folder), "-m", model, "--shard-size", str(shard_size), "-o"]
        for workers in ("1", "2"):
            some = [f"{work}/some{workers}/", "--workers", workers, "--shard", f"1/{part}"]
            save(f"every {part}th shard, {workers} workers", measure([*common, *some]))
        save("everything, 2 workers", measure([*common, f"{work}/closed/", "--workers", "2"]))
        two = ["--workers", "2", "--open-loop"]
        save("open loop, 2 workers", measure([*common, f"{work}/open/", *two]))
        if importlib.util.find_spec("ray"):
            save("open loop, Ray, 2 workers", measure([*common, f"{work}/ray/", *two, "--engine", "ray"]))
    save("cost of one chain", costs(folder, model, 60))


if __name__ == "__main__":
    typer.run(main)
