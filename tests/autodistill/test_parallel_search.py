"""Whole searches in local worker processes, from the front that users see."""

from __future__ import annotations

import logging
import threading
import time

import elastic_search
import pytest
from safetensors.torch import load_file
from toy_search import make_config, make_loader, make_search

from autodistill import ConfigurationError, SearchResult


def measured(directory):
    return {tuple(trial.architecture.values()): trial.metrics for trial in SearchResult.load(directory)}


def weights(directory, trials=None):
    return {
        tuple(trial.architecture.values()): {
            name: tensor.tolist()
            for name, tensor in load_file(trial.directory / "student" / "model.safetensors").items()
        }
        for trial in trials or SearchResult.load(directory)
    }


def test_workers_train_the_students_of_a_serial_search_to_the_bit(tmp_path):
    """Their hooks are local functions, which are sent by their code."""
    factor = -1.0

    def evaluate(student):
        return {"accuracy": factor * sum(parameter.abs().sum().item() for parameter in student.parameters())}

    config = make_config(max_trials=5)
    make_search(tmp_path / "serial", config, eval_func=evaluate).search_loop()
    make_search(tmp_path / "parallel", config | {"executor": "processes"}, eval_func=evaluate).search_loop(workers=2)
    assert measured(tmp_path / "serial") == measured(tmp_path / "parallel")
    assert weights(tmp_path / "serial") == weights(tmp_path / "parallel")
    assert not list((tmp_path / "parallel").glob("trials/*/checkpoint"))


def test_workers_evaluate_slices_of_the_elastic_student_and_finish_the_best(tmp_path):
    elastic_search.make_search(tmp_path / "serial").search_loop()
    elastic_search.make_search(tmp_path / "parallel").search_loop(workers=2)
    serial, parallel = (SearchResult.load(tmp_path / name) for name in ("serial", "parallel"))
    assert [trial.after_flash for trial in parallel] == [trial.after_flash for trial in serial]
    assert [trial.number for trial in parallel.completed] == [trial.number for trial in serial.completed]
    assert weights(tmp_path / "serial", serial.completed) == weights(tmp_path / "parallel", parallel.completed)


def test_all_that_cannot_be_sent_is_named_before_the_first_trial(tmp_path):
    lock = threading.Lock()

    def evaluate(student):
        with lock:
            return {"accuracy": 1.0}

    def loss(outputs, targets):
        with lock:
            return outputs.mean()

    search = make_search(tmp_path, eval_func=evaluate, loss_func=loss, train_dataloader=make_loader())
    with pytest.raises(ConfigurationError) as error:
        search.search_loop(workers=2)
    names = [problem.split(" is sent to workers, but cannot be: ")[0] for problem in error.value.problems]
    assert names == ["eval_func", "loss_func"]
    assert len(search.search_result) == 0


def test_mistakes_of_executor_and_set_up_are_in_one_error(tmp_path):
    search = make_search(tmp_path, eval_func=None)
    with pytest.raises(ConfigurationError) as error:
        search.search_loop(n_trials=-1, executor="cluster", workers=0)
    text = str(error.value)
    for mistake in ("n_trials must be", "workers must be", "but got 'cluster'", "eval_func must return 'accuracy'"):
        assert mistake in text


def test_trial_that_hangs_is_ended_and_fails_and_others_go_on(tmp_path, capfd, caplog):
    def evaluate(student):
        if next(student.parameters()).shape[0] == 12:  # of these widths, one
            time.sleep(600)
        return {"accuracy": 1.0}

    config = make_config(max_trials=3, search_space={"width": [8, 12, 16], "depth": [1]})
    search = make_search(tmp_path, config, eval_func=evaluate, trial_timeout=6.0)
    with caplog.at_level(logging.WARNING):
        search.search_loop(workers=2)
    failed = SearchResult.load(tmp_path).failed
    assert [trial.architecture["width"] for trial in failed] == [12]
    assert "must end within trial_timeout (6 s), but it ran longer" in failed[0].error
    assert len(SearchResult.load(tmp_path).completed) == 2
    assert "in evaluate" in capfd.readouterr().err
