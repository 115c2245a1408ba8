"""The commands `autodistill finish` and `limit`: one student of a search is trained to the end."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from autodistill.auto_distillation import AutoDistillation
from autodistill.cli.console import print_line
from autodistill.cli.search import ConfigFile, quiet_libraries
from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError
from autodistill.report.terminal import describe_architecture, describe_outcome
from autodistill.search.trial import Trial
from search_spaces import Architecture, Domain, SearchSpace

SearchDir = Annotated[Path, typer.Option(help="Of the search; created if it does not exist.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Of regular distillation, instead of those of the file.")]
Progress = Annotated[bool, typer.Option(help="Show progress on standard error.")]

_PARAMETERS = {*inspect.signature(AutoDistillation.for_limit).parameters} - {"limits"}
"""The parameters of `for_limit` that are no limits."""


def finish(
    config: ConfigFile,
    search_dir: SearchDir,
    sizes: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Of the student; once for each dimension of the space."),
    ],
    train_steps: Steps = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Train teacher-fed blocks in so many processes at the same time.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Train the student of an architecture to the end, whether or not the search would have."""
    setup = _set_up(config)
    architecture = parse_architecture(sizes, setup.settings.the_search().search_space)
    agent = setup.search(search_dir, show_progress_bar=progress)
    _print_finished(setup, agent, agent.finish(architecture, train_steps, workers=workers))


def limit(
    config: ConfigFile,
    search_dir: SearchDir,
    limits: Annotated[list[str], typer.Argument(metavar="METRIC=LIMIT...", help="As in latency=5.0.")],
    trials: Annotated[int, typer.Option(min=0, help="Slices that are evaluated besides those of the search.")] = 20,
    train_steps: Steps = None,
    progress: Progress = True,
) -> None:
    """Choose the best slice of the elastic student under new limits, and train this student to the end."""
    setup = _set_up(config)
    values = parse_limits(limits)
    agent = setup.search(search_dir, show_progress_bar=progress)
    _print_finished(setup, agent, agent.for_limit(trials, train_steps, **values))


def _set_up(config: Path) -> SearchSetup:
    quiet_libraries()
    return SearchSetup(CommandConfig.load(config))


def _print_finished(setup: SearchSetup, agent: AutoDistillation, trial: Trial) -> None:
    setup.keep_preprocessor(agent)
    print_line(describe_outcome(trial))
    print_line(f"  {describe_architecture(trial)}")
    print_line(f"`autodistill export {agent.search_dir} OUT --trial {trial.number}` writes its student into a folder.")


def parse_architecture(texts: Sequence[str], space: SearchSpace) -> Architecture:
    """The architecture of a space that is written as `NAME=VALUE`, a text for each dimension.

    Raises:
        ConfigurationError: a text is written otherwise, or repeats a dimension; all mistakes in one error.
        SearchSpaceError: the architecture does not belong to the space; all mistakes in one error.

    Examples:
        >>> parse_architecture(["layers=2", "activation=relu"], SearchSpace({"layers": [1, 2], "activation": ["relu"]}))
        {'layers': 2, 'activation': 'relu'}
    """
    texts_of, problems = _pairs(texts, "--set takes a dimension of the space and its value, as in hidden_size=128")
    if problems:
        raise ConfigurationError(problems)
    return space.validate({name: _value(text, space.dimensions.get(name)) for name, text in texts_of.items()})


def _value(text: str, domain: Domain | None) -> Any:
    """The value of a dimension that a text stands for; if none, what it looks like."""
    readings: list[Any] = []
    for read in (json.loads, yaml.safe_load):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            readings.append(read(text))
    readings.append(text)  # a word such as `null` or `2` may be a text
    return next((value for value in readings if domain is not None and domain.contains(value)), readings[0])


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """The limits in `METRIC=LIMIT`.

    Raises:
        ConfigurationError: a text is none, or a metric is repeated; all mistakes in one error.

    Examples:
        >>> parse_limits(["latency=5", "accuracy=0.9"])
        {'latency': 5.0, 'accuracy': 0.9}
    """
    rule = "a limit is a metric of the search and a number, as in latency=5.0"
    texts_of, problems = _pairs(texts, rule)
    limits = {}
    for name, text in texts_of.items():
        if name in _PARAMETERS:
            problems.append(f"{rule}, but got {name}={text}; set the numbers by --trials and --train-steps.")
        try:
            limits[name] = float(text)
        except ValueError:
            problems.append(f"{rule}, but got {name}={text}; write the number after the equals sign.")
    if problems:
        raise ConfigurationError(problems)
    return limits


def _pairs(texts: Sequence[str], rule: str) -> tuple[dict[str, str], list[str]]:
    """The values by name, and a sentence for each text that has none or repeats a name."""
    pairs: dict[str, str] = {}
    problems = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            problems.append(f"{rule}, but got {text!r}; write NAME=VALUE.")
        elif name in pairs:
            problems.append(f"{rule}, but {name} is there twice; leave one of them out.")
        else:
            pairs[name] = value
    return pairs, problems
