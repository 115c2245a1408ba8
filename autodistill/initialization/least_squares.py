"""Fits norms, and maps that write to the stream, to the teacher by least squares, after the first weights.

`initialize_from_teacher` writes the teacher's projection. It leaves errors: missing heads, neurons and layers,
directions that the student does not have, norms that do not commute with a rotation. The student is run on a part of
the flash set, block by block, and in each attention or feed-forward layer

1. the writer W, b is solved again by ridge regression (towards its present weights) of the change that turns the stream
   into the teacher's projection, on the inputs of the writer;
2. where the norm stands after the sum, its gain and bias are fitted channel by channel.

A block receives the outputs of the blocks before it, which are already fitted: later blocks correct the errors of
earlier ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.initialization.from_teacher import TeacherStart
from autodistill.initialization.pairing import Both
from autodistill.models.calls import calls_of, returning
from autodistill.models.families import Family
from autodistill.models.modes import plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import AUTO, INPUT, Tap, TapRecorder
from autodistill.models.weights import Affine, has, has_bias, join, part, read, write, write_norm
from autodistill.tensors import map_tensors

Features = Callable[[Batch, Sequence[Tap]], Mapping[Tap, torch.Tensor]]
"""`(batch, taps) -> features`."""


def ridge(inputs: torch.Tensor, targets: torch.Tensor, first: Affine, strength: float, *, bias: bool = True) -> Affine:
    """The linear map from inputs to targets with the least squared error, pulled towards a first map.

    Minimises ‖x Wᵀ + b - t‖² + λ ‖W - W₀‖², with λ `strength` times the mean power of an input; the bias is free.
    Along directions in which the inputs do not vary, the weight stays as in the first map.

    Args:
        inputs: the inputs, (positions, inputs).
        targets: the targets, (positions, outputs).
        first: the first map, W₀ (outputs, inputs).
        strength: the strength of the pull to the first map, relative to the number of positions.
        bias: False for a map without bias: b is zero.

    Examples:
        >>> x, expected = torch.randn(50, 3).double(), torch.randn(2, 3).double()
        >>> found = ridge(x, x @ expected.T + 1, Affine(torch.zeros(2, 3).double(), None), 1e-9)
        >>> [bool((part - true).abs().max() < 1e-6) for part, true in ((found.weight, expected), (found.bias, 1))]
        [True, True]
    """
    inputs, targets = inputs.double(), targets.double()
    mean_input, mean_target = inputs.mean(0) * bias, targets.mean(0) * bias
    centred = inputs - mean_input
    gram = centred.T @ centred / len(inputs)
    rest = (targets - mean_target) - centred @ first.weight.T
    power = max(float(gram.diagonal().mean()), 1e-12 * float(inputs.square().mean()), 1e-300)  # rounding is no variance
    pull = strength * power * torch.eye(len(gram), dtype=gram.dtype)
    change = torch.linalg.solve(gram + pull, centred.T @ rest / len(inputs)).T
    weight = first.weight + change
    return Affine(weight, mean_target - weight @ mean_input if bias else None)


def fit_channels(
    inputs: torch.Tensor, targets: torch.Tensor, *, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gain and the bias of each channel with the least squared error; both arguments are (positions, channels).

    Without a bias only the gain is fitted, and the bias is zero.
    """
    inputs, targets = inputs.double(), targets.double()
    mean_input, mean_target = inputs.mean(0) * bias, targets.mean(0) * bias
    centred = inputs - mean_input
    gain = (centred * targets).mean(0) / centred.square().mean(0).clamp(min=1e-12)
    return gain, mean_target - gain * mean_input


class StudentRun:
    """Runs a student on a few batches. A finished block is not run again: its recorded output is returned instead.

    Args:
        student: the student; it is put into eval mode.
    """

    def __init__(self, student: nn.Module) -> None:
        self.student = student.eval()
        self._finished: dict[str, dict[nn.Module, Any]] = {}  # the outputs of the finished blocks, by batch

    def calls(self, blocks: Sequence[str], batch: Batch) -> Mapping[str, int]:
        """How often each block runs in one forward."""
        with TapRecorder(self.student, [], owner="student", also_run=blocks) as recorder, self._unfinished(batch):
            recorder.run(lambda: batch.call(self.student))
        return recorder.calls

    def features(self, batch: Batch, taps: Sequence[Tap]) -> Mapping[Tap, torch.Tensor]:
        """The features that taps record of a batch; the forward ends at the last of them."""
        with TapRecorder(self.student, taps, owner="student", stop=True) as recorder, self._unfinished(batch):
            return recorder.run(lambda: batch.call(self.student))

    def finish(self, block: str, batches: Sequence[Batch]) -> None:
        """Record the outputs of a block for these batches: its weights will not change again."""
        module = find_module(self.student, block)
        for batch in batches:
            with self._unfinished(batch):
                (call,) = calls_of(self.student, [block], batch)
                output = call(module)
            self._finished.setdefault(batch.hash, {})[module] = output

    @contextlib.contextmanager
    def _unfinished(self, batch: Batch) -> Iterator[None]:
        kept = self._finished.get(batch.hash, {})
        outputs = {module: map_tensors(torch.Tensor.clone, output) for module, output in kept.items()}
        with torch.no_grad(), plain_forward(self.student), returning(outputs):  # may change in place
            yield


@dataclass(frozen=True)
class LeastSquares:
    """Fits a student that `initialize_from_teacher` has written.

    Args:
        start: the result of `initialize_from_teacher`.
        family: the table of both models.
        student: the student whose weights are set; it is put into eval mode.
        teacher: returns the teacher's features.
        batches: the batches on which both models are compared.
        base_paths: the paths of the two base models.
        strength: the strength of the pull of `ridge`.
    """

    start: TeacherStart
    family: Family
    student: nn.Module
    teacher: Features
    batches: Sequence[Batch]
    base_paths: Both[str]
    strength: float = 0.01

    @staticmethod
    def teacher_taps(family: Family, base: str, layers: Iterable[int], *, writers: bool) -> list[Tap]:
        """All features of the teacher that are needed, so that one pass can compute them."""
        blocks = [join(base, f"{family.blocks}.{layer}") for layer in layers]
        norms = [join(block, unit.norm) for block in blocks for unit in family.parts]
        sums = [Tap(norm, INPUT) for norm in norms] if writers else []
        if family.norms_before:
            return [*sums, *(Tap(block, AUTO) for block in blocks)]
        if family.embedding_norm is not None:
            norms.append(join(base, family.embedding_norm))
        return [*sums, *map(Tap, norms)]

    def run(self, *, writers: bool) -> None:
        """Fit the norm after the embeddings, then the blocks one after the other.

        Norms that stand before the readers are left unchanged: a gain fitted to inputs that resemble the teacher's only
        in part is too small, and slows down later training. Blocks that run several times in one forward are left
        unchanged too: a fit to one of their inputs is wrong for the others.

        Args:
            writers: fit the maps that write to the stream too, not only the norms.
        """
        run, paths = StudentRun(self.student), self.base_paths
        norm = self.family.embedding_norm
        embedding_map = self.family.embedding_map
        own_space = embedding_map is not None and has(self.student, join(paths.student, part(embedding_map).path))
        if norm is not None and not self.family.norms_before and not own_space:
            self._fit_norm_after_sum(run, Both(join(paths.student, norm), join(paths.teacher, norm)), 0)
        blocks = [
            Both(
                join(paths.student, f"{self.family.blocks}.{index}"),
                join(paths.teacher, f"{self.family.blocks}.{layer}"),
            )
            for index, layer in enumerate(self.start.layers)
        ]
        calls = run.calls([block.student for block in blocks], self.batches[0])
        for block, layer in zip(blocks, self.start.layers, strict=True):
            if calls[block.student] > 1:
                continue
            for position, unit in enumerate(self.family.parts):
                if writers:
                    self._fit_writer(run, position, block)
                if not self.family.norms_before:
                    norms = Both(join(block.student, unit.norm), join(block.teacher, unit.norm))
                    self._fit_norm_after_sum(run, norms, layer + 1)
            if block is not blocks[-1]:
                run.finish(block.student, self.batches)

    def _rows(self, features: Features, *taps: Tap) -> list[torch.Tensor]:
        """The features of each tap over all batches, (positions, channels), without padding."""
        by_tap: list[list[torch.Tensor]] = [[] for _ in taps]
        for batch in self.batches:
            found = features(batch, taps)
            for rows, tap in zip(by_tap, taps, strict=True):
                rows.append(batch.without_padding(found[tap]))
        return [torch.cat(rows) for rows in by_tap]

    def _sum(self, position: int, block: str) -> Tap:
        """The tap of the residual sum after an attention or feed-forward layer."""
        if not self.family.norms_before:
            return Tap(join(block, self.family.parts[position].norm), INPUT)
        following = () if self.family.parallel else self.family.parts[position + 1 :]
        return Tap(join(block, following[0].norm), INPUT) if following else Tap(block, AUTO)

    def _fit_writer(self, run: StudentRun, position: int, block: Both[str]) -> None:
        writer = join(block.student, part(self.family.parts[position].output).path)
        if isinstance(find_module(self.student, writer.rpartition(".")[0]), nn.MultiheadAttention):
            return  # computes with the writer's weights, but never calls it
        (expected,) = self._rows(self.teacher, self._sum(position, block.teacher))
        taps = (Tap(writer, INPUT), Tap(writer), self._sum(position, block.student))
        inputs, written, total = self._rows(run.features, *taps)
        targets = expected @ self.start.subspace.down.to(expected) - (total - written)
        first = read(self.student, writer)
        write(self.student, writer, ridge(inputs, targets, first, self.strength, bias=first.bias is not None))

    def _fit_norm_after_sum(self, run: StudentRun, norm: Both[str], boundary: int) -> None:
        (expected,) = self._rows(self.teacher, Tap(norm.teacher))
        (total,) = self._rows(run.features, Tap(norm.student, INPUT))
        inputs = self._normalised(total, find_module(self.student, norm.student))
        targets = self.start.subspace.project(expected, boundary)
        gain, bias = fit_channels(inputs, targets, bias=has_bias(self.student, norm.student))
        write_norm(self.student, norm.student, gain - self.family.gain_offset, bias)

    def _normalised(self, rows: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """The rows normalised, without the gain and bias of the norm."""
        epsilon: Any = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))  # None: that of the dtype
        if self.family.centred:
            return nn.functional.layer_norm(rows, rows.shape[-1:], eps=epsilon)
        return nn.functional.rms_norm(rows, rows.shape[-1:], eps=epsilon)
