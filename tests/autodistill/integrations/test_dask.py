"""Trials as tasks of dask, through the executor of its client, which has the contract of concurrent.futures."""

from __future__ import annotations

import pytest

distributed = pytest.importorskip("distributed")

import dask  # noqa: E402
import engine_calls  # noqa: E402
from toy_search import make_config, make_search  # noqa: E402

from autodistill import SearchResult, SearchStoppedError  # noqa: E402
from autodistill.search.engines import GivenExecutor  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending large"),
]


def measured(directory):
    return {tuple(trial.architecture.values()): trial.metrics for trial in SearchResult.load(directory)}


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs="ERROR"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_search_is_that_of_one_process(client, tmp_path):
    config = make_config(max_trials=5)
    make_search(tmp_path / "serial", config).search_loop()
    make_search(tmp_path / "dask", config).search_loop(executor=client.get_executor(pure=False), workers=2)
    assert measured(tmp_path / "dask") == measured(tmp_path / "serial")
    assert len(list(tmp_path.glob("dask/trials/*/student/model.safetensors"))) == 5


def test_killed_worker_is_lost(client):
    engine = GivenExecutor(client.get_executor(pure=False), slots=2)
    error = engine.submit(engine_calls.kill_this_process).exception()
    assert engine.is_lost(error)
    assert engine.submit(engine_calls.length, b"1234").result() == 4


def test_threads_of_this_process_are_refused(tmp_path):
    with (
        distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as threads,
        pytest.raises(SearchStoppedError, match="must run in other processes than the search"),
    ):
        make_search(tmp_path).search_loop(executor=threads.get_executor(pure=False), workers=2)
