"""Commands as a user runs them, and the configuration of a small search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from saved_teachers import sentences
from typer.testing import CliRunner

from autodistill.cli.app import app

TEXTS = [" ".join(words) for words in sentences(4)]


def run(*arguments, code=0):
    """The output of a command that ends with this code, in one line."""
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
    """What a program prints that cannot import this package."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    guard = "import sys; sys.modules['autodistill'] = None\n"  # importing it fails from here on
    command = [sys.executable, "-c", guard + program, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
