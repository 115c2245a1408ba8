"""A teacher may be passed as a model, or as a function that loads it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.teacher import load_teacher, teacher_problems


class Unloaded(nn.Module):
    """A model, which is callable too."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)


def with_path(path: str) -> nn.Module:
    return Unloaded(len(path))


def test_model_is_not_called() -> None:
    model = Unloaded()
    assert load_teacher(model) is model
    assert list(teacher_problems(model)) == []


@pytest.mark.parametrize("function", [Unloaded, functools.partial(with_path, "a/b"), lambda path="a": with_path(path)])
def test_function_is_called_in_the_same_random_state_each_time(function) -> None:
    assert list(teacher_problems(function)) == []
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = load_teacher(function)
    assert torch.equal(torch.rand(1), expected)
    second = load_teacher(function)
    assert first is not second
    assert torch.equal(first.layer.weight, second.layer.weight)


@pytest.mark.parametrize(("function", "returned"), [(dict, "dict returned dict"), (lambda: None, "returned NoneType")])
def test_function_that_returns_no_model_is_refused(function, returned) -> None:
    with pytest.raises(
        ConfigurationError, match=f"must return an nn.Module, but .*{returned}; return the loaded model"
    ):
        load_teacher(function)


def test_error_of_the_function_is_raised_unchanged() -> None:
    def load() -> nn.Module:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        load_teacher(load)


@pytest.mark.parametrize(
    ("teacher", "problem"),
    [
        (
            "bert",
            "teacher_model must be an nn.Module or a function that loads one, but got 'bert'; load the model first.",
        ),
        (
            with_path,
            "a function that is passed as teacher_model is called without arguments, but with_path cannot be (missing "
            "a required argument: 'path'); pass functools.partial, or a lambda that calls it.",
        ),
    ],
)
def test_mistakes_that_are_found_without_calling_the_function(teacher, problem: str) -> None:
    assert list(teacher_problems(teacher)) == [problem]


@pytest.mark.parametrize("teacher", [None, min])
def test_no_teacher_and_functions_without_a_signature_have_no_problem(teacher) -> None:
    assert list(teacher_problems(teacher)) == []
