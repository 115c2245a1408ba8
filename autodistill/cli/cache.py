"""The command `autodistill cache`."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import torch
import typer

from autodistill.cli.console import print_line
from autodistill.cli.search import ConfigFile, quiet_libraries
from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError
from autodistill.search.layout import holds_search

THREADS = "OMP_NUM_THREADS"


def cache(
    config: ConfigFile,
    search_dir: Annotated[Path | None, typer.Option(help="Of the search that follows.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That share the work.")] = 1,
) -> None:
    """Run the teacher on all that a search needs, in several processes."""
    quiet_libraries()
    loaded = CommandConfig.load(config)
    problems = list(_problems(loaded, search_dir))
    if problems:
        raise ConfigurationError(problems)
    if processes > 1:
        # Processes that are spawned do not inherit the state of threads and devices.
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // processes)
        with ProcessPoolExecutor(processes, context, _set_up_process, (threads,)) as pool:
            started = [pool.submit(_fill, config, search_dir, part, processes) for part in range(processes)]
            for future in started:
                future.result()
    folder = _fill_part(loaded, search_dir)
    print_line(f"{folder} holds what the search needs of the teacher.")


def _problems(config: CommandConfig, search_dir: Path | None) -> list[str]:
    problems = []
    if search_dir is None and config.teacher_cache is None:
        problems.append("the directory of the cache must be given: pass --search-dir, or set teacher_cache.")
    seed = config.auto_distillation.the_search().seed
    if seed is None and not (search_dir is not None and holds_search(search_dir)):
        problems.append(
            "auto_distillation.search.seed must be set, since the order of the batches depends on it, and a search "
            "without one draws its own."
        )
    return problems


def _set_up_process(threads: int) -> None:
    os.environ[THREADS] = str(threads)
    torch.set_num_threads(threads)


def _fill(config: Path, search_dir: Path | None, part: int, parts: int) -> None:
    """Compute a part of the features; in a process of its own."""
    quiet_libraries()
    _fill_part(CommandConfig.load(config), search_dir, part, parts)


def _fill_part(config: CommandConfig, search_dir: Path | None, part: int = 0, parts: int = 1) -> Path:
    """Compute a part of the features, and return the directory that holds them."""
    with tempfile.TemporaryDirectory() as unused:
        agent = SearchSetup(config).search(search_dir or Path(unused), show_progress_bar=False)
        agent.fill_teacher_cache(part, parts)
        return agent.teacher_cache_directory
