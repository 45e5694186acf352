"""Work by the actors of a Ray cluster."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

from structok.errors import InputError, StructokError
from structok.work.engines import Job, Worker, WorkerDied

__all__ = ["Ray"]


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

    def start(self, slot: int, task: Job) -> Any:
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
