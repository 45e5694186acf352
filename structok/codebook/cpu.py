"""What the searches on the CPU share: loops as machine code, and one thread for each part of the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

__all__ = ["compiled", "in_threads"]

Part = TypeVar("Part")


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function of numpy arrays on its first call, which takes seconds, and keep the machine code on disk.

    It lies beside the source or in the user's cache folder (`NUMBA_CACHE_DIR` names another); where no folder can
    be written to, every process compiles for itself. Compiled functions let other threads run.
    """
    from numba import njit  # a third of a second that decoding need not spend

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder
            return njit(nogil=True, **options)(function)

    return decorate


def in_threads(work: Callable[[Part], None], parts: Sequence[Part], *, several: bool) -> None:
    """Do all parts, one after the other or on torch's number of threads.

    Where operations are short, a thread for each part beats several for each.
    """
    threads = min(torch.get_num_threads(), len(parts))
    if not several or threads <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(work, parts):
            pass
