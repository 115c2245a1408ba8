"""`autodistill cache`: the search that follows finds all that it needs of the teacher, and is the same search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from commands import configure, run
from saved_teachers import write_csv

from autodistill.cli.models import TaskModels


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Results are equal to the bit if all processes use as many threads."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counting(monkeypatch):
    """The sizes of the batches on which teachers that are loaded from now on run in training."""
    sizes = []
    build = TaskModels.teacher.func

    def loaded(models):
        teacher = build(models)
        teacher.register_forward_pre_hook(
            lambda module, arguments, options: sizes.append(len(options["input_ids"])), with_kwargs=True
        )
        return teacher

    monkeypatch.setattr(TaskModels.teacher, "func", loaded)
    return sizes


def students_of(search_dir):
    files = Path(search_dir).glob("trials/*/student/*.safetensors")
    return {path.parent.parent.name: path.read_bytes() for path in files}


def search(directory):
    return run("search", "search.yaml", "--search-dir", directory, "--no-progress")


def changed(config, **changes):
    Path("search.yaml").write_text(yaml.safe_dump(config | changes), encoding="utf-8")


@pytest.mark.parametrize("processes", [1, 2])
def test_search_with_a_filled_cache_is_the_same_and_runs_the_teacher_less(classifier, monkeypatch, processes):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    changed(config, data=config["data"] | {"validation": "train.csv"})
    sizes = counting(monkeypatch)
    search("alone")
    alone = sum(sizes)
    sizes.clear()
    shown = run("cache", "search.yaml", "--search-dir", "filled", "--processes", processes)
    assert "filled/teacher_cache holds what the search needs of the teacher" in shown
    assert processes > 1 or sizes
    sizes.clear()
    search("filled")
    assert sum(sizes) < alone
    assert len(students_of("alone")) >= 1
    assert students_of("filled") == students_of("alone")


def test_cache_of_its_own_directory_serves_the_search_of_any(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")), teacher_cache="features")
    shown = run("cache", "search.yaml")
    assert "features holds what the search needs" in shown
    before = set(Path("features").rglob("*.safetensors"))
    search("runs")
    assert not Path("runs/teacher_cache").exists()
    assert len(before) > 0.8 * len(set(Path("features").rglob("*.safetensors")))


def test_cache_without_a_directory_or_a_seed_is_refused_in_one_error(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["seed"] = None
    changed(config)
    shown = run("cache", "search.yaml", code=2)
    assert "pass --search-dir, or set teacher_cache" in shown
    assert "auto_distillation.search.seed must be set" in shown


def test_cache_that_is_a_file_is_a_mistake_like_others(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    changed(config, teacher_cache="train.csv", device=3)
    shown = run("search", "search.yaml", "--search-dir", "runs", code=2)
    assert "2 mistakes in the configuration" in shown
    assert "teacher_cache: must be a directory, but train.csv is a file" in shown
