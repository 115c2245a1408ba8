"""For the command line: a directory of its own for each test, and no hub."""

import pytest


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    """What is not here cannot be fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
