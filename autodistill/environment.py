"""The environment of a search: what is recorded of the machine, and which device is used."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from autodistill.errors import ConfigurationError

RECORDED_PACKAGES = ("torch", "transformers", "numpy", "scikit-optimize", "scikit-learn", "scipy", "optuna")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Everything outside the search that may affect the last bits of its results: versions, threads, machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to use: `"auto"` is a GPU if there is one, else the CPU.

    Raises:
        ConfigurationError: there is no such device.

    Examples:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device != "auto":
        try:
            resolved = torch.device(device)
            torch.empty(0, device=resolved)
        except (RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"device must be 'auto' or one that PyTorch can use, but {device!r}: {error}"
            ) from None
        return torch.empty(0, device=resolved).device
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
