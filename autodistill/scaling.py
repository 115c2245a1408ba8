"""Which executor runs the trials of a search, from what the user asks for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from autodistill.config.executor import ExecutorConfig
from autodistill.config.reading import read_configuration
from autodistill.errors import ConfigurationError, attempt
from autodistill.search.engines import Engine, GivenExecutor, LocalProcesses
from autodistill.search.executors import Executor, SerialExecutor
from autodistill.search.worker_executor import WorkerExecutor

_RAY = "autodistill.integrations.ray_engine"

SERIAL = ExecutorConfig(name="serial")


def chosen_executor(given: Any, workers: int | None, configured: ExecutorConfig | None) -> Any:
    """The settings of the executor, or the user's own one.

    Args:
        given: a name, settings, an executor with the contract of `concurrent.futures.Executor`, or None.
        workers: trials at the same time; None leaves it to the executor. More than one needs processes.
        configured: in the configuration, for `given=None`.

    Returns:
        An `ExecutorConfig`, or a `GivenExecutor`.

    Raises:
        ConfigurationError: it is none of these; all mistakes in one error.

    Examples:
        >>> chosen_executor(None, 2, None).name, chosen_executor(None, None, None).name
        ('processes', 'serial')
    """
    problems: list[str] = []
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        problems.append(f"workers must be a whole number of at least 1, but got {workers!r}.")
    chosen = attempt(problems, lambda: _chosen(given, workers if not problems else None, configured))
    if problems:
        raise ConfigurationError(problems)
    return chosen


def _chosen(given: Any, workers: int | None, configured: ExecutorConfig | None) -> Any:
    if callable(getattr(given, "submit", None)):
        return _given(given, workers)
    if given is None:
        given = configured or ("serial" if workers in (None, 1) else "processes")
    if not isinstance(given, str | dict | ExecutorConfig):
        raise ConfigurationError(
            "executor must be 'serial', 'processes', 'ray', settings with one of these names, or an object with submit "
            f"as in concurrent.futures.Executor, but got {given!r}."
        )
    settings = read_configuration(ExecutorConfig, {"name": given}) if isinstance(given, str) else given
    if isinstance(settings, dict):
        settings = read_configuration(ExecutorConfig, settings)
    return settings if workers is None else settings.with_changes(workers=workers)


def _given(executor: Any, workers: int | None) -> GivenExecutor:
    if isinstance(executor, ThreadPoolExecutor):
        raise ConfigurationError(
            "executor must run trials in processes, since they share the random state and the threads of theirs, but "
            "got a ThreadPoolExecutor; take executor='processes'."
        )
    slots = getattr(executor, "_max_workers", None) if workers is None else workers
    if not isinstance(slots, int):
        raise ConfigurationError(
            f"workers must be the number of trials that the executor runs at the same time, but it is missing, and "
            f"{type(executor).__name__} does not report it; pass workers."
        )
    return GivenExecutor(executor, slots)


def is_serial(chosen: Any) -> bool:
    """Whether trials run one after another in this process.

    Examples:
        >>> is_serial(SERIAL), is_serial(chosen_executor("ray", None, None))
        (True, False)
    """
    return isinstance(chosen, ExecutorConfig) and chosen.name == "serial"


def executor_problems(chosen: Any, process_count: int) -> list[str]:
    """What prevents the use of an executor, one sentence each.

    Args:
        chosen: that `chosen_executor` returned.
        process_count: the processes that train one student together.

    Examples:
        >>> executor_problems(chosen_executor("processes", 2, None), process_count=1)
        []
    """
    if is_serial(chosen):
        return []
    problems = []
    if process_count > 1:
        problems.append(
            f"trials run in parallel, or {process_count} processes train each student together, but not both; start "
            "the program without accelerate launch, or leave the executor out."
        )
    if isinstance(chosen, ExecutorConfig) and chosen.name == "ray" and importlib.util.find_spec("ray") is None:
        problems.append("executor 'ray' needs Ray: pip install \"autodistill-nas[ray]\"")
    return problems


@contextlib.contextmanager
def opened(chosen: Any, device: torch.device, trial_timeout: float | None) -> Iterator[Executor]:
    """The executor, whose workers end with the context.

    Args:
        chosen: that `chosen_executor` returned.
        device: of the search; one without a number stands for all.
        trial_timeout: a worker ends itself when its trial runs for so many seconds; None never.

    Examples:
        >>> with opened(SERIAL, torch.device("cpu"), None) as executor:
        ...     executor.submit(max, 1, 2).result()
        2
    """
    if is_serial(chosen):
        yield SerialExecutor()
        return
    executor = WorkerExecutor(_engine(chosen, device), trial_timeout)
    try:
        yield executor
    finally:
        executor.close()


def _engine(chosen: Any, device: torch.device) -> Engine:
    if isinstance(chosen, GivenExecutor):
        return chosen
    if chosen.name == "ray":
        engine: Engine = importlib.import_module(_RAY).RayEngine.started(chosen)
        return engine
    devices = visible_devices(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slots = chosen.workers or len(devices) or cores
    processes = LocalProcesses(slots, chosen.threads or max(1, torch.get_num_threads() // slots), devices)
    processes.start()
    return processes


def visible_devices(device: torch.device) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES that workers take in turns, each of one GPU; none without GPUs.

    Args:
        device: of the search; one with a number is that of all workers.

    Examples:
        >>> visible_devices(torch.device("cpu"))
        []
    """
    if device.type != "cuda":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count() if device.index is None else device.index + 1
    visible = named.split(",") if named else [str(number) for number in range(count)]
    return visible if device.index is None else visible[device.index : device.index + 1]
