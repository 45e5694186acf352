"""Tasks in worker processes, out of order, in bounded memory; a task that kills its process does not stop the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

__all__ = ["Task", "live_with_parent", "run_tasks"]

T = TypeVar("T", bound="Task")


class Task(ABC):
    """Work that can be pickled, leaves its result in files, and can be done again."""

    @abstractmethod
    def run(self) -> None:
        """Do it."""

    @abstractmethod
    def probes(self) -> Iterator[Task]:
        """Its items one by one, to find the one that kills its process."""

    @abstractmethod
    def without(self: T, bad: set[int]) -> T:
        """The same task with some items marked as deadly."""


def run_tasks(tasks: Iterable[T], workers: int) -> Iterator[T]:
    """Run tasks and yield them as they finish; with one worker, in this process.

    If a process dies (killed, out of memory, a crash in a parser), the tasks that were under way are repeated one at
    a time, and an item that kills its process again is marked as bad.
    """
    if workers == 1:
        for task in tasks:
            task.run()
            yield task
        return
    queue, pending = iter(tasks), dict[Future[None], T]()
    pool = _Pool(workers)
    try:
        while True:
            for task in islice(queue, 2 * workers - len(pending)):  # no more, so that waiting tasks stay few
                pending[pool.submit(task)] = task
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            if any(isinstance(f.exception(), BrokenProcessPool) for f in done):
                finished = [f for f in done if f.exception() is None]
                again = [t for f, t in pending.items() if f not in finished]
                yield from (pending[f] for f in finished)
                pending.clear()
                pool.restart()
                yield from (_with_care(task, pool) for task in again)
                continue
            for future in done:
                future.result()
                yield pending.pop(future)
    finally:
        pool.close()


def _with_care(task: T, pool: _Pool) -> T:
    if not pool.survives(task):
        task = task.without({i for i, probe in enumerate(task.probes()) if not pool.survives(probe)})
        pool.submit(task).result()
    return task


class _Pool:
    """A process pool that can be started again after one of its processes died."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if self._context.get_start_method() == "forkserver":
            self._context.set_forkserver_preload(["structok.data.worker"])  # workers start with the parsers loaded
        self._start()

    def _start(self) -> None:
        self._executor = ProcessPoolExecutor(self._workers, mp_context=self._context, initializer=_initialise)

    def submit(self, task: Task) -> Future[None]:
        return self._executor.submit(task.run)

    def survives(self, task: Task) -> bool:
        """Run a task alone; False if its process dies."""
        try:
            self.submit(task).result()
        except BrokenProcessPool:
            self.restart()
            return False
        return True

    def restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _initialise() -> None:
    """Use one thread, and live with the parent."""
    import torch

    torch.set_num_threads(1)
    live_with_parent()


def live_with_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, which then ends us, and end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
