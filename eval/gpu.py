"""Everything that needs a GPU, in one command on any CUDA machine, without network: results/gpu-<device>.json.

    python -m eval.gpu               # under eight minutes
    python -m eval.gpu --toy -o FILE # toy sizes; without a GPU in Triton's interpreter, to see that it runs

Is the nearest-code kernel exact where rounding hides the answer? How long do lookups take, beside others and beside
the tensor cores' own rate? How fast are closed-loop encoding and training? Later parts are left out, and say so, once
the time is up. Models are timed on made-up chains: their speed does not depend on what a chain looks like.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

if not torch.cuda.is_available():  # before anything imports Triton: its kernels then run in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from eval import RESULTS
from eval.speed.gpu_models import Clock, encoding, training
from eval.speed.lookup import OURS, Lookup, addmm, ours, peers
from structok.codebook import nearest, nearest_triton

LIMIT = 360  # seconds, after which nothing new is begun
# vectors, codes, components: shapes that others publish, then ours; the fourth is run 32 times with codes of its own
SHAPES = [
    (131_072, 2_048, 128),
    (262_144, 4_096, 128),
    (524_288, 8_192, 128),
    (65_536, 1_024, 128),
    (1_000_000, 4_096, 9),
    (1_000_000, 4_096, 128),
]
BATCHES = {(65_536, 1_024, 128): 32}


@contextmanager
def through_the_kernel(device: str) -> Iterator[None]:
    """Without a GPU, too, lookups take the kernel's way."""
    kept = nearest._kernel, nearest._SMALL
    nearest._SMALL = 0
    if device == "cpu":
        leaders = partial(nearest_triton.leaders, tile=(32, 64))
        kernel: Any = SimpleNamespace(leaders=leaders, product_error=nearest_triton.product_error)
        nearest._kernel = lambda x, codebook, k: kernel
    try:
        yield
    finally:
        nearest._kernel, nearest._SMALL = kept


def regimes(n: int, codes: int, d: int, device: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Vectors and codebooks whose nearest codes rounding hides."""
    generator = torch.Generator().manual_seed(codes + d)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, d, generator=generator).to(device)

    def some(count: int) -> Tensor:
        return torch.randint(codes, (count,), generator=generator).to(device)

    x, e = normal(n), normal(codes)
    lattice = [torch.randint(-2, 3, (rows, d), generator=generator).float().to(device) for rows in (n, codes)]
    yield "plain", x, e
    yield "far from the origin", x + 1e4, e + 1e4
    yield "far from the codes", x * 1e3, e
    yield "nearly equal codes", x, 3 + 1e-4 * e
    yield "repeated codes", x, e[some(codes)]
    yield "one code only", x, e[:1].repeat(codes, 1)
    yield "on the codes", e[some(n)], e
    yield "half way between two", (e[some(n)] + e[some(n)]) / 2, e
    yield "ties on a lattice", *lattice
    yield "tiny", x * 1e-18, e * 1e-18
    yield "huge", x * 1e17, e * 1e17


def exhaustive(x: Tensor, codes: Tensor) -> Tensor:
    """All squared distances in float64, of a few vectors at a time."""
    rows = max(1, (1 << 27) // codes.numel())
    parts = [(part.double()[:, None] - codes.double()).square().sum(-1) for part in x.split(rows)]
    return torch.cat(parts)


def wrong_rows(index: Tensor, distance: Tensor) -> int:
    """Rows that name, at some rank, a code further off than the true one, or a later one at the same distance.

    Distances that float64 itself cannot tell apart count as the same, but only equal ones ask for the lower number.
    """
    best, order = distance.sort(dim=1, stable=True)
    k = index.shape[1]
    own = distance.gather(1, index.long())
    far = own > best[:, :k] * (1 + 1e-12)
    late = (own == best[:, :k]) & (index > order[:, :k])
    return int((far | late).any(1).sum())


def correctness(device: str, sizes: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Wrong rows of the kernel's lookup in each regime, and of a float32 product's."""
    rows = []
    for n, codes, d in sizes:
        for regime, x, e in regimes(n, codes, d, device):
            distance = exhaustive(x, e)
            row: dict[str, Any] = {"regime": regime, "n": n, "k": codes, "d": d}
            with through_the_kernel(device):
                for k in (1, 8):
                    index = nearest.nearest_code(x, e, k=k)[1].view(n, k)
                    row[f"wrong, k = {k}"] = wrong_rows(index, distance)
            row["wrong, addmm"] = wrong_rows(addmm(x, e)[:, None], distance)
            rows.append(row)
    return rows


def flash_kmeans() -> Lookup | None:
    """The assignment step of flash-kmeans in half precision, where it is installed."""
    try:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton
    except ImportError:
        return None

    def assign(x: Tensor, codes: Tensor) -> Tensor:
        half, norm = x.half()[None], x.square().sum(1)[None]
        return euclid_assign_triton(half, codes.half()[None], norm)[0]

    return assign


def limits(device: str, size: int, clock: Clock) -> dict[str, float]:
    """Measured Tflop/s of a large matrix product: bfloat16 with float32 sums, and float32."""
    found = {}
    for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        a = torch.randn(size, size, device=device, dtype=kind)
        found[name] = 2 * size**3 / clock.median(lambda a=a: a @ a) / 1e12
    return found


def lookups(device: str, shapes: list[tuple[int, int, int]], peak: float, clock: Clock) -> list[dict[str, Any]]:
    """Seconds of all contestants; ours makes three bfloat16 products, which the share of the peak counts."""
    rows = []
    contestants = {OURS: ours, **peers(device)}
    if (flash := flash_kmeans()) is not None:
        contestants["flash-kmeans, float16"] = flash
    for n, k, d in shapes:
        row: dict[str, Any] = {"n": n, "k": k, "d": d, "batches": BATCHES.get((n, k, d), 1)}
        rows.append(row)
        if clock.is_up:
            row["left out"] = "time was up"
            continue
        problems = [(torch.randn(n, d, device=device), torch.randn(k, d, device=device)) for _ in range(row["batches"])]
        expected = nearest.nearest_code(*problems[0])[1].long()
        row["seconds"], row["rows_unlike_structok"], row["failed"] = {}, {}, {}
        for name, lookup in contestants.items():
            try:
                unlike = int((lookup(*problems[0]).long() != expected).sum())
                row["seconds"][name] = clock.median(lambda f=lookup, p=problems: [f(*pair) for pair in p])
                row["rows_unlike_structok"][name] = unlike
            except Exception as error:  # another package's limits are no reason to stop
                row["failed"][name] = (str(error) or type(error).__name__).split("\n")[0][:200]
        row["tflops"] = 2 * row["batches"] * n * k * d / row["seconds"]["structok"] / 1e12
        row["share_of_bfloat16_peak"] = 3 * row["tflops"] / peak
    return rows


def main(
    toy: Annotated[bool, typer.Option(help="Toy sizes, for a test.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="default: eval/results/gpu-<device>.json")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which nothing new is begun.")] = LIMIT,
) -> None:
    """Run all parts and write what came out."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not toy:
        raise SystemExit("no CUDA GPU here: run it on one, or see with --toy that it works")
    if toy and out is None:
        raise SystemExit("--toy needs --out: toy figures are no results")
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, Triton's interpreter"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    clock, sizes = (
        Clock(limit, device, 0.0 if toy else 1.0),
        [(40, 200, 9), (33, 65, 17)] if toy else [(2048, 4159, d) for d in (9, 64, 128, 200, 512)],
    )
    report: dict[str, Any] = {
        "device": name,
        "toy": toy,
        "torch": torch.__version__,
        "cpu_threads": torch.get_num_threads(),
    }
    report["correctness"] = correctness(device, sizes)
    report["limit_tflops"] = limits(device, 256 if toy else 8192, clock)
    shapes = [(500, 100, 9)] if toy else SHAPES
    report["lookups"] = lookups(device, shapes, report["limit_tflops"]["bfloat16"], clock)
    report["encoding"] = encoding(device, [3] if toy else [64, 512], 24 if toy else 256, [4] if toy else [8, 32], clock)
    ways = [(False, False), (True, False), *([] if toy else [(True, True)])]
    report["training"] = training(
        device, ["mini"] if toy else ["mini", "lite"], (2, 24) if toy else (16, 256), ways, clock
    )
    report["seconds"] = round(clock.seconds, 1)
    out = out or RESULTS / f"gpu-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    wrong = sum(row["wrong, k = 1"] + row["wrong, k = 8"] for row in report["correctness"])
    print(f"{out}: {wrong} wrong rows, {report['seconds']} s")
    if wrong:
        raise SystemExit("the kernel's lookup is not exact on this device")


if __name__ == "__main__":
    typer.run(main)
