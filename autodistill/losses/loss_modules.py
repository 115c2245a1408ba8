"""Losses as modules, each usable on its own: logits, hidden states, attention transfer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses
from autodistill.losses.feature_matchers import ChannelMatcher
from autodistill.losses.top_k import TopKLogits, top_k_kl_divergence
from autodistill.losses.weights_and_temperature import check_temperature

HiddenStates = torch.Tensor | Sequence[torch.Tensor]
"""One layer's hidden states, or those of several layers in order."""


FeaturePairs = list[tuple[torch.Tensor, torch.Tensor]]
"""The hidden states of student and teacher for each pair of compared layers."""


LayerPairs = Sequence[tuple[int, int]]
"""Which layers are compared: (student's, teacher's), counted from 0; negative numbers count from the end."""


class KLDivLoss(nn.Module):
    """`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, summed over classes (the last axis).

    On (N, C) it is averaged over samples: `T² · F.kl_div(log_softmax(s / T), softmax(t / T), reduction="batchmean")`.
    On (N, L, V) it is averaged over the positions that count. (The library from which the name is taken computed the
    softmax over axis 1, positions instead of classes, and averaged over the classes too.) Source: Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531.

    Args:
        temperature: T, positive.

    Raises:
        ConfigurationError: the temperature is not positive and finite, shapes or stored temperatures differ, or a mask
            does not fit.

    Examples:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> KLDivLoss(temperature=4.0)(logits, logits).item()
        0.0
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(
        self, s_logits: torch.Tensor, t_logits: torch.Tensor | TopKLogits, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            s_logits: the student's, (..., C).
            t_logits: the teacher's, of the same shape, or the largest ones as stored in a file.
            mask: (N,) or (N, L), True where a position counts; see `losses.counted_labels`.
        """
        s_logits = losses.in_full(s_logits)
        mask = _checked_mask(mask, [s_logits.shape[:-1]])
        if isinstance(t_logits, TopKLogits):
            return top_k_kl_divergence(s_logits, t_logits, mask, self.temperature)
        losses.check_logits(s_logits, t_logits)
        return losses.kl_divergence(s_logits, losses.in_full(t_logits), mask, self.temperature)


class _HiddenStatesLoss(nn.Module, ABC):
    """The mean over layers of a loss between the hidden states of a student and a teacher."""

    def forward(
        self,
        s_hidden_states: HiddenStates,
        t_hidden_states: HiddenStates,
        mask: torch.Tensor | None = None,
        layer_mapping: LayerPairs | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            s_hidden_states: of one layer or several, in a shape that the class documents.
            t_hidden_states: of as many layers, unless `layer_mapping` pairs them.
            mask: (N, L), True where a position counts.
            layer_mapping: pairs of layer numbers.
        """
        return torch.stack(
            self._layer_losses(paired_layers(s_hidden_states, t_hidden_states, layer_mapping), mask)
        ).mean()

    @abstractmethod
    def _layer_losses(self, pairs: FeaturePairs, mask: torch.Tensor | None) -> list[torch.Tensor]:
        """The loss of each pair of layers, a scalar each, over the positions that count."""


class MSEHiddenStatesLoss(_HiddenStatesLoss):
    """Mean squared error between hidden states, averaged over channels, positions that count, and layers.

    With a mapping, a trained linear map first brings the student's states to the teacher's width, as FitNets' hint
    regressors do (https://arxiv.org/abs/1412.6550): pass its parameters to the optimizer. (In the library from which
    the name is taken, the mapping fails when called, and maps from teacher to student, so that a map to zero would be a
    perfect match; surplus layers are dropped.) Channels are the last axis of (N, C) and (N, L, C), or axis 1 of
    images (N, C, H, W).

    Args:
        normalize: bring each position's channels to length 1 first.
        need_mapping: map the student's width to the teacher's.
        teacher_hidden_state_dim: the teacher's width; required for a mapping, otherwise checked if given.
        student_hidden_state_dim: the student's width; likewise.
        num_layers: the number of layers, each with a separate map; None for one map shared by all.

    Raises:
        ConfigurationError: a mapping without both widths, hidden states of other widths, layers that do not pair up, a
            mask that fits no layer.

    Examples:
        >>> loss = MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=8, student_hidden_state_dim=4)
        >>> loss(torch.zeros(2, 5, 4), torch.zeros(2, 5, 8)).shape
        torch.Size([])
        >>> MSEHiddenStatesLoss()([torch.zeros(2, 4)] * 2, [torch.ones(2, 4), torch.zeros(2, 4)]).item()
        0.5
    """

    def __init__(
        self,
        normalize: bool = False,
        need_mapping: bool = False,
        teacher_hidden_state_dim: int | None = None,
        student_hidden_state_dim: int | None = None,
        num_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.need_mapping = need_mapping
        self.teacher_hidden_state_dim = teacher_hidden_state_dim
        self.student_hidden_state_dim = student_hidden_state_dim
        self.num_layers = num_layers
        self.maps = nn.ModuleList()
        if need_mapping:
            if teacher_hidden_state_dim is None or student_hidden_state_dim is None:
                raise ConfigurationError(
                    "a mapping needs both widths: pass teacher_hidden_state_dim and student_hidden_state_dim."
                )
            self.maps.extend(
                ChannelMatcher(student_hidden_state_dim, teacher_hidden_state_dim, axis=-1)
                for _ in range(num_layers or 1)
            )

    def _layer_losses(self, pairs: FeaturePairs, mask: torch.Tensor | None) -> list[torch.Tensor]:
        if self.need_mapping and self.num_layers not in (None, len(pairs)):
            raise ConfigurationError(
                f"num_layers must be the number of compared layers, but is {self.num_layers} for {len(pairs)}."
            )
        mask = _checked_mask(mask, [_channels_at_the_end(student).shape[:-1] for student, _ in pairs])
        return [self._term(index, student, teacher, mask) for index, (student, teacher) in enumerate(pairs)]

    def _term(
        self, index: int, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        student, teacher = _channels_at_the_end(student), _channels_at_the_end(teacher)
        self._check(student, teacher)
        if self.need_mapping:
            student = self.maps[index if len(self.maps) > 1 else 0](student)
        if self.normalize:
            student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        return losses.mse_loss(student, teacher, mask)

    def _check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        sizes = {"student": self.student_hidden_state_dim, "teacher": self.teacher_hidden_state_dim}
        problems = [
            f"{owner}_hidden_state_dim is {sizes[owner]}, but the {owner}'s hidden states are {feature.shape[-1]} wide."
            for owner, feature in (("student", student), ("teacher", teacher))
            if sizes[owner] not in (None, feature.shape[-1])
        ]
        mapped = (*student.shape[:-1], teacher.shape[-1]) if self.need_mapping else student.shape
        if not problems and mapped != teacher.shape:
            problems.append(
                f"hidden states must agree in shape, but are {tuple(student.shape)} and {tuple(teacher.shape)}, "
                "channels last; where only the widths differ, set need_mapping."
            )
        if problems:
            raise ConfigurationError(problems)


class AttentionLoss(_HiddenStatesLoss):
    """Attention transfer: `‖Q_S / ‖Q_S‖₂ - Q_T / ‖Q_T‖₂‖₂` of the attention maps `Q = Σ_c |A_c|^p`.

    Averaged over samples and layers. Equation 2 of Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928,
    without its factor β / 2, which is the weight of the term; their published code, and the library from which the
    name is taken, use the mean of the squared differences instead, whose size depends on that of the map. Maps of
    images of different sizes are averaged down to the smaller one. The absolute values matter for odd p. Features are
    images (N, C, H, W) or (N, L, C); their channels may differ in number.

    Args:
        p: the power of the activations, at least 1.

    Raises:
        ConfigurationError: p is less than 1 or not finite, features have no positions, layers do not pair up, or a mask
            fits no layer.

    Examples:
        >>> images = torch.rand(2, 3, 4, 4)
        >>> AttentionLoss()(images, 5 * images).item() < 1e-6
        True
        >>> AttentionLoss()([images], [torch.rand(2, 7, 8, 8)]).shape
        torch.Size([])
    """

    def __init__(self, p: int = 2) -> None:
        super().__init__()
        if not 1 <= p < math.inf:
            raise ConfigurationError(f"p, the power of attention transfer, must be finite and at least 1, but got {p}.")
        self.p = p

    def _layer_losses(self, pairs: FeaturePairs, mask: torch.Tensor | None) -> list[torch.Tensor]:
        positions = [_channels_at_the_end(student).shape[:-1] for student, _ in pairs]
        mask = _checked_mask(mask, positions, fits=lambda mask, positions: mask.shape == positions)
        return [self._term(student, teacher, mask) for student, teacher in pairs]

    def _term(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        maps = [self._map(feature) for feature in (student, teacher)]
        if student.dim() == teacher.dim() == 4:
            height, width = (min(student.shape[axis], teacher.shape[axis]) for axis in (2, 3))
            maps = [F.adaptive_avg_pool2d(each, (height, width)) for each in maps]
        if maps[0].shape != maps[1].shape:
            raise ConfigurationError(
                f"attention transfer compares position with position, but the features are {tuple(student.shape)} "
                f"and {tuple(teacher.shape)}."
            )
        if mask is not None and mask.shape == maps[0].shape:
            maps = [torch.where(mask, each, 0) for each in maps]
        unit_student, unit_teacher = (F.normalize(each.flatten(1), dim=1) for each in maps)
        distances: torch.Tensor = torch.linalg.vector_norm(unit_student - unit_teacher, dim=1)
        return distances.mean()

    def _map(self, feature: torch.Tensor) -> torch.Tensor:
        """(N, H, W) of images (N, C, H, W), (N, L) of (N, L, C)."""
        if feature.dim() not in (3, 4):
            raise ConfigurationError(
                f"attention transfer needs features with positions, (N, C, H, W) or (N, L, C), but got "
                f"{tuple(feature.shape)}."
            )
        activations: torch.Tensor = _channels_at_the_end(feature).abs().pow(self.p).sum(-1)
        return activations


def paired_layers(
    student: HiddenStates, teacher: HiddenStates, layer_mapping: LayerPairs | None = None
) -> FeaturePairs:
    """The hidden states that are compared, layer by layer, in 32 bits at least.

    Raises:
        ConfigurationError: the numbers of layers differ and no mapping is given, or it names a missing layer.

    Examples:
        >>> student, teacher = [torch.zeros(1)], [torch.ones(1), torch.full((1,), 2.0)]
        >>> [int(layer) for _, layer in paired_layers(student, teacher, layer_mapping=[(0, 1)])]
        [2]
    """
    layers = [[states] if isinstance(states, torch.Tensor) else list(states) for states in (student, teacher)]
    counts = [len(states) for states in layers]
    if layer_mapping is None and counts[0] != counts[1]:
        raise ConfigurationError(
            f"student and teacher must have equally many layers, but have {counts[0]} and {counts[1]}; "
            "choose which to compare with layer_mapping, pairs of layer numbers."
        )
    pairs = [(index, index) for index in range(counts[0])] if layer_mapping is None else list(layer_mapping)
    if not pairs:
        raise ConfigurationError("at least one layer must be compared, but there is none.")
    for pair in pairs:
        if any(not -count <= index < count for index, count in zip(pair, counts, strict=True)):
            raise ConfigurationError(
                f"layer_mapping names layers that exist, but {tuple(pair)} does not for {counts[0]} layers of the "
                f"student and {counts[1]} of the teacher."
            )
    return [(losses.in_full(layers[0][s]), losses.in_full(layers[1][t])) for s, t in pairs]


def _checked_mask(
    mask: torch.Tensor | None,
    positions: Sequence[torch.Size],
    fits: Callable[[torch.Tensor, torch.Size], bool] = losses.mask_fits,
) -> torch.Tensor | None:
    """The mask as booleans, if it fits the positions of one of the layers at least."""
    if mask is None:
        return None
    if not any(fits(mask, each) for each in positions):
        raise ConfigurationError(
            f"a mask has one entry for each position, but is {tuple(mask.shape)} for positions "
            f"{', '.join(str(tuple(each)) for each in positions)}."
        )
    return mask.bool()


def _channels_at_the_end(feature: torch.Tensor) -> torch.Tensor:
    return feature.movedim(1, -1) if feature.dim() == 4 else feature
