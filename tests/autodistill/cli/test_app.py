"""The command line, driven as a person does: from `init` to `export`, and what it says of mistakes."""

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
from saved_teachers import (
    BERT,
    GPT2,
    NAMED,
    VIT,
    save_teacher,
    sentences,
    write_csv,
    write_images,
    write_lines,
    write_tagged,
)
from typer.testing import CliRunner

from autodistill.cli.app import COMMANDS, app
from autodistill.cli.sentence_encoder import SentenceEncoder
from autodistill.search.directory import SearchDirectory
from autodistill.search.layout import PREPROCESSOR, student_directory
from search_spaces import SearchSpace

TEXTS = [" ".join(words) for words in sentences(4)]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def configure(task, teacher, train, **changes):
    """A configuration as `init` writes it, made small."""
    run("init", task, "--teacher", teacher, "--train", train, "--output", "search.yaml")
    config = yaml.safe_load(Path("search.yaml").read_text(encoding="utf-8"))
    config["data"] |= {"validation": 0.5, "batch_size": 4}
    config["device"] = "cpu"
    settings = config["auto_distillation"]
    settings["search"] |= {"max_trials": 2}
    settings["search"]["metrics"] = [*settings["search"]["metrics"][:1], "parameters"]
    settings["flash_distillation"]["train_steps"] = 2
    settings["regular_distillation"]["train_steps"] = 3
    config |= changes
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return config


def in_another_process(program, *arguments):
    """What a program prints that has never heard of us."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    guard = "import sys; sys.modules['autodistill'] = None\n"  # importing it fails from here on
    command = [sys.executable, "-c", guard + program, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


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


def test_search_with_two_rungs_tells_what_is_paused(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["promote"] = "1/2"
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    counts = "2 trials: 1 complete, 0 failed, 1 paused"
    assert counts in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    assert counts in run("status", "runs")
    listed = [json.loads(line) for line in CliRunner().invoke(app, ["trials", "runs", "--json"]).output.splitlines()]
    (paused,) = [trial for trial in listed if trial["state"] == "paused"]
    table = run("trials", "runs")
    assert f"{paused['number']} paused" in table
    assert f"{paused['after_flash']['parameters']:,.0f}" in table
    shown = json.loads(CliRunner().invoke(app, ["show", "runs", str(paused["number"])]).output)
    assert shown["after_flash"].keys() == {"accuracy", "parameters"}
    assert "is paused after flash distillation" in run("export", "runs", "out", "--trial", paused["number"], code=2)


EMBEDDINGS = """
import json
from transformers import AutoModel, AutoTokenizer
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[2])
tokens = AutoTokenizer.from_pretrained(sys.argv[1])(texts, padding=True, return_tensors="pt")
states = AutoModel.from_pretrained(sys.argv[1]).eval()(**tokens).last_hidden_state
print(json.dumps([SentenceTransformer(sys.argv[1], device="cpu").encode(texts).tolist(), states.tolist()]))
"""


def test_exported_sentence_encoder_gives_its_embeddings_to_sentence_transformers():
    teacher = save_teacher(Path("teacher"), "BertModel", **BERT)
    configure("sentence-embedding", teacher, write_lines(Path("texts.txt")))
    assert "1 trials: 1 complete" in run("search", "search.yaml", "--search-dir", "runs", "--trials", 1)
    run("export", "runs", "out", "--trial", 0)
    student = SentenceEncoder.from_pretrained("out").eval()
    assert student.width == 16  # the teacher's, though the student's own is less
    assert student.model.config.hidden_size < 16
    tokens = transformers.AutoTokenizer.from_pretrained("out")(TEXTS, padding=True, return_tensors="pt")
    embeddings, states = in_another_process(EMBEDDINGS, "out", json.dumps(TEXTS))
    torch.testing.assert_close(torch.tensor(embeddings), student(**tokens), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(states), student.model(**tokens).last_hidden_state, rtol=0, atol=1e-6)


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


def test_search_called_again_resumes_and_a_third_time_has_nothing_to_do(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    again = run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    assert "runs holds 1 trials of this search: resuming" in again
    assert "2 trials: 2 complete" in again
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")


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


def test_explain_shows_which_block_learns_from_which(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    shown = run("explain", "search.yaml")
    assert "bert.encoder.layer.0" in shown
    assert "bert.encoder.layer.1" in shown  # a student of one block learns from the teacher's last
    assert not Path("runs").exists()


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_three_mistakes_in_a_file_are_in_one_error(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["task"] = "text-clasification"
    config["data"]["batch_size"] = 0
    config["auto_distillation"]["search"]["max_trails"] = 3
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "3 mistakes in the configuration" in told
    assert "task: Input should be 'text-classification'" in told
    assert "data.batch_size: Input should be greater than 0, but got 0" in told
    assert "auto_distillation.search.max_trails: is not a key of the configuration; did you mean 'max_trials'?" in told
    assert not Path("runs").exists()


def test_missing_column_is_told_with_those_there_are(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv"), ("sentence", "target")))
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "data.columns.text: the task needs a column 'text', but train.csv has sentence, target" in told
    assert "data.columns.label: the task needs a column 'label', but train.csv has sentence, target" in told


def test_search_dir_of_other_held_out_data_is_refused(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    config["data"]["validation"] = 0.25
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "held_out[0] was 3, but is now 2" in told


def test_search_dir_of_another_teacher_is_refused(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    other = save_teacher(Path("other"), "BertForSequenceClassification", **BERT | {"num_hidden_layers": 3}, **NAMED)
    Path("search.yaml").unlink()
    configure("text-classification", other, "train.csv")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "holds another search: its results would not be comparable" in told
    assert "teacher" in told


def test_metric_that_nobody_measures_is_told():
    teacher = save_teacher(Path("teacher"), "BertForMaskedLM", **BERT)
    config = configure("masked-lm", teacher, write_lines(Path("texts.txt")))
    config["auto_distillation"]["search"]["metrics"] = ["eval_loss", "acuracy"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "'acuracy' is not measured in masked-lm; known: 'eval_loss', 'latency'" in told


def test_students_wider_than_the_teacher_cannot_start_inside_it(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["search_space"]["hidden_size"] = [8, 32]
    config["auto_distillation"]["search"]["constraints"] = []
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "auto_distillation.init: students cannot start inside the teacher" in told
    assert "leave init out" in told


def test_dimension_that_is_no_field_of_the_configuration_is_told(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["search_space"]["hiden_size"] = [8]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "'hiden_size' is not; did you mean 'hidden_size'" in told


def test_teacher_that_is_not_there_is_told(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    Path("search.yaml").write_text(yaml.safe_dump(config | {"teacher": "no/such/teacher"}), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "teacher: AutoModelForSequenceClassification must be able to load 'no/such/teacher'" in told


def test_teacher_without_head_tokenizer_or_whole_weights_is_told(classifier):
    config = configure(
        "text-classification", save_teacher(Path("headless"), "BertModel", **BERT), write_csv(Path("t.csv"))
    )

    def told(teacher):
        Path("search.yaml").write_text(yaml.safe_dump(config | {"teacher": str(teacher)}), encoding="utf-8")
        return run("explain", "search.yaml", code=2)

    assert "must be trained for text-classification, but 'headless' has no weights for 'classifier.bias'" in told(
        "headless"
    )
    for file in classifier.glob("token*"):
        file.unlink()
    assert "must come with its tokenizer, but 'teacher' has none that knows a word" in told(classifier)
    (classifier / "model.safetensors").write_bytes(b"torn")
    assert "must be able to load 'teacher', from a folder or the hub, but says: " in told(classifier)


def test_explain_tells_of_layers_that_are_not_there_though_students_start_inside_the_teacher(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    assert config["auto_distillation"]["init"] == "teacher"
    block = "bert.encoder.layer.7"
    config["auto_distillation"]["flash_distillation"] = {
        "block_names": [block],
        "layer_mappings_for_knowledge_transfer": [[[block, "bert.encoder.layer.1"]]],
    }
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "has no layer 'bert.encoder.layer.7'; did you mean" in run("explain", "search.yaml", code=2)


def test_space_without_an_architecture_is_told(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["constraints"] = ["hidden_size > 1000"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "constraint 'hidden_size > 1000' excludes all" in run("explain", "search.yaml", code=2)


@pytest.mark.parametrize("command", [("status",), ("trials",), ("show", "0"), ("export", "out")])
def test_directory_without_a_search_is_told(command):
    name, *rest = command
    assert "holds a search.json, but . has none" in run(name, ".", *rest, code=2)


def test_trial_or_student_that_is_not_there_is_told(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    assert "runs has no trial 7; it has those from 0 to 0" in run("show", "runs", "7", code=2)
    assert "runs has no trial 7" in run("export", "runs", "out", "--trial", 7, code=2)
    run("export", "runs", "out")
    assert "exported into a new folder, but out is there" in run("export", "runs", "out", code=2)


def test_init_overwrites_nothing():
    run("init", "masked-lm")
    assert "init writes a new file, but autodistill.yaml is there" in run("init", "masked-lm", code=2)


def test_usage_that_is_wrong_ends_with_2():
    assert "no-such-command" in run("no-such-command", code=2)
    run("search", "autodistill.yaml", code=2)  # without --search-dir


def test_search_whose_trials_all_fail_ends_with_1(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def broken(*arguments):
        raise RuntimeError("no more")

    monkeypatch.setattr("autodistill.cli.models.TaskModels.build", broken)
    config = yaml.safe_load(Path("search.yaml").read_text(encoding="utf-8"))
    config["auto_distillation"]["search"]["max_trials"] = 5
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    told = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=1)
    assert "the search stops when 3 trials fail in a row" in told
    assert "RuntimeError: no more" in CliRunner().invoke(app, ["show", "runs", "0"]).output
    assert "failed" in run("trials", "runs")
    assert "holds none" in run("export", "runs", "out", code=2)


def test_interrupted_search_ends_with_130_and_goes_on_when_called_again(classifier, monkeypatch):
    configure("text-classification", classifier, write_csv(Path("train.csv")))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("autodistill.cli.setup.SearchSetup.scores", property(lambda self: interrupted))
        told = run("search", "search.yaml", "--search-dir", "runs", "--no-progress", code=130)
    assert "interrupted; the same command goes on from here" in told
    assert "trial 0 has been running since" in run("status", "runs")
    assert "2 trials: 2 complete" in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")


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


@pytest.fixture
def recorded():
    """A search directory with one trial and its student, written without a search."""
    with SearchDirectory.open("runs", {"metrics": ["accuracy"]}, SearchSpace({"layers": [1, 2]})) as directory:
        directory.record(directory.begin({"layers": 2}).complete({"accuracy": 0.5}))
    for folder in (student_directory(Path("runs"), 0), Path("runs") / PREPROCESSOR):
        folder.mkdir()
    return "runs"


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
        (("export", "out"), "trial 0 (layers=2) is exported to out."),
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
