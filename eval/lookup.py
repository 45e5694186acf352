"""Nearest-code lookup against its peers, side by side in one run: results/lookup.json and lookup.svg.

    python -m eval.lookup            # under three minutes on one CPU core
    python -m eval.lookup --full     # up to 10⁶ vectors, 10⁷ on a GPU, every codebook

Contestants take turns. A ratio is the median of its rounds' ratios, so that a machine that is busy for a while
disturbs both sides alike; times are the best of the rounds. One that needs more than `HOPELESS` times as long as
ours in the first round is not repeated. Peers that hold all scores at once
get the vectors in chunks of `CHUNK` scores, the better for them. vector-quantize-pytorch is its layer in
evaluation mode, which also returns the code vectors.
Extra memory is the rise of the peak (resident set on a CPU, allocator on a GPU) over what is held before, in a
process of its own. Shares of the machine's limit refer to a matrix product and a copy measured in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import typer
from jaxtyping import Float, Int
from torch import Tensor

from eval.tables import RESULTS
from structok.codebook.nearest import nearest_code

Lookup = Callable[[Float[Tensor, "n d"], Float[Tensor, "k d"]], Int[Tensor, " n"]]

CHUNK = 1 << 26
HOPELESS = 1.5
SUBSET = [
    (10_000, 512, 9),
    (10_000, 512, 64),
    (10_000, 4096, 9),
    (10_000, 4096, 64),
    (10_000, 4096, 128),
    (10_000, 4096, 256),
    (1_000, 65536, 64),
    (100_000, 4096, 9),
    (100_000, 4096, 128),
]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def ours(x: Tensor, codes: Tensor) -> Tensor:
    return nearest_code(x, codes)[1]


def in_chunks(lookup: Lookup) -> Lookup:
    def chunked(x: Tensor, codes: Tensor) -> Tensor:
        return torch.cat([lookup(part, codes) for part in x.split(max(1, CHUNK // len(codes)))])

    return chunked


@in_chunks
def cdist(x: Tensor, codes: Tensor) -> Tensor:
    return torch.cdist(x, codes).argmin(1)


@in_chunks
def addmm(x: Tensor, codes: Tensor) -> Tensor:
    return torch.addmm(codes.square().sum(1) / 2, x, codes.T, alpha=-1.0).argmin(1)


def product(x: Tensor, codes: Tensor) -> Tensor:
    """The bare matrix product, in the blocks that our lookup uses: a lower limit, no lookup."""
    half_norm, width = codes.square().sum(1) / 2, min(len(codes), 4096)
    rows = max(1, (1 << 19) // width)
    out = x.new_empty(rows, width)
    for j in range(0, len(codes), width):
        e, bias = codes[j : j + width], half_norm[j : j + width]
        for part in x.split(rows):
            torch.addmm(bias, part, e.T, alpha=-1.0, out=out[: len(part), : len(e)])
    return x.new_zeros(len(x), dtype=torch.long)


def peers(device: str) -> dict[str, Lookup]:
    """Contestants by name; packages that are not installed are left out."""
    found: dict[str, Lookup] = {"structok": ours, "torch.cdist + argmin": cdist, "addmm + argmin": addmm}
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        pass
    else:

        def quantize(x: Tensor, codes: Tensor) -> Tensor:
            layer = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval().to(x.device)
            layer.codebook = codes
            with torch.no_grad():
                return in_chunks(lambda part, _: layer(part)[1])(x, codes)

        found["vector-quantize-pytorch"] = quantize
    if device == "cpu":
        try:
            import faiss
        except ImportError:
            pass
        else:
            faiss.omp_set_num_threads(torch.get_num_threads())

            def flat(x: Tensor, codes: Tensor) -> Tensor:
                index = faiss.IndexFlatL2(codes.shape[1])
                index.add(codes.numpy())
                return torch.from_numpy(index.search(x.numpy(), 1)[1][:, 0])

            found["faiss IndexFlatL2"] = flat
    return found


def seconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def problem(n: int, k: int, d: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + k + d)
    return torch.randn(n, d, generator=generator).to(device), torch.randn(k, d, generator=generator).to(device)


def limits(device: str) -> dict[str, float]:
    """Best rate of a large float32 matrix product, and of a copy (bytes read and written)."""
    size = 1024 if device == "cpu" else 8192
    a, b = torch.randn(size, size, device=device), torch.empty(1 << 25, device=device).fill_(1)
    c, e = torch.empty_like(a), torch.empty_like(b)
    product = min(seconds(lambda: torch.mm(a, a, out=c), device) for _ in range(8))
    copy = min(seconds(lambda: e.copy_(b), device) for _ in range(8))
    return {"gflops": 2 * size**3 / product / 1e9, "copy_gb_per_s": 8 * b.numel() / copy / 1e9}


def compare(n: int, k: int, d: int, device: str, repeats: int) -> dict[str, Any]:
    """Times of all contestants on one problem, and in how many rows they differ from ours."""
    x, codes = problem(n, k, d, device)
    lookups = {"bare product": product, **peers(device)}
    rounds: dict[str, list[float]] = {name: [] for name in lookups}
    answer: dict[str, Tensor] = {}

    def run(name: str) -> None:
        answer[name] = lookups[name](x, codes)

    names = list(lookups)
    for i in range(repeats):
        for name in names:
            rounds[name].append(seconds(partial(run, name), device))
        if i == 0:
            names = [name for name in names if rounds[name][0] < HOPELESS * rounds["structok"][0]]

    def ratio(name: str, over: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[name], rounds[over]))

    best = {name: min(times) for name, times in rounds.items()}
    others = [name for name in lookups if name not in ("structok", "bare product")]
    expected = answer["structok"].long()
    return {
        "n": n,
        "k": k,
        "d": d,
        "seconds": best,
        "rows_unlike_structok": {name: int((answer[name].long() != expected).sum()) for name in others},
        "rounds": {name: len(times) for name, times in rounds.items()},
        "over_bare_product": ratio("structok", "bare product"),
        "speed_over_peers": {name: ratio(name, "structok") for name in others},
        "speed_over_best_peer": min(ratio(name, "structok") for name in others),
        "gflops": 2 * n * k * d / best["structok"] / 1e9,
        "gb_per_s": 4 * (n * d + k * d + 2 * n) / best["structok"] / 1e9,
    }


def extra_memory(name: str, n: int, k: int, d: int, device: str) -> float:
    """MB above what is held before the call, measured in this process, which must be fresh."""
    lookup = peers(device)[name]
    lookup(*problem(64, 64, d, device))  # libraries load their working space on first use
    x, codes = problem(n, k, d, device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        lookup(x, codes)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the resident set, on Linux
    before = resident("VmRSS")
    lookup(x, codes)
    return (resident("VmHWM") - before) / 1e6


def resident(kind: str) -> int:
    """Bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return 1024 * int(line.split()[1])


def measured_memory(name: str, n: int, k: int, d: int, device: str) -> float:
    code = f"from eval.lookup import extra_memory; print(extra_memory({name!r}, {n}, {k}, {d}, {device!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def plot(results: dict[str, Any]) -> None:
    rows = results["lookups"]
    figure, axis = plt.subplots(figsize=(11, 4.2))
    names = [name for name in rows[0]["seconds"] if name != "bare product"]
    for i, name in enumerate(names):
        relative = [row["seconds"][name] / row["seconds"]["bare product"] for row in rows]
        axis.bar([j + i / (len(names) + 1) for j in range(len(rows))], relative, 1 / (len(names) + 1), label=name)
    axis.axhline(1, color="black", linewidth=0.8)
    labels = [f"N = {row['n']:,}\nK = {row['k']:,}\nd = {row['d']}" for row in rows]
    axis.set_xticks([j + 0.35 for j in range(len(rows))], labels, fontsize=8)
    axis.set_yscale("log")
    axis.set_ylabel("time / time of the bare matrix product")
    axis.set_title(f"Nearest-code lookup, {results['device']}, {results['threads']} thread(s)")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "lookup.svg")


@app.command()
def main(
    full: Annotated[bool, typer.Option(help="All sizes, to 10⁶ vectors, 10⁷ on a GPU.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 7,
) -> None:
    """Run all contestants and write the results."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SUBSET
    if full:
        counts = (10_000, 100_000, 1_000_000, *([10_000_000] if device == "cuda" else []))
        sizes = [(n, k, d) for n in counts for k in (512, 4096, 65536) for d in (9, 64, 128, 256)]
    limit = limits(device)
    load = os.getloadavg()[0]
    lookups = []
    for n, k, d in sizes:
        row = compare(n, k, d, device, repeats)
        row |= {"share_of_gemm": row["gflops"] / limit["gflops"]}
        row |= {"share_of_copy": row["gb_per_s"] / limit["copy_gb_per_s"]}
        lookups.append(row)
        print(n, k, d, {name: round(t, 4) for name, t in row["seconds"].items()}, file=sys.stderr)
    n, k, d = (100_000, 4096, 128) if device == "cpu" else (1_000_000, 4096, 128)
    if device == "cuda":
        about, note = torch.cuda.get_device_name(), "Measured on the GPU named; the Triton kernel does the ranking."
    else:
        about = f"CPU ({platform.machine()})"
        note = (
            "No GPU was available. Every figure is of the CPU path. The Triton kernel has been proven for correctness "
            "only, through Triton's interpreter, and compiles (kernel.json); its speed is unmeasured."
        )
    results = {
        "device": about,
        "note": note,
        "threads": torch.get_num_threads(),
        "load_average_at_start": load,
        "torch": torch.__version__,
        "limit": limit,
        "lookups": lookups,
        "extra_memory_mb": {
            "n": n,
            "k": k,
            "d": d,
            **{name: measured_memory(name, n, k, d, device) for name in peers(device)},
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lookup.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


if __name__ == "__main__":
    app()
