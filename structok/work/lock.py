"""One process at a time writes a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structok.errors import InputError

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, lock: Path) -> Iterator[None]:
    """Hold a folder for one process by a lock file inside it; the lock ends with the process, however it ends.

    Raises
    ------
    InputError
        If another process holds it, or it cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        _hold(handle, folder)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _hold(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody guards against two runs at once
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is writing this folder; wait for it, or end it") from None
