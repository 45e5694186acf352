"""Nearest-code lookup on the CPU against its peers, side by side in one run: eval/results/lookup.json.

    python -m eval.speed.lookup            # under three minutes on one CPU core

Contestants take turns. A ratio is the median of its rounds' ratios, so that a machine that is busy for a while
disturbs both sides alike; times are the best of the rounds. One that needs more than `HOPELESS` times as long as
ours in the first round is not repeated. Peers that hold all scores at once get the vectors in chunks of `CHUNK` scores,
the better for them. vector-quantize-pytorch is its layer in evaluation mode, which also returns the code vectors.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import sys
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float, Int
from torch import Tensor

from eval import RESULTS
from eval.clock import machine, seconds
from structok.codebook.nearest import nearest_code

Lookup = Callable[[Float[Tensor, "n d"], Float[Tensor, "k d"]], Int[Tensor, " n"]]

CHUNK = 1 << 26
HOPELESS = 1.5
SIZES = [(10_000, 512, 9), (10_000, 512, 64), *((10_000, 4096, d) for d in (9, 64, 128, 256)),
          (1_000, 65536, 64), (100_000, 4096, 9), (100_000, 4096, 128)]  # fmt: skip


def in_chunks(lookup: Lookup) -> Lookup:
    return lambda x, codes: torch.cat([lookup(part, codes) for part in x.split(max(1, CHUNK // len(codes)))])


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


@in_chunks
def addmm(x: Tensor, codes: Tensor) -> Tensor:
    return torch.addmm(codes.square().sum(1) / 2, x, codes.T, alpha=-1.0).argmin(1)


def layer(x: Tensor, codes: Tensor) -> Tensor:
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval().to(x.device)
    quantizer.codebook = codes
    with torch.no_grad():
        return in_chunks(lambda part, _: quantizer(part)[1])(x, codes)


def flat(x: Tensor, codes: Tensor) -> Tensor:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(codes.shape[1])
    index.add(codes.numpy())
    return torch.from_numpy(index.search(x.numpy(), 1)[1][:, 0])


def ours(x: Tensor, codes: Tensor) -> Tensor:
    return nearest_code(x, codes)[1]


OURS, BARE = "structok", "bare product"


def peers(device: str = "cpu") -> dict[str, Lookup]:
    """Contestants by name; packages that are not installed are left out."""
    found: dict[str, Lookup] = {
        "torch.cdist + argmin": in_chunks(lambda x, codes: torch.cdist(x, codes).argmin(1)),
        "addmm + argmin": addmm,
    }
    if importlib.util.find_spec("vector_quantize_pytorch"):
        found["vector-quantize-pytorch"] = layer
    if device == "cpu" and importlib.util.find_spec("faiss"):
        found["faiss IndexFlatL2"] = flat
    return found


def compare(n: int, k: int, d: int, repeats: int) -> dict[str, Any]:
    """Times of all contestants on one problem, and in how many rows they differ from ours."""
    generator = torch.Generator().manual_seed(n + k + d)
    x, codes = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    others = peers()
    lookups: dict[str, Lookup] = {BARE: product, OURS: ours, **others}
    rounds: dict[str, list[float]] = {name: [] for name in lookups}
    answer: dict[str, Tensor] = {}
    names = list(lookups)
    for i in range(repeats):
        for name in names:
            took, answer[name] = seconds(lambda: lookups[name](x, codes))  # noqa: B023
            rounds[name].append(took)
        if i == 0:
            names = [name for name in names if rounds[name][0] < HOPELESS * rounds[OURS][0]]

    def ratio(name: str, over: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[name], rounds[over]))

    over_peers = {name: ratio(name, OURS) for name in others}
    return {
        "n": n,
        "k": k,
        "d": d,
        "seconds": {name: min(times) for name, times in rounds.items()},
        "rows_unlike_structok": {name: int((answer[name].long() != answer[OURS].long()).sum()) for name in others},
        "over_bare_product": ratio(OURS, BARE),
        "speed_over_peers": over_peers,
        "speed_over_best_peer": min(over_peers.values()),
    }


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 7,
) -> None:
    """Run all contestants and write the results."""
    where = machine()
    lookups = []
    for n, k, d in SIZES:
        lookups.append(row := compare(n, k, d, repeats))
        print(n, k, d, {name: round(t, 4) for name, t in row["seconds"].items()}, file=sys.stderr)
    results = {**where, "device": f"CPU ({platform.machine()})", "lookups": lookups}
    (RESULTS / "lookup.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
