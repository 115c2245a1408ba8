"""Every example runs without changes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from advisors import advisor_names
from autodistill import Observation, SearchResult, SearchSpace, create_advisor
from autodistill.cli.app import app

ROOT = Path(__file__).resolve().parents[1]


def run(program, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / program), *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


def test_the_digits_example_finds_a_student_and_resumes(tmp_path):
    first = run("digits.py", "--search-dir", tmp_path / "digits", "--trials", 2)
    assert "Its accuracy on 450 others is" in first
    assert len(SearchResult.load(tmp_path / "digits").completed) == 2
    second = run("digits.py", "--search-dir", tmp_path / "digits", "--trials", 3)
    assert "holds 2 trials of this search: resuming" in second
    result = SearchResult.load(tmp_path / "digits")
    assert len(result.completed) == 3
    assert (tmp_path / "digits-best.safetensors").exists() == (result.best is not None)


def test_the_minilm_example_finds_a_student_and_resumes(tmp_path):
    first = run("minilm.py", "--search-dir", tmp_path / "minilm", "--trials", 1, "--steps", 4)
    assert "1 trials: 1 complete, 0 failed" in first
    student = load_file(tmp_path / "minilm-best.safetensors")
    assert student["projection.weight"].shape[0] == 384  # the teacher's width
    second = run("minilm.py", "--search-dir", tmp_path / "minilm", "--trials", 1, "--steps", 4)
    assert "holds 1 trials of this search: resuming" in second
    assert "1 trials: 1 complete, 0 failed" in second


def test_the_slurm_example_runs_its_trials_as_jobs(tmp_path):
    pytest.importorskip("submitit")
    options = ("--cluster", "local", "--workers", 2, "--search-dir", tmp_path / "search", "--trials", 2)
    assert "2 trials: 2 complete, 0 failed" in run("slurm/search.py", *options)


@pytest.mark.parametrize("program", ["plain_loop.py", "offline_logits.py"])
def test_a_small_example_distils_a_student_that_reads_most_digits(program):
    accuracies = re.findall(r"accuracy of the (\w+): ([\d.]+)", run(program))
    assert [name for name, _ in accuracies] == ["teacher", "student"]
    assert all(float(value) > 0.7 for _, value in accuracies)


def test_the_example_of_the_runner_reduces_every_term_and_evaluates_the_student():
    output = run("three_callbacks.py")
    terms = re.findall(r"(\w+): ([\d.]+) -> ([\d.]+)", output)
    assert [name for name, _, _ in terms] == ["loss", "kl_div_loss", "mse_loss", "attention_loss"]
    assert all(float(last) < float(first) for _, first, last in terms)
    assert float(re.search(r"accuracy: ([\d.]+)", output)[1]) > 0.7
    assert float(re.search(r"model_size_reduction: ([\d.]+)", output)[1]) > 0.8


def shorten(file):
    """A configuration with two short trials."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config["auto_distillation"]["search"] |= {"max_trials": 2, "metrics": ["accuracy", "parameters"]}
    for phase in ("flash_distillation", "regular_distillation"):
        config["auto_distillation"][phase]["train_steps"] = 2
    file.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_the_commands_of_the_guide_to_the_command_line_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    first, *commands = [shlex.split(line) for line in block.splitlines()]
    assert first[:2] == ["python", "examples/digits_as_text.py"]
    assert "the teacher recognises" in run("digits_as_text.py", *first[2:], "--epochs", 1)
    for program, *arguments in commands:
        assert program == "autodistill"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        if arguments[0] == "init":
            shorten(Path("runs/digits.yaml"))
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(code, "docs/command_line.md", "exec"), namespace)
    assert namespace["student"].config.num_labels == 10


def test_the_advisor_plugin_is_found_by_its_name_and_searches(tmp_path, monkeypatch):
    plugin = ROOT / "examples" / "advisor_plugin"
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    # The module and the metadata are on the path, as after installation.
    name, version = project["name"], project["version"]
    metadata = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    entries = [
        f"[{group}]\n{advisor} = {target}\n"
        for group, advisors in project["entry-points"].items()
        for advisor, target in advisors.items()
    ]
    (metadata / "entry_points.txt").write_text("".join(entries))
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.syspath_prepend(str(tmp_path))

    space = SearchSpace({f"d{i}": [0, 1, 2] for i in range(4)})
    assert "Crossover" in advisor_names()
    advisor = create_advisor("crossover", space)
    history = []
    for number in range(40):
        proposal = advisor.suggest(history, seed=number)
        assert proposal in space
        history.append(Observation(proposal, "complete", (float(sum(proposal.values())),)))
    assert len({space.key(observation.architecture) for observation in history}) == 40
    values = [observation.objectives[0] for observation in history]
    assert sum(values[10:30]) < 20 * 4  # the mean of the space


def test_the_example_of_a_custom_family_finds_a_student_and_resumes(tmp_path):
    arguments = ("--search-dir", tmp_path / "search", "--steps", 6)
    first = run("own_family.py", *arguments, "--trials", 1)
    assert "The best student" in first
    second = run("own_family.py", *arguments, "--trials", 2)
    assert "The best student" in second
    assert len(SearchResult.load(tmp_path / "search").completed) == 2
    assert len([*(tmp_path / "search" / "teacher_cache").glob("subspace-*")]) == 1  # reused by the other process
