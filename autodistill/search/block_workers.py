"""Block-parallel flash distillation: the teacher-fed blocks of one student, trained in several workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from autodistill.errors import TrialError
from autodistill.search.executors import Executor, WorkerLostError
from autodistill.training import TrainedBlocks
from search_spaces import Architecture

logger = logging.getLogger(__name__)

_MOST_LOSSES = 3
"""How often a group of blocks is trained again since its worker was lost."""


@dataclass(frozen=True)
class SpreadBlocks:
    """Trains the blocks of a student in the workers of an executor.

    Every worker builds the student, starts it as the trial does, and trains a group of its blocks; so only the trained
    blocks travel. With the same number of threads they equal those of a training in one process, to the bit.

    Args:
        executor: whose workers are free.
        spec: the settings of the search.
        architecture: of the student.
        seed: of its training.
    """

    executor: Executor
    spec: Any
    architecture: Architecture
    seed: int

    def train(self, sizes: Sequence[int]) -> list[TrainedBlocks]:
        """Train all blocks.

        Args:
            sizes: the number of parameters of each stage.

        Raises:
            TrialError: workers were lost again and again.
            Exception: any that the training raises.
        """
        groups = balanced(sizes, self.executor.slots)
        logger.info("%d workers train %d blocks", len(groups), len(sizes))
        calls = [self._submit(group) for group in groups]
        return [self._result(call, group) for call, group in zip(calls, groups, strict=True)]

    def _submit(self, stages: Sequence[int]) -> Future[TrainedBlocks]:
        return self.executor.submit(train_blocks, self.spec, self.architecture, self.seed, stages)

    def _result(self, call: Future[TrainedBlocks], stages: Sequence[int]) -> TrainedBlocks:
        for _ in range(_MOST_LOSSES):
            try:
                return call.result()
            except WorkerLostError as error:
                logger.warning("%d blocks are trained again: %s", len(stages), error)
                call = self._submit(stages)
        try:
            return call.result()
        except WorkerLostError as error:
            raise TrialError(
                f"a worker must live to train its blocks, but {_MOST_LOSSES + 1} were lost in turn: {error}; take "
                "fewer workers, or ones with more memory."
            ) from error


def train_blocks(spec: Any, architecture: Architecture, seed: int, stages: Sequence[int]) -> TrainedBlocks:
    """In a worker: train some blocks of a student.

    Args:
        spec: the settings of the search.
        architecture: of the student.
        seed: of its training.
        stages: the positions of the blocks among the stages.
    """
    framework = spec.framework
    with framework.isolated(verified=True), framework.random_state(seed):
        trained: TrainedBlocks = spec.training.train_blocks(framework.build(architecture), seed, stages)
        return trained


def balanced(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The positions of sizes in at most `count` groups, whose sums are about equal.

    Examples:
        >>> balanced([5, 1, 1, 4, 3], 2)
        [[0, 1, 2], [3, 4]]
    """
    groups: list[list[int]] = [[] for _ in range(min(count, len(sizes)))]
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(position)
    return [sorted(group) for group in groups]
