"""Loops as machine code, for the searches on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["compiled"]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function of numpy arrays on its first call, which takes seconds, and keep the machine code on disk.

    It lies beside the source or in the user's cache folder (`NUMBA_CACHE_DIR` names another); where no folder can
    be written to, every process compiles for itself. Compiled functions let other threads run.
    """
    _tell()
    from numba import njit  # a third of a second that decoding need not spend

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder
            return njit(nogil=True, **options)(function)

    return decorate


@cache
def _tell() -> None:
    """Say so, once, when something of ours is really compiled rather than loaded."""
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said and event.data["dispatcher"].py_func.__module__.startswith("structok"):
                self.said = True
                logging.getLogger("structok").info("compiling the search, once on this machine")

        def on_end(self, event: Any) -> None: ...

    event.register("numba:compile", Listener())
