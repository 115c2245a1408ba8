"""Students of PyTorch: built, evaluated, measured, saved and loaded."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autodistill.errors import TrialError
from autodistill.frameworks.pytorch import PyTorchFramework
from search_spaces import Architecture


def linear(architecture: Architecture) -> nn.Linear:
    return nn.Linear(int(architecture["width"] or 0), 1)


def framework(
    build: Callable[[Architecture], Any] = linear,
    score: Callable[[nn.Module], Any] | None = None,
    teacher: nn.Module | None = None,
) -> PyTorchFramework:
    return PyTorchFramework(build, score, seed=0, device=torch.device("cpu"), teacher=teacher)


def test_students_are_built_in_one_random_state_and_the_global_one_continues() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    students = [framework().build({"width": 4}) for _ in range(2)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(students[0].weight, students[1].weight)


def test_builder_that_returns_no_module_or_one_model_twice_is_refused() -> None:
    with pytest.raises(TrialError, match=r"must return an nn\.Module, but returned str"):
        framework(lambda architecture: "student").build({})
    model = nn.Linear(1, 1)
    same = framework(lambda architecture: model)
    assert same.build({}) is model
    with pytest.raises(TrialError, match="model_builder must build a new model each time"):
        same.build({})


def test_student_with_a_weight_of_the_teacher_is_refused_and_a_copy_is_not() -> None:
    teacher = nn.Sequential(nn.Linear(2, 2))

    def sharing(architecture: Architecture) -> nn.Module:
        return nn.Sequential(nn.ReLU(), teacher[0])

    with pytest.raises(TrialError, match=r"its '1.weight' is the teacher's '0.weight'"):
        framework(sharing, teacher=teacher).build({})
    student = framework(lambda architecture: copy.deepcopy(teacher), teacher=teacher).build({})
    assert torch.equal(student[0].weight, teacher[0].weight)


def test_trained_model_is_put_in_eval_mode_and_anything_else_is_refused() -> None:
    assert not framework().finish(nn.Dropout().train()).training
    with pytest.raises(TrialError, match="train_func must return the trained model, but returned NoneType"):
        framework().finish(None)


def test_evaluation_depends_on_the_seed_and_computes_no_gradients() -> None:
    def score(model: nn.Module) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        return {"draw": torch.rand(1).item()}

    subject = framework(score=score)
    draws = [subject.evaluate(nn.Identity(), seed)["draw"] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert framework(score=None).evaluate(nn.Identity(), 1) == {}
    assert framework(score=lambda model: 0.5).evaluate(nn.Identity(), 1) == 0.5


def test_parameters_are_those_counted_by_hand() -> None:
    measured = framework().measure(nn.Linear(3, 2), ["parameters"])
    assert measured.metrics == {"parameters": 3 * 2 + 2}


def test_saved_student_is_loaded_in_eval_mode_with_its_weights(tmp_path: Path) -> None:
    subject = framework()
    student = subject.build({"width": 3})
    nn.init.constant_(student.weight, 7.0)
    subject.save(student, {"width": 3}, tmp_path / "student")
    loaded = subject.load({"width": 3}, tmp_path / "student")
    assert not loaded.training
    assert subject.fingerprint(loaded) == subject.fingerprint(student) != subject.fingerprint(nn.Linear(3, 1))


def test_framework_in_another_process_remembers_no_students() -> None:
    subject = framework()
    student = subject.build({"width": 3})
    received = pickle.loads(pickle.dumps(subject))
    assert student in subject.built
    assert list(received.built) == []
    assert torch.equal(received.build({"width": 3}).weight, student.weight)


def test_trained_model_with_other_tensors_is_refused_if_it_is_to_be_saved() -> None:
    subject = framework()
    student = subject.build({"width": 3})
    shapes = subject.tensor_shapes(student)
    for wrapped in (student, torch.compile(student, backend="eager"), nn.DataParallel(student)):
        assert subject.finish(wrapped, shapes) is wrapped
    other = nn.Sequential(nn.Linear(3, 1))
    with pytest.raises(TrialError, match=r"'weight', 'bias' are missing; '0.weight', '0.bias' are unexpected; change"):
        subject.finish(other, shapes)
    with pytest.raises(TrialError, match=r"'weight' is \(1, 2\), not \(1, 3\); change"):
        subject.finish(nn.Linear(2, 1), shapes)
    assert subject.finish(other) is other
