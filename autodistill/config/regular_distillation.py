"""The section `regular_distillation`: the whole student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from autodistill.config.phase import (
    MAPPINGS,
    PER_MAPPING,
    LossWeight,
    MappingFunction,
    MappingList,
    PhaseConfig,
    function_name,
    mapping_names,
    one_entry_each,
)
from autodistill.config.section import Count, Disagreement
from autodistill.losses.loss_types import LossName, pair_type_problems, top_k_types
from autodistill.models.layer_mappings import LayerMapping


def _only_stage(value: Any) -> Any:
    """The mappings of regular distillation, which has one stage: `[[mapping, ...]]` means `[mapping, ...]`."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        nested = all(isinstance(item, list | tuple | LayerMapping) for item in value[0])
        return value[0] if nested and not _is_pair_of_taps(value[0]) else value
    return value


def _is_pair_of_taps(items: Sequence[Any]) -> bool:
    """Whether two lists are one mapping, `[('s', '1'), ('t', '1')]`, not two: each ends in an output process."""
    return len(items) == 2 and all(
        isinstance(item, list | tuple) and len(item) == 2 and (callable(item[1]) or str(item[1]).isdigit())
        for item in items
    )


def _only_entry(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


class RegularDistillationConfig(PhaseConfig):
    """Regular distillation: the whole student.

    A list has one entry for each mapping; a single value holds for all. `[[...]]`, a list for the only stage, means
    `[...]`.

    Attributes:
        layer_mappings_for_knowledge_transfer: a list of layer mappings; a function `(student, teacher) -> such a list`;
            or None for the predictions (logits) of both.
        loss_types: 'MSE', 'NMSE' (normalised by the teacher's power), 'L1', 'KL', 'CE' (soft cross-entropy), 'cosine',
            or another name in `LOSS_TYPES`. If not given, 'KL' for logits and 'NMSE' for other predictions if the
            mapping is automatic, else 'MSE'. Without mappings, a pair such as `['CE', 'KL']` is the loss of the labels
            and that of the teacher's logits: see `KnowledgeDistillationLoss`.
        loss_weights: 1 if not given. Those of such a pair are the labels' and the teacher's.
        add_origin_loss: add the student's own loss. If not given: if the mapping is automatic and there are labels. In
            a pair of loss types it is the first.
        train_steps: optimizer updates.
        top_k: reduce the teacher's logits that are compared by 'KL' to the k largest of each position and the mass of
            all others, which for a large vocabulary are a small share of the bytes. The loss is then at most the whole
            divergence: see `top_k_kl_divergence`; choose k so that this mass is small. Needs one temperature. Logits of
            at most k classes are kept whole, but it is a mistake if no logits have more. None keeps all.
        exact: False reuses what the teacher computed for a sample in the first batch in which it occurred: in other
            batches it differs by rounding, where padding differs. True keeps the teacher's outputs by batch, so that
            the teacher runs at every step of shuffled epochs.
    """

    layer_mappings_for_knowledge_transfer: Annotated[
        Annotated[MappingList, BeforeValidator(_only_stage)] | MappingFunction | None,
        PlainSerializer(mapping_names),
    ] = None
    loss_types: Annotated[LossName | tuple[LossName, ...] | None, BeforeValidator(_only_entry)] = None
    loss_weights: Annotated[LossWeight | tuple[LossWeight, ...], BeforeValidator(_only_entry)] = 1.0
    add_origin_loss: Annotated[bool | None, BeforeValidator(_only_entry)] = None
    train_steps: Annotated[Count, BeforeValidator(_only_entry)] = 1000
    # Left out of the record at their defaults: directories of earlier versions do not contain them.
    top_k: Count | None = Field(default=None, exclude_if=lambda value: value is None)
    exact: bool = Field(default=False, exclude_if=lambda value: not value)

    @property
    def on_predictions(self) -> bool:
        """Whether the loss is the one on predictions, `KnowledgeDistillationLoss`."""
        return self.layer_mappings_for_knowledge_transfer is None and isinstance(self.loss_types, tuple)

    def length_problems(self, mappings: int) -> list[str]:
        """A sentence for each list whose length does not fit the number of mappings."""
        return [mistake.sentence for mistake in self._wrong_lengths(mappings)]

    def _wrong_lengths(self, mappings: int) -> Iterator[Disagreement]:
        if not mappings:
            yield Disagreement(MAPPINGS, f"{MAPPINGS} must hold at least one mapping, but is empty.")
            return
        for setting in PER_MAPPING:
            for sentence in one_entry_each(setting, getattr(self, setting), mappings, "mapping"):
                yield Disagreement(setting, sentence, (MAPPINGS,))

    def _pair_mistakes(self) -> Iterator[Disagreement]:
        """Without mappings, lists hold the entries of the labels and of the teacher."""
        kinds = self.loss_types
        for setting in PER_MAPPING:
            value = getattr(self, setting)
            if isinstance(value, tuple) and (len(value) != 2 or not isinstance(kinds, tuple)):
                sentence = (
                    f"{setting} without {MAPPINGS} is one value, or a pair for the labels and the teacher (loss_types "
                    f"and loss_weights alike), but got {list(value)}."
                )
                yield Disagreement(setting, sentence, (MAPPINGS,) if len(value) != 2 else (MAPPINGS, "loss_types"))
        if isinstance(kinds, tuple) and len(kinds) == 2:
            for sentence in pair_type_problems(kinds):
                yield Disagreement("loss_types", sentence, (MAPPINGS,))
            if self.add_origin_loss is not None:
                sentence = (
                    "add_origin_loss belongs to a single loss type or to mappings; in a pair the student's own loss is "
                    "the first, with its weight."
                )
                yield Disagreement("add_origin_loss", sentence, (MAPPINGS, "loss_types"))

    def _top_k_mistakes(self) -> Iterator[Disagreement]:
        """The mass of the other classes holds for one temperature, and suffices for some loss types only."""
        if self.top_k is None:
            return
        if not isinstance(self.temperature, float):
            sentence = (
                "top_k keeps the mass of the other classes at one temperature, so temperature must be a number, but is "
                f"{function_name(self.temperature)!r}; set a number, or leave top_k out."
            )
            yield Disagreement("top_k", sentence, ("temperature",))
        kinds = self._teacher_types()
        if kinds and not set(kinds) & set(top_k_types()):
            known = " or ".join(top_k_types())
            sentence = (
                f"top_k reduces the teacher's logits that are compared by {known}, but loss_types is "
                f"{', '.join(kinds)}; use {known}, or leave top_k out."
            )
            yield Disagreement("top_k", sentence, (MAPPINGS, "loss_types"))

    def _teacher_types(self) -> tuple[str, ...]:
        """The loss types between student and teacher; none if they depend on the data."""
        if self.on_predictions and self.loss_types is not None:
            return tuple(self.loss_types[1:])
        if self.loss_types is None:
            return () if self.layer_mappings_for_knowledge_transfer is None else ("MSE",)
        return self.loss_types if isinstance(self.loss_types, tuple) else (self.loss_types,)

    def _disagreements(self) -> Iterator[Disagreement]:
        yield from super()._disagreements()
        yield from self._top_k_mistakes()
        mappings = self.layer_mappings_for_knowledge_transfer
        if mappings is None:
            yield from self._pair_mistakes()
        elif isinstance(mappings, tuple):
            yield from self._wrong_lengths(len(mappings))


DistillationConfig = RegularDistillationConfig
"""The specification's name for it; as flash distillation, it is one stage of the whole student."""
