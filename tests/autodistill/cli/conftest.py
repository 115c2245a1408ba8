"""For the command line: a directory of its own for each test, and no hub."""

from pathlib import Path

import pytest
from saved_teachers import BERT, NAMED, save_teacher


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    """What is not here cannot be fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def classifier():
    """A teacher of two labels, in the folder `teacher`."""
    return save_teacher(Path("teacher"), "BertForSequenceClassification", **BERT, **NAMED)
