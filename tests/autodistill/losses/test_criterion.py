"""The common part of the criteria: their models are no part of them, and the teacher runs without a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autodistill.errors import LayerNotFoundError
from autodistill.losses.criterion import features_of, run_in_eval
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.models.taps import Tap


def test_models_are_no_part_of_the_criterion() -> None:
    criterion = KnowledgeDistillationLoss(student_model=nn.Linear(4, 3), teacher_model=nn.Linear(4, 3))
    criterion.teacher_model = replaced = nn.Linear(4, 3)
    assert criterion.teacher_model is replaced
    assert list(criterion.parameters()) == []
    assert criterion.state_dict() == {}


def test_taps_of_several_mappings_are_listed_once_in_their_order() -> None:
    mappings = [("a", "x"), ("b", "x"), ("a", "y")]
    criterion = IntermediateLayersKnowledgeDistillationLoss(mappings, ["MSE"] * 3)
    assert criterion.student_taps == [Tap("a"), Tap("b")]
    assert criterion.teacher_taps == [Tap("x"), Tap("y")]


class Sum(nn.Module):
    """a + b, and whether it trains."""

    def forward(self, a: torch.Tensor, b: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, bool]:
        return a + b, self.training


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (torch.ones(2), [1.0, 1.0]),
        ((torch.ones(2), 2.0), [3.0, 3.0]),
        ([torch.ones(2), 3.0], [4.0, 4.0]),
        ({"b": torch.tensor([1.0, 2.0]), "a": torch.ones(2)}, [2.0, 3.0]),
    ],
    ids=["tensor", "tuple", "list", "mapping"],
)
def test_model_runs_in_eval_mode_with_inputs_of_every_form(inputs: Any, expected: list[float]) -> None:
    model = Sum().train()
    result, trained = run_in_eval(model, inputs)
    assert (result.tolist(), trained, model.training) == (expected, False, True)


def test_features_are_the_outputs_of_their_layers_without_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9), nn.Tanh())
    x = torch.randn(4, 3)
    features = features_of(model, [Tap("0"), Tap("")], "student", x)
    torch.testing.assert_close(features[Tap("0")], x @ model[0].weight.T + model[0].bias)
    torch.testing.assert_close(features[Tap("")], torch.tanh(features[Tap("0")]))
    assert not any(feature.requires_grad for feature in features.values())


def test_layer_that_does_not_exist_is_refused_with_the_owner() -> None:
    with pytest.raises(LayerNotFoundError, match="the student"):
        features_of(nn.Sequential(nn.Linear(3, 2)), [Tap("1")], "student", torch.zeros(1, 3))
