"""The matcher of two features, what it computes, and which pairs are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.losses.feature_matchers import (
    ChannelMatcher,
    HeadMixer,
    VariationalMatcher,
    matcher_for,
    no_matcher,
    variational_matcher_for,
)
from autodistill.models.layer_mappings import parse_mapping

MAPPING = parse_mapping(("s", "t"))


def made(student: tuple[int, ...], teacher: tuple[int, ...], *, probabilities: bool = False) -> nn.Module:
    return matcher_for(MAPPING, torch.zeros(student), torch.zeros(teacher), probabilities=probabilities)


@pytest.mark.parametrize("shape", [(8, 4), (8, 5, 4), (8, 4, 3, 3)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_equal_shapes_need_no_matcher(shape: tuple[int, ...], probabilities: bool) -> None:
    matcher = made(shape, shape, probabilities=probabilities)
    assert list(matcher.parameters()) == []
    feature = torch.randn(shape)
    assert matcher(feature) is feature


@pytest.mark.parametrize(
    ("student", "teacher", "axis"),
    [
        ((8, 128), (8, 512), -1),
        ((8, 10, 12), (8, 10, 31), -1),
        ((8, 31, 12), (8, 31, 10), -1),
        ((2, 3, 4, 5), (2, 3, 4, 7), -1),
        ((2, 3, 4, 5), (2, 6, 4, 5), 1),
    ],
)
def test_channels_that_differ_get_a_linear_map_along_their_axis(student, teacher, axis: int) -> None:
    matcher = made(student, teacher)
    assert isinstance(matcher, ChannelMatcher)
    assert matcher.axis == axis
    feature = torch.randn(student)
    weight, bias = matcher.linear.weight, matcher.linear.bias
    axes = "oc,n...c->n...o" if axis == -1 else "oc,nchw->nohw"
    offset = bias if axis == -1 else bias[:, None, None]
    expected = torch.einsum(axes, weight, feature) + offset
    torch.testing.assert_close(matcher(feature), expected)
    assert matcher(feature).shape == teacher


def test_matcher_of_the_specifications_example_has_512_by_128_weights() -> None:
    assert made((8, 128), (8, 512)).linear.weight.shape == (512, 128)


def test_attention_heads_are_mixed_convexly() -> None:
    mixer = made((2, 4, 5, 5), (2, 12, 5, 5), probabilities=True)
    assert isinstance(mixer, HeadMixer)
    for scale in (1.0, 100.0):
        with torch.no_grad():
            mixer.scores.mul_(scale)
        maps = (3 * torch.randn(2, 4, 5, 5)).softmax(-1)
        mixed = mixer(maps)
        assert mixed.shape == (2, 12, 5, 5)
        torch.testing.assert_close(mixed.sum(-1), torch.ones(2, 12, 5))
        assert bool((mixed >= 0).all())
        assert bool((mixed <= maps.amax(dim=1, keepdim=True) + 1e-6).all())
        assert bool((mixed >= maps.amin(dim=1, keepdim=True) - 1e-6).all())
    weights = mixer.scores.softmax(-1)
    torch.testing.assert_close(mixed[1, 7], sum(weights[7, head] * maps[1, head] for head in range(4)))


def test_every_weight_of_a_matcher_receives_gradients() -> None:
    for matcher, feature in (
        (ChannelMatcher(4, 6, axis=1), torch.randn(2, 4, 3, 3)),
        (HeadMixer(4, 6), torch.randn(2, 4, 3, 3).softmax(-1)),
    ):
        (matcher(feature) ** 2).sum().backward()
        assert all(bool((parameter.grad != 0).any()) for parameter in matcher.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "probabilities", "sentence"),
    [
        ((8, 5, 4), (8, 6, 7), False, r"may differ in one axis only, .*\(axes 1, 2 differ\); map layers of the same"),
        ((2, 4, 8, 8), (2, 6, 4, 4), False, r"\(axes 1, 2, 3 differ\)"),
        ((2, 4, 8, 8), (2, 6, 9, 9), True, r"\(axes 1, 2, 3 differ\)"),
        ((8, 5, 4), (8, 6, 4), False, "a matcher applies along channels .* but axis 1 differs .*correspond one to one"),
        ((8, 4), (9, 4), False, "but axis 0 differs"),
        ((8, 5, 4), (9, 5, 4), False, "but axis 0 differs"),
        ((2, 4, 8, 8), (2, 4, 9, 8), False, "but axis 2 differs"),
        ((2, 4, 8, 8), (2, 4, 9, 8), True, "but axis 2 differs"),
        ((2, 4, 8, 8), (2, 4, 8, 9), True, "but axis 3 differs"),
        ((8, 4), (8, 6), True, "but axis 1 differs"),
        ((8,), (9,), False, "but axis 0 differs"),
        ((8, 4), (8, 5, 4), False, "must have the same number of axes"),
        ((8, 64), (8, 4, 4, 4), False, "must have the same number of axes.*or an output process that reshapes one"),
    ],
)
def test_features_that_do_not_correspond_are_refused_with_both_shapes(
    student: tuple[int, ...], teacher: tuple[int, ...], probabilities: bool, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        made(student, teacher, probabilities=probabilities)
    assert f"student 's' -> teacher 't': the student's feature is {student}, the teacher's {teacher}" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4), (8, 4)), ((8, 5, 4), (8, 5, 6)), ((8, 4, 3, 3), (8, 6, 3, 3))], ids=str
)
def test_variational_matcher_maps_channels_even_of_equal_shapes(student, teacher) -> None:
    matcher = variational_matcher_for(MAPPING, torch.zeros(student), torch.zeros(teacher), probabilities=False)
    assert isinstance(matcher, VariationalMatcher)
    assert matcher(torch.zeros(student)).shape == teacher
    channels = teacher[1] if len(teacher) == 4 else teacher[-1]
    torch.testing.assert_close(matcher.variance, torch.full((channels,), 5.0))
    torch.testing.assert_close(matcher.variance, matcher.alpha.exp().log1p() + 1e-5)
    assert all(parameter.requires_grad for parameter in (matcher.alpha, matcher.linear.weight))


def test_relations_need_no_matcher_but_the_same_samples() -> None:
    features = torch.zeros(8, 4), torch.zeros(8, 3, 6)
    assert list(no_matcher(MAPPING, *features, probabilities=False).parameters()) == []
    with pytest.raises(ConfigurationError, match=r"the same samples, but for .*: the student's feature is \(7, 4\)"):
        no_matcher(MAPPING, features[0][:7], features[1], probabilities=False)
