"""What a trial costs beside its work: no reading of the directory, and one student."""

from __future__ import annotations

import gc
import os
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_models import Transformer
from toy_search import make_config, make_search
from width_search import search, widths_of

from autodistill import AutoDistillation, ConfigurationError, SearchSpace, SearchStoppedError
from autodistill.search import loop
from autodistill.search import result as search_result
from autodistill.search.directory import SearchDirectory


class Readings:
    """Counts what is read of a search directory: records, and lists of folders."""

    def __init__(self, monkeypatch, directory):
        self.paths = []
        for owner, name in ((Path, "read_text"), (Path, "read_bytes"), (Path, "glob"), (Path, "iterdir")):
            self._watch(monkeypatch, owner, name, directory)
        for name in ("listdir", "scandir"):
            self._watch(monkeypatch, os, name, directory)

    def _watch(self, monkeypatch, owner, name, directory):
        original = getattr(owner, name)

        def watched(path=".", *arguments, **named):
            if str(path).startswith(str(directory)) and "student" not in str(path) and "cache" not in str(path):
                self.paths.append(f"{name} {path}")
            return original(path, *arguments, **named)

        monkeypatch.setattr(owner, name, watched)


def test_a_new_trial_reads_the_directory_zero_times_and_builds_its_student_once(tmp_path, monkeypatch):
    built, readings_by_trial, built_by_trial = [], [], []

    def build(architecture):
        built.append(tuple(architecture.values()))
        return Transformer(**architecture)

    def after(search, trial):
        readings_by_trial.append(list(readings.paths))
        readings.paths.clear()
        built_by_trial.append(list(built))
        built.clear()

    search = make_search(tmp_path / "search", make_config(max_trials=6), keep="pareto", callbacks=[after])
    search.model_builder = build
    readings = Readings(monkeypatch, tmp_path / "search")
    search.search_loop()
    trials = [tuple(trial.architecture.values()) for trial in search.search_result]
    assert built_by_trial == [[trials[0]] * 2, *([trial] for trial in trials[1:])]
    opening, *later = readings_by_trial
    assert any("search.json" in reading for reading in opening)  # what is read once is counted
    checkpoints = [reading for readings in later for reading in readings if "checkpoint" not in reading]
    assert checkpoints == []


def test_the_result_in_a_callback_comes_from_memory(tmp_path, monkeypatch):
    pairs = []

    def look(search, trial):
        with monkeypatch.context() as patch:
            patch.setattr(search_result, "read_json", None)
            pairs.append((search.search_result[-1], trial))

    make_search(tmp_path / "search", make_config(max_trials=2), callbacks=[look]).search_loop()
    assert [left == right for left, right in pairs] == [True, True]


@pytest.mark.parametrize(("keep", "fronts"), [("none", 0), ("all", 0), ("pareto", 1)])
def test_no_later_trial_computes_more_keys_or_more_than_one_front(tmp_path, monkeypatch, keep, fronts):
    calls, calls_by_trial = [], []

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*arguments):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, watched)

    def after(search, trial):
        calls_by_trial.append(Counter(calls))
        calls.clear()

    watch(SearchSpace, "key")
    watch(search_result, "non_dominated")
    agent = search(tmp_path, widths=list(range(1, 30)), max_trials=20, keep=keep, callbacks=[after])
    agent.enqueue_trial({"width": 7})
    agent.search_loop()
    assert len(calls_by_trial) == 20
    assert [counted["non_dominated"] for counted in calls_by_trial] == [fronts] * 20
    assert calls_by_trial[0]["key"] > 0
    assert {counted["key"] for counted in calls_by_trial} == {calls_by_trial[0]["key"]}


def test_patience_ends_a_search_whose_best_has_not_changed(tmp_path):
    scores = {1: 1.0, 2: 5.0, 3: 5.0, 4: 2.0, 5: 9.0, 6: 0.0}
    agent = search(tmp_path, score=scores.get)
    agent.search_loop(patience=2)
    assert widths_of(tmp_path) == [1, 2, 3, 4]  # 3 equals 2, which changes nothing
    agent.search_loop(patience=3)
    assert widths_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_student_of_a_failed_trial_is_freed_before_the_next_trial(tmp_path):
    students, alive = [], []

    def evaluate(student):
        alive.append(sum(reference() is not None for reference in students))
        students.append(weakref.ref(student))
        raise ValueError("no score")

    gc.collect()
    gc.disable()  # what frees the student must be that nothing refers to it
    try:
        search = make_search(tmp_path / "search", train_func=lambda student: student, eval_func=evaluate)
        with pytest.raises(SearchStoppedError):
            search.search_loop()
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_settings_are_checked_before_the_first_trial_though_another_was_added(tmp_path):
    config = make_config(search_space={"width": [8], "depth": [1, 2]}, max_trials=2)
    config["flash_distillation"] = {
        "block_names": ["layer.0"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0", "layers.0")]],
    }
    search = make_search(tmp_path / "search", config)
    search.add_trial({"width": 8, "depth": 1}, {"accuracy": 0.5, "parameters": 10})
    with pytest.raises(ConfigurationError, match=r"has no layer 'layer.0'"):
        search.search_loop()
    assert [trial.added for trial in search.search_result] == [True]


def test_trial_that_was_interrupted_too_often_fails_and_leaves_no_checkpoint(tmp_path):
    search = make_search(tmp_path / "search", make_config(max_trials=2), max_retries=0)
    with SearchDirectory.open(tmp_path / "search", search.describe(), search.search_space) as directory:
        trial = directory.begin({"width": 8, "depth": 1})
        (trial.directory / "checkpoint").mkdir()
    search.search_loop()
    first = search.search_result[0]
    assert first.error == "it was interrupted 1 times, and max_retries is 0"
    assert not (first.directory / "checkpoint").exists()


def test_hooks_that_a_callback_reassigns_count_from_the_next_trial(tmp_path):
    def reassign(search, trial):
        search.eval_func = lambda student: {"accuracy": 0.125}

    search = make_search(tmp_path / "search", make_config(max_trials=3), callbacks=[reassign])
    search.search_loop()
    first, *later = [trial.metrics["accuracy"] for trial in search.search_result]
    assert first != 0.125
    assert later == [0.125, 0.125]


def test_callback_that_changes_a_trial_changes_nothing_of_the_search(tmp_path):
    def change(search, trial):
        trial.metrics.clear()
        search.search_result[0].details["note"] = "mine"

    changed = make_search(tmp_path / "changed", make_config(max_trials=3), callbacks=[change])
    unchanged = make_search(tmp_path / "unchanged", make_config(max_trials=3))
    assert changed.search_loop() == unchanged.search_loop()
    assert [trial.metrics for trial in changed.search_result] == [trial.metrics for trial in unchanged.search_result]
    assert "note" not in changed.search_result[0].details


class Unsaved(torch.nn.Linear):
    """Saving the student of one architecture fails."""

    def save_pretrained(self, folder):
        if self.in_features == 4:
            raise RuntimeError("it cannot be saved")
        (folder / "weights.bin").touch()

    @classmethod
    def from_pretrained(cls, folder):
        raise NotImplementedError


def test_failure_while_a_student_is_saved_fails_its_trial_only(tmp_path):
    agent = AutoDistillation(
        lambda architecture: Unsaved(architecture["width"], 1),
        {"search": {"search_space": {"width": [2, 4, 8]}, "metrics": ["parameters"], "search_algorithm": "Grid"}},
        train_func=lambda student: student,
        search_dir=tmp_path,
        show_progress_bar=False,
        keep="all",
    )
    agent.search_loop(n_trials=3)
    by_width = {trial.architecture["width"]: trial for trial in agent.search_result}
    assert {width: trial.state.value for width, trial in by_width.items()} == {
        2: "complete",
        4: "failed",
        8: "complete",
    }
    assert "it cannot be saved" in by_width[4].error
    assert [path.name for path in by_width[4].directory.iterdir()] == ["trial.json"]


def test_student_that_cannot_be_removed_does_not_end_the_search(tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError("not permitted")

    monkeypatch.setattr(loop, "remove", refuse)
    agent = search(tmp_path, keep="none")
    agent.search_loop()
    assert "the student of trial 0 is not kept, but could not be removed: not permitted" in caplog.text
    assert len(agent.search_result.completed) > 1
