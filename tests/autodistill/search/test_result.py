"""What a search's result computes from its trials, and how it is read from a directory."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complete_trials import trial

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.metrics.metric import Metric
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial


def test_result_is_a_sequence_in_the_order_of_numbers() -> None:
    result = SearchResult([trial(2, a=1.0), trial(0, a=3.0), trial(1, a=2.0)], [Metric("a")])
    assert [t.number for t in result] == [0, 1, 2]
    assert len(result) == 3
    assert result[-1].number == 2
    assert [t.number for t in result[:2]] == [0, 1]


def test_failed_and_running_trials_are_counted_but_never_the_best() -> None:
    trials = [trial(0, a=1.0), Trial(1, {}).fail("boom"), Trial(2, {})]
    result = SearchResult(trials, [Metric("a")])
    assert ([t.number for t in result.completed], [t.number for t in result.failed]) == ([0], [1])
    assert [t.number for t in result.finished] == [0, 1]
    assert [t.number for t in result.pareto_front] == [0]
    assert repr(result) == "<SearchResult of 3 trials: 1 complete, 1 failed, 1 running>"


def test_best_of_one_metric_is_the_first_of_equals() -> None:
    trials = [trial(0, a=1.0), trial(1, a=3.0), trial(2, a=3.0)]
    assert SearchResult(trials, [Metric("a")]).best is trials[1]
    assert SearchResult(trials, [Metric("a", greater_is_better=False)]).best is trials[0]


def test_an_equal_of_a_member_of_the_front_leaves_it_unchanged() -> None:
    metrics = [Metric("accuracy"), Metric("latency")]
    trials = [
        trial(0, accuracy=0.9, latency=9.0),
        trial(1, accuracy=0.5, latency=2.0),
        trial(2, accuracy=0.5, latency=2.0),  # equals 1
        trial(3, accuracy=0.4, latency=3.0),  # beaten by 1
        Trial(4, {}).fail("boom"),
        Trial(5, {}),
    ]
    assert [SearchResult(trials[:count], metrics).unchanged_for for count in range(7)] == [0, 0, 0, 1, 2, 3, 3]
    assert SearchResult([Trial(0, {}).fail("boom")], metrics).unchanged_for == 1


def test_the_front_is_moved_by_a_trial_that_was_promoted_after_later_ones() -> None:
    metrics = [Metric("accuracy")]
    trials = [Trial(number, {}).pause({"accuracy": 0.5}) for number in range(3)]
    assert SearchResult(trials, metrics).unchanged_for == 3
    begun = trials[0].promote()
    assert SearchResult([begun, *trials[1:]], metrics).unchanged_for == 2
    result = SearchResult([begun.complete({"accuracy": 0.9}), *trials[1:]], metrics)
    assert result.unchanged_for == 0
    assert SearchResult([*result, Trial(3, {}).pause({"accuracy": 0.5})], metrics).unchanged_for == 1


def test_paused_and_promoted_trials_are_tried_and_not_finished() -> None:
    trials = [Trial(number, {}).pause({"accuracy": 0.5}) for number in range(2)]
    result = SearchResult(
        [trials[0].promote(), trials[1], Trial(2, {}), Trial(3, {}).fail("boom")], [Metric("accuracy")]
    )
    assert [t.number for t in result.tried] == [0, 1, 3]
    assert [t.number for t in result.finished] == [3]
    assert [t.number for t in result.paused] == [1]
    assert result.best is None
    assert repr(result) == "<SearchResult of 4 trials: 0 complete, 1 failed, 1 paused, 2 running>"


def test_best_of_several_metrics_is_the_front_member_nearest_to_the_ideal() -> None:
    trials = [
        trial(0, accuracy=0.99, latency=100.0),
        trial(1, accuracy=0.97, latency=20.0),
        trial(2, accuracy=0.80, latency=10.0),
        trial(3, accuracy=0.90, latency=50.0),  # beaten by 1
    ]
    result = SearchResult(trials, [Metric("accuracy"), Metric("latency")])
    assert [t.number for t in result.pareto_front] == [0, 1, 2]
    assert result.best is trials[1]
    assert result.choose({"accuracy": 100.0}) is trials[0]
    assert result.choose({"latency": 100.0}) is trials[2]


@pytest.mark.parametrize("weights", [{"speed": 1.0}, {"a": -1.0}, {"a": float("nan")}, {"a": "2"}, {"b": 1.0}])
def test_weight_for_no_goal_or_negative_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="weights are non-negative numbers for a, but got"):
        SearchResult([trial(0, a=1.0, b=1.0)], [Metric("a"), Metric("b", measured=True)]).choose(weights)


def test_trial_that_breaks_a_bound_is_not_feasible_though_it_is_best() -> None:
    trials = [trial(0, a=0.9, latency=9.0), trial(1, a=0.8, latency=5.0)]
    result = SearchResult(trials, [Metric("a"), Metric("latency", at_most=5.0)])
    assert result.feasible == [trials[1]]
    assert result.pareto_front == [trials[1]]


def test_measured_metric_is_no_goal_but_its_bound_holds() -> None:
    trials = [trial(0, a=0.9, latency=9.0), trial(1, a=0.8, latency=5.0), trial(2, a=0.7, latency=1.0)]
    assert SearchResult(trials, [Metric("a"), Metric("latency", measured=True)]).pareto_front == [trials[0]]
    assert SearchResult(trials, [Metric("a"), Metric("latency", measured=True, at_most=6)]).best is trials[1]


def test_no_feasible_trial_gives_no_best_and_an_empty_front() -> None:
    result = SearchResult([trial(0, a=0.1)], [Metric("a", at_least=0.5)])
    assert result.best is None
    assert result.pareto_front == []
    assert SearchResult([], [Metric("a")]).best is None


def test_metrics_without_a_goal_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one metric must be a goal"):
        SearchResult([], [Metric("a", measured=True)])


def test_data_frame_has_a_row_for_each_trial() -> None:
    frame = SearchResult([trial(0, a=0.5), Trial(1, {"layers": 9}).fail("boom")], [Metric("a")]).to_dataframe()
    assert frame["number"].tolist() == [0, 1]
    assert frame["state"].tolist() == ["complete", "failed"]
    assert frame["architecture_layers"].tolist() == [0, 9]
    assert frame["metrics_a"][0] == 0.5
    assert np.isnan(frame["metrics_a"][1])
    assert frame["error"][1] == "boom"


def test_data_frame_without_pandas_is_refused_naming_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'autodistill-nas\[pandas\]'"):
        SearchResult([], [Metric("a")]).to_dataframe()


def write_search(path: Path, trials: list[Trial], metrics: list[Metric]) -> None:
    (path / "search.json").write_text(
        json.dumps({"schema_version": 1, "metrics": [metric.to_json() for metric in metrics]})
    )
    for t in trials:
        folder = path / "trials" / f"{t.number:06d}"
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps(t.to_json()))


def test_load_returns_the_recorded_trials_with_their_folders(tmp_path: Path) -> None:
    trials = [trial(0, accuracy=0.9, latency=2.0), Trial(1, {"layers": 1}).fail("boom")]
    write_search(tmp_path, trials, [Metric("accuracy", at_least=0.5), Metric("latency")])
    result = SearchResult.load(str(tmp_path))
    assert [t.to_json() for t in result] == [t.to_json() for t in trials]
    assert result[0].directory == tmp_path / "trials" / "000000"
    assert result.metrics == (Metric("accuracy", at_least=0.5), Metric("latency"))


def test_load_of_a_directory_before_its_first_trial_is_empty(tmp_path: Path) -> None:
    write_search(tmp_path, [], [Metric("a")])
    assert len(SearchResult.load(tmp_path)) == 0


def test_load_leaves_a_damaged_trial_out_with_a_warning_and_touches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_search(tmp_path, [trial(0, a=1.0), trial(1, a=2.0)], [Metric("a")])
    damaged = tmp_path / "trials" / "000000" / "trial.json"
    damaged.write_text('{"number": 0, "archi')
    (tmp_path / "trials" / "000002").mkdir()
    assert [t.number for t in SearchResult.load(tmp_path)] == [1]
    assert f"{damaged} is damaged and left out" in caplog.text
    assert damaged.read_text() == '{"number": 0, "archi'


def test_load_leaves_out_what_cannot_be_read_or_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_search(tmp_path, [trial(0, a=1.0), trial(1, a=2.0), trial(2, a=3.0), trial(3, b=3.0)], [Metric("a")])
    folders = [tmp_path / "trials" / f"00000{number}" for number in range(4)]
    (folders[0] / "trial.json").rename(folders[0] / "progress.jsonl")
    read = Path.read_text

    def refusing(path: Path, *arguments: Any, **named: Any) -> str:
        if path.parent == folders[1]:
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refusing)
    result = SearchResult.load(tmp_path)
    assert [t.number for t in result] == [2]
    assert result.best is not None
    assert f"{folders[0] / 'trial.json'} is missing, and its trial is left out" in caplog.text
    assert f"{folders[1] / 'trial.json'} cannot be read and is left out: [Errno 13]" in caplog.text
    assert (
        f"{folders[3] / 'trial.json'} is damaged and left out: it is complete, but has no value of 'a'" in caplog.text
    )


def test_load_of_trials_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    write_search(tmp_path, [], [Metric("a")])
    shutil.rmtree(tmp_path / "trials", ignore_errors=True)
    (tmp_path / "trials").touch()
    with pytest.raises(SearchDirectoryError, match=r"the trials in .* must be readable, but are not"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", *(f'{{"schema_version": 1, "metrics": {text}}}' for text in ("3", '[{"nam": "a"}]', "[]"))],
)
def test_load_of_a_damaged_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(SearchDirectoryError, match="must describe the search, but is damaged"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", r"holds a search\.json, but .* has none\."),
        ("missing", "must exist, but .*missing does not"),
        ("file", "must be a directory, but .*file is a file"),
        ("file/below", "must exist, but .*below does not"),
        ("lost", r"has none; its trials are there: restore the search\.json of that search"),
    ],
)
def test_load_of_a_path_without_a_search_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "lost" / "trials").mkdir(parents=True)
    with pytest.raises(SearchDirectoryError, match=f"a search directory .*{reason}"):
        SearchResult.load(tmp_path / name)


def in_some_state(number: int, rng: np.random.Generator) -> Trial:
    metrics = {name: float(rng.integers(0, 6)) for name in ("a", "b")}
    states = [Trial(number, {}), Trial(number, {}).fail("boom"), *[Trial(number, {}).complete(metrics)] * 6]
    return states[int(rng.integers(len(states)))]


@pytest.mark.parametrize("metrics", [[Metric("a")], [Metric("a"), Metric("b", greater_is_better=False, at_most=4)]])
def test_a_result_with_a_changed_trial_is_that_of_all_its_trials(metrics: list[Metric]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        result, trials = SearchResult([], metrics), dict[int, Trial]()
        for _ in range(40):
            number = int(rng.integers(15))  # in any order, and most of them more than once: also members of the front
            trials[number] = in_some_state(number, rng)
            result = result.with_trial(trials[number])
            expected = SearchResult(list(trials.values()), metrics)
            assert list(result) == list(expected)
            assert result.pareto_front == expected.pareto_front
            assert result.best is expected.best
