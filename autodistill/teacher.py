"""The teacher of a search: a model, or a function that loads it when it is first needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.randomness import isolated_random_state

Teacher = nn.Module | Callable[[], nn.Module]


def load_teacher(teacher: Teacher) -> nn.Module:
    """The model; a function is called to load it.

    It is called in a fixed random state, so that neither the weights that it draws nor anything drawn afterwards
    depends on when it is called.

    Args:
        teacher: a model, which is returned as it is, or a function without parameters that returns one.

    Raises:
        ConfigurationError: the function returned no model.

    Examples:
        >>> load_teacher(lambda: nn.Linear(2, 1))
        Linear(in_features=2, out_features=1, bias=True)
    """
    if isinstance(teacher, nn.Module):
        return teacher
    with isolated_random_state(0):
        model = teacher()
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"a function that is passed as teacher_model must return an nn.Module, but {_name(teacher)} returned "
            f"{type(model).__name__}; return the loaded model."
        )
    return model


def teacher_problems(teacher: Any) -> Iterator[str]:
    """The mistakes in an argument `teacher_model` that can be found without loading it.

    Examples:
        >>> list(teacher_problems(nn.Linear(2, 1))), list(teacher_problems(lambda: nn.Linear(2, 1)))
        ([], [])
    """
    if teacher is None or isinstance(teacher, nn.Module):
        return
    if not callable(teacher):
        rule = "teacher_model must be an nn.Module or a function that loads one"
        yield f"{rule}, but got {teacher!r}; load the model first."
        return
    try:
        inspect.signature(teacher).bind()
    except TypeError as error:
        yield (
            "a function that is passed as teacher_model is called without arguments, but "
            f"{_name(teacher)} cannot be ({error}); pass functools.partial, or a lambda that calls it."
        )
    except ValueError:  # built-in functions may have no signature
        return


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
