"""Trained students on disk: weights and architecture, by the model's own `save_pretrained` where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.files import replacing, write_json
from autodistill.models.devices import device_of
from search_spaces import Architecture

WEIGHTS_FILE = "model.safetensors"


ARCHITECTURE_FILE = "architecture.json"


def save_student(student: nn.Module, architecture: Architecture, directory: Path) -> None:
    """Write a student into a directory of its own, whole or not at all; what was there before is replaced.

    Args:
        student: with `save_pretrained` (as of transformers models) that is used, else `model.safetensors` is written.
        architecture: written beside it as `architecture.json`.
        directory: made by this function.
    """
    student = getattr(student, "_orig_mod", student)  # as torch.compile wraps it
    directory.parent.mkdir(parents=True, exist_ok=True)
    with replacing(directory) as temporary:
        temporary.mkdir()
        if _is_pretrained(student):
            student.save_pretrained(temporary)  # type: ignore[operator]
        else:
            save_model(student, str(temporary / WEIGHTS_FILE))
        write_json(temporary / ARCHITECTURE_FILE, architecture)


def load_student(student: nn.Module, directory: Path) -> nn.Module:
    """The student that was saved, in eval mode.

    Args:
        student: a fresh model of the saved architecture; it is given the weights, or tells the class to load.
        directory: where `save_student` wrote it.

    Raises:
        ConfigurationError: the weights are those of a model of another structure.
    """
    if _is_pretrained(student):
        loaded: Any = type(student).from_pretrained(directory)  # type: ignore[attr-defined]
        return loaded.to(device_of(student)).eval()  # type: ignore[no-any-return]
    weights = directory / WEIGHTS_FILE
    with safe_open(weights, framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    floating = [kind for kind in kinds if kind.is_floating_point]
    if len(floating) == 1:
        student = student.to(floating[0])  # train_func may have changed the precision
    try:
        load_model(student, str(weights), device=str(device_of(student)))
    except RuntimeError as error:
        raise ConfigurationError(
            f"a student can be loaded into what model_builder returns, but {weights} has other weights; "
            f"train_func must return the model it was given, without a wrapper: {error}"
        ) from None
    return student.eval()


def _is_pretrained(student: nn.Module) -> bool:
    return hasattr(student, "save_pretrained") and hasattr(type(student), "from_pretrained")
