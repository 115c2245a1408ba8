"""The principal subspace of a stream, against scikit-learn's PCA and formulas written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from autodistill.errors import ConfigurationError
from autodistill.initialization.subspace import StreamDecomposition, StreamMoments, TeacherSubspace, decompose

WIDTH = 6


def stream(positions=(5, 9), boundaries=1, seed=0, dtype=torch.float64):
    """Correlated channels of unequal size, off centre: one tensor (*positions, WIDTH) for each boundary."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return [
        (
            (index + 1) * torch.randn(*positions, WIDTH, generator=generator, dtype=torch.float64) @ mixing + index + 1
        ).to(dtype)
        for index in range(boundaries)
    ]


def projector(directions):
    return directions @ directions.T


def test_mean_directions_power_and_explained_share_are_those_of_pca():
    (x,) = stream()
    reference = PCA(svd_solver="full").fit(x.flatten(0, 1).numpy())
    decomposition = decompose([([x], None)])
    np.testing.assert_allclose(decomposition.means[0], reference.mean_, atol=1e-12)
    np.testing.assert_allclose(decomposition.power, reference.explained_variance_ * 44 / 45, rtol=1e-9)
    for width in (1, 3, WIDTH):
        subspace = decomposition.subspace(width)
        actual, expected = projector(subspace.directions.numpy()), projector(reference.components_[:width].T)
        np.testing.assert_allclose(actual, expected, atol=1e-9)
        assert subspace.explained == pytest.approx(reference.explained_variance_ratio_[:width].sum())
        assert (subspace.width, subspace.teacher_width) == (width, WIDTH)


def test_the_scale_normalises_the_projected_stream_to_unit_power():
    (x,) = stream()
    subspace = decompose([([x], None)]).subspace(3)
    assert subspace.project(x).square().mean() == pytest.approx(1)
    assert (subspace.scale == subspace.scale[0]).all()


def test_whitening_normalises_every_direction_to_unit_power():
    (x,) = stream()
    z = decompose([([x], None)]).subspace(3, whiten=True).project(x).flatten(0, 1)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3, dtype=torch.float64))


def test_lifting_restores_the_stream_at_full_width_and_approximates_it_below():
    (x,) = stream()
    decomposition = decompose([([x], None)])
    torch.testing.assert_close((full := decomposition.subspace(WIDTH)).lift(full.project(x)), x)
    rows = (x - x.mean((0, 1))).flatten(0, 1)
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    subspace = decomposition.subspace(2)
    expected = (u[:, :2] * s[:2]) @ v[:2] + x.mean((0, 1))
    torch.testing.assert_close(subspace.lift(subspace.project(x)).flatten(0, 1), expected)


def test_batches_one_by_one_equal_all_batches_together():
    x = stream((6, 8), boundaries=3)
    at_once = decompose([(x, None)], weighting="uniform")
    streamed = decompose([([one[i : i + 2] for one in x], None) for i in (0, 2, 4)], weighting="uniform")
    torch.testing.assert_close(streamed.means, at_once.means)
    torch.testing.assert_close(streamed.power, at_once.power)
    torch.testing.assert_close(streamed.directions, at_once.directions)


def test_padding_is_left_out():
    (x,) = stream((4, 9))
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) > 0.3
    padded = decompose([([torch.where(mask[..., None], x, 1e6)], mask)])
    whole = decompose([([x[mask]], None)])
    torch.testing.assert_close(padded.means, whole.means)
    torch.testing.assert_close(padded.directions, whole.directions)


@pytest.mark.parametrize("weighting", ["power", "uniform"])
@pytest.mark.parametrize("centring", ["mean", "boundary", "none"])
def test_boundaries_count_by_their_weight_about_their_mean(weighting, centring):
    x = [one.flatten(0, 1) for one in stream(boundaries=3)]
    weights = [1 / one.square().mean() if weighting == "power" else torch.tensor(1.0) for one in x]
    means = [one.mean(0) for one in x]
    if centring == "mean":
        means = [sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)] * 3
    elif centring == "none":
        means = [torch.zeros(WIDTH, dtype=torch.float64)] * 3
    covariance = sum(w * (one - m).T @ (one - m) / len(one) for w, one, m in zip(weights, x, means, strict=True)) / sum(
        weights
    )
    found = decompose([(x, None)], weighting=weighting, centring=centring)
    power, vectors = torch.linalg.eigh(covariance)
    torch.testing.assert_close(found.power, power.flip(0))
    torch.testing.assert_close(projector(found.directions[:, :2]), projector(vectors[:, -2:]))
    for boundary in range(3):
        torch.testing.assert_close(found.subspace(2).mean(boundary), means[boundary])


def test_a_subspace_that_keeps_the_constant_maps_it_to_the_constant():
    (x,) = stream()
    decomposition = decompose([([x], None)], centring="none", keeps_constant=True)
    for width in (2, 4, WIDTH):
        directions = decomposition.subspace(width).directions
        torch.testing.assert_close(directions.T @ directions, torch.eye(width, dtype=torch.float64))
        image = directions.T @ torch.ones(WIDTH, dtype=torch.float64)
        torch.testing.assert_close(image, image[:1].expand(width))
        assert image[0] > 0
    rows = x.flatten(0, 1)
    rows = rows - rows.mean(1, keepdim=True)
    leading = torch.linalg.svd(rows, full_matrices=False).Vh[:3]
    residual = leading.T - projector(decomposition.subspace(4).directions) @ leading.T
    assert residual.abs().max() < 1e-9


def test_the_stream_may_be_in_single_precision():
    (x,) = stream(dtype=torch.float32)
    subspace = decompose([([x], None)]).subspace(2)
    assert subspace.directions.dtype == torch.float64
    assert subspace.project(x).dtype == torch.float32


@pytest.mark.parametrize("keeps_constant", [False, True])
def test_saved_subspace_is_loaded_unchanged(tmp_path, keeps_constant):
    saved = decompose([(stream(boundaries=2), None)], centring="boundary", keeps_constant=keeps_constant)
    saved.save(tmp_path / "stream.safetensors")
    loaded = StreamDecomposition.load(tmp_path / "stream.safetensors")
    assert loaded.keeps_constant == keeps_constant
    for name in ("means", "directions", "power"):
        assert torch.equal(getattr(saved, name), getattr(loaded, name))
    assert torch.equal(saved.subspace(3).directions, loaded.subspace(3).directions)


@pytest.mark.parametrize("selects", [False, True])
def test_channels_that_happen_to_be_principal_directions_are_no_selection(tmp_path, selects):
    x = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    saved = decompose([([x], None)], centring="none", selects=selects)
    saved.save(tmp_path / "stream.safetensors")
    loaded = StreamDecomposition.load(tmp_path / "stream.safetensors")
    assert loaded.selects == selects
    assert torch.equal(saved.subspace(2).scale, loaded.subspace(2).scale)
    assert [path.name for path in tmp_path.iterdir()] == ["stream.safetensors"]


def test_directions_have_their_largest_entry_positive():
    (x,) = stream()
    directions = decompose([([x], None)]).directions
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_constant_stream_has_a_subspace_of_finite_scale():
    subspace = decompose([([torch.ones(20, WIDTH)], None)]).subspace(2)
    assert subspace.project(torch.ones(3, WIDTH)).isfinite().all()
    assert 0 <= subspace.explained <= 1


def test_fewer_positions_than_channels_are_refused():
    sentence = (
        "the teacher's stream of 6 channels needs at least as many positions (tokens, patches) in the flash set, but "
        "it has 5; raise init.batches, or the batch size."
    )
    with pytest.raises(ConfigurationError) as error:
        decompose([(stream((1, 5)), None)])
    assert str(error.value) == sentence


def test_padding_is_not_counted_as_a_position():
    (x,) = stream((2, 5))
    mask = torch.tensor([[True] * 5, [False] * 5])
    with pytest.raises(ConfigurationError, match="but it has 5;"):
        decompose([([x], mask)])


def test_no_batch_is_refused():
    with pytest.raises(ConfigurationError, match="needs a flash set, but there is no batch"):
        decompose([])


def test_a_width_beyond_the_teachers_is_refused():
    with pytest.raises(ConfigurationError, match="the student's width is 7, the teacher's 6; search narrower"):
        decompose([(stream(), None)]).subspace(7)


def test_a_width_of_no_channel_is_refused():
    with pytest.raises(ConfigurationError, match="a subspace must have at least 1 channel, but 0 are requested"):
        decompose([(stream(), None)]).subspace(0)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"weighting": "pwoer"}, "weighting must be one of 'power', 'uniform', but is 'pwoer'."),
        ({"centring": "median"}, "centring must be one of 'mean', 'boundary', 'none', but is 'median'."),
    ],
)
def test_an_unknown_option_is_refused(option, sentence):
    with pytest.raises(ConfigurationError) as error:
        decompose([(stream(), None)], **option)
    assert str(error.value) == sentence


def test_a_mask_of_integers_leaves_padding_out():
    (x,) = stream()
    mask = torch.arange(9) < torch.tensor([3, 9, 5, 9, 9])[:, None]
    found, expected = (decompose([([x], one)]) for one in (mask.long(), mask))
    assert torch.equal(found.means, expected.means)
    assert torch.equal(found.directions, expected.directions)


@pytest.mark.parametrize("name", ["means", "directions", "scale"])
def test_a_subspace_that_is_not_finite_is_refused(name):
    parts = {"means": torch.zeros(1, 3), "directions": torch.eye(3, 2), "scale": torch.ones(2)}
    parts[name][0] = torch.nan
    with pytest.raises(ConfigurationError, match=f"a subspace must be finite, but its {name} hold nan or infinity"):
        TeacherSubspace(**parts, explained=1.0)


def test_directions_that_are_not_orthonormal_are_refused():
    with pytest.raises(ConfigurationError) as error:
        TeacherSubspace(torch.zeros(1, 3), 2 * torch.eye(3, 2), torch.ones(2), 1.0)
    assert str(error.value) == (
        "the directions of a subspace must have orthonormal columns, but PᵀP is off the identity by 3; use "
        "torch.linalg.qr(directions).Q."
    )


def test_moments_can_be_added_to_after_a_decomposition():
    moments = StreamMoments(1, WIDTH)
    first, second = stream((3, 9), seed=1)[0], stream((3, 9), seed=2)[0]
    moments.add([first])
    moments.decomposition()
    moments.add([second])
    torch.testing.assert_close(moments.decomposition().means[0], torch.cat([first, second]).mean((0, 1)))


def test_each_boundary_has_its_own_mean_subtracted():
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    subspace = TeacherSubspace(means, torch.eye(2), torch.ones(2), 1.0)
    assert subspace.mean(1).tolist() == [0.0, 2.0]
    assert subspace.project(torch.zeros(2), -1).tolist() == [-3.0, -3.0]
    assert subspace.lift(torch.zeros(2), 0).tolist() == [1.0, 0.0]


def sentence_of(make) -> str:
    with pytest.raises(ConfigurationError) as error:
        make()
    return str(error.value)


def subspace_of(**parts):
    given = {"means": torch.zeros(1, 3), "directions": torch.eye(3, 2), "scale": torch.ones(2), "explained": 1.0}
    return TeacherSubspace(**(given | parts))


@pytest.mark.parametrize(
    ("name", "value"),
    [("means", torch.zeros(3)), ("means", torch.zeros(1, 2)), ("scale", torch.ones(3)), ("scale", torch.tensor(1.0))],
)
def test_a_subspace_of_parts_that_do_not_fit_is_refused(name, value):
    shapes = {"means": (1, 3), "directions": (3, 2), "scale": (2,), name: tuple(value.shape)}
    assert sentence_of(lambda: subspace_of(**{name: value})) == (
        "means, directions and scale of a subspace must have the shapes (B, D), (D, d) and (d,), but have "
        f"{', '.join(map(str, shapes.values()))}; transpose or reshape them."
    )


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ({"scale": torch.zeros(2)}, "0, the share 1"),
        ({"scale": torch.tensor([1.0, -1.0])}, "-1, the share 1"),
        ({"explained": -0.5}, "1, the share -0.5"),
        ({"explained": float("nan")}, "1, the share nan"),
    ],
)
def test_an_impossible_scale_or_share_is_refused(parts, values):
    assert sentence_of(lambda: subspace_of(**parts)) == (
        "the scale of a subspace must be positive, and the explained share in [0, 1], but the smallest scale is "
        f"{values}; use decompose(...).subspace(width)."
    )


def test_a_stream_that_is_not_finite_is_refused():
    x = torch.randn(5, 3)
    x[2, 1] = torch.nan
    assert sentence_of(lambda: decompose([([x], None)])) == (
        "the teacher's stream must be finite, but holds nan or infinity; look for them in the teacher's hidden states."
    )


def test_batches_of_other_boundaries_or_widths_are_refused():
    x, narrow = torch.randn(5, 3), torch.randn(5, 2)
    for batches, numbers in (([([x], None), ([x, x], None)], "1 and 2"), ([([], None)], "0")):
        assert sentence_of(lambda batches=batches: decompose(batches)) == (
            "every batch must have the stream at the same boundaries, at least one, but there are batches with "
            f"{numbers}; record each with the same hooks."
        )
    assert "its blocks have 2, 3 channels" in sentence_of(lambda: decompose([([x], None), ([narrow], None)]))


@pytest.mark.parametrize("first", ["only padding", "silent"])
def test_a_first_batch_without_power_has_no_effect(first):
    (x,) = stream()
    silent = (torch.zeros_like(x[:2]), None) if first == "silent" else (x[:2], torch.zeros(x[:2].shape[:-1]))
    found = decompose([([silent[0]], silent[1]), ([x], None)], centring="none").subspace(2)
    torch.testing.assert_close(found.directions, decompose([([x], None)], centring="none").subspace(2).directions)
