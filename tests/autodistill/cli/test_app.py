"""The command line as a user runs it: from `init` to `export`, its errors, and what each command imports."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from commands import TEXTS, configure, in_another_process, run
from saved_teachers import (
    BERT,
    GPT2,
    NAMED,
    VIT,
    save_teacher,
    write_csv,
    write_images,
    write_lines,
    write_tagged,
)
from typer.testing import CliRunner

from autodistill.cli.app import COMMANDS, app

# --- from init to export ---------------------------------------------------------------------------------------------

LOGITS = """
import json
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
tokens = AutoTokenizer.from_pretrained(sys.argv[1])(json.loads(sys.argv[2]), padding=True, return_tensors="pt")
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
AutoModel.from_pretrained(sys.argv[1])
print(json.dumps([model(**tokens).logits.tolist(), model.config.id2label]))
"""


def test_search_from_init_to_an_export_that_another_process_loads(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    assert "2 trials: 2 complete, 0 failed" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    assert "2 trials: 2 complete, 0 failed; the best is trial" in run("status", "runs")
    listed = [json.loads(line) for line in CliRunner().invoke(app, ["trials", "runs", "--json"]).output.splitlines()]
    assert [trial["number"] for trial in listed] == [0, 1]
    assert set(listed[0]["metrics"]) == {"accuracy", "parameters"}
    assert f"{listed[1]['metrics']['accuracy']:.4g}" in run("trials", "runs")
    shown = CliRunner().invoke(app, ["show", "runs", "1"]).output
    assert json.loads(shown) == {name: value for name, value in listed[1].items() if name != "error"}

    best = run("export", "runs", "out/student").split()[1]
    student = transformers.AutoModelForSequenceClassification.from_pretrained("out/student").eval()
    for field, value in listed[int(best)]["architecture"].items():
        assert getattr(student.config, field) == value
    tokens = transformers.AutoTokenizer.from_pretrained("out/student")(TEXTS, padding=True, return_tensors="pt")
    logits, names = in_another_process(LOGITS, "out/student", json.dumps(TEXTS))
    torch.testing.assert_close(torch.tensor(logits), student(**tokens).logits, rtol=0, atol=1e-6)
    assert names == {"0": "bad", "1": "good"}


@pytest.mark.parametrize(
    ("task", "model", "settings", "write", "metric"),
    [
        ("token-classification", "BertForTokenClassification", BERT | NAMED, write_tagged, "accuracy"),
        ("masked-lm", "BertForMaskedLM", BERT, write_lines, "eval_loss"),
        ("causal-lm", "GPT2LMHeadModel", GPT2, write_lines, "eval_loss"),
        ("image-classification", "ViTForImageClassification", VIT | NAMED, write_images, "accuracy"),
    ],
)
def test_search_of_every_other_task_ends_with_a_student(task, model, settings, write, metric):
    suffix = {"write_tagged": ".jsonl", "write_lines": ".txt", "write_images": ""}[write.__name__]
    configure(task, save_teacher(Path("teacher"), model, **settings), write(Path("data" + suffix)))
    shown = run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    assert "1 trials: 1 complete, 0 failed; the best is trial 0" in shown
    assert metric in shown
    run("export", "runs", "out")
    assert getattr(transformers, model).from_pretrained("out").config.model_type == settings_type(model)


def settings_type(model):
    return getattr(transformers, model).config_class.model_type


def test_student_of_another_family_takes_vocabulary_and_labels_from_the_teacher(classifier):
    run("init", "text-classification", "--teacher", classifier, "--student", "distilbert", "--output", "other.yaml")
    space = yaml.safe_load(Path("other.yaml").read_text(encoding="utf-8"))["auto_distillation"]["search"]
    config = configure("text-classification", classifier, write_csv(Path("train.csv")), student="distilbert")
    config["auto_distillation"]["search"] |= {name: space[name] for name in ("search_space", "constraints")}
    del config["auto_distillation"]["init"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    run("export", "runs", "out")
    student = transformers.AutoModelForSequenceClassification.from_pretrained("out")
    assert type(student).__name__ == "DistilBertForSequenceClassification"
    assert student.config.vocab_size == 26
    assert student.config.id2label == {0: "bad", 1: "good"}


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_three_mistakes_in_a_file_are_in_one_error(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["task"] = "text-clasification"
    config["data"]["batch_size"] = 0
    config["auto_distillation"]["search"]["max_trails"] = 3
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "3 mistakes in the configuration" in shown
    assert "task: Input should be 'text-classification'" in shown
    assert "data.batch_size: Input should be greater than 0, but got 0" in shown
    assert "auto_distillation.search.max_trails: is not a key of the configuration; did you mean 'max_trials'?" in shown
    assert not Path("runs").exists()


def test_missing_column_is_refused_with_the_existing_ones(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv"), ("sentence", "target")))
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "data.columns.text: the task needs a column 'text', but train.csv has sentence, target" in shown
    assert "data.columns.label: the task needs a column 'label', but train.csv has sentence, target" in shown


def test_metric_that_the_task_does_not_measure_is_refused():
    teacher = save_teacher(Path("teacher"), "BertForMaskedLM", **BERT)
    config = configure("masked-lm", teacher, write_lines(Path("texts.txt")))
    config["auto_distillation"]["search"]["metrics"] = ["eval_loss", "acuracy"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "'acuracy' is not measured in masked-lm; known: 'eval_loss', 'latency'" in shown


def test_students_wider_than_the_teacher_cannot_start_inside_it(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["search_space"]["hidden_size"] = [8, 32]
    config["auto_distillation"]["search"]["constraints"] = []
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "auto_distillation.init: students cannot start inside the teacher" in shown
    assert "leave init out" in shown


def test_dimension_that_is_no_field_is_refused_with_the_nearest(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["search_space"]["hiden_size"] = [8]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "'hiden_size' is not; did you mean 'hidden_size'" in shown


def test_missing_teacher_is_refused(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    Path("search.yaml").write_text(yaml.safe_dump(config | {"teacher": "no/such/teacher"}), encoding="utf-8")
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "teacher: AutoModelForSequenceClassification must be able to load 'no/such/teacher'" in shown


def test_teacher_without_head_tokenizer_or_whole_weights_is_refused(classifier):
    config = configure(
        "text-classification", save_teacher(Path("headless"), "BertModel", **BERT), write_csv(Path("t.csv"))
    )

    def error_of(teacher):
        Path("search.yaml").write_text(yaml.safe_dump(config | {"teacher": str(teacher)}), encoding="utf-8")
        return run("explain", "search.yaml", code=2)

    assert "must be trained for text-classification, but 'headless' has no weights for 'classifier.bias'" in error_of(
        "headless"
    )
    for file in classifier.glob("token*"):
        file.unlink()
    assert "must come with its tokenizer, but 'teacher' has none with a vocabulary" in error_of(classifier)
    (classifier / "model.safetensors").write_bytes(b"torn")
    assert "must be able to load 'teacher', from a folder or the hub, but raised: " in error_of(classifier)


def test_wrong_usage_ends_with_2():
    assert "no-such-command" in run("no-such-command", code=2)
    run("search", "autodistill.yaml", code=2)  # without --search-dir


# --- what is imported ------------------------------------------------------------------------------------------------

HEAVY_LIBRARIES = {"torch", "transformers", "optuna", "skopt", "sklearn", "scipy", "pandas", "datasets"}


def run_as_program(*arguments, code=0):
    """The output of the program in a new process, and the heavy libraries that it imported."""
    program = f"""
import json, runpy, sys
sys.argv = {["autodistill", *map(str, arguments)]}
try:
    runpy.run_module("autodistill", run_name="__main__")
except SystemExit as end:
    print(json.dumps([end.code, sorted({HEAVY_LIBRARIES} & set(sys.modules))]))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    *output, last = result.stdout.splitlines()
    ended, libraries = json.loads(last)
    assert ended == code, result.stderr
    return "\n".join(output), libraries


def test_help_imports_no_heavy_library():
    output, libraries = run_as_program("--help")
    assert libraries == []
    assert all(f"{name} " in output for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("status",), "1 trials: 1 complete, 0 failed; the best is trial 0"),
        (("trials",), "complete"),
        (("trials", "--json"), '"accuracy": 0.5'),
        (("show", "0"), '"layers": 2'),
    ],
)
def test_command_that_reads_a_search_directory_imports_no_heavy_library(recorded, command, shown):
    name, *rest = command
    output, libraries = run_as_program(name, recorded, *rest)
    assert libraries == []
    assert shown in output


def test_module_runs_as_a_program_and_needs_the_library_of_data_only_for_data():
    assert run_as_program("status", ".", code=2) == ("", [])
    _, libraries = run_as_program("init", "masked-lm")
    assert {"torch", "transformers"} <= set(libraries)
    assert "datasets" not in libraries


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_listed_with_its_docstring(name):
    module, text = COMMANDS[name]
    assert getattr(importlib.import_module(module), name).__doc__ == text
    assert text in run(name, "--help")
