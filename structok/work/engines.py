"""Who does the work: this process, or processes of this machine; see `structok.work.ray` for a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from structok.errors import StructokError

__all__ = [
    "DIED",
    "Engine",
    "Here",
    "Job",
    "Local",
    "Worker",
    "WorkerDied",
    "finish",
    "rescue",
    "run_tasks",
    "usable_cores",
]

DIED = "its worker process died; a crash, or out of memory?"
_ATTEMPTS = 2  # a task that a worker dies on is tried once more: somebody may have killed the worker


class WorkerDied(Exception):
    """The process that ran a task is gone."""


class Job(Protocol):
    """Inputs that are worked on together. It can be pickled, and done again."""

    @property
    def number(self) -> int:
        """Its place among the tasks."""

    def probes(self) -> Iterator[Job]:
        """A task for each input, which only sees whether a worker survives it."""

    def without(self, dead: Collection[int]) -> Job:
        """The same task with some inputs, by their place among the probes, marked as failed: `DIED`."""


class Worker(Protocol):
    """Does tasks; each process makes its own."""

    def run(self, task: Any) -> Any:
        """What comes of a task."""


class Engine(Protocol):
    """Workers, each doing one task at a time."""

    size: int

    def start(self, slot: int, task: Job) -> Any:
        """Let worker `slot` run a task; a worker that has died is replaced."""

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait until some of the tasks have ended."""

    def result(self, handle: Any) -> Any:
        """Outcome of a task that has ended, or its error, or `WorkerDied`."""

    def close(self) -> None:
        """End the workers, whatever they are doing."""


def run_tasks(engine: Engine, tasks: Iterable[Job], ahead: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Run tasks on all workers; each with its outcome as soon as it ends, or `WorkerDied` if workers died on it twice.

    With `ahead`, no task starts before all those `ahead` places earlier have ended, so that whoever restores the
    order has little to keep.
    """
    queue = enumerate(tasks)
    idle = list(range(engine.size))
    running: dict[Any, tuple[int, int, Job, int]] = {}  # handle -> slot, place, task, attempt
    waiting = next(queue, None)
    while running or waiting:
        oldest = min((place for _, place, _, _ in running.values()), default=None)
        while idle and waiting and (ahead is None or oldest is None or waiting[0] < oldest + ahead):
            slot, (place, task) = idle.pop(), waiting
            running[engine.start(slot, task)] = (slot, place, task, 1)
            oldest = place if oldest is None else oldest
            waiting = next(queue, None)
        for handle in engine.wait(running):
            slot, place, task, attempt = running.pop(handle)
            try:
                outcome = engine.result(handle)
            except WorkerDied:
                if attempt < _ATTEMPTS:
                    running[engine.start(slot, task)] = (slot, place, task, attempt + 1)
                    continue
                outcome = WorkerDied
            idle.append(slot)
            yield task, outcome


def finish(engine: Engine, tasks: Iterable[Job]) -> Iterator[tuple[Any, Any]]:
    """Tasks with their outcomes; those on which workers die come last, see `rescue`."""
    deadly = []
    for task, outcome in run_tasks(engine, tasks):
        if outcome is WorkerDied:
            deadly.append(task)
        else:
            yield task, outcome
    for task in deadly:
        yield task, rescue(engine, task)


def rescue(engine: Engine, task: Job) -> Any:
    """Outcome of a task on which workers die: each of its inputs is tried alone, the deadly ones are failures.

    Raises
    ------
    StructokError
        If it dies even so: together its inputs take too much memory.
    """
    found = {probe.number: outcome for probe, outcome in run_tasks(engine, task.probes())}
    dead = {number for number, outcome in found.items() if outcome is WorkerDied}
    if len(dead) == len(found) > 1:
        raise StructokError(f"task {task.number}: workers die on each of its {len(found)} inputs; out of memory?")
    [(_, outcome)] = run_tasks(engine, [task.without(dead)])
    if outcome is WorkerDied:
        raise StructokError(
            f"task {task.number}: its worker dies though it survives each input alone; out of memory? "
            "fewer --workers or a smaller --batch-size take less"
        )
    return outcome


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Here:
    """One worker, in this process."""

    size = 1

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def start(self, slot: int, task: Job) -> Job:
        return task

    def wait(self, handles: Collection[Job]) -> Collection[Job]:
        return list(handles)

    def result(self, handle: Job) -> Any:
        return self._worker.run(handle)

    def close(self) -> None: ...


_worker: Worker  # of this process, when it is a worker


def _become_worker(make: Callable[[], Worker]) -> None:
    """Leave Ctrl-C to the parent, which then ends us, and end when the parent is gone."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = make()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(task: Any) -> Any:
    return _worker.run(task)


@dataclass(frozen=True)
class _Process:
    executor: ProcessPoolExecutor
    id: Future[int]


class Local:
    """Worker processes of this machine. Each has an executor of its own, so that it is known who died on what.

    Parameters
    ----------
    make : makes a worker in its process; can be pickled
    size : how many
    preload : modules that are imported once for all of them
    """

    def __init__(self, make: Callable[[], Worker], size: int, preload: Sequence[str] = ()) -> None:
        self.size, self._make = size, make
        # not fork: a forked torch would hang in its threads. The server has imported it, but started none
        served = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if served else "spawn")
        if served:
            self._context.set_forkserver_preload(list(preload))
        self._workers: list[_Process | None] = [None] * size
        self._runs_on: dict[Future[Any], tuple[int, _Process]] = {}

    def start(self, slot: int, task: Job) -> Future[Any]:
        worker = self._workers[slot] or self._hire(slot)
        try:
            future = worker.executor.submit(_run, task)
        except BrokenProcessPool:  # died while it had nothing to do
            worker = self._hire(slot)
            future = worker.executor.submit(_run, task)
        self._runs_on[future] = (slot, worker)
        return future

    def _hire(self, slot: int) -> _Process:
        executor = ProcessPoolExecutor(1, self._context, initializer=_become_worker, initargs=(self._make,))
        self._workers[slot] = worker = _Process(executor, executor.submit(os.getpid))
        return worker

    def wait(self, handles: Collection[Future[Any]]) -> Collection[Future[Any]]:
        return wait(handles, return_when=FIRST_COMPLETED).done

    def result(self, handle: Future[Any]) -> Any:
        slot, worker = self._runs_on.pop(handle)
        try:
            return handle.result()
        except BrokenProcessPool:
            self._workers[slot] = None
            if worker.id.exception():
                raise StructokError("a worker process ended as soon as it started; out of memory?") from None
            raise WorkerDied from None

    def close(self) -> None:
        for worker in filter(None, self._workers):
            with contextlib.suppress(BrokenProcessPool, ProcessLookupError):
                os.kill(worker.id.result(), signal.SIGTERM)
            worker.executor.shutdown()
        self._workers = [None] * self.size
