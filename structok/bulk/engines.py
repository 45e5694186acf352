"""Who does the work: processes of this machine, or the actors of a Ray cluster, one model each."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from structok.bulk.tasks import Outcome, Settings, Task, Worker
from structok.data.pool import live_with_parent
from structok.errors import InputError, StructokError

__all__ = ["Engine", "Local", "Ray", "WorkerDied", "rescue", "run_tasks", "usable_cores"]

_ATTEMPTS = 2  # a task that a worker dies on is tried once more: somebody may have killed the worker


class WorkerDied(Exception):
    """The process that ran a task is gone."""


class Engine(Protocol):
    """Workers, each doing one task at a time."""

    size: int

    def start(self, slot: int, task: Task) -> Any:
        """Let worker `slot` run a task; a worker that has died is replaced."""

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait until some of the tasks have ended."""

    def result(self, handle: Any) -> Outcome:
        """Outcome of a task that has ended, or its error, or `WorkerDied`."""

    def close(self) -> None:
        """End the workers, whatever they are doing."""


def run_tasks(engine: Engine, tasks: Iterable[Task], ahead: int | None = None) -> Iterator[tuple[Task, Outcome | None]]:
    """Run tasks on all workers; each with its outcome as soon as it ends, None if workers died on it twice.

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
                outcome: Outcome | None = engine.result(handle)
            except WorkerDied:
                if attempt < _ATTEMPTS:
                    running[engine.start(slot, task)] = (slot, place, task, attempt + 1)
                    continue
                outcome = None
            idle.append(slot)
            yield task, outcome


def rescue(engine: Engine, task: Task) -> Outcome:
    """Outcome of a task on which workers die: each of its inputs is tried alone, the deadly ones are failures.

    Raises
    ------
    StructokError
        If it dies even so: together its inputs take too much memory.
    """
    found = {probe.units[0].source: outcome for probe, outcome in run_tasks(engine, task.probes())}
    dead = frozenset(source for source, outcome in found.items() if outcome is None)
    if len(dead) == len(found) > 1:
        raise StructokError(f"task {task.number}: workers die on each of its {len(found)} inputs; out of memory?")
    [(_, outcome)] = run_tasks(engine, [Task(task.number, task.units, task.shard, dead)])
    if outcome is None:
        raise StructokError(
            f"task {task.number}: its worker dies though it survives each input alone; out of memory? "
            "fewer --workers or a smaller --batch-size take less"
        )
    return outcome


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker: Worker  # of this process, when it is a worker


def _become_worker(settings: Settings) -> None:
    global _worker
    live_with_parent()
    _worker = Worker(settings)


def _run(task: Task) -> Outcome:
    return _worker.run(task)


@dataclass(frozen=True)
class _Process:
    executor: ProcessPoolExecutor
    id: Future[int]


class Local:
    """Worker processes of this machine. Each has an executor of its own, so that it is known who died on what."""

    def __init__(self, settings: Settings, size: int) -> None:
        self.size, self._settings = size, settings
        self._workers: list[_Process | None] = [None] * size
        self._runs_on: dict[Future[Outcome], tuple[int, _Process]] = {}

    def start(self, slot: int, task: Task) -> Future[Outcome]:
        worker = self._workers[slot] or self._hire(slot)
        try:
            future = worker.executor.submit(_run, task)
        except BrokenProcessPool:  # died while it had nothing to do
            worker = self._hire(slot)
            future = worker.executor.submit(_run, task)
        self._runs_on[future] = (slot, worker)
        return future

    def _hire(self, slot: int) -> _Process:
        # spawn: a forked torch would hang in its threads
        spawn = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(1, spawn, initializer=_become_worker, initargs=(self._settings,))
        self._workers[slot] = worker = _Process(executor, executor.submit(os.getpid))
        return worker

    def wait(self, handles: Collection[Future[Outcome]]) -> Collection[Future[Outcome]]:
        return wait(handles, return_when=FIRST_COMPLETED).done

    def result(self, handle: Future[Outcome]) -> Outcome:
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


class Ray:
    """Actors of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one is started here.

    `size` None takes a GPU each where there are GPUs and the device is not 'cpu', else a core each. All nodes
    must see the same files.
    """

    def __init__(self, settings: Settings, size: int | None = None) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise InputError("--engine ray needs Ray: pip install 'structok[ray]'") from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        resources = ray.cluster_resources()
        gpus = 0 if settings.device == "cpu" else int(resources.get("GPU", 0))
        cores = max(int(resources.get("CPU", 1)), 1)
        self.size = size or gpus or cores
        # more workers than cores or GPUs share them; asking for whole ones would wait forever
        share: dict[str, Any] = {"num_cpus": min(1, cores / self.size), "num_gpus": min(1, gpus / self.size)}
        actor = ray.remote(**share, max_restarts=-1)(Worker)
        self._actors = [actor.remote(settings) for _ in range(self.size)]

    def start(self, slot: int, task: Task) -> Any:
        return self._actors[slot].run.remote(task)

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        return self._ray.wait(list(handles), num_returns=1)[0]  # type: ignore[no-any-return]

    def result(self, handle: Any) -> Outcome:
        try:
            return self._ray.get(handle)  # type: ignore[no-any-return]
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, StructokError) else error from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError):
            raise WorkerDied from None

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()
