"""Starts the students of a search inside the teacher, whose stream is decomposed once for all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.initialization import Centring, InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import (
    TeacherStart,
    initialize_from_teacher,
    require_fitting,
    start_method,
)
from autodistill.initialization.importance import Importance, measure_importance
from autodistill.initialization.least_squares import LeastSquares
from autodistill.initialization.pairing import Both, Order, Pairing
from autodistill.initialization.start_method import Fitted
from autodistill.initialization.subspace import StreamDecomposition, TeacherSubspace, decompose
from autodistill.losses.criterion import Criterion
from autodistill.losses.feature_matchers import ChannelMatcher
from autodistill.models.families import WeightTable, require_family
from autodistill.models.taps import AUTO, INPUT, Tap
from autodistill.models.weights import Affine, has, join, shape, write
from autodistill.tensors import content_hash

logger = logging.getLogger(__name__)

POSITIONS = {"importance": 1024, "norms": 512, "all": 4096}
"""Numbers of tokens or patches of the flash set that the importance of heads and neurons and the least squares use: a
few numbers per channel need fewer than a whole map."""


class _Saved(Protocol):
    def save(self, path: Path) -> None: ...


SavedT = TypeVar("SavedT", bound=_Saved)


def read_by_starts(settings: InitializationConfig, cache: TeacherCache) -> list[Tap]:
    """What the starts of students of all depths read of a batch of the teacher: its stream, and what is fitted to.

    Args:
        settings: the configuration of the start.
        cache: of the teacher, a model of a known family.

    Raises:
        ConfigurationError: the teacher's residual stream is not known.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> taps = read_by_starts(InitializationConfig(), TeacherCache(BertModel(BertConfig(**sizes))))
        >>> [str(tap) for tap in taps][:3]
        ["'encoder.layer.0'[input]", "'encoder.layer.0'[auto]", "'encoder.layer.0.attention.output.LayerNorm'"]
    """
    path, base, family = require_family(cache.teacher, settings.family, "teacher")
    return [*_boundaries(path, family, base), *_fitted_to(settings, cache)]


def _boundaries(path: str, family: WeightTable, base: nn.Module) -> list[Tap]:
    blocks = join(path, family.blocks)
    return [Tap(f"{blocks}.0", INPUT), *(Tap(f"{blocks}.{index}", AUTO) for index in range(family.depth(base)))]


def _fitted(settings: InitializationConfig, cache: TeacherCache) -> Fitted:
    """What least squares fits."""
    if settings.weights != "all":
        return "none"
    _, _, family = require_family(cache.teacher, settings.family, "teacher")
    find = partial(start_method(family).least_squares, settings.least_squares, cache.teacher)
    fitted: Fitted = cache.fact(f"fitted by {settings.least_squares}, {family.text}", None, (), find)
    return fitted


def _fitted_to(settings: InitializationConfig, cache: TeacherCache) -> list[Tap]:
    """The taps of the teacher to which least squares fits students of all depths."""
    path, base, family = require_family(cache.teacher, settings.family, "teacher")
    fitted = _fitted(settings, cache)
    if fitted == "none":
        return []
    layers = range(family.depth(base))
    return LeastSquares.teacher_taps(start_method(family).family, path, layers, writers=fitted == "all")


class TeacherInitializer:
    """Starts the students of a search inside its teacher.

    Args:
        settings: the configuration of the start.
        teacher: a model of a known family.
        batches: the flash set.
        cache: computes the teacher's stream.
        directory: stores the decomposition of the stream; None for memory only.
        loss_func: `(outputs, targets) -> loss`, for importance by gradients of a teacher that returns no loss.
        read_only: nothing is written to the directory.

    Raises:
        ConfigurationError: the teacher's residual stream is not known.
    """

    def __init__(
        self,
        settings: InitializationConfig,
        teacher: nn.Module,
        batches: Sequence[Batch],
        cache: TeacherCache,
        directory: Path | None = None,
        loss_func: Callable[[Any, Any], torch.Tensor] | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self._settings = settings
        self._teacher = teacher
        self._batches = batches
        self._cache = cache
        self._directory = directory
        self._loss_func = loss_func
        self._read_only = read_only
        self._path, self._base, self._family = require_family(teacher, settings.family, "teacher")
        self._method = start_method(self._family)
        self._known: StreamDecomposition | None = None

    @property
    def boundaries(self) -> list[Tap]:
        """The taps of the teacher's stream before its first block and after each block."""
        return _boundaries(self._path, self._family, self._base)

    def boundary(self, tap: Tap) -> int:
        """The number of the boundary that a tap of the teacher records; -1, the last, for a tap elsewhere."""
        for after, block in enumerate(self.boundaries[1:], start=1):
            if tap.path == block.path:
                return after - 1 if tap.process == INPUT else after
        return -1

    def subspace(self, student: nn.Module, also: Iterable[Tap] = ()) -> TeacherSubspace:
        """The subspace in which a student computes.

        Args:
            student: a model of the teacher's family.
            also: other features of the teacher that will be requested; they are computed in the same pass.

        Raises:
            ConfigurationError: the student is of another family, or wider than the teacher.
        """
        _, base, family = require_family(student, self._settings.family, "student")
        width = family.width(base)
        if width is None:
            raise ConfigurationError(
                "the table of a family must name embeddings, which set a student's width, but the student has none of "
                f"those that this table names ({', '.join(map(str, family.embeddings))}); fix the table."
            )
        return self._decomposition(tuple(also)).subspace(width)

    def projection(self, student: nn.Module, also: Iterable[Tap] = ()) -> Callable[[torch.Tensor, Tap], torch.Tensor]:
        """The function that projects a hidden state of the teacher, recorded at a tap, to the student's subspace.

        The arguments are those of `subspace`.
        """
        subspace = self.subspace(student, also)
        return lambda hidden, tap: subspace.project(hidden, self.boundary(tap))

    def check(self, student: nn.Module, also: Iterable[Tap] = ()) -> None:
        """Check that a student can start inside the teacher; the arguments are those of `subspace`.

        Raises:
            ConfigurationError: it cannot.
        """
        subspace = self.subspace(student, also)
        problem = self._method.importance_problem(self._settings.importance, self._base)
        if problem is not None:
            raise ConfigurationError(problem)
        require_fitting(Pairing.of(student, self._teacher, subspace, family=self._settings.family))
        head = self._settings.projection_head
        expected = (subspace.teacher_width, subspace.width)
        found = shape(student, head) if head is not None and has(student, head) else None
        if head is not None and found != expected:
            raise ConfigurationError(
                "init.projection_head must be the path of a linear layer of the student from its width "
                f"{expected[1]} to the teacher's {expected[0]}, but {head!r} "
                + ("is none." if found is None else f"leads from {found[1]} to {found[0]}.")
            )

    def start(self, student: nn.Module, also: Iterable[Tap] = ()) -> TeacherStart:
        """Write a student's first weights; the arguments are those of `subspace`.

        Raises:
            ConfigurationError: student and teacher do not fit.
        """
        start = self.write(student, also)
        self.fit(student, start)
        return start

    def write(
        self, student: nn.Module, also: Iterable[Tap] = (), *, scale_of: int | None = None, order: Order = "position"
    ) -> TeacherStart:
        """Write the teacher's projection into a student, without the least squares; the arguments are those of `start`.

        Args:
            student: a model of the teacher's family.
            also: see `subspace`.
            scale_of: the width whose scale the student's stream has, instead of that of its own width.
            order: of heads, neurons and the channels of heads.
        """
        settings = self._settings
        subspace = self.subspace(student, also)
        if scale_of is not None:
            scale = self._decomposition(()).subspace(scale_of).scale[:1]
            subspace = replace(subspace, scale=scale.expand(subspace.width))
        start = initialize_from_teacher(
            student,
            self._teacher,
            subspace,
            embeddings_only=settings.weights == "embeddings",
            importance=self._importance if settings.weights == "all" else None,
            family=settings.family,
            order=order,
        )
        if settings.projection_head is not None:
            write(student, settings.projection_head, start.matcher)
        return start

    def fit(self, student: nn.Module, start: TeacherStart, *, writers: bool = True) -> None:
        """Fit the student to the teacher by least squares, as far as it is configured.

        Args:
            student: as `write` wrote it, or with other weights of its kind.
            start: what `write` returned.
            writers: False fits norms only.
        """
        if self._fitted != "none":
            self._fit(student, start, writers=writers and self._fitted == "all")

    @property
    def _fitted(self) -> Fitted:
        """What least squares fits."""
        return _fitted(self._settings, self._cache)

    @cached_property
    def _importance(self) -> Importance | None:
        """The importance of heads and neurons; None if it is computed from the weights."""
        kind = self._method.importance(self._settings.importance)
        if kind is None:
            return None
        batches = self._few(POSITIONS["importance"])
        is_standard = kind == "activations" or self._loss_func in (None, nn.functional.cross_entropy)
        return self._kept(
            self._file("importance", batches, kind) if is_standard else None,  # other functions have no hash
            partial(Importance.load, kind=kind),
            lambda: measure_importance(
                self._teacher, batches, kind, loss_func=self._loss_func, family=self._settings.family
            ),
        )

    def reads(self) -> tuple[list[Tap], int]:
        """The taps that the least squares of students of any depth read, and from how many positions of the flash set.

        Both are empty if nothing is fitted.
        """
        if self._fitted == "none" or self._settings.weights != "all":
            return [], 0
        layers, writers = range(self._family.depth(self._base)), self._fitted == "all"
        taps = LeastSquares.teacher_taps(self._method.family, self._path, layers, writers=writers)
        return taps, POSITIONS[self._fitted]

    def _fit(self, student: nn.Module, start: TeacherStart, *, writers: bool) -> None:
        path, _, _ = require_family(student, self._settings.family, "student")
        family = self._method.family
        batches = self._few(POSITIONS[self._fitted])
        taps = LeastSquares.teacher_taps(family, self._path, start.layers, writers=writers)
        every_layer = _fitted_to(self._settings, self._cache)
        for batch in batches:
            self._cache.features(batch, taps, every_layer)  # students of other depths start from other layers
        fit = LeastSquares(start, family, student, self._cache.features, batches, Both(path, self._path))
        fit.run(writers=writers)

    def _few(self, count: int) -> list[Batch]:
        """The first batches that together hold at least `count` positions."""
        chosen: list[Batch] = []
        positions = 0
        for batch in self._batches:
            if positions >= count:
                break
            (stream,) = self._cache.features(batch, self.boundaries[:1]).values()
            positions += len(batch.without_padding(stream))
            chosen.append(batch)
        return chosen

    def start_matchers(self, start: TeacherStart, student: nn.Module, criterion: Criterion) -> None:
        """Initialize the matchers of the stream with the map from the subspace back to the stream."""
        path, _, family = require_family(student, self._settings.family, "student")
        blocks = [join(path, f"{family.blocks}.{index}") for index in range(len(start.layers))]
        for mapping, matcher in zip(criterion.layer_mappings, criterion.feature_matchers, strict=True):
            if not isinstance(matcher, ChannelMatcher) or matcher.linear.weight.shape != start.matcher.weight.shape:
                continue
            if mapping.student.path == path:  # the last hidden states
                write(matcher, "linear", start.matcher)
            elif mapping.student.path in blocks:
                mean = start.subspace.mean(self.boundary(mapping.teacher))
                write(matcher, "linear", Affine(start.subspace.up, mean))

    def _decomposition(self, also: tuple[Tap, ...]) -> StreamDecomposition:
        if self._known is None:
            settings, family = self._settings, self._family
            whole = family.mean_blocker(self._base) is not None
            centring: Centring = "none" if whole else settings.centring
            self._known = self._kept(
                self._file("subspace", self._batches, settings.weighting, settings.centring),
                StreamDecomposition.load,
                lambda: decompose(
                    self._streams(also),
                    weighting=settings.weighting,
                    centring=centring,
                    keeps_constant=family.keeps_constant,
                    selects=family.selects_channels,
                ),
            )
        return self._known

    def _streams(self, also: tuple[Tap, ...]) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
        """The stream of each batch; the same pass computes `also` and what starts read of the first batches."""
        taps, positions = self.boundaries, 0
        fitted, importance = (
            _fitted_to(self._settings, self._cache),
            self._method.importance(self._settings.importance),
        )
        for batch in self._batches:
            later = list(also)
            if fitted and positions < POSITIONS[self._fitted]:
                later += [taps[0], *fitted]
            if importance is not None and positions < POSITIONS["importance"]:
                later.append(taps[0])  # which `_few` counts
            features = self._cache.features(batch, taps, later, once=True)
            streams = [batch.without_padding(features[tap]) for tap in taps]
            positions += len(streams[0])
            yield streams, None

    def _file(self, name: str, batches: Iterable[Batch], *settings: str) -> Path | None:
        """The file of what was computed from these batches; None without a directory."""
        if self._directory is None:
            return None
        made_of = (self._cache.fingerprint, [batch.hash for batch in batches], *settings, self._family.text)
        return self._directory / f"{name}-{content_hash(made_of)}.safetensors"

    def _kept(self, path: Path | None, load: Callable[[Path], SavedT], compute: Callable[[], SavedT]) -> SavedT:
        """What a file holds, or what is computed and then written to it; None only computes."""
        if path is None:
            return compute()
        if path.exists():
            try:
                return load(path)
            except (OSError, ValueError, KeyError):
                logger.warning("%s, computed from the teacher, is damaged and is recomputed", path)
        computed = compute()
        if self._read_only:
            return computed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            computed.save(path)
        except OSError as error:
            logger.warning("what was computed from the teacher is not kept: %s", error)
        return computed
