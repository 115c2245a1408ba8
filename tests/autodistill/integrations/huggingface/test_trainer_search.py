"""The search that a trainer runs: its record, and the evaluation after each training."""

from __future__ import annotations

import json

import pytest
import torch
from protocols import differences
from small_trainers import (
    EPOCHS,
    SMALL,
    Pairs,
    bert,
    make_trainer,
    search,
    weights,
)
from torch import nn

from autodistill import ConfigurationError, SearchDirectoryError
from autodistill.integrations.huggingface.trainer_search import EvaluatedTraining
from autodistill.training import Trained, Training, TrainingContext


def test_promoted_students_are_those_of_a_search_that_finishes_all(tmp_path):
    config = SMALL | {"search": SMALL["search"] | {"promote": "1/2"}}
    promoting = search(tmp_path / "promoting", config=config)
    result = promoting.autodistillation_search.search_result
    assert len(result.completed) == len(result.paused) == 1
    assert all(trial.after_flash.keys() == {"eval_loss", "parameters"} for trial in result)
    whole = search(tmp_path / "whole")
    trained, reference = weights(promoting), weights(whole)
    assert trained.keys() < reference.keys()
    assert all(torch.equal(trained[name], reference[name]) for name in trained)
    (trial,) = result.completed
    assert trial.metrics == whole.autodistillation_search.search_result[trial.number].metrics
    own = make_trainer(tmp_path / "own", bert(), data=Pairs())
    own.autodistillation_config = config
    with pytest.raises(ConfigurationError, match="promote runs between the phases of the built-in distillation"):
        own.autodistillation(bert(16, 2), train_func=lambda student: student)


def test_search_of_another_model_is_refused_naming_the_difference(tmp_path):
    search(tmp_path, n_trials=1)
    with pytest.raises(SearchDirectoryError, match=r"student\.config\.intermediate_size was 8, but is now 10"):
        search(tmp_path, model=bert(intermediate_size=10))
    with pytest.raises(SearchDirectoryError, match=r"trainer\.learning_rate was 0\.001, but is now 0\.1"):
        search(tmp_path, arguments=EPOCHS | {"learning_rate": 0.1})


def test_record_of_a_trainers_search_is_json(tmp_path):
    search(tmp_path, n_trials=1)
    recorded = json.loads((tmp_path / "autodistillation/search.json").read_text())
    assert recorded["trainer"]["num_train_epochs"] == 2
    assert recorded["student"]["model_cls"] == "BertForPreTraining"


class Halving:
    """A training that returns another model."""

    keeps_size = False

    def __init__(self) -> None:
        self.checked: list[nn.Module] = []
        self.trained = nn.Linear(1, 1)

    def check(self, student: nn.Module) -> None:
        self.checked.append(student)

    def train(self, student: nn.Module, context: TrainingContext) -> Trained:
        return Trained(self.trained)

    def describe(self) -> dict:
        return {"halves": True}


def test_trained_model_is_evaluated_after_its_training() -> None:
    inner, evaluated, student = Halving(), [], nn.Linear(2, 2)
    training = EvaluatedTraining(inner, evaluated.append)
    training.check(student)
    assert (inner.checked, evaluated) == ([student], [])
    assert training.train(student, TrainingContext(seed=0)).model is inner.trained
    assert evaluated == [inner.trained]
    assert (training.keeps_size, training.describe()) == (False, {"halves": True})


def test_evaluated_training_is_a_training() -> None:
    assert differences(EvaluatedTraining, Training) == {}
