"""Who does the work: this process, processes of this machine, or the actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
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

from structok.errors import InputError, StructokError

__all__ = [
    "DIED",
    "Engine",
    "Here",
    "Local",
    "Ray",
    "Task",
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


class Task(Protocol):
    """Inputs that are worked on together. It can be pickled, and done again."""

    @property
    def number(self) -> int:
        """Its place among the tasks."""

    def probes(self) -> Iterator[Task]:
        """A task for each input, which only sees whether a worker survives it."""

    def without(self, dead: Collection[int]) -> Task:
        """The same task with some inputs, by their place among the probes, marked as failed: `DIED`."""


class Worker(Protocol):
    """Does tasks; each process makes its own."""

    def run(self, task: Any) -> Any:
        """What comes of a task."""


class Engine(Protocol):
    """Workers, each doing one task at a time."""

    size: int

    def start(self, slot: int, task: Task) -> Any:
        """Let worker `slot` run a task; a worker that has died is replaced."""

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait until some of the tasks have ended."""

    def result(self, handle: Any) -> Any:
        """Outcome of a task that has ended, or its error, or `WorkerDied`."""

    def close(self) -> None:
        """End the workers, whatever they are doing."""


def run_tasks(engine: Engine, tasks: Iterable[Task], ahead: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Run tasks on all workers; each with its outcome as soon as it ends, or `WorkerDied` if workers died on it twice.

    With `ahead`, no task starts before all those `ahead` places earlier have ended, so that whoever restores the
    order has little to keep.
    """
    queue = enumerate(tasks)
    idle = list(range(engine.size))
    running: dict[Any, tuple[int, int, Task, int]] = {}  # handle -> slot, place, task, attempt
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


def finish(engine: Engine, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
    """Tasks with their outcomes; those on which workers die come last, see `rescue`."""
    deadly = []
    for task, outcome in run_tasks(engine, tasks):
        if outcome is WorkerDied:
            deadly.append(task)
        else:
            yield task, outcome
    for task in deadly:
        yield task, rescue(engine, task)


def rescue(engine: Engine, task: Task) -> Any:
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

    def start(self, slot: int, task: Task) -> Task:
        return task

    def wait(self, handles: Collection[Task]) -> Collection[Task]:
        return list(handles)

    def result(self, handle: Task) -> Any:
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

    def start(self, slot: int, task: Task) -> Future[Any]:
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


class _Actor:
    """A worker that Ray may start anywhere."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def run(self, task: Any) -> Any:
        return self._worker.run(task)


class Ray:
    """Actors of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one is started here.

    `size` 0 takes a GPU each where there are GPUs that are wanted, else a core each. All nodes must see the same files.
    """

    def __init__(self, make: Callable[[], Worker], size: int = 0, *, gpus: bool = False) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise InputError("--engine ray needs Ray: pip install 'structok[ray]'") from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        resources = ray.cluster_resources()
        cards = int(resources.get("GPU", 0)) if gpus else 0
        cores = max(int(resources.get("CPU", 1)), 1)
        self.size = size or cards or cores
        # more workers than cores or GPUs share them; asking for whole ones would wait forever
        share: dict[str, Any] = {"num_cpus": min(1, cores / self.size), "num_gpus": min(1, cards / self.size)}
        actor = ray.remote(**share, max_restarts=-1)(_Actor)
        self._actors = [actor.remote(make) for _ in range(self.size)]

    def start(self, slot: int, task: Task) -> Any:
        return self._actors[slot].run.remote(task)

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        return self._ray.wait(list(handles), num_returns=1)[0]  # type: ignore[no-any-return]

    def result(self, handle: Any) -> Any:
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, StructokError) else error from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError):
            raise WorkerDied from None

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()
