"""Loops as machine code, for the searches on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["compiled"]


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
