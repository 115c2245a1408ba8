"""Runs a teacher: in eval mode, without gradients, no further than to the last layer that is requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.step_loop import autocast
from autodistill.errors import ConfigurationError
from autodistill.models.devices import device_of
from autodistill.models.modes import plain_forward
from autodistill.models.taps import Tap, TapRecorder


class TeacherRun:
    """Computes the features of a teacher, and counts what it costs.

    Args:
        teacher: put in eval mode.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.

    Attributes:
        forwards: the number of forward passes.
        samples: the number of samples in them.

    Examples:
        >>> run = TeacherRun(nn.Linear(2, 3))
        >>> run.features(Batch((torch.ones(4, 2), None)), [Tap("")])[Tap("")].shape, run.samples
        (torch.Size([4, 3]), 4)
    """

    def __init__(self, teacher: nn.Module, mixed_precision: str = "no") -> None:
        self.teacher = teacher.eval()
        self.device = device_of(teacher)
        self.forwards = 0
        self.samples = 0
        self._precision = mixed_precision
        self._repeats = False  # whether a teacher that draws random numbers has computed the same features again
        self._run_once: set[str] = set()

    def features(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
        """The features of a batch, on the teacher's device.

        Raises:
            ConfigurationError: the teacher draws random numbers, on which they depend.
        """
        self.forwards += 1
        self.samples += batch.size
        moved = batch.to(self.device)
        # A forward may end at the last mapped layer once a full one has shown that each of them runs once.
        stop = all(tap.path in self._run_once for tap in taps)
        recorder = TapRecorder(self.teacher, taps, owner="teacher", stop=stop)
        with recorder, torch.no_grad(), plain_forward(self.teacher), autocast(self.device, self._precision):
            state = _random_state(self.device)
            features = recorder.run(lambda: moved.call(self.teacher))
            if not (self._repeats or torch.equal(state, _random_state(self.device))):
                _check_repeated(features, recorder.run(lambda: moved.call(self.teacher)))
                self._repeats = True
        if not stop:
            self._run_once |= {path for path, calls in recorder.calls.items() if calls == 1}
        return {tap: feature.detach() for tap, feature in features.items()}


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
