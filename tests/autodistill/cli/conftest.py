"""For the command line: each test runs in its own directory, without the hub."""

from pathlib import Path

import pytest
from saved_teachers import BERT, NAMED, save_teacher

from autodistill.search.directory import SearchDirectory
from autodistill.search.layout import PREPROCESSOR, student_directory
from search_spaces import SearchSpace


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    """Nothing can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def classifier():
    """A teacher of two labels, in the folder `teacher`."""
    return save_teacher(Path("teacher"), "BertForSequenceClassification", **BERT, **NAMED)


@pytest.fixture
def recorded():
    """A search directory with one trial and its student, written without a search."""
    with SearchDirectory.open("runs", {"metrics": ["accuracy"]}, SearchSpace({"layers": [1, 2]})) as directory:
        directory.record(directory.begin({"layers": 2}).complete({"accuracy": 0.5}))
    for folder in (student_directory(Path("runs"), 0), Path("runs") / PREPROCESSOR):
        folder.mkdir()
    return "runs"
