"""Time and memory on this machine, and what machine it is."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

__all__ = ["apart", "best_of", "cpu_seconds", "machine", "peak_memory", "seconds"]

T = TypeVar("T")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where figures were made; load: the average number of busy threads just before."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Run in a fresh process; its peak memory is its own, and a crash of native code ends only itself."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def seconds(work: Callable[[], T], device: str = "cpu") -> tuple[float, T]:
    """Wall-clock time, and the result; on a GPU what was asked before is not counted, and all of it is waited for."""
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def best_of(repeats: int, work: Callable[[], T]) -> tuple[float, T]:
    """Shortest time in seconds of several runs, and the last result."""
    runs = [seconds(work) for _ in range(repeats)]
    return min(took for took, _ in runs), runs[-1][1]


def cpu_seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Shortest processor time of several runs: what else runs on the machine counts little."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def peak_memory() -> int:
    """Peak resident memory of this process so far, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
