"""The teacher's features: computed once for each batch, kept in memory and on disk by a hash of all they depend on."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.step_loop import autocast
from autodistill.errors import ConfigurationError
from autodistill.models.attention import attention_configurations, implementations, needs_eager_attention
from autodistill.models.devices import device_of
from autodistill.models.fingerprint import model_fingerprint
from autodistill.models.masks import Positions, find_masks
from autodistill.models.modes import plain_forward
from autodistill.models.taps import Tap, TapRecorder
from autodistill.tensor_files import write_tensors
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)


GIB = 2**30


HEADER = 128
"""The maximum overhead of a file beyond its one feature, in bytes."""


class TeacherCache:
    """Returns the teacher's features of a batch, and runs the teacher only for those that are not stored.

    A feature's key is a hash of the teacher (weights, buffers, configuration, attention implementation), the batch, the
    layer and its output process, precision, device kind and library versions: if any of them changes, it is recomputed.
    Features of a callable output process are kept in memory only, since a function has no reliable hash.

    Args:
        teacher: put in eval mode; it never receives gradients.
        directory: of the files; None keeps features in memory only.
        disk_gb: the maximum size of the directory, in GiB; what does not fit is recomputed.
        memory_gb: the maximum size in memory, in GiB.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`: the precision the teacher runs in.
        exact: False keeps 32-bit features as bfloat16: half the memory, at a relative error of up to 2⁻⁸ = 0.4%.
        ahead: the taps that other students may request: written to disk whenever the teacher runs.

    Examples:
        >>> cache = TeacherCache(nn.Linear(2, 3))
        >>> batch = Batch((torch.ones(1, 2), torch.zeros(1)))
        >>> [tuple(feature.shape) for feature in cache.features(batch, [Tap("")]).values()]
        [(1, 3)]
        >>> _ = cache.features(batch, [Tap("")])
        >>> cache.forwards
        1
    """

    def __init__(
        self,
        teacher: nn.Module,
        directory: Path | None = None,
        *,
        disk_gb: float = 10.0,
        memory_gb: float = 2.0,
        mixed_precision: str = "no",
        exact: bool = True,
        ahead: Iterable[Tap] = (),
    ) -> None:
        self.teacher = teacher.eval()
        self.forwards = 0
        self._device = device_of(teacher)
        self._precision = mixed_precision
        self._exact = exact
        self.fingerprint = content_hash(
            (
                model_fingerprint(teacher),
                mixed_precision,
                exact,
                self._device.type,
                torch.__version__,
                platform.machine(),
            )
        )
        self._directory = directory
        self._disk_left = disk_gb * GIB - (_size(directory) if directory is not None else 0)
        self._memory_left = memory_gb * GIB
        self._memory: dict[tuple[str, Tap, str], torch.Tensor] = {}
        self._configurations = attention_configurations(teacher)
        self._attention = implementations(self._configurations)
        self._lacks_attention: dict[tuple[Tap, ...], bool] = {}
        self._positions: dict[Tap, Positions | None] = {}
        self._repeats = False  # whether a teacher that draws random numbers has computed the same features again
        self._run_once: set[str] = set()
        self._ahead = tuple(ahead) if directory is not None else ()

    def features(self, batch: Batch, taps: Sequence[Tap], also: Iterable[Tap] = ()) -> dict[Tap, torch.Tensor]:
        """The features of a batch, on the teacher's device, without gradients.

        Args:
            batch: the batch.
            taps: the requested taps.
            also: taps that will be requested later: computed in the same forward pass if one is needed anyway.
        """
        found = {tap: feature for tap in taps if (feature := self._recall(batch, tap)) is not None}
        if len(found) < len(set(taps)):
            requested = dict.fromkeys([*taps, *also])
            missing = [tap for tap in {**requested, **dict.fromkeys(self._ahead)} if not self._holds(batch, tap)]
            computed = self._forward(batch, missing)
            for tap in missing:
                if tap in requested:
                    self._remember((batch.hash, tap, self._attention_now()), computed[tap])
                self._write(batch, tap, computed[tap])
            found |= {tap: computed[tap] for tap in taps if tap in computed}
        return {tap: self._unpacked(found[tap]) for tap in taps}

    def needs_eager_attention(self, batch: Batch, taps: Iterable[Tap]) -> bool:
        """Whether the teacher computes one of the taps only by eager attention; it runs once for each set of taps."""
        parts = tuple(tap for tap in taps if tap.selects_a_part)
        if parts not in self._lacks_attention:
            self._lacks_attention[parts] = needs_eager_attention(self.teacher, parts, batch.to(self._device))
        return self._lacks_attention[parts]

    def positions(self, batch: Batch, features: Mapping[Tap, torch.Tensor]) -> Mapping[Tap, Positions | None]:
        """The axes of the teacher's features; it runs for taps of which they are not known.

        Args:
            batch: any batch.
            features: the teacher's, of that batch.
        """
        unknown = {tap: feature for tap, feature in features.items() if tap not in self._positions}
        if unknown:
            found = find_masks(self.teacher, unknown, batch.to(self._device)).positions
            self._positions |= {tap: found.get(tap) for tap in unknown}
        return self._positions

    def _attention_now(self) -> str:
        """The attention implementation if it was switched since the cache was created, else an empty string."""
        now = implementations(self._configurations)
        return "" if now == self._attention else repr(now)

    def _packed(self, feature: torch.Tensor) -> torch.Tensor:
        round_off = not self._exact and feature.dtype == torch.float32
        return feature.detach().bfloat16() if round_off else feature.detach()

    def _unpacked(self, feature: torch.Tensor) -> torch.Tensor:
        feature = feature.to(self._device, non_blocking=True)
        return feature.float() if not self._exact and feature.dtype == torch.bfloat16 else feature

    def _forward(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
        self.forwards += 1
        moved = batch.to(self._device)
        # A forward may end at the last mapped layer once a full one has shown that each of them runs once.
        stop = all(tap.path in self._run_once for tap in taps)
        recorder = TapRecorder(self.teacher, taps, owner="teacher", stop=stop)
        with recorder, torch.no_grad(), plain_forward(self.teacher), autocast(self._device, self._precision):
            state = _random_state(self._device)
            features = recorder.run(lambda: moved.call(self.teacher))
            if not (self._repeats or torch.equal(state, _random_state(self._device))):
                _check_repeated(features, recorder.run(lambda: moved.call(self.teacher)))
                self._repeats = True
        if not stop:
            self._run_once |= {path for path, calls in recorder.calls.items() if calls == 1}
        return {tap: self._packed(feature) for tap, feature in features.items()}

    def _recall(self, batch: Batch, tap: Tap) -> torch.Tensor | None:
        key = (batch.hash, tap, self._attention_now())
        if key in self._memory:
            return self._memory[key]
        path = self._path(batch, tap)
        if path is None or not path.exists():
            return None
        try:
            feature = load_file(path)["feature"]
        except (SafetensorError, OSError, KeyError):
            logger.warning("the cached teacher feature %s is damaged; it is recomputed", path)
            path.unlink(missing_ok=True)
            return None
        self._remember(key, feature)
        return feature

    def _holds(self, batch: Batch, tap: Tap) -> bool:
        path = self._path(batch, tap)
        return (batch.hash, tap, self._attention_now()) in self._memory or (path is not None and path.exists())

    def _write(self, batch: Batch, tap: Tap, feature: torch.Tensor) -> None:
        path = self._path(batch, tap)
        if path is None or nbytes(feature) + HEADER > self._disk_left:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._disk_left -= write_tensors(path, {"feature": feature.cpu().contiguous()}, cached=True)

    def _remember(self, key: tuple[str, Tap, str], feature: torch.Tensor) -> None:
        size = nbytes(feature)
        if size <= self._memory_left:
            self._memory[key] = feature
            self._memory_left -= size

    def _path(self, batch: Batch, tap: Tap) -> Path | None:
        if self._directory is None or callable(tap.process):
            return None
        switched = self._attention_now()
        parts = (self.fingerprint, batch.hash, tap.path, tap.process, *([switched] if switched else []))
        return self._directory / f"{content_hash(parts)}.safetensors"


def loss_inputs(batch: Batch, features: Mapping[Tap, torch.Tensor]) -> dict[str, Any]:
    """The inputs of a loss besides the student, by their names in messages."""
    return {"the inputs": batch.content, "the teacher's features": features}


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.safetensors"))


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _check_repeated(first: Mapping[Tap, torch.Tensor], second: Mapping[Tap, torch.Tensor]) -> None:
    """A teacher that draws random numbers in eval mode must not use them in what is mapped.

    Raises:
        ConfigurationError: the features of two forward passes differ by more than rounding.
    """
    for tap, feature in first.items():
        if feature.shape != second[tap].shape or not torch.allclose(
            feature.float(), second[tap].float(), rtol=1e-2, atol=1e-3, equal_nan=True
        ):
            raise ConfigurationError(
                f"a teacher must compute the same features whenever it runs on a batch, but {tap} differs between two "
                "forward passes in eval mode, since the model draws random numbers; pass these with the batch if its "
                "forward accepts them (noise in ViTMAE, bool_masked_pos in others), or switch them off."
            )
