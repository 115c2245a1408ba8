"""Feature matchers: trained linear maps that bring a student's feature to the width of the teacher's."""

from __future__ import annotations

import math

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping


class ChannelMatcher(nn.Module):
    """A linear map with bias along the channel axis: the last of (N, C) and (..., C), axis 1 of (N, C, H, W).

    Examples:
        >>> ChannelMatcher(128, 512, axis=-1)(torch.zeros(8, 10, 128)).shape
        torch.Size([8, 10, 512])
        >>> ChannelMatcher(4, 6, axis=1)(torch.zeros(8, 4, 3, 3)).shape
        torch.Size([8, 6, 3, 3])
    """

    def __init__(self, student_channels: int, teacher_channels: int, axis: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_channels, teacher_channels)
        self.axis = axis

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        if self.axis == -1:
            return self.linear(feature)  # type: ignore[no-any-return]
        return self.linear(feature.movedim(self.axis, -1)).movedim(-1, self.axis)  # type: ignore[no-any-return]


class HeadMixer(nn.Module):
    """For each head of the teacher, a convex mixture of the student's attention heads.

    The rows of an attention map (N, heads, L, L) are probabilities; a convex mixture of maps is one too.

    Examples:
        >>> maps = torch.softmax(torch.randn(2, 4, 5, 5), dim=-1)
        >>> mixed = HeadMixer(4, 12)(maps)
        >>> mixed.shape, bool(torch.allclose(mixed.sum(-1), torch.ones(2, 12, 5)))
        (torch.Size([2, 12, 5, 5]), True)
    """

    def __init__(self, student_heads: int, teacher_heads: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(teacher_heads, student_heads))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ts,nsij->ntij", self.scores.softmax(dim=-1), maps)


class VariationalMatcher(ChannelMatcher):
    """A linear map to the mean of a normal distribution of the teacher's feature, with a trained variance per channel.

    The variance is softplus(α) + 1e-5. Ahn et al. 2019, https://arxiv.org/abs/1904.05835, section 3.1; it is 5 at
    first, as in the code that they published.

    Examples:
        >>> matcher = VariationalMatcher(4, 6, axis=-1)
        >>> matcher(torch.zeros(8, 4)).shape, [round(value, 4) for value in matcher.variance.tolist()]
        (torch.Size([8, 6]), [5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    """

    MINIMUM, FIRST = 1e-5, 5.0

    def __init__(self, student_channels: int, teacher_channels: int, axis: int) -> None:
        super().__init__(student_channels, teacher_channels, axis)
        self.alpha = nn.Parameter(torch.full((teacher_channels,), math.log(math.expm1(self.FIRST - self.MINIMUM))))

    @property
    def variance(self) -> torch.Tensor:
        """(C,), of each channel of the teacher."""
        return nn.functional.softplus(self.alpha) + self.MINIMUM


def variational_matcher_for(
    mapping: LayerMapping, student: torch.Tensor, teacher: torch.Tensor, *, probabilities: bool
) -> nn.Module:
    """The matcher of a variational loss, which is a linear map along the channels even if the shapes agree.

    Raises:
        ConfigurationError: as for `matcher_for`.
    """
    matcher = matcher_for(mapping, student, teacher, probabilities=probabilities)
    axis = matcher.axis if isinstance(matcher, ChannelMatcher) else 1 if student.dim() == 4 else -1
    return VariationalMatcher(student.shape[axis], teacher.shape[axis], axis)


def no_matcher(
    mapping: LayerMapping, student: torch.Tensor, teacher: torch.Tensor, *, probabilities: bool
) -> nn.Module:
    """An identity, for losses that compare the relations of samples; only their number must agree.

    Raises:
        ConfigurationError: the numbers of samples differ.
    """
    if len(student) != len(teacher):
        raise ConfigurationError(
            f"relations are compared between the same samples, but for {mapping}: the student's feature is "
            f"{tuple(student.shape)}, the teacher's {tuple(teacher.shape)}."
        )
    return nn.Identity()


def matcher_for(
    mapping: LayerMapping, student: torch.Tensor, teacher: torch.Tensor, *, probabilities: bool
) -> nn.Module:
    """The matcher that a mapping needs: an identity if the shapes agree, else one along the axis that differs.

    Raises:
        ConfigurationError: the features differ in more than one axis, or in one along which no matcher applies
            (samples, sequence positions, height and width).
    """
    if student.shape == teacher.shape:
        return nn.Identity()
    problem = f"{mapping}: the student's feature is {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
    if student.dim() != teacher.dim():
        raise ConfigurationError(
            f"mapped features must have the same number of axes, but for {problem}; choose layers whose outputs "
            "correspond, or an output process that reshapes one."
        )
    differing = [axis for axis in range(student.dim()) if student.shape[axis] != teacher.shape[axis]]
    if len(differing) > 1:
        raise ConfigurationError(
            f"mapped features may differ in one axis only, the channels, but for {problem} (axes "
            f"{', '.join(map(str, differing))} differ); map layers of the same resolution or sequence length."
        )
    axis = differing[0]
    sizes = student.shape[axis], teacher.shape[axis]
    if probabilities and student.dim() == 4 and axis == 1:
        return HeadMixer(*sizes)
    if axis == student.dim() - 1 and axis > 0 and not probabilities:
        return ChannelMatcher(*sizes, axis=-1)
    if student.dim() == 4 and axis == 1:
        return ChannelMatcher(*sizes, axis=1)
    raise ConfigurationError(
        "a matcher applies along channels (the last axis, or axis 1 of (N, C, H, W)) or attention heads, "
        f"but axis {axis} differs for {problem}; samples and positions must correspond one to one."
    )
