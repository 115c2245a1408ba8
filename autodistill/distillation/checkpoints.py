"""The progress of one trial's training on disk, so that a killed process loses at most the current block.

After every block of flash distillation the block is written, and every `checkpoint_steps` steps of regular
distillation the student, the matchers, the optimizer and the schedule. Nothing more is needed: data and random numbers
derive from the seed and the step.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import nn

from autodistill.files import problem_of
from autodistill.json_files import decode_json
from autodistill.models.module_paths import find_module
from autodistill.processes import Processes
from autodistill.tensor_files import read_hashed_tensors, write_hashed_tensors

logger = logging.getLogger(__name__)

RECORD = "record"
"""The key of the metadata for the record, as JSON."""


class Checkpoints:
    """Named checkpoints: tensors and a JSON record, each written whole or not at all.

    Args:
        directory: created when the first checkpoint is saved; None keeps nothing.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     checkpoints = Checkpoints(Path(directory))
        ...     checkpoints.save("flash-000", {"weight": torch.ones(2)}, {"losses": [0.5]})
        ...     checkpoints.load("flash-000")
        ({'weight': tensor([1., 1.])}, {'losses': [0.5]})
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def save(self, name: str, tensors: Mapping[str, torch.Tensor], record: Any) -> None:
        """Write a checkpoint; one of the same name is replaced."""
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(self._directory, name)
        # Cloned, because safetensors raises an error for tied tensors, which share memory.
        contents = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        write_hashed_tensors(path, contents, {RECORD: json.dumps(record, allow_nan=False)})

    def load(self, name: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """The checkpoint, or None if there is none that can be read."""
        if self._directory is None or not self._path(self._directory, name).exists():
            return None
        path = self._path(self._directory, name)
        try:
            return read_checkpoint(path)
        except (OSError, ValueError) as error:
            logger.warning("the checkpoint %s is damaged (%s); that part of the training is repeated", path, error)
            return None

    def clear(self) -> None:
        """Remove all of them."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @staticmethod
    def _path(directory: Path, name: str) -> Path:
        return directory / f"{name}.safetensors"


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """The tensors and the record of a checkpoint, which are those that were saved.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    tensors, metadata = read_hashed_tensors(path)
    return tensors, decode_json(metadata.get(RECORD, ""))


def problem_in(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    return problem_of(read_checkpoint, path)


class SharedCheckpoints(Checkpoints):
    """Checkpoints that process 0 writes, reads and sends to the others.

    Args:
        directory: of process 0; the others have none.
        processes: all of them load together.
    """

    def __init__(self, directory: Path | None, processes: Processes) -> None:
        super().__init__(directory)
        self._processes = processes

    def load(self, name: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """The checkpoint, or None if there is none that can be read."""
        with self._processes.together():
            saved = super().load(name)
        if self._processes.count == 1 or not self._processes.broadcast(saved is not None):
            return saved
        tensors, record = saved if saved is not None else ({}, None)
        record = self._processes.broadcast(record)
        return decode(self._processes.broadcast_bytes(encode(tensors))), record


@dataclass(frozen=True)
class LoopCheckpoint:
    """The only checkpoint of a step loop, overwritten each time.

    Args:
        checkpoints: where it is saved.
        name: its name.
        modules: what is trained, by name.
        every: steps between two of them; there is one after the last step too.
        before_saving: makes durable what a resumed training depends on besides.
        steps: of the whole loop; a checkpoint of a loop of another length is left out. None resumes from any.
    """

    checkpoints: Checkpoints
    name: str
    modules: Mapping[str, nn.Module]
    every: int
    before_saving: Callable[[], None] = lambda: None
    steps: int | None = None

    def save(
        self,
        losses: list[float],
        optimizer: torch.optim.Optimizer,
        others: Mapping[str, Any],
    ) -> None:
        """Write the state after `len(losses)` steps; `others` have a `state_dict` of JSON."""
        self.before_saving()
        tensors = {
            f"{owner}/{key}": tensor
            for owner, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }
        state = optimizer.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        record = {
            "steps": self.steps,
            "losses": losses,
            "optimizer": {"param_groups": state["param_groups"], "scalars": scalars},
            "others": {name: other.state_dict() for name, other in others.items()},
        }
        self.checkpoints.save(self.name, tensors, record)

    def restore(self, optimizer: torch.optim.Optimizer, others: Mapping[str, Any]) -> list[float]:
        """Restore the saved state; returns the losses of the completed steps, empty if nothing was saved."""
        saved = self.checkpoints.load(self.name)
        if saved is None:
            return []
        tensors, record = saved
        if self.steps is not None and record.get("steps") not in (None, self.steps):
            logger.info("%s starts again, since its checkpoint is of a training of other length", self.name)
            return []
        for owner, module in self.modules.items():
            module.load_state_dict(under(tensors, owner))
        state: dict[int, dict[str, Any]] = {
            int(index): dict(entries) for index, entries in record["optimizer"]["scalars"].items()
        }
        for path, tensor in under(tensors, "optimizer").items():
            index, key = path.split("/", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": record["optimizer"]["param_groups"]})
        for name, other in others.items():
            other.load_state_dict(record["others"][name])
        losses: list[float] = record["losses"]
        return losses


def block_state(model: nn.Module, blocks: Sequence[str]) -> dict[str, torch.Tensor]:
    """The parameters and buffers of some of a model's modules."""
    return {
        f"{block}/{name}": tensor for block in blocks for name, tensor in find_module(model, block).state_dict().items()
    }


def load_block_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Restore what `block_state` returned."""
    for block in dict.fromkeys(key.rpartition("/")[0] for key in state):
        find_module(model, block).load_state_dict(under(state, block))


def under(tensors: Mapping[str, torch.Tensor], owner: str) -> dict[str, torch.Tensor]:
    """The tensors of one owner, by their names without it."""
    return {key.removeprefix(owner + "/"): tensor for key, tensor in tensors.items() if key.startswith(owner + "/")}
