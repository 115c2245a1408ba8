"""Trials whose checkpoints and students are in a storage: nothing but records is in the search directory."""

from __future__ import annotations

import pytest
from interruptions import Killed, count_steps
from loopback_s3 import loopback_s3
from toy_search import make_config, make_search

from autodistill import RemoteFiles, SearchDirectoryError, SearchResult, SearchStoppedError, StorageError
from autodistill.search.students import find_student

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/remote"


def measured(directory):
    return [
        (trial.number, trial.architecture, trial.state, trial.metrics, trial.student)
        for trial in SearchResult.load(directory)
    ]


def local_files(directory):
    return {file.name for file in directory.glob("trials/*/*")}


def remote_files(directory):
    return sorted({"/".join(file.relative_to(directory).parts[:3]) for file in directory.rglob("*") if file.is_file()})


def test_search_is_that_without_a_storage_and_its_students_are_there(tmp_path, url):
    make_search(tmp_path / "plain", keep="pareto").search_loop()
    search = make_search(tmp_path / "search", keep="pareto", storage=url)
    search.search_loop()
    assert measured(tmp_path / "search") == measured(tmp_path / "plain")
    assert local_files(tmp_path / "search") == {"trial.json", "progress.jsonl"}
    kept = [trial.number for trial in search.search_result.pareto_front]
    assert remote_files(tmp_path / "remote") == [f"trials/{number:06d}/student" for number in sorted(kept)]


def test_student_is_loaded_from_the_storage_by_its_url_in_the_record(tmp_path, url):
    search = make_search(tmp_path / "search", storage=url)
    search.search_loop()
    best = search.search_result.best
    folder = find_student(tmp_path / "search", best)
    assert (folder / "model.safetensors").exists()
    expected = make_search(tmp_path / "plain")
    expected.search_loop()
    for name, tensor in expected.best_model().state_dict().items():
        assert tensor.equal(search.best_model().state_dict()[name])
    with pytest.raises(SearchDirectoryError, match="storage"):
        make_search(tmp_path / "search", storage=f"{url}-other").search_loop(n_trials=1)


@pytest.mark.parametrize("promote", [None, 0.5])
def test_interrupted_search_resumes_from_the_checkpoints_in_the_storage(tmp_path, url, monkeypatch, promote):
    config = make_config(promote=promote, max_trials=4) | {"checkpoint_steps": 2}
    make_search(tmp_path / "plain", config).search_loop()
    with monkeypatch.context() as patch:
        whole = count_steps(patch)
        make_search(tmp_path / "whole", config, storage=f"{url}-whole").search_loop()
    taken = 0
    for after in (3, 7, 11):
        with monkeypatch.context() as patch:
            steps = count_steps(patch, die_at=after)
            with pytest.raises(Killed):
                make_search(tmp_path / "search", config, storage=url).search_loop()
            taken += len(steps)
    with monkeypatch.context() as patch:
        steps = count_steps(patch)
        make_search(tmp_path / "search", config, storage=url).search_loop()
        taken += len(steps)
    assert measured(tmp_path / "search") == measured(tmp_path / "plain")
    assert taken - len(whole) < 3 * 5  # at most a block, or the steps between two checkpoints, for each interruption
    complete = [trial for trial in SearchResult.load(tmp_path / "search") if trial.state == "complete"]
    for trial in complete:
        assert f"trials/{trial.number:06d}/checkpoint" not in remote_files(tmp_path / "remote")


def test_progress_is_seen_in_the_storage(tmp_path, url, monkeypatch):
    with monkeypatch.context() as patch:
        count_steps(patch, die_at=6)
        with pytest.raises(Killed):
            make_search(tmp_path / "search", storage=url).search_loop()
    search = make_search(tmp_path / "search", storage=url)
    with search._open() as directory:
        (trial,) = directory.interrupted
        assert directory.has_progressed(trial)
        again = directory.retry(trial)
        assert (again.attempts, directory.has_progressed(again)) == (1, False)


def test_storage_that_is_gone_stops_the_search_and_fails_no_trial(tmp_path, url, monkeypatch):
    with monkeypatch.context() as patch:

        def gone(*arguments):
            raise StorageError("the storage must be available, but the network is down")

        patch.setattr(RemoteFiles, "upload", gone)
        with pytest.raises(SearchStoppedError, match="network is down; check the storage"):
            make_search(tmp_path / "search", storage=url).search_loop()
    assert [trial.state for trial in SearchResult.load(tmp_path / "search")] == ["running"]
    make_search(tmp_path / "search", storage=url).search_loop()
    assert {trial.state for trial in SearchResult.load(tmp_path / "search")} == {"complete"}


def test_workers_keep_students_in_an_object_store(tmp_path):
    config = make_config(max_trials=3)
    make_search(tmp_path / "plain", config).search_loop()
    with loopback_s3("students") as options:
        search = make_search(tmp_path / "search", config, storage=RemoteFiles("s3://students/digits", options))
        search.search_loop(workers=2)
        assert [trial.metrics for trial in search.search_result] == [
            trial.metrics for trial in SearchResult.load(tmp_path / "plain")
        ]
        assert RemoteFiles("s3://students/digits", options).names("trials") == ["000000", "000001", "000002"]
        assert search.best_model() is not None
    assert local_files(tmp_path / "search") == {"trial.json", "progress.jsonl", "student"}
