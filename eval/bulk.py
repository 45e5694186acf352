"""Bulk tokenisation on this machine: time, memory, killed and resumed, Ray beside local, and where the time goes.

    python -m eval.bulk_files /tmp/bulk --chains 5000
    python -m eval.bulk /tmp/bulk/files

Other work on the machine changes the wall clock but hardly the CPU seconds, so both are given.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from structok import __version__, load
from structok.files import read_tokens
from structok.inputs import find_inputs, read_units
from structok.work.log import Log

OUT = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-c", "from structok.cli import main; main()", "quantize"]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the command; Ray's workers are as nice as others, or a busy machine starves them."""
    return subprocess.Popen(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, env={**os.environ, "RAY_worker_niceness": "0"}
    )


def peaks(process: subprocess.Popen[bytes], found: dict[str, int]) -> None:
    """Peak resident memory in MB of the command, 'parent', and of its largest child so far."""
    for who, ids in (("parent", [process.pid]), ("worker", children(process.pid))):
        for i in ids:
            with contextlib.suppress(OSError, StopIteration, ValueError):
                lines = Path(f"/proc/{i}/status").read_text().splitlines()
                kilobytes = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
                found[who] = max(found.get(who, 0), round(kilobytes / 1024))


def children(process: int) -> list[int]:
    """Ids of the processes that a process started."""
    with contextlib.suppress(OSError):
        threads = Path(f"/proc/{process}/task").iterdir()
        return [int(i) for t in threads for i in (t / "children").read_text().split()]
    return []


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run one command to its end: time, memory, and what it said."""
    load_before, began, memory = os.getloadavg()[0], time.monotonic(), dict[str, int]()
    process = start(arguments)
    talk: list[bytes] = []
    reader = threading.Thread(target=lambda: talk.extend(process.stderr or []))
    reader.start()
    while reader.is_alive():
        peaks(process, memory)
        reader.join(0.5)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit status": process.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "CPU seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak memory, MB": memory,
        "load before": round(load_before, 1),
        "said": talk[0].decode().partition(": ")[2].strip() if talk else "",
    }


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def killed(arguments: list[str], folder: Path, shards: int, times: int, seed: int) -> list[int]:
    """Start a command several times and kill it at random moments; how many shards there were at each."""
    draw, seen = random.Random(seed), []
    for goal in sorted(draw.sample(range(1, shards - 1), times)):
        process = start(arguments)
        while len(list(folder.glob("part-*"))) < goal and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.random() * 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(len(list(folder.glob("part-*"))))
    return seen


def listed(folder: Path) -> dict[str, Any]:
    """What a folder holds: records, distinct sources and failures."""
    failures = [json.loads(line) for line in (folder / ".structok" / "failures.jsonl").read_text().splitlines()]
    rows = sorted(json.dumps(t.to_dict()) for t in read_tokens(folder) if not isinstance(t, Exception))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
    return {"records": len(rows), "as a set": digest, "failures": len(failures)}


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
    gaps = {False: "complete chains", True: "chains with gaps"}
    for kind, name in gaps.items():
        some = [chain for chain in chains if (not chain.mask.all()) == kind]
        began = time.process_time()
        tokenizer.encode_batch(some, batch_size=32)
        seconds, residues = time.process_time() - began, sum(map(len, some))
        rows[f"encode, {name}"] = round(1000 * seconds / len(some), 2)
        rows[f"encode, {name}, µs per residue"] = round(1e6 * seconds / residues, 1)
    mean = sum(map(len, chains)) / len(chains)
    return {"CPU ms per chain": rows, "chains": len(chains), "mean residues": round(mean, 1)}


def main(
    inputs: Annotated[Path, typer.Argument(help="folder made by eval.bulk_files")],
    out: Annotated[Path, typer.Option("-o", "--out")] = OUT / "bulk.json",
    model: str = "chain-vq-4096",
    shard_size: int = 64,
    part: int = 10,
    seed: int = 0,
) -> None:
    """Measure everything; takes minutes on a free machine."""
    work = Path(tempfile.mkdtemp(prefix="bulk_"))
    common = [str(inputs), "-m", model, "--shard-size", str(shard_size)]
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, structok {__version__}",
        "model": model,
        "note": "shared with other jobs: load averages say how much; CPU seconds are the figures to compare",
    }

    def save(name: str, value: Any) -> None:
        results[name] = value
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, value, flush=True)

    out.parent.mkdir(parents=True, exist_ok=True)
    for workers in (1, 2):
        target = ["-o", f"{work / f'some{workers}'}/", "--workers", str(workers), "--shard", f"1/{part}"]
        save(f"every {part}th shard, {workers} workers", measure([*common, *target]))
    save("everything, 2 workers", measure([*common, "-o", f"{work / 'closed'}/", "--workers", "2"]))
    save("holds", listed(work / "closed"))
    # what follows is about files, not codes: open loop is quick
    whole, again, ray = work / "whole", work / "again", work / "ray"
    common.append("--open-loop")
    save("open loop, 2 workers", measure([*common, "-o", f"{whole}/", "--workers", "2"]))
    shards = len(list(whole.glob("part-*")))
    arguments = [*common, "-o", f"{again}/", "--workers", "2"]
    save("open loop, killed when so many shards were there", killed(arguments, again, shards, 3, seed))
    save("open loop, taken up again", measure(arguments))
    save("killed and resumed: identical files", contents(again) == contents(whole))
    if importlib.util.find_spec("ray"):
        save("open loop, Ray, 2 workers", measure([*common, "-o", f"{ray}/", "--engine", "ray", "--workers", "2"]))
        save("Ray and local: equal sets", listed(ray) == listed(whole))
        save("Ray and local: identical files", contents(ray) == contents(whole))
    save("cost of one chain", costs(inputs, model, 60))
    shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
