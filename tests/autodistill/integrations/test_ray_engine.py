"""Trials as tasks of Ray: the same search as in this process, on what the cluster has."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

import engine_calls  # noqa: E402
from toy_search import make_config, make_search  # noqa: E402

from autodistill import ConfigurationError, SearchResult  # noqa: E402
from autodistill.config.executor import ExecutorConfig  # noqa: E402
from autodistill.integrations.ray_engine import RayEngine, _own_signals  # noqa: E402

SUPPORT = str(Path(engine_calls.__file__).parent)
ENVIRONMENT = {"env_vars": {"PYTHONPATH": SUPPORT, "SOME_VARIABLE": "3"}}


@pytest.fixture(scope="module")
def cluster():
    with _own_signals():
        ray.init(num_cpus=2, resources={"fast": 1}, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def engine(cluster):
    return RayEngine.started(ExecutorConfig(name="ray", runtime_env=ENVIRONMENT))


def measured(directory):
    return {tuple(trial.architecture.values()): trial.metrics for trial in SearchResult.load(directory)}


def test_tasks_run_in_other_processes_with_the_environment_that_is_configured(engine):
    assert engine.slots == 2
    assert engine.submit(engine_calls.number_of_process, 0.0).result() != os.getpid()
    assert engine.submit(engine_calls.environment_of, ["SOME_VARIABLE"], 0.0).result() == ["3"]
    shared = engine.share(b"1234")
    assert engine.submit(engine_calls.length, shared).result() == 4


def test_killed_process_is_lost_and_other_errors_are_none(engine):
    assert engine.is_lost(engine.submit(engine_calls.kill_this_process).exception())
    error = engine.submit(engine_calls.fail).exception()
    assert isinstance(error, ValueError)
    assert not engine.is_lost(error)


def test_interrupt_ends_tasks_by_the_signal_of_the_keyboard(engine, tmp_path):
    call = engine.submit(engine_calls.note_interrupt, str(tmp_path / "started"), str(tmp_path / "ended"))
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    engine.interrupt()
    assert call.done()
    until = time.monotonic() + 20
    while not (tmp_path / "ended").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("settings", "slots"),
    [({}, 2), ({"num_cpus": 2}, 1), ({"resources": {"fast": 0.5}}, 2), ({"workers": 7}, 7), ({"num_cpus": 0}, 1)],
)
def test_number_of_trials_is_what_the_cluster_has_room_for(cluster, settings, slots):
    assert RayEngine.started(ExecutorConfig(name="ray", **settings)).slots == slots


def test_trial_for_which_no_node_has_room_is_refused(cluster, tmp_path):
    with pytest.raises(ConfigurationError, match=r"'slow': 1.0.*but the nodes have .*'slow': 0.*; reserve less"):
        make_search(tmp_path).search_loop(executor={"name": "ray", "resources": {"slow": 1}})


def test_search_is_that_of_one_process(cluster, tmp_path):
    config = make_config(max_trials=5)
    make_search(tmp_path / "serial", config).search_loop()
    executor = {"name": "ray", "runtime_env": ENVIRONMENT}
    make_search(tmp_path / "ray", config | {"executor": executor}).search_loop()
    assert measured(tmp_path / "ray") == measured(tmp_path / "serial")
    students = tmp_path.glob("ray/trials/*/student/model.safetensors")
    assert len(list(students)) == 5
