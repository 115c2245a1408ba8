"""What a trial costs beside its work: no reading of the directory, and one student."""

from __future__ import annotations

import os
from pathlib import Path

from small_models import Transformer
from toy_search import make_config, make_search
from width_search import search, widths_of

from autodistill.search import result as search_result


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


def test_patience_ends_a_search_whose_best_has_not_changed(tmp_path):
    scores = {1: 1.0, 2: 5.0, 3: 5.0, 4: 2.0, 5: 9.0, 6: 0.0}
    agent = search(tmp_path, score=scores.get)
    agent.search_loop(patience=2)
    assert widths_of(tmp_path) == [1, 2, 3, 4]  # 3 equals 2, which changes nothing
    agent.search_loop(patience=3)
    assert widths_of(tmp_path) == [1, 2, 3, 4, 5, 6]
