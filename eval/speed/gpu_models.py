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
from eval.clock import seconds
from eval.speed.training import step_times
from structok.metrics import rmsd

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

        seconds(work, self.device)
        times = [seconds(work, self.device)[0]]
        while len(times) < 20 and sum(times) < self.budget:
            times.append(seconds(work, self.device)[0])
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
    """Whole training steps (`eval.speed.training`) in float32 or bfloat16, compiled or not."""
    rows: list[dict[str, Any]] = []
    for preset in presets:
        for half, compiled in ways:
            row: dict[str, Any] = {"preset": preset, "bfloat16": half, "compiled": compiled}
            rows.append(row)
            if clock.is_up:
                row["left out"] = "time was up"
                continue
            try:
                row |= step_times(preset, *batch, half, 5, device, compiled=compiled)
            except Exception as error:  # too little memory, or a compiler that is missing, is no reason to stop
                row["left out"] = (str(error) or type(error).__name__).split("\n")[0][:200]
    return rows
