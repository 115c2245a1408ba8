"""One trial by itself: the same here and in another process, and everything that a hook may return wrongly."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
from dataclasses import replace

import pytest
import torch
import torch.nn.utils.prune
from safetensors.torch import load_file
from torch import nn
from toy_search import evaluate, make_config, make_search

from autodistill import Metric, NonFiniteError, TrialError
from autodistill.frameworks.pytorch import PyTorchFramework
from autodistill.processes import ALONE
from autodistill.search.run_trial import Outcome, TrialSpec, missing_metrics, run_trial
from autodistill.search.trial import Trial
from autodistill.training import FunctionTraining, StageRecord, Trained
from search_spaces import SearchSpace

SPACE = SearchSpace({"width": [1, 2, 3]})


def linear(architecture):
    return nn.Linear(architecture["width"], 1)


def unchanged(student):
    return student


def width(student):
    return {"score": student.in_features}


def spec_of(build=linear, train=unchanged, score=width, metrics=("score", "parameters")):
    framework = PyTorchFramework(build, score, 0, torch.device("cpu"))
    return TrialSpec(framework, FunctionTraining(train), SPACE, tuple(map(Metric, metrics)), 0, ALONE)


def test_trial_without_a_folder_measures_what_eval_func_does_not_return():
    assert run_trial(spec_of(), Trial(0, {"width": 2})) == Outcome({"score": 2.0, "parameters": 3.0})


def test_trial_with_a_folder_leaves_its_student_beside_its_checkpoints(tmp_path):
    run_trial(spec_of(), Trial(0, {"width": 2}, directory=tmp_path))
    assert load_file(tmp_path / "checkpoint/1/student/model.safetensors")["weight"].shape == (1, 2)
    run_trial(replace(spec_of(), saves_students=False), Trial(1, {"width": 3}, directory=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


class Unrecordable(FunctionTraining):
    """A training whose loss is no number."""

    def train(self, student, context):
        return Trained(student, (StageRecord("all", 1.0, math.nan),))


def test_details_that_cannot_be_recorded_fail_the_trial_before_its_student_is_saved(tmp_path):
    spec = replace(spec_of(), training=Unrecordable(unchanged))
    with pytest.raises(ValueError, match=r"JSON with finite numbers, but distillation\[0\].last_loss is nan"):
        run_trial(spec, Trial(0, {"width": 2}, directory=tmp_path))
    assert not (tmp_path / "checkpoint").exists()


def test_metric_that_is_a_text_fails_the_trial():
    with pytest.raises(TrialError, match=r"eval_func returned '0\.5' for 'score'"):
        run_trial(spec_of(score=lambda student: {"score": "0.5"}), Trial(0, {"width": 2}))


def test_trial_in_another_process_has_the_same_result_to_the_bit(tmp_path):
    """The built-in training too: the spec is sent as it is, and the student is left in the trial's folder."""
    search = make_search(tmp_path / "search", make_config(metrics=["accuracy", "parameters"]))
    search.model_builder, search.eval_func = transformer, evaluate
    spec = search._trial_spec()
    trials = [Trial(0, {"width": 8, "depth": 2}, directory=tmp_path / name) for name in ("here", "there")]
    for trial in trials:
        trial.directory.mkdir()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as pool:
        there = pool.submit(run_trial, spec.for_another_process(), trials[1]).result()
    here = run_trial(spec, trials[0])
    assert there == here
    weights = [load_file(trial.directory / "checkpoint/1/student/model.safetensors") for trial in trials]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def transformer(architecture):
    from small_models import Transformer

    return Transformer(**architecture)


@pytest.mark.parametrize(
    ("hooks", "error", "sentence"),
    [
        ({"build": lambda architecture: None}, TrialError, "model_builder must return an nn.Module, but returned None"),
        ({"train": lambda student: 3}, TrialError, "train_func must return the trained model, but returned int"),
        ({"score": lambda student: "a"}, TrialError, "eval_func must return a mapping of metrics, but returned str"),
        (
            {"score": lambda student: {"score": "high"}},
            TrialError,
            "a metric must be a finite number, but eval_func returned 'high'",
        ),
        (
            {"score": lambda student: {"score": math.nan}},
            NonFiniteError,
            "a metric must be a finite number, but eval_func returned nan",
        ),
    ],
)
def test_wrong_return_value_of_a_hook_fails_the_trial(hooks, error, sentence):
    with pytest.raises(error, match=sentence):
        run_trial(spec_of(**hooks), Trial(0, {"width": 1}))


def test_missing_metrics_are_named_with_those_returned():
    metrics = (Metric("accuracy"), Metric("parameters"))
    assert missing_metrics(metrics, Outcome({"accuracy": 1.0, "parameters": 2.0})) is None
    sentence = missing_metrics(metrics, Outcome({"acuracy": 1.0, "parameters": 2.0}))
    assert sentence.startswith("eval_func must return every metric that is not built in, but 'accuracy' is missing")
    assert "it returned 'acuracy', 'parameters'" in sentence


def test_training_that_adds_tensors_fails_before_the_evaluation_unless_students_are_not_kept(tmp_path):
    def prune(student):
        torch.nn.utils.prune.l1_unstructured(student, "weight", 1)  # weight becomes weight_orig and weight_mask
        return student

    def never(model):
        raise AssertionError("it was evaluated")

    trial = Trial(0, {"width": 2}, directory=tmp_path)
    with pytest.raises(TrialError, match=r"'weight' is missing; 'weight_orig', 'weight_mask' are unexpected"):
        run_trial(spec_of(train=prune, score=never), trial)
    assert run_trial(replace(spec_of(train=prune), saves_students=False), trial).metrics["score"] == 2
