"""The file that `autodistill init` writes: a template, filled in for a task, a teacher and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml
from transformers import AutoConfig

from autodistill.cli.tasks import TASKS, Task
from autodistill.errors import ConfigurationError
from autodistill.integrations.huggingface.spaces import FAMILIES_WITH_SIZES, transformers_space
from autodistill.models.families import FAMILIES
from search_spaces import SearchSpace

NO_TEACHER = "path/to/teacher"
NO_DATA = "path/to/data"

_SIZE_FIELDS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "hidden_size", "d_model", "dim", "n_embd")
"""The usual names of the number of blocks and of the width, in configurations of any family."""

_EMBEDDINGS = """\
    layer_mappings_for_knowledge_transfer: [[""]]  # the embeddings of whole texts
    loss_types: cosine"""
_PREDICTIONS = "    temperature: 1.0  # of the teacher's and the student's predictions"
_INIT = "  # Students start inside the teacher, in the principal directions of its hidden states.\n  init: "


_FLASH = """\
  # The student's blocks, one after the other: each learns the output of the corresponding block of the teacher.
  flash_distillation:
    train_steps: 200  # of each block"""
_ELASTIC = """\
  # One training for all sizes, from the widest to the narrowest; each student is a slice of what was trained.
  elastic:
    train_steps: 5000  # of all widths together"""
_PROMOTE = "    # promote: 1/3  # evaluate all students after flash distillation, and finish the best third"
_PROMOTE_SLICES = "    promote: 1/20  # evaluate all students as slices, and finish the best twentieth"


@dataclass(frozen=True)
class Choices:
    """What a configuration file is written for.

    Args:
        teacher: a folder or a model of the hub; the space fits its size. None for a placeholder, and the space of the
            task's usual models.
        student: a family (`distilbert`) other than the teacher's.
        train: the training data.
        validation: held-out data; None for a share of `train`.
        elastic: one training for all architectures.
    """

    teacher: str | None = None
    student: str | None = None
    train: str | None = None
    validation: str | None = None
    elastic: bool = False


def configuration_text(task: str, file: Path, choices: Choices) -> str:
    """The text of a configuration file.

    Args:
        task: a name in `TASKS`.
        file: the name of the file.
        choices: what it is written for.

    Raises:
        ConfigurationError: the teacher does not exist, or elastic students cannot start inside it.
        SearchSpaceError: no space is known for the family of the teacher or of the students.
    """
    chosen, teacher, student = TASKS[task], choices.teacher, choices.student
    config = None if teacher is None else _read_config(teacher)
    own_family = chosen.family if config is None else config["model_type"]
    family = student or own_family
    if choices.elastic and (family != own_family or family not in FAMILIES):
        raise ConfigurationError(
            f"--elastic: students are slices in the teacher's subspace, so they must be of its family, {own_family!r}, "
            f"and that one of {', '.join(FAMILIES)}, but are {family!r}; leave --elastic out, or --student."
        )
    if config is not None:
        _require_space(task, str(teacher), config, family)
    return Template((files("autodistill.cli") / "template.yaml").read_text(encoding="utf-8")).substitute(
        file=file,
        task=task,
        teacher=_scalar(teacher or NO_TEACHER),
        student=f"student: {student}" if student else "# student: distilbert  # another family than the teacher's",
        train=_scalar(choices.train or NO_DATA),
        validation=_scalar(choices.validation or 0.1),
        columns=_columns(chosen),
        init=_init(task, family, own_family),
        metric=chosen.metric,
        regular=_EMBEDDINGS if task == "sentence-embedding" else _PREDICTIONS,
        promote=_PROMOTE_SLICES if choices.elastic else _PROMOTE,
        trials=100 if choices.elastic else 20,
        first=_ELASTIC if choices.elastic else _FLASH,
        **_space(transformers_space(family, config, equal_heads=choices.elastic)),
    )


def _scalar(value: str | float) -> str:
    """A value as YAML, in quotes if it needs them."""
    return yaml.safe_dump(value, width=10_000).removesuffix("\n...\n").strip()


def _read_config(teacher: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(teacher).to_dict()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"--teacher must be a folder with a config.json or a model of the hub, but {teacher!r} raised: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return config


def _require_space(task: str, teacher: str, config: Mapping[str, Any], family: str) -> None:
    """Raise an error if no space fits the teacher's sizes; a misspelt family of students is reported elsewhere.

    Raises:
        ConfigurationError: no ready-made space fits.
    """
    kind = str(config.get("model_type"))
    students = FAMILIES.get(family)
    if kind in FAMILIES_WITH_SIZES or (students.space is not None if students is not None else family != kind):
        return
    fields = [name for name in _SIZE_FIELDS if isinstance(config.get(name), int)]
    example = ", ".join(f"{name}: [{max(1, config[name] // 2)}, {config[name]}]" for name in fields)
    raise ConfigurationError(
        f"--teacher: ready-made spaces fit teachers of the families {', '.join(FAMILIES_WITH_SIZES)}, but {teacher!r} "
        f"is of {kind!r}; run `autodistill init {task}` without --teacher, then edit the file: set teacher to "
        f"{teacher!r}; under search_space list the sizes of students by the names that config.json has for them"
        + (f" ({example})" if example else "")
        + "; remove the constraints on other names, and init (students start with random weights)."
    )


def _columns(task: Task) -> str:
    needed = ", ".join((*task.columns, *(f"{name} (optional)" for name in task.optional)))
    example = ", ".join(f"{name}: my_{name}" for name in task.columns)
    return f"  # The columns are {needed}; if the data name them differently:\n  # columns: {{{example}}}"


def _init(task: str, family: str, teachers_family: str) -> str:
    if family != teachers_family or family not in FAMILIES:
        return "  # Students start with random weights: for these families none can be copied from the teacher."
    return _INIT + ("{projection_head: projection}" if task == "sentence-embedding" else "teacher")


def _space(space: SearchSpace) -> dict[str, str]:
    values = [f"      {name}: [{', '.join(map(str, domain.values()))}]" for name, domain in space.dimensions.items()]
    return {
        "space": "\n".join(values),
        "constraints": "\n".join(f"      - {constraint}" for constraint in space.constraints),
    }
