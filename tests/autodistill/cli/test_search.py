"""The commands `search` and `explain`: runs that resume, fail or are interrupted, and errors before any trial."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import yaml
from commands import configure, run
from saved_teachers import BERT, NAMED, save_teacher, write_csv
from typer.testing import CliRunner

from autodistill.cli.app import app
from autodistill.distillation.step_loop import StepLoop


def test_second_search_resumes_and_a_third_has_nothing_to_do(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    again = run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    assert "runs holds 1 trials of this search: resuming" in again
    assert "2 trials: 2 complete" in again
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")


def test_explain_shows_the_teacher_block_of_each_student_block(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    shown = run("explain", "search.yaml")
    assert "bert.encoder.layer.0" in shown
    assert "bert.encoder.layer.1" in shown  # a student of one block learns from the teacher's last
    assert not Path("runs").exists()


def test_explain_and_a_dry_run_predict_the_cost_and_write_nothing(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    for command in (["explain", "search.yaml"], ["search", "search.yaml", "--search-dir", "runs", "--dry-run"]):
        shown = run(*command)
        assert "training samples 12" in shown
        assert "samples that the teacher runs on 12 " in shown
        assert "search of 2 trials" in shown
    assert "search of 7 trials" in run("search", "search.yaml", "--search-dir", "runs", "--dry-run", "--trials", 7)
    assert not Path("runs").exists()
    assert not Path("autodistillation").exists()


def test_a_new_search_begins_with_its_predicted_cost_and_a_resumed_one_does_not(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    first = run("search", "search.yaml", "--search-dir", "runs", "--trials", 1)
    assert "predicted from one batch: the teacher runs on 12 samples" in first
    assert "predicted" not in run("search", "search.yaml", "--search-dir", "runs")


def test_dry_run_of_a_search_counts_what_it_has_done(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    shown = run("search", "search.yaml", "--search-dir", "runs", "--dry-run")
    assert "samples that the teacher runs on 0 (12 more are stored)" in shown
    assert "search of 1 trials" in shown


def test_search_dir_of_other_held_out_data_is_refused(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    config["data"]["validation"] = 0.25
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "held_out[0] was 3, but is now 2" in shown


def test_search_dir_of_another_teacher_is_refused(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    other = save_teacher(Path("other"), "BertForSequenceClassification", **BERT | {"num_hidden_layers": 3}, **NAMED)
    Path("search.yaml").unlink()
    configure("text-classification", other, "train.csv")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "holds another search: its results would not be comparable" in shown
    assert "teacher" in shown


def test_explain_reports_missing_layers_of_students_inside_the_teacher(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    assert config["auto_distillation"]["init"] == "teacher"
    block = "bert.encoder.layer.7"
    config["auto_distillation"]["flash_distillation"] = {
        "block_names": [block],
        "layer_mappings_for_knowledge_transfer": [[[block, "bert.encoder.layer.1"]]],
    }
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "has no layer 'bert.encoder.layer.7'; did you mean" in run("explain", "search.yaml", code=2)


def test_space_without_an_architecture_is_refused(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["constraints"] = ["hidden_size > 1000"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "constraint 'hidden_size > 1000' excludes all" in run("explain", "search.yaml", code=2)


def test_search_whose_trials_all_fail_ends_with_1(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def broken(*arguments):
        raise RuntimeError("no more")

    monkeypatch.setattr("autodistill.cli.models.TaskModels.build", broken)
    config = yaml.safe_load(Path("search.yaml").read_text(encoding="utf-8"))
    config["auto_distillation"]["search"]["max_trials"] = 5
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=1)
    assert "the search stops when 3 trials fail in a row" in shown
    assert "RuntimeError: no more" in CliRunner().invoke(app, ["show", "runs", "0"]).output
    assert "failed" in run("trials", "runs")
    assert "holds none" in run("export", "runs", "out", code=2)


def test_full_disk_ends_a_search_with_1_and_a_sentence_and_it_resumes(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "student")

    with monkeypatch.context() as patched:
        patched.setattr("autodistill.frameworks.pytorch.save_student", full)
        shown = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=1)
    assert "No space left on device: 'student'; free disk space, then resume" in shown
    with monkeypatch.context() as patched:
        patched.setattr("autodistill.cli.setup.SearchSetup.search", full)
        shown = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=1)
    assert "the machine must not fail, but there was OSError: [Errno 28]" in shown
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")


def test_failed_trials_are_run_again_where_that_is_asked_for(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def broken(*arguments):
        raise RuntimeError("no more")

    command = ("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    with monkeypatch.context() as patched:
        patched.setattr("autodistill.frameworks.pytorch.save_student", broken)
        run(*command, code=1)
    assert "2 trials: 0 complete, 2 failed" in run(*command, code=1)
    assert "2 trials: 2 complete" in run(*command, "--retry-failed")
    assert "RuntimeError: no more" in run("show", "runs", "0")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_search_that_a_signal_ends_has_its_exit_status_and_resumes(classifier, monkeypatch, number, status):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    update = StepLoop._update

    def interrupted(*arguments):
        signal.raise_signal(number)
        update(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StepLoop, "_update", interrupted)
        shown = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=status)
    assert "the same command resumes from here" in shown
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")


def test_interrupted_search_ends_with_130_and_resumes(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("autodistill.cli.setup.SearchSetup.scores", property(lambda self: interrupted))
        shown = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=130)
    assert "interrupted; the same command resumes from here" in shown
    assert "trial 0 was interrupted, and continues when the search is resumed" in run("status", "runs")
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
