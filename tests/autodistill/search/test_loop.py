"""What a trial costs beside its work: no reading of the directory, and one student."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import re
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from growth import Calls, Growth, use_empty_temporary_folder
from interruptions import Killed, count_steps
from small_models import Transformer
from toy_search import make_config, make_search, make_teacher
from width_search import WIDTHS, search, widths_of

from autodistill import (
    AutoDistillation,
    ConfigurationError,
    Metric,
    SearchResult,
    SearchSpace,
    SearchStoppedError,
    json_files,
)
from autodistill.distiller import Distiller
from autodistill.search import directory, loop, proposals
from autodistill.search import result as search_result
from autodistill.search.directory import SearchDirectory
from autodistill.search.executors import SerialExecutor
from autodistill.search.trial import TrialState


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
    of_writers = re.compile(r"checkpoint|(iter|list)dir .*trials/\d+$")  # writers look for what killed ones left
    assert [reading for readings in later for reading in readings if not of_writers.search(reading)] == []


def test_the_result_in_a_callback_comes_from_memory(tmp_path, monkeypatch):
    pairs = []

    def look(search, trial):
        with monkeypatch.context() as patch:
            patch.setattr(search_result, "read_trial", None)
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


def test_no_trial_computes_more_than_earlier_ones_and_nothing_is_held_after_it(tmp_path, monkeypatch):
    use_empty_temporary_folder(monkeypatch, tmp_path / "temporary")
    seen = Growth(10)
    calls = Calls(
        monkeypatch,
        (SearchSpace, "validate"),
        (SearchSpace, "key"),
        (proposals, "observation"),
        (search_result, "losses"),
        (search_result, "violations"),
        (json_files, "read_json"),
    )
    for advisor in ("Random", "LocalSearch", "Evolution"):
        calls.by_trial.clear()
        seen.held.clear()
        agent = search(
            tmp_path / advisor, widths=list(range(1, 200)), max_trials=60, advisor=advisor, callbacks=[calls, seen]
        )
        agent.search_loop()
        early, late = (Counter(), Counter())
        for counted in calls.by_trial[22:40]:
            early |= counted
        for counted in calls.by_trial[40:]:
            late |= counted
        assert late <= early, advisor
        assert early["observation"] == 1
        assert set(seen.held) == {seen.held[0]}
        assert seen.held[0].temporary_files == 0


def test_distillations_leave_no_hooks_and_tensors_behind(tmp_path, monkeypatch):
    use_empty_temporary_folder(monkeypatch, tmp_path / "temporary")
    teacher = make_teacher()
    seen = Growth(2, teacher)
    config = make_config(search_space={"width": [4, 8, 12, 16, 20, 24], "depth": [2]}, max_trials=6)
    make_search(tmp_path / "search", config, teacher_model=teacher, keep="none", callbacks=[seen]).search_loop()
    assert len(seen.held) == 3
    assert set(seen.held) == {seen.held[0]}
    assert seen.held[0].hooks == 0


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


class FullDisk:
    """A disk on which the write of a given number fails, and all that follow."""

    def __init__(self, monkeypatch, full_at=None):
        self.writes = 0
        self.full_at = full_at
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "mkdir"), (Path, "open"), (Path, "write_text")):
            self._watch(monkeypatch, owner, name)

    def _watch(self, monkeypatch, owner, name):
        original = getattr(owner, name)

        def watched(*arguments, **named):
            self.writes += 1
            if self.full_at is not None and self.writes > self.full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)


def outcomes(directory):
    """All that a search decides, to the bit."""
    return [
        (trial.number, trial.architecture, trial.state, trial.metrics, trial.attempts, weights_of(trial.directory))
        for trial in SearchResult.load(directory)
    ]


def weights_of(folder):
    return (folder / "student" / "model.safetensors").read_bytes()


def small_search(directory, **arguments):
    config = make_config(search_space={"width": [8, 12], "depth": [1, 2]}, max_trials=2)
    return make_search(directory, config, **arguments)


def test_full_disk_at_some_write_stops_the_search_and_changes_nothing_of_its_result(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = FullDisk(patch)
        small_search(tmp_path / "undisturbed").search_loop()
    expected = outcomes(tmp_path / "undisturbed")
    stopped = 0
    for full_at in np.random.default_rng(0).permutation(disk.writes)[:16]:
        directory = tmp_path / str(full_at)
        agent = small_search(directory)
        with monkeypatch.context() as patch:
            FullDisk(patch, full_at)
            try:
                agent.search_loop()
            except SearchStoppedError as error:
                assert "No space left" in str(error)  # noqa: PT017  some writes are of no consequence
                stopped += 1
        small_search(directory).search_loop()
        found = outcomes(directory)
        # A retry that could not be recorded as an orderly interruption counts as an attempt.
        assert [(*trial[:4], trial[5]) for trial in found] == [(*trial[:4], trial[5]) for trial in expected]
    assert stopped >= 5


@pytest.mark.parametrize(
    ("fault", "attempts"), [(OSError(errno.EMFILE, "Too many open files"), 1), (MemoryError("no memory"), 2)], ids=repr
)
def test_fault_of_the_machine_stops_the_search_and_leaves_its_trial_running(tmp_path, fault, attempts):
    faults = [fault]

    def score(width):
        if width == 3 and faults:
            raise faults.pop()
        return width

    agent = search(tmp_path, score=score)
    with pytest.raises(SearchStoppedError, match=f"fault of the machine.*{fault.args[-1]}; .*resume"):
        agent.search_loop()
    assert [trial.state.value for trial in agent.search_result] == ["complete", "complete", "running"]
    agent.search_loop()
    assert widths_of(tmp_path) == WIDTHS
    assert not agent.search_result.failed
    assert [trial.attempts for trial in agent.search_result] == [1, 1, attempts, 1, 1, 1]


def test_architecture_that_never_fits_in_memory_fails_after_max_retries(tmp_path):
    def score(width):
        if width == 3:
            raise MemoryError
        return width

    for _ in range(2):
        with pytest.raises(SearchStoppedError, match="MemoryError; free memory, then resume"):
            search(tmp_path, score=score, max_retries=1).search_loop()
    agent = search(tmp_path, score=score, max_retries=1)
    agent.search_loop()
    assert [trial.number for trial in agent.search_result.failed] == [2]


def test_other_error_of_the_system_in_a_hook_fails_its_trial(tmp_path):
    def score(width):
        return width if width != 3 else open(tmp_path / "missing")

    agent = search(tmp_path, score=score)
    agent.search_loop()
    assert ["FileNotFoundError" in trial.error for trial in agent.search_result.failed] == [True]
    assert len(agent.search_result.completed) == 5


def test_failed_trials_are_run_again_under_their_numbers_and_keep_their_errors(tmp_path):
    broken = {2, 4}

    def score(width):
        if width in broken:
            raise ValueError(f"{width} is broken")
        return width

    agent = search(tmp_path, score=score)
    agent.search_loop()
    assert [trial.number for trial in agent.search_result.failed] == [1, 3]
    finished = agent.search_result[0].finished_at
    agent.search_loop()
    assert len(agent.search_result.failed) == 2  # nothing runs them unasked
    broken.remove(2)
    agent.search_loop(retry_failed=True)
    again, still = agent.search_result[1], agent.search_result[3]
    assert widths_of(tmp_path) == WIDTHS
    assert (again.state.value, again.metrics["score"], again.error, again.attempts) == ("complete", 2, None, 1)
    (error,) = again.details["earlier_errors"]
    assert "ValueError: 2 is broken" in error
    assert still.state.value == "failed"
    assert len(still.details["earlier_errors"]) == 1
    assert agent.search_result[0].finished_at == finished  # a complete trial is left alone
    search(tmp_path).search_loop(retry_failed=True)
    assert len(agent.search_result.completed) == 6


def test_run_of_failed_trials_that_is_interrupted_continues_when_the_search_is_resumed(tmp_path):
    def interrupted(width):
        raise KeyboardInterrupt

    def broken(width):
        raise ValueError(width)

    with pytest.raises(SearchStoppedError):
        search(tmp_path, score=broken).search_loop()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, score=interrupted).search_loop(n_trials=1, retry_failed=True)
    assert [trial.state.value for trial in SearchResult.load(tmp_path)] == ["running"] * 3
    search(tmp_path).search_loop(n_trials=4)
    assert [trial.state.value for trial in SearchResult.load(tmp_path)] == ["complete"] * 4


def test_fault_in_the_check_of_a_bound_stops_the_search_before_the_trial(tmp_path):
    faults = [OSError(errno.EIO, "Input/output error")]
    agent = search(tmp_path, metrics=["score", Metric("parameters", at_most=100, before_training=True)])
    build = agent.model_builder

    def failing(architecture):
        if architecture["width"] == 3 and faults:
            raise faults.pop()
        return build(architecture)

    agent.model_builder = failing
    with pytest.raises(SearchStoppedError, match="check the disk"):
        agent.search_loop()
    assert len(agent.search_result) == 2
    agent.search_loop()
    assert widths_of(tmp_path) == WIDTHS


def test_student_that_cannot_be_removed_does_not_end_the_search(tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError("not permitted")

    monkeypatch.setattr(directory, "remove", refuse)
    agent = search(tmp_path, keep="none")
    agent.search_loop()
    assert "the student of trial 0 is not kept, but could not be removed: not permitted" in caplog.text
    assert len(agent.search_result.completed) > 1


def test_student_is_on_the_disk_before_the_record_that_refers_to_it(tmp_path, monkeypatch):
    synced, complete = set(), []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor):
        status = os.fstat(descriptor)
        synced.add((status.st_dev, status.st_ino))
        fsync(descriptor)

    def rename(old, new):
        if Path(new).name == "trial.json" and '"complete"' in Path(old).read_text():
            folder = Path(new).parent
            statuses = [path.stat() for path in (Path(old), folder, *folder.glob("student"), *folder.glob("student/*"))]
            complete.append([(status.st_dev, status.st_ino) in synced for status in statuses])
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "replace", rename)
        small_search(tmp_path).search_loop()
    assert complete == [[True] * 5] * 2


def test_students_that_a_kill_left_are_removed_even_if_the_search_is_over(tmp_path):
    agent = make_search(tmp_path, make_config(max_trials=4, metrics=["parameters"]), keep="pareto")
    agent.search_loop()
    (best,) = agent.search_result.pareto_front
    for trial in agent.search_result:
        (trial.directory / "student").mkdir(exist_ok=True)
    make_search(tmp_path, make_config(max_trials=4, metrics=["parameters"]), keep="pareto").search_loop()
    assert [trial for trial in agent.search_result if (trial.directory / "student").exists()] == [best]


def test_attempts_with_progress_never_end_in_a_failed_trial(tmp_path, monkeypatch):
    """Each attempt is killed in the second step after its last checkpoint."""
    config = make_config(max_trials=1, search_space={"width": [8], "depth": [1]}) | {"checkpoint_steps": 1}
    for attempt in range(6):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(loop.SearchLoop, "_interrupt", lambda loop, trial: None)  # a killed process records nothing
            count_steps(patch, die_at=4 + 2 if attempt == 0 else 2)  # four steps are those of the block
            make_search(tmp_path, config, max_retries=1).search_loop()
        (trial,) = SearchResult.load(tmp_path)
        assert (trial.state, trial.attempts) == (TrialState.RUNNING, 1)
    make_search(tmp_path, config, max_retries=1).search_loop()
    assert SearchResult.load(tmp_path)[0].state is TrialState.COMPLETE


def test_exception_that_has_no_text_fails_its_trial(tmp_path):
    class OpaqueError(RuntimeError):
        def __str__(self):
            raise RuntimeError("no text")

    def score(width):
        if width == 2:
            raise OpaqueError
        return width

    agent = search(tmp_path, score=score)
    agent.search_loop()
    (failed,) = agent.search_result.failed
    assert (failed.architecture, "OpaqueError" in failed.error) == ({"width": 2}, True)


# --- what all students share ------------------------------------------------------------------------------------------


def test_what_students_share_is_trained_before_a_trial_is_recorded(tmp_path, monkeypatch):
    prepared = []

    def prepare(distiller, report):
        prepared.append(len(list((tmp_path / "search").glob("trials/*/trial.json"))))
        report.stage("shared", 1)
        report.finished("shared", [0.5])
        if len(prepared) == 1:
            raise RuntimeError("interrupted")

    monkeypatch.setattr(Distiller, "prepare", prepare)
    with pytest.raises(RuntimeError, match="interrupted"):
        make_search(tmp_path / "search").search_loop(n_trials=2)
    assert len(SearchResult.load(tmp_path / "search")) == 0
    make_search(tmp_path / "search").search_loop(n_trials=2)
    assert prepared == [0, 0, 1]
    assert (tmp_path / "search/elastic/progress.jsonl").exists()


def test_trials_are_promoted_last_where_the_first_rung_is_cheap_and_never_if_the_limits_say_so(tmp_path):
    def order(name, **changes):
        agent = make_search(tmp_path / name, make_config(promote=0.5, max_trials=4))
        spec = agent._trial_spec()
        with agent._looping(spec, SerialExecutor()) as running:
            running.policy = dataclasses.replace(running.policy, promotes_last=changes.pop("promotes_last", False))
            return [trial.state.value for trial in running.run(loop.Limits(4, **changes))]

    assert order("last", promotes_last=True) == ["paused"] * 4 + ["complete"] * 2
    assert order("when due")[:3] == ["paused", "paused", "complete"]
    assert order("never", promotes=False) == ["paused"] * 4
