"""The teacher's features: computed once for each batch, kept in memory and on disk by a hash of all they depend on."""

from __future__ import annotations

import itertools
import logging
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.activation_store import GIB
from autodistill.distillation.batch_features import BatchFeatures, FeatureKey
from autodistill.distillation.facts import FOLDER as FACTS
from autodistill.distillation.facts import Facts
from autodistill.distillation.sample_outputs import (
    LARGEST_ROW,
    OutputKind,
    Probe,
    SampleOutputs,
    sample_problem,
)
from autodistill.distillation.sample_store import Row
from autodistill.distillation.teacher_run import TeacherRun
from autodistill.losses.top_k import TeacherFeatures, TopK, TopKLogits, keep_top_k
from autodistill.models.attention import attention_configurations, implementations, needs_eager_attention
from autodistill.models.fingerprint import model_fingerprint
from autodistill.models.masks import Positions, find_masks
from autodistill.models.taps import Tap
from autodistill.samples import Padded
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)


class TeacherCache:
    """Returns the teacher's features of a batch, and runs the teacher only for those that are not stored.

    Features of a batch are kept by a hash of the teacher (weights, buffers, configuration, attention implementation),
    the batch, the layer and its output process, precision, device kind and library versions: if any of them changes,
    they are recomputed. Features of a callable output process are kept in memory only, since a function has no
    reliable hash.

    The teacher's outputs in regular distillation are kept by sample, if there are `outputs`: each is computed in the
    first batch in which its sample occurs, and found again in batches of other samples, orders and sizes.

    Args:
        teacher: put in eval mode; it never receives gradients.
        directory: of the files; None keeps features in memory only.
        disk_gb: the maximum size of the directory, in GiB; features of batches that this object has not used are
            removed for new ones, the oldest first. What does not fit is recomputed.
        memory_gb: the maximum size of features of batches in memory, in GiB.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`: the precision the teacher runs in.
        exact: False keeps 32-bit features of layers, not of the whole model, as bfloat16: half the memory, at a
            relative error of up to 2⁻⁸ = 0.4%.
        outputs: keeps outputs by sample; None keeps them by batch.
        read_only: nothing is written to the directory, nor removed from it.

    Examples:
        >>> cache = TeacherCache(nn.Linear(2, 3))
        >>> batch = Batch((torch.ones(1, 2), torch.zeros(1)))
        >>> [tuple(feature.shape) for feature in cache.features(batch, [Tap("")]).values()]
        [(1, 3)]
        >>> _ = cache.features(batch, [Tap("")])
        >>> cache.run.forwards
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
        outputs: SampleOutputs | None = None,
        read_only: bool = False,
    ) -> None:
        self.run = TeacherRun(teacher, mixed_precision)
        self._exact = exact
        made_of = (model_fingerprint(teacher), mixed_precision, exact, self._device.type)
        self.fingerprint = content_hash((*made_of, _versions(teacher), platform.machine()))
        self._of_batches = BatchFeatures(
            directory, memory_bytes=memory_gb * GIB, disk_bytes=disk_gb * GIB, read_only=read_only
        )
        self._configurations = attention_configurations(teacher)
        self._attention = implementations(self._configurations)
        self._facts = Facts(None if directory is None else directory / FACTS, read_only=read_only)
        self._positions: dict[Tap, Positions | None] = {}
        self._expected: dict[str, tuple[Tap, ...]] = {}
        self._first: tuple[Batch, ...] = ()  # the beginning of the stream
        self._in_order: set[tuple[OutputKind, str]] = set()  # those of them whose samples are kept
        self._outputs = outputs
        self._problems: dict[OutputKind, str | None] = {}  # why an output is not kept by sample

    @property
    def teacher(self) -> nn.Module:
        """The teacher, in eval mode."""
        return self.run.teacher

    @property
    def _device(self) -> torch.device:
        return self.run.device

    def expect(self, batches: Sequence[Batch], taps: Iterable[Tap]) -> None:
        """Compute the features of further taps whenever the teacher runs on one of these batches.

        Args:
            batches: the first ones of the stream, or those that follow the ones that are expected already.
            taps: that students may request.
        """
        self._first = (*self._first, *batches)
        self._expected |= dict.fromkeys((batch.hash for batch in batches), tuple(taps))

    def nbytes(self, features: Mapping[Tap, torch.Tensor]) -> int:
        """The size in bytes in which features are stored."""
        return sum(nbytes(feature) // (2 if self._rounds(tap, feature) else 1) for tap, feature in features.items())

    def features(
        self, batch: Batch, taps: Sequence[Tap], also: Iterable[Tap] = (), *, once: bool = False
    ) -> dict[Tap, torch.Tensor]:
        """The features of a batch, on the teacher's device, without gradients.

        Args:
            batch: the batch.
            taps: the requested taps.
            also: taps that will be requested later: computed in the same forward pass if one is needed anyway.
            once: `taps` will not be requested again: of these, only the expected ones are stored.
        """
        found = {tap: feature for tap in taps if (feature := self._recall(batch, tap)) is not None}
        found |= self._whole_outputs(batch, [tap for tap in taps if tap not in found])
        if len(found) < len(set(taps)):
            computed = self._run_whole(batch, taps, also, once=once)
            found |= {tap: computed[tap] for tap in taps if tap in computed}
        return {tap: self._unpacked(found[tap]) for tap in taps}

    def _whole_outputs(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
        """The features among these that are kept by sample, for all samples of the batch and not reduced."""
        kinds = [kind for kind in self._kinds(batch, taps) if kind.k is None] if taps else []
        if self._outputs is None or not kinds:
            return {}
        rows = {
            kind: [row for row in found if row is not None] for kind, found in self._outputs.rows(batch, kinds).items()
        }
        found = {kind.tap: kind.join(kept, batch) for kind, kept in rows.items() if len(kept) == batch.size}
        return {tap: feature for tap, feature in found.items() if isinstance(feature, torch.Tensor)}

    def _run_whole(
        self, batch: Batch, taps: Sequence[Tap], also: Iterable[Tap], *, once: bool
    ) -> dict[Tap, torch.Tensor]:
        """Compute whatever of these taps and of the expected ones is not stored, and store it."""
        later = dict.fromkeys([*also] if once else [*taps, *also])
        requested = dict.fromkeys([*taps, *later])
        expected = self._expected.get(batch.hash, ())
        missing = [tap for tap in {**requested, **dict.fromkeys(expected)} if not self._holds(batch, tap)]
        computed = self._forward(batch, missing)
        by_sample = [kind for kind in self._kinds(batch, computed) if kind.tap not in taps]
        if batch.hash in self._expected:
            self._add_in_order(batch, {kind: computed[kind.tap] for kind in by_sample})
        kept = {kind.tap for kind in by_sample}
        for tap in (tap for tap in missing if tap not in kept and (tap in expected or tap in later)):
            self._keep(batch, tap, computed[tap], in_memory=tap in requested)
        return computed

    def keep_by_sample(
        self,
        batch: Batch,
        features: Mapping[Tap, torch.Tensor],
        padded: Mapping[Tap, Padded | None],
        top_k: TopK | None = None,
    ) -> None:
        """Keep outputs by sample from now on, if they do not depend on the other samples of a batch, or on padding.

        The teacher runs on some samples of the batch, once for all students. An output that depends on more is kept
        by batch, which is logged.

        Args:
            batch: any batch.
            features: the teacher's, of that batch.
            padded: by tap, the padding of the second axis, whose positions do not count in any loss.
            top_k: which of them are reduced to the largest logits.
        """
        if self._outputs is None or batch.sample_keys is None:
            return
        kinds = [OutputKind.of(tap, self._computed_by(), side, top_k) for tap, side in padded.items()]
        unknown = [kind for kind in kinds if kind not in self._problems]
        if unknown:
            self._problems |= self._sample_problems(batch, features, unknown)
        for kind in kinds:
            if self._problems[kind] is None:
                self._outputs.announce(kind)
            else:
                self._outputs.withdraw(kind.tap)

    def _sample_problems(
        self, batch: Batch, features: Mapping[Tap, torch.Tensor], kinds: Sequence[OutputKind]
    ) -> dict[OutputKind, str | None]:
        taps = [kind.tap for kind in kinds]
        probe = Probe.of(batch, getattr(getattr(self.teacher, "config", None), "pad_token_id", None))

        def find() -> list[str | None]:
            for tried in (probe, probe.with_all_padding()):
                try:
                    again = self._forward(tried.part, taps)
                    whole = features if tried.whole is batch else self._forward(tried.whole, taps)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # of any kind: what a model requires of its inputs is not known
                    logger.debug("the teacher does not run on some samples of a batch: %s", error)
                else:
                    return [sample_problem(kind, tried, whole[kind.tap], again[kind.tap]) for kind in kinds]
            return ["is not computed for some samples of a batch"] * len(kinds)

        name = f"rows {[(kind.padded, kind.k, kind.temperature) for kind in kinds]}"
        problems = dict(zip(kinds, self.fact(name, batch, taps, find), strict=True))
        for kind, problem in problems.items():
            if problem is not None:
                logger.info("the teacher runs again for each batch, since %s %s", kind.tap, problem)
        return problems

    def outputs(self, batch: Batch, taps: Sequence[Tap], top_k: TopK | None = None) -> TeacherFeatures:
        """The teacher's outputs for a batch of regular distillation, on the teacher's device, without gradients.

        Kept by sample, they equal those that the teacher computes for this batch up to rounding, and are zero at
        padding. Kept by batch, they are what it computes.

        Args:
            batch: the batch.
            taps: of the teacher.
            top_k: which of them are reduced to the largest logits.
        """
        kinds = self._kinds(batch, taps)
        if self._outputs is None or len(kinds) < len(taps):
            return keep_top_k(self.features(batch, taps), top_k)
        rows = self._outputs.rows(batch, kinds)
        missing = [index for index in range(batch.size) if any(rows[kind][index] is None for kind in kinds)]
        if missing:
            self._compute_missing_rows(batch, rows, missing)
        joined = {kind.tap: kind.join([row for row in rows[kind] if row is not None], batch) for kind in kinds}
        return {
            tap: TopKLogits(*map(self._unpacked, feature))
            if isinstance(feature, TopKLogits)
            else self._unpacked(feature)
            for tap, feature in joined.items()
        }

    def _compute_missing_rows(
        self, batch: Batch, rows: Mapping[OutputKind, list[Row | None]], missing: Sequence[int]
    ) -> None:
        """Compute the missing rows in a batch of their samples; features of the batch may hold them."""
        assert batch.sample_keys is not None
        indices = self._computed_together(batch, missing)
        part = batch.take(indices)
        stored = {kind.tap: self._recall(batch, kind.tap) for kind in rows} if batch.hash in self._expected else {}
        features = {tap: whole[indices] for tap, whole in stored.items() if whole is not None}
        if len(features) < len(rows):
            features = self._forward(part, [kind.tap for kind in rows])
        added = self._add(part, {kind: features[kind.tap] for kind in rows})
        assert part.sample_keys is not None
        for kind, new in added.items():
            by_key = dict(zip(reversed(part.sample_keys), reversed(new), strict=True))  # the first, as kept
            for index in missing:
                rows[kind][index] = rows[kind][index] or by_key[batch.sample_keys[index]]

    def _computed_together(self, batch: Batch, missing: Sequence[int]) -> list[int]:
        """The indices of the samples in whose company missing ones are computed.

        In the flash set these are all, since it may have computed them already: the results do not depend on it.
        """
        assert batch.sample_keys is not None
        if batch.hash in self._expected:
            return list(range(batch.size))
        first = {batch.sample_keys[index]: index for index in reversed(missing)}
        indices = sorted(first.values())
        # Some models lose the axis of a single sample.
        return indices if len(indices) > 1 else sorted({*indices, (indices[0] + 1) % batch.size})

    def fill(self, batch: Batch, taps: Sequence[Tap], outputs: Sequence[Tap], new: Sequence[int]) -> None:
        """Store what is missing of a batch before anything requests it, in one forward pass of the teacher.

        Args:
            batch: the batch; its expected features are stored too.
            taps: of features that are kept by batch.
            outputs: taps of regular distillation.
            new: the indices of the samples that occur in no earlier batch. Only their outputs are kept by sample: those
                of the others are kept as they were computed there, perhaps by another process.
        """
        kinds = self._kinds(batch, outputs)
        by_sample = self.keeps_by_sample(batch, outputs)
        kept = {kind.tap for kind in kinds if by_sample}
        joined = {kind.tap for kind in kinds if by_sample and kind.k is None}  # also when requested by batch
        expected = [tap for tap in self._expected.get(batch.hash, ()) if tap not in kept]
        requested = dict.fromkeys([*taps, *expected, *([] if by_sample else outputs)])
        if not joined.issuperset(requested):
            requested = dict.fromkeys(tap for tap in requested if tap not in joined)
        missing = [tap for tap in requested if not self._holds(batch, tap)]
        rows = self._outputs.rows(batch, kinds) if self._outputs is not None and by_sample else {}
        lacking = [index for index in new if any(rows[kind][index] is None for kind in rows)]
        if not missing:
            if lacking:
                self._compute_missing_rows(batch, rows, lacking)
            return
        added = [kind.tap for kind in rows] if lacking else []
        computed = self._forward(batch, list(dict.fromkeys([*missing, *added])))
        for tap in missing:
            self._keep(batch, tap, computed[tap], in_memory=False)
        if lacking:
            self._add(batch.take(lacking), {kind: computed[kind.tap][lacking] for kind in rows})

    def compute(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
        """The features of a batch, computed now, and not kept."""
        return self._forward(batch, taps)

    def keeps_by_sample(self, batch: Batch, taps: Sequence[Tap]) -> bool:
        """Whether all these outputs of a batch are kept by sample."""
        return bool(taps) and len(self._kinds(batch, taps)) == len(taps)

    def holds(self, batch: Batch, taps: Iterable[Tap]) -> bool:
        """Whether all these features of a batch are stored."""
        return all(self._holds(batch, tap) or self._whole_outputs(batch, [tap]) for tap in taps)

    def row_bytes(self, batch: Batch, features: Mapping[Tap, torch.Tensor]) -> float | None:
        """The mean size in bytes in which these outputs of a sample are kept; None if they are kept by batch."""
        if not self.keeps_by_sample(batch, list(features)):
            return None
        kinds = self._kinds(batch, features)
        return sum(nbytes(kind.split(features[kind.tap], batch)) for kind in kinds) / batch.size

    def rows_stored(self, batch: Batch, taps: Iterable[Tap]) -> int:
        """The number of samples whose outputs are kept, of any batch; 0 if they are kept by batch."""
        kinds = self._kinds(batch, taps)
        return min((self._outputs.count(kind) for kind in kinds), default=0) if self._outputs is not None else 0

    def blockers(self, taps: Iterable[Tap]) -> list[str]:
        """Why outputs are kept by batch: a sentence for each of those taps that were examined, and cannot be."""
        chosen = set(taps)
        return [f"{kind.tap} {why}" for kind, why in self._problems.items() if why is not None and kind.tap in chosen]

    def _kinds(self, batch: Batch, taps: Iterable[Tap]) -> list[OutputKind]:
        """Those of these taps whose outputs are kept by sample, in this batch."""
        if self._outputs is None or batch.sample_keys is None:
            return []
        chosen = set(taps)
        return [kind for kind in self._outputs.announced(self._computed_by()) if kind.tap in chosen]

    def _add(self, batch: Batch, features: Mapping[OutputKind, torch.Tensor]) -> Mapping[OutputKind, list[Row]]:
        """Keep outputs by sample; features of batches make room for them."""
        assert self._outputs is not None
        before = self._outputs.nbytes
        added = self._outputs.add(batch, features)
        self._of_batches.displace(self._outputs.nbytes - before)
        return added

    def _add_in_order(self, batch: Batch, features: Mapping[OutputKind, torch.Tensor]) -> None:
        """Keep outputs of the flash set by sample, after those of the batches before, which come first in the stream.

        Those may be missing though their hidden states are kept: when a process was killed, or files were deleted.
        """
        for kind, feature in features.items():
            for earlier in itertools.takewhile(lambda each: each.hash != batch.hash, self._first):
                if (kind, earlier.hash) not in self._in_order:
                    self._in_order.add((kind, earlier.hash))
                    self.outputs(earlier, [kind.tap])
            self._in_order.add((kind, batch.hash))
            self._add(batch, {kind: feature})

    def _computed_by(self) -> str:
        return self.fingerprint + self._attention_now()

    def catch_up(self, batch: Batch, taps: Sequence[Tap]) -> None:
        """Keep by sample what a training kept that read this batch, if a later process cannot find it.

        A resumed training calls it for the batches before its own: a sample is always computed in the first batch in
        which it occurs, and the results do not depend on an interruption.
        """
        if self.keeps_by_sample(batch, taps):
            self.outputs(batch, taps)

    def flush(self) -> None:
        """Wait until what is kept by sample is on disk: a checkpoint of a student must not depend on less."""
        if self._outputs is not None:
            self._outputs.flush()

    def fact(self, name: str, batch: Batch | None, taps: Iterable[Tap], find: Callable[[], Any]) -> Any:
        """A small fact about the teacher that is found by running it, once for all searches with this directory.

        Args:
            name: what is asked; with batch, taps and the teacher all that the fact depends on.
            batch: on which the teacher runs; None if it does not matter.
            taps: of the teacher, whose layers the fact is about.
            find: returns the fact, which is JSON.

        Returns:
            The fact as JSON returns it: tuples are lists.
        """
        taps = tuple(taps)
        on_disk = not any(callable(tap.process) for tap in taps)
        made_of = (name, self._computed_by(), None if batch is None else batch.hash, *taps)
        return self._facts.get(made_of, find, on_disk=on_disk)

    def needs_eager_attention(self, batch: Batch, taps: Iterable[Tap]) -> bool:
        """Whether the teacher computes one of the taps only by eager attention; it runs once for each set of taps."""
        parts = [tap for tap in taps if tap.selects_a_part]
        if not parts:
            return False
        found = self.fact(
            "needs eager attention",
            batch,
            parts,
            lambda: needs_eager_attention(self.teacher, parts, batch.to(self._device)),
        )
        return bool(found)

    def positions(self, batch: Batch, features: Mapping[Tap, torch.Tensor]) -> Mapping[Tap, Positions | None]:
        """The axes of the teacher's features; it runs for taps of which they are not known.

        Args:
            batch: any batch.
            features: the teacher's, of that batch.
        """
        unknown = {tap: feature for tap, feature in features.items() if tap not in self._positions}
        if unknown:

            def find() -> list[Any]:
                found = find_masks(self.teacher, unknown, batch.to(self._device)).positions
                return [astuple(found[tap]) if tap in found else None for tap in unknown]

            axes = self.fact("positions", batch, unknown, find)
            self._positions |= {tap: Positions(*one) if one else None for tap, one in zip(unknown, axes, strict=True)}
        return self._positions

    def _attention_now(self) -> str:
        """The attention implementation if it was switched since the cache was created, else an empty string."""
        now = implementations(self._configurations)
        return "" if now == self._attention else repr(now)

    def _packed(self, tap: Tap, feature: torch.Tensor) -> torch.Tensor:
        return feature.detach().bfloat16() if self._rounds(tap, feature) else feature.detach()

    def _rounds(self, tap: Tap, feature: torch.Tensor) -> bool:
        return not self._exact and bool(tap.path) and feature.dtype == torch.float32

    def _unpacked(self, feature: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda" and feature.device.type == "cpu":
            feature = feature.pin_memory()  # else the transfer waits for the device
        feature = feature.to(self._device, non_blocking=True)
        return feature.float() if not self._exact and feature.dtype == torch.bfloat16 else feature

    def _forward(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
        return {tap: self._packed(tap, feature) for tap, feature in self.run.features(batch, taps).items()}

    def _recall(self, batch: Batch, tap: Tap) -> torch.Tensor | None:
        return self._of_batches.get(self._key(batch, tap))

    def _holds(self, batch: Batch, tap: Tap) -> bool:
        return self._of_batches.holds(self._key(batch, tap))

    def _keep(self, batch: Batch, tap: Tap, feature: torch.Tensor, *, in_memory: bool) -> None:
        """Keep a feature of a batch; large outputs of the whole model only in memory."""
        is_large = not tap.path and nbytes(feature) > LARGEST_ROW * batch.size
        self._of_batches.put(self._key(batch, tap), feature, in_memory=in_memory, on_disk=not is_large)

    def _key(self, batch: Batch, tap: Tap) -> FeatureKey:
        switched = self._attention_now()
        return FeatureKey((self.fingerprint, *([switched] if switched else [])), batch.hash, tap)


def loss_inputs(batch: Batch, features: TeacherFeatures) -> dict[str, Any]:
    """The inputs of a loss besides the student, by their names in messages."""
    return {"the inputs": batch.content, "the teacher's features": features}


def _versions(model: nn.Module) -> dict[str, str]:
    """The versions of the packages whose code a model runs."""
    packages = {"torch", *(type(module).__module__.partition(".")[0] for module in model.modules())}
    return {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in sorted(packages)}
