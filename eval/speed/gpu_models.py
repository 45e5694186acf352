"""The models' part of `eval.gpu`: closed-loop encoding and training on a GPU, on made-up chains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import structok
from structok.metrics import rmsd
from structok.protein.model import PRESETS, GCPVQVAEModel

__all__ = ["Clock", "encoding", "training"]


class Clock:
    """Times calls on a device, and knows when to stop.

    Parameters
    ----------
    limit : seconds after which the time is up
    device : whose work is waited for
    budget : seconds that the calls of one measurement may take together
    """

    def __init__(self, limit: float, device: str, budget: float) -> None:
        self.began, self.limit, self.device, self.budget = time.monotonic(), limit, device, budget

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def is_up(self) -> bool:
        return self.seconds > self.limit

    def median(self, work: Callable[[], object]) -> float:
        """Seconds of one call, the median of up to 20 after a first one, which tunes and compiles."""

        def once() -> float:
            start = time.perf_counter()
            work()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        once()
        times = [once()]
        while len(times) < 20 and sum(times) < self.budget:
            times.append(once())
        return statistics.median(times)


def chains(count: int, length: int) -> Tensor:
    """Backbones that random codes make, with noise, so that no code fits exactly."""
    generator = torch.Generator().manual_seed(0)
    tokenizer = structok.load("chain-vq-4096")
    codes = torch.randint(0, len(tokenizer.model.bonded), (count, length), generator=generator)
    return tokenizer.model.decode(codes).float() + 0.05 * torch.randn(count, length, 3, 3, generator=generator)


def encoding(device: str, counts: list[int], length: int, beams: list[int], clock: Clock) -> list[dict[str, Any]]:
    """Closed-loop encoding of `chain-vq-4096` on the device, on this machine's CPU, and how far the codes agree."""
    rows: list[dict[str, Any]] = []
    made = list(chains(max(counts), length))
    models = {where: structok.load("chain-vq-4096", device=where).model for where in dict.fromkeys(["cpu", device])}
    for beam in beams:
        found = {}
        for where, model in models.items():
            for count in counts[:1] if where == "cpu" else counts:
                row: dict[str, Any] = {"where": where, "beam": beam, "chains": count, "length": length}
                rows.append(row)
                if clock.is_up:
                    row["left out"] = "time was up"
                    continue
                work = partial(model.encode, made[:count], beam=beam, batch_size=count if where == "cuda" else 32)
                row["residues_per_second"] = count * length / clock.median(work)
                found[where] = [code.cpu() for code in work()][: counts[0]]
                rebuilt = (models["cpu"].decode(code.long()) for code in found[where])
                errors = [rmsd(b.numpy(), c.numpy()) for b, c in zip(rebuilt, made)]
                row["mean_rmsd"] = statistics.fmean(map(float, errors))
                row["codes_as_on_the_cpu"] = float((torch.cat(found[where]) == torch.cat(found["cpu"])).float().mean())
    return rows


def training(
    device: str, presets: list[str], batch: tuple[int, int], ways: list[tuple[bool, bool]], clock: Clock
) -> list[dict[str, Any]]:
    """Residues per second of whole training steps (forward, backward, AdamW), graphs made beforehand."""
    rows: list[dict[str, Any]] = []
    coords = chains(*batch).to(device)
    mask, types = (
        torch.ones(batch, dtype=torch.bool, device=device),
        torch.zeros(batch, dtype=torch.long, device=device),
    )
    for preset in presets:
        for half, compiled in ways:
            row: dict[str, Any] = {"preset": preset, "chains": batch[0], "length": batch[1]}
            row |= {"bfloat16": half, "compiled": compiled}
            rows.append(row)
            if clock.is_up:
                row["left out"] = "time was up"
                continue
            torch.manual_seed(0)
            model = GCPVQVAEModel(PRESETS[preset]).to(device).train()
            if compiled:
                model.encoder.compile()
                model.decoder.compile()
            graph = model.graph(coords, mask, types)
            optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

            def step(model=model, graph=graph, optimiser=optimiser, half=half) -> None:
                with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
                    rebuilt = model(graph, mask)
                    loss = (rebuilt.coords.float() - coords).square().mean() + rebuilt.quantizer_loss
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()

            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                row["residues_per_second"] = batch[0] * batch[1] / clock.median(step)
            except Exception as error:  # too little memory, or a compiler that is missing, is no reason to stop
                row["left out"] = (str(error) or type(error).__name__).split("\n")[0][:200]
            row["parameters"] = sum(p.numel() for p in model.parameters())
            if device == "cuda":
                row["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return rows
