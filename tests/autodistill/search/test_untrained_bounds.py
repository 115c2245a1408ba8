from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_search import SPACE, make_config, make_search

from autodistill import Advisor, AdvisorError, ConfigurationError, Metric, SearchResult
from autodistill.batch import Batch
from autodistill.frameworks.pytorch import PyTorchFramework
from autodistill.metrics.latency import Timing
from autodistill.processes import Processes
from autodistill.search.run_trial import TrialSpec
from autodistill.search.untrained_bounds import UntrainedBounds
from search_spaces import SearchSpace


def parameters_of(build, architecture):
    with torch.random.fork_rng():
        return sum(parameter.numel() for parameter in build(architecture).parameters())


def sizes_in(tmp_path):
    build = make_search(tmp_path / "probe").model_builder
    return {
        (width, depth): parameters_of(build, {"width": width, "depth": depth})
        for width in SPACE["width"]
        for depth in SPACE["depth"]
    }


def test_an_architecture_that_breaks_a_bound_untrained_costs_no_trial(tmp_path):
    sizes = sizes_in(tmp_path)
    limit = sorted(sizes.values())[3]
    config = make_config(metrics=["accuracy", Metric("parameters", at_most=limit)], max_trials=9)
    agent = make_search(tmp_path / "search", config)
    agent.search_loop()
    tried = {tuple(trial.architecture.values()) for trial in SearchResult.load(tmp_path / "search")}
    assert tried == {architecture for architecture, size in sizes.items() if size <= limit}
    assert len(agent.search_result.feasible) == 4


def test_a_rejected_architecture_is_built_once_in_a_search_with_callbacks(tmp_path):
    limit = sorted(sizes_in(tmp_path).values())[3]
    built = []
    agent = make_search(
        tmp_path / "search",
        make_config(metrics=["accuracy", Metric("parameters", at_most=limit)], max_trials=9),
        callbacks=[lambda search, trial: None],  # after it, the hooks are read again
    )
    build = agent.model_builder

    def counting(architecture):
        built.append(tuple(architecture.values()))
        return build(architecture)

    agent.model_builder = counting
    agent.search_loop()
    tried = {tuple(trial.architecture.values()) for trial in agent.search_result}
    rejected = [architecture for architecture in built if architecture not in tried]
    assert len(tried) == 4
    assert len(rejected) == len(set(rejected)) == 5


def test_a_space_in_which_nothing_keeps_the_bounds_is_logged_as_such(tmp_path, caplog):
    agent = make_search(tmp_path, make_config(metrics=["accuracy", Metric("parameters", at_most=1)]))
    assert agent.search_loop() is None
    assert "9 of them break a bound before they are trained: relax the bounds" in caplog.text


def test_an_advisor_that_ignores_its_history_is_an_error(tmp_path):
    class Stubborn(Advisor):
        def suggest(self, history, *, seed):
            return {"width": 8, "depth": 1}

    config = make_config(metrics=["accuracy", Metric("parameters", at_most=1)])
    with pytest.raises(AdvisorError, match="not in its history, but Stubborn repeated"):
        make_search(tmp_path, config, advisor=Stubborn).search_loop()


def test_a_resumed_search_passes_over_the_same_architectures(tmp_path):
    metrics = ["accuracy", Metric("size_mb", at_least=4e-6 * sorted(sizes_in(tmp_path).values())[5])]

    def architectures(name, portions):
        for total in portions:
            make_search(tmp_path / name, make_config(metrics=metrics, max_trials=total)).search_loop()
        return [trial.architecture for trial in SearchResult.load(tmp_path / name)]

    assert architectures("two", [1, 3]) == architectures("one", [3])


def test_a_train_func_may_change_the_size_so_nothing_is_checked_before(tmp_path):
    config = make_config(metrics=["accuracy", Metric("parameters", at_most=1)], max_trials=2)
    agent = make_search(tmp_path, config, train_func=lambda student: student)
    agent.search_loop()
    assert len(agent.search_result.completed) == 2
    assert agent.search_result.feasible == []


ONE = SearchSpace({"depth": [1, 2]})


def keeps_on(metrics, build, example=None, teacher=None):
    framework = PyTorchFramework(lambda architecture: build(), None, 0, torch.device("cpu"), teacher, example)
    training = SimpleNamespace(keeps_size=True)
    return partial(UntrainedBounds().keeps, TrialSpec(framework, training, ONE, tuple(metrics), 0, Processes()))


def test_only_bounds_that_training_cannot_change_are_checked():
    built = []

    def build():
        built.append(True)
        return nn.Linear(4, 1)

    assert keeps_on([Metric("accuracy", at_least=2), Metric("parameters")], build)({"depth": 1})
    assert built == []
    keeps = keeps_on([Metric("parameters", at_most=4)], build)
    assert [keeps({"depth": 1}) for _ in range(3)] == [False] * 3
    assert len(built) == 1


def test_a_bound_on_latency_is_checked_before_training_where_it_is_marked(tmp_path, monkeypatch):
    def by_depth(models, batch):
        """As many ms as there are layers: no clock decides the test."""
        return {name: Timing(*[float(len(model.layers))] * 3, rounds=5) for name, model in models.items()}

    monkeypatch.setitem(vars(sys.modules["autodistill.metrics.measure"]), "time_models", by_depth)
    for marked, depths in ((True, {1, 2}), (False, {1, 2, 3})):
        metrics = ["accuracy", Metric("latency", at_most=2.5, before_training=marked)]
        agent = make_search(tmp_path / str(marked), make_config(metrics=metrics, max_trials=9))
        agent.search_loop()
        assert {trial.architecture["depth"] for trial in agent.search_result} == depths
        assert {trial.architecture["depth"] for trial in agent.search_result.feasible} == {1, 2}


def test_a_mark_counts_with_a_training_of_the_users_own_too(tmp_path):
    sizes = sizes_in(tmp_path)
    limit = sorted(sizes.values())[3]
    metrics = ["accuracy", Metric("parameters", at_most=limit, before_training=True)]
    agent = make_search(tmp_path / "search", make_config(metrics=metrics), train_func=lambda student: student)
    agent.search_loop(n_trials=9)
    assert len(agent.search_result.feasible) == len(agent.search_result) == 4


def test_a_bound_on_the_speedup_is_checked_with_the_teacher():
    speedup = [Metric("speedup", at_least=1e-9, before_training=True)]
    example = Batch((torch.zeros(2, 4), None))
    assert keeps_on(speedup, lambda: nn.Linear(4, 1), example, nn.Linear(4, 1))({"depth": 1})
    with pytest.raises(ConfigurationError, match="speedup compares the student with the teacher"):
        keeps_on(speedup, lambda: nn.Linear(4, 1), example)({"depth": 1})


def test_a_student_that_cannot_be_built_fails_in_its_trial():
    def broken():
        raise RuntimeError("no such layer")

    assert keeps_on([Metric("parameters", at_most=4)], broken)({"depth": 1})
    with pytest.raises(ConfigurationError, match="flops"):
        keeps_on([Metric("flops", at_most=4)], lambda: nn.Linear(4, 1))({"depth": 1})
