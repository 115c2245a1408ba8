"""The record of the machine, and the choice of a device."""

from __future__ import annotations

import json

import pytest
import torch

from autodistill.environment import describe_environment, resolve_device
from autodistill.errors import ConfigurationError


def test_environment_is_json_and_names_versions_threads_and_device() -> None:
    environment = describe_environment(torch.device("cpu"))
    assert json.loads(json.dumps(environment)) == environment
    assert environment["packages"]["torch"] == str(torch.__version__)
    assert {"transformers", "numpy", "scikit-optimize", "optuna"} <= set(environment["packages"])
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"


def test_environment_is_the_same_twice_and_another_with_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    first = describe_environment(torch.device("cpu"))
    assert describe_environment(torch.device("cpu")) == first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert describe_environment(torch.device("cpu")) == first | {"threads": 99}


def test_device_may_be_a_name_or_a_device() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_automatic_device_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


def test_automatic_device_is_the_current_gpu_if_one_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert resolve_device("auto") == torch.device("cuda", 3)


@pytest.mark.parametrize("name", ["warp", "cuda:99"])
def test_missing_device_is_refused_naming_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device must be 'auto' or one that PyTorch can use, but '{name}'"):
        resolve_device(name)
