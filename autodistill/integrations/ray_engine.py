"""Ray as the engine of a search: each trial is a core task, on whatever node of the cluster has room for it.

Needs the extra `ray`. The settings of the search, with the teacher and the flash set, are in Ray's object store once,
from which each node copies them once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray import exceptions

from autodistill.config.executor import ExecutorConfig
from autodistill.errors import ConfigurationError
from autodistill.search.engines import GRACE

T = TypeVar("T")

LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,
    exceptions.TaskCancelledError,
    exceptions.ObjectLostError,  # the result, with its node
)
"""The errors by which Ray reports that the process of one task was lost."""


@dataclass
class RayEngine:
    """Runs functions as Ray tasks.

    Args:
        slots: tasks at the same time.
        options: of each task: the resources that it reserves, and its environment.
        owns: whether Ray is shut down at the end.
    """

    slots: int
    options: Mapping[str, Any]
    owns: bool = False
    shares_disk: bool = field(default=False, init=False)
    _calls: dict[Future[Any], Any] = field(default_factory=dict, init=False, repr=False)
    _tasks: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def started(cls, settings: ExecutorConfig) -> RayEngine:
        """An engine in the cluster that the program is connected to, else in that of this computer or a new one.

        Args:
            settings: of the executor.

        Raises:
            ConfigurationError: no node of the cluster has the resources of a trial.
        """
        owns = not ray.is_initialized()
        if owns:
            with _own_signals():
                ray.init(logging_level=logging.WARNING)
        try:
            return cls._connected(settings, owns)
        except BaseException:
            if owns:
                ray.shutdown()
            raise

    @classmethod
    def _connected(cls, settings: ExecutorConfig, owns: bool) -> RayEngine:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        gpus = settings.num_gpus
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
        needed = {"CPU": settings.num_cpus, "GPU": gpus, **settings.resources}
        fitting = sum(_fitting(node, needed) for node in nodes)
        if not fitting and settings.workers is None:  # a cluster that grows may still have no node
            found = ", ".join(str({name: node.get(name, 0) for name in needed}) for node in nodes)
            raise ConfigurationError(
                f"executor: a node of the Ray cluster must have what a trial reserves ({needed}), but the nodes have "
                f"{found}; reserve less (num_cpus, num_gpus, resources), or set workers if the cluster grows by itself."
            )
        options: dict[str, Any] = {"num_cpus": settings.num_cpus, "num_gpus": gpus, "max_retries": 0}
        if settings.resources:
            options["resources"] = settings.resources
        if settings.runtime_env is not None:
            options["runtime_env"] = settings.runtime_env
        return cls(settings.workers or fitting, options, owns)

    def share(self, content: bytes) -> Any:
        """A reference to the content in the object store."""
        return ray.put(content)

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Call the function in a task."""
        if function not in self._tasks:
            self._tasks[function] = ray.remote(function).options(**self.options)
        reference = self._tasks[function].remote(*args)
        call: Future[T] = reference.future()
        self._calls[call] = reference
        call.add_done_callback(lambda ended: self._calls.pop(ended, None))
        return call

    def is_lost(self, error: BaseException) -> bool:
        """Whether the process or the node of a task was lost."""
        return isinstance(error, LOST)

    def interrupt(self) -> None:
        """Cancel the tasks, each of which writes a checkpoint if it trains."""
        running = dict(self._calls)
        for reference in running.values():
            ray.cancel(reference, force=False)
        until = time.monotonic() + GRACE
        for call in running:
            with contextlib.suppress(Exception):
                call.exception(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Shut Ray down, if it was started for this search."""
        if self.owns:
            ray.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that ends the program at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _fitting(node: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """How many tasks a node has room for at the same time.

    Examples:
        >>> _fitting({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.5})
        4
    """
    room = [math.floor(node.get(name, 0.0) / amount) for name, amount in needed.items() if amount]
    return min(room, default=1)
