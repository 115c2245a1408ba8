"""The training of elastic students, from the widest to the narrowest: each starts as a slice of the trained one before.

Students of different widths disturb each other if they share all weights: at equal time, an elastic student for each
width is better at every width (`docs/elastic.md`). So every width has an elastic student of its own, which starts as a
slice of that of the next wider one: what that one has learned, it need not learn again. A *band* is a width and the
steps of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from autodistill.config.elastic import ElasticConfig
from autodistill.elastic.band import Band, BandTraining, ElasticTask, matcher_name
from autodistill.elastic.space import ElasticSpace
from autodistill.losses.criterion import Criterion
from autodistill.training import NoReport, TrainingReport


class ElasticTraining:
    """Trains the elastic students of a space once, and writes slices of them into students.

    Args:
        task: what they depend on.
    """

    def __init__(self, task: ElasticTask) -> None:
        self._task = task
        self._trained: list[BandTraining] = []

    @cached_property
    def space(self) -> ElasticSpace:
        """The architectures as slices.

        Raises:
            ConfigurationError: students of the space are no slices of the largest; all reasons in one error.
        """
        task = self._task
        return ElasticSpace.of(
            task.space, task.build, family=task.start.family, projection_head=task.start.projection_head
        )

    @cached_property
    def bands(self) -> list[Band]:
        """The bands, the widest first."""
        return divided(sorted(self.space.widths, reverse=True), self._task.settings)

    def steps_due(self, directory: Path | None) -> int:
        """The number of steps of all bands whose elastic students are not in a directory."""
        return sum(band.steps for band in self.bands if not band.is_trained(directory))

    def check(self) -> None:
        """Check that the students of the space are slices of one that can start inside the teacher.

        Raises:
            ConfigurationError: they are not; all reasons in one error.
        """
        self._task.initializer.check(self._task.build(self.space.largest).eval())

    def train(self, report: TrainingReport | None = None) -> None:
        """Train the elastic students, or read those that are trained; an interrupted training resumes.

        Raises:
            SearchDirectoryError: the directory holds elastic students of other settings.
            NonFiniteError: the loss became NaN or infinite.
        """
        for band in self.bands[len(self._trained) :]:
            wider = self._trained[-1] if self._trained else None
            training = BandTraining(self._task, self.space, band, wider)
            training.train(report or NoReport())
            self._trained.append(training)

    def write(self, student: nn.Module, criterion: Criterion | None = None) -> None:
        """Write the trained slice for a student, and its trained feature matchers.

        Args:
            student: as it is built.
            criterion: of its regular distillation, whose matchers are written.

        Raises:
            ConfigurationError: it is no slice.
        """
        self.train()
        width, _ = self.space.kind(student)
        training = next(training for training in self._trained if training.band.width == width)
        training.student.write(student)
        for index, matcher in enumerate(criterion.feature_matchers if criterion is not None else ()):
            name = matcher_name(width, index, matcher)
            if name in training.matchers:
                matcher.load_state_dict(training.matchers[name].state_dict())


def divided(widths: Sequence[int], settings: ElasticConfig) -> list[Band]:
    """The bands with their steps, of which narrow students receive more.

    Examples:
        >>> divided([256, 128], ElasticConfig(train_steps=300, narrow_share=1))
        [Band(width=256, steps=100), Band(width=128, steps=200)]
    """
    shares = [float(width) ** -settings.narrow_share for width in widths]
    return [
        Band(width, max(1, round(settings.train_steps * share / sum(shares))))
        for width, share in zip(widths, shares, strict=True)
    ]
