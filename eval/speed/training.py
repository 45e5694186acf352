"""Speed and memory of a training step of GCP-VQVAE on this machine, part by part, and its share of the limit.

python -m eval.speed.training
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

import structok
from eval import RESULTS
from eval.clock import apart, best_of, machine, peak_memory, seconds
from structok.protein.decoder import backbone
from structok.protein.losses import aligned_mse, backbone_direction, backbone_distance
from structok.protein.model import PRESETS, GCPVQVAEModel
from train.protein.fit import compile_parts

MODELS = ("mini", "lite")
T = TypeVar("T")


def batch(chains: int, length: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates, mask and residue types of random chains with the local geometry of proteins."""
    codes = torch.randint(0, 256, (chains, length), generator=torch.Generator().manual_seed(0))
    coords = structok.load("chain-vq-256").model.decode(codes).float().to(device)
    return coords, torch.ones(chains, length, dtype=torch.bool, device=device), torch.zeros_like(codes).to(device)


def step_times(
    name: str,
    chains: int,
    length: int,
    half: bool,
    repeats: int,
    device: str,
    threads: int = 0,
    compiled: bool = False,
) -> dict[str, Any]:
    """Seconds of each part of a training step, best of several; memory at its peak; operations of the whole step."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GCPVQVAEModel(PRESETS[name]).to(device).train()
    model.quantizer.initialised.fill_(True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    if compiled:
        compile_parts(model)
    coords, mask, types = batch(chains, length, device)
    parts: dict[str, float] = {}

    def timed(part: str, work: Callable[[], T]) -> T:
        took, result = seconds(work, device)
        parts[part] = parts.get(part, 0.0) + took
        return result

    def losses(frames: torch.Tensor) -> torch.Tensor:
        x = backbone(frames.float())
        return sum(f(x, coords, mask).mean() for f in (aligned_mse, backbone_distance, backbone_direction))  # type: ignore[return-value]

    def run() -> dict[str, float]:
        parts.clear()
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=half):
            graph = timed("features", lambda: model.graph(coords, mask, types))
            nodes = timed("GCPNet", lambda: model.graph_encoder(graph))
            hidden = timed("encoder", lambda: model.encoder(model.into(nodes).unflatten(0, mask.shape), mask))
            latents = model.to_code(hidden)
            quantized = timed("quantiser", lambda: model.quantizer(latents, mask))
            frames = timed("decoder", lambda: model.frames(quantized.vectors, mask).frames)
            loss = timed("losses", lambda: losses(frames)) + quantized.loss
        timed("backward", loss.backward)
        timed("optimiser", optimizer.step)
        optimizer.zero_grad()
        return dict(parts)

    with FlopCounterMode(display=False) as counter:
        run()
    rounds = [run() for _ in range(repeats)]
    best = min(rounds, key=lambda r: sum(r.values()))
    whole, gflop = sum(best.values()), counter.get_total_flops() / 1e9
    memory = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "bf16 autocast" if half else "fp32",
        "batch": [chains, length],
        "residues/s": round(chains * length / whole),
        "seconds": {part: round(s, 4) for part, s in best.items()},
        "GFLOP of matrix products per step": round(gflop, 2),
        "GFLOP/s": round(gflop / whole, 1),
        "peak memory of the process, MB": round(memory),
    }


def product_limit(device: str, half: bool) -> float:
    """GFLOP/s of a large matrix product, what the steps are compared with."""
    a = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if half else torch.float32)
    return round(2 * 2048**3 / best_of(5, lambda: float((a @ a)[0, 0]))[0] / 1e9, 1)


def main(
    chains: Annotated[int, typer.Option(help="Chains in the batch; a quarter as many for lite.")] = 8,
    length: Annotated[int, typer.Option(help="Residues of each.")] = 256,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
    repeats: Annotated[int, typer.Option(help="Steps measured; the fastest counts.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure each model in a process of its own, so that peak memory is the model's."""
    torch.set_num_threads(threads)
    rows = []
    for name in MODELS:
        for half in (False, True):
            count = max(1, chains // 4) if name == "lite" else chains
            rows.append(apart(step_times, name, count, length, half, repeats, device, threads))
            print(rows[-1], file=sys.stderr)
    limits = {kind: product_limit(device, kind == "bf16") for kind in ("fp32", "bf16")}
    record = {"machine": machine(device), "GFLOP/s of a 2048³ product": limits, "steps": rows}
    path = RESULTS / "training.json"
    old = json.loads(path.read_text()) if path.exists() else {}  # what `eval.speed.streaming` measured
    path.write_text(json.dumps(old | record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
