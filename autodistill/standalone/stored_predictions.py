"""Offline distillation: a teacher's predictions are stored once, and students are trained with the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.data import Dataset, RandomSampler

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.top_k import TopKLogits, top_k_logits
from autodistill.losses.weights_and_temperature import check_temperature
from autodistill.models.calls import call_by_names
from autodistill.models.modes import evaluating, plain_forward
from autodistill.models.taps import main_part
from autodistill.tensor_files import write_tensors

TEMPERATURE = "temperature"


@torch.no_grad()
def save_predictions(
    teacher: nn.Module,
    loader: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    top_k: int | None = None,
    temperature: float = 1.0,
    device: torch.device | str = "cpu",
) -> None:
    """Store a teacher's logits for a data set in a safetensors file; they are held in memory until it is written.

    Args:
        teacher: moved to `device`; runs in eval mode.
        loader: yields the data set's batches, mappings or pairs, in order (`shuffle=False`); the logits of all samples
            have the same shape.
        path: of the file; an earlier one is replaced once the new one is complete.
        top_k: store only this many of the largest logits, and the mass of the others; see `top_k_kl_divergence`.
        temperature: T at which stored `top_k` logits will be compared.
        device: on which the teacher runs.

    Raises:
        ConfigurationError: the logits of two batches differ in shape, there is no batch, `top_k` or T is out of range,
            the folder does not exist, or the loader shuffles.
    """
    check_temperature(temperature)
    path = Path(path)
    if not path.parent.is_dir():
        raise ConfigurationError(f"predictions are stored in a folder that exists, but {path.parent} does not.")
    if isinstance(getattr(loader, "sampler", None), RandomSampler):
        raise ConfigurationError(
            "predictions are stored in the data set's own order, but the loader shuffles; pass it shuffle=False."
        )
    device, parts = torch.device(device), []
    with evaluating(teacher.to(device)), plain_forward(teacher):
        for content in loader:
            logits = main_part(call_by_names(teacher, Batch(content).to(device)))
            kept = {"logits": logits} if top_k is None else _fields(top_k_logits(logits, top_k, temperature))
            parts.append({name: tensor.cpu() for name, tensor in kept.items()})
    write_tensors(path, _joined(parts), {TEMPERATURE: repr(float(temperature))})


def _fields(top: TopKLogits) -> dict[str, torch.Tensor]:
    """The tensors to store; the temperature is the same in all samples."""
    return {"values": top.values, "indices": top.indices, "rest": top.rest}


def _joined(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    if not parts:
        raise ConfigurationError("predictions are stored for at least one batch, but the loader gave none.")
    for name in parts[0]:
        shapes = sorted({tuple(part[name].shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ConfigurationError(
                f"stored logits have one shape for all samples, but batches gave {shapes[0]} and {shapes[1]}; pad all "
                "samples to one length."
            )
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ConfigurationError(
            f"stored predictions are a whole safetensors file, but {path} is none; write it with save_predictions."
        ) from error


class DistillationDataset(Dataset[Any]):
    """A data set that adds the teacher's stored predictions to its samples.

    A mapping gets the entry `t_logits`; a tuple `(inputs, target)` becomes `(inputs, target, logits)`, and any other
    sample `(sample, logits)`. The file is mapped into memory: a prediction is read together with its sample.
    Predictions of the k largest logits are `TopKLogits`, which `KLDivLoss` accepts instead of logits.

    Args:
        dataset: has a length and numbered samples, in the order in which the predictions were stored.
        path: of the file that `save_predictions` wrote.

    Raises:
        ConfigurationError: the file does not contain predictions, or not one for each sample.

    Examples:
        >>> import tempfile
        >>> data = [(torch.randn(4), label) for label in (0, 1, 2)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_predictions(nn.Linear(4, 3), [(torch.stack([x for x, _ in data]), None)], f"{folder}/teacher")
        ...     inputs, label, logits = DistillationDataset(data, f"{folder}/teacher")[2]
        >>> label, logits.shape
        (2, torch.Size([3]))
    """

    def __init__(self, dataset: Any, path: str | os.PathLike[str]) -> None:
        self.dataset = dataset
        self.path = Path(path)
        self._file: Any = None
        with _opened(self.path) as file:
            names, metadata = set(file.keys()), file.metadata() or {}
            if names not in ({"logits"}, {"values", "indices", "rest"}):
                raise ConfigurationError(
                    f"stored predictions hold logits, or values, indices and rest, but {self.path} holds "
                    f"{', '.join(sorted(names))}; write it with save_predictions."
                )
            self._is_top_k = "values" in names
            self._temperature = float(metadata.get(TEMPERATURE, 1.0))
            stored = file.get_slice("values" if self._is_top_k else "logits").get_shape()[0]
        if stored != len(dataset):
            raise ConfigurationError(
                f"stored predictions must be one for each sample, but {self.path} holds {stored} for {len(dataset)} "
                "samples; store them again for this data set."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample, logits = self.dataset[index], self._prediction(index % len(self))
        if isinstance(sample, Mapping):
            return {**sample, "t_logits": logits}
        return (*sample, logits) if isinstance(sample, tuple | list) else (sample, logits)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # a worker process maps the file itself

    def _prediction(self, index: int) -> torch.Tensor | TopKLogits:
        if self._file is None:
            self._file = safe_open(self.path, framework="pt")
        if not self._is_top_k:
            return self._row("logits", index)
        values, indices, rest = (self._row(name, index) for name in ("values", "indices", "rest"))
        return TopKLogits(values, indices, rest, torch.tensor(self._temperature))

    def _row(self, name: str, index: int) -> torch.Tensor:
        row: torch.Tensor = self._file.get_slice(name)[index : index + 1]
        return row[0]
