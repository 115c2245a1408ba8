"""The losses as modules against formulas written out in float64."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from autodistill.errors import ConfigurationError
from autodistill.losses.loss_modules import AttentionLoss, KLDivLoss, MSEHiddenStatesLoss, paired_layers
from autodistill.losses.top_k import top_k_kl_divergence, top_k_logits


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)).unbind()
    return student, teacher


# --- KLDivLoss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_of_samples_is_the_batch_mean(temperature: float) -> None:
    student, teacher = pair(7, 5)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1), reduction="batchmean"
    )
    torch.testing.assert_close(KLDivLoss(temperature)(student, teacher), expected)


def test_divergence_of_sequences_is_the_mean_over_positions_that_count() -> None:
    student, teacher = pair(2, 3, 5)
    mask = torch.tensor([[True, True, False], [False, True, False]])
    terms = []
    for n, position in mask.nonzero().tolist():
        p, q = (torch.exp(x[n, position] / 2) / torch.exp(x[n, position] / 2).sum() for x in (teacher, student))
        terms.append(4 * sum((a * math.log(a / b)) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
    loss = KLDivLoss(temperature=2.0)
    assert loss(student, teacher, mask).item() == pytest.approx(sum(terms) / 3, rel=1e-10)
    flat = loss(student.reshape(6, 5), teacher.reshape(6, 5))
    torch.testing.assert_close(loss(student, teacher), flat)


def test_all_modules_name_the_students_and_the_teachers_arguments_alike() -> None:
    student, teacher = pair(4, 5)
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(KLDivLoss()(s_logits=student, t_logits=teacher), expected)
    for module, arguments in (
        (KLDivLoss, "logits"),
        (MSEHiddenStatesLoss, "hidden_states"),
        (AttentionLoss, "hidden_states"),
    ):
        assert list(inspect.signature(module.forward).parameters)[1:4] == [f"s_{arguments}", f"t_{arguments}", "mask"]


def test_divergence_takes_the_largest_logits_of_a_stored_file() -> None:
    student, teacher = pair(4, 3, 9)
    top = top_k_logits(teacher, 4, temperature=2.0)
    expected = top_k_kl_divergence(student, top, None, 2.0)
    torch.testing.assert_close(KLDivLoss(2.0)(student, top), expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_divergence_at_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigurationError, match="a temperature must be positive and finite, but got"):
        KLDivLoss(temperature)


def test_logits_of_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"must have one shape, but got \(2, 3\) and \(2, 4\)"):
        KLDivLoss()(torch.zeros(2, 3), torch.zeros(2, 4))


# --- MSEHiddenStatesLoss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 6, 3, 4)], ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_error_of_hidden_states_is_the_mean_over_everything_and_over_layers(shape, normalize: bool) -> None:
    channels = 1 if len(shape) == 4 else -1
    layers = [pair(*shape, seed=seed) for seed in range(3)]
    terms = []
    for student, teacher in layers:
        if normalize:
            student, teacher = (x / x.square().sum(channels, keepdim=True).sqrt() for x in (student, teacher))
        terms.append((student - teacher).square().mean())
    loss = MSEHiddenStatesLoss(normalize=normalize)
    value = loss([student for student, _ in layers], [teacher for _, teacher in layers])
    torch.testing.assert_close(value, sum(terms) / 3)
    torch.testing.assert_close(loss(*layers[0]), terms[0])


def test_padded_positions_have_no_error() -> None:
    student, teacher = pair(2, 3, 6)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    torch.testing.assert_close(MSEHiddenStatesLoss()(student, teacher, mask), (student - teacher)[mask].square().mean())


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4, 3, 3)], ids=str)
def test_mapping_goes_from_the_student_to_the_teacher(shape) -> None:
    student = torch.randn(shape)
    channels = 1 if len(shape) == 4 else 2
    teacher = torch.randn(*(6 if axis == channels else size for axis, size in enumerate(shape)))
    loss = MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=6, student_hidden_state_dim=4)
    weight, bias = (parameter.detach() for parameter in loss.parameters())
    mapped = (student.movedim(channels, -1) @ weight.T + bias).movedim(-1, channels)
    torch.testing.assert_close(loss(student, teacher), (mapped - teacher).square().mean())


def test_mappings_learn_a_teacher_that_is_a_linear_image_of_the_student() -> None:
    torch.manual_seed(0)
    students = [torch.randn(64, 4) for _ in range(2)]
    teachers = [student @ torch.randn(4, 6) + torch.randn(6) for student in students]
    loss = MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=6, student_hidden_state_dim=4, num_layers=2)
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(6, 4), (6,), (6, 4), (6,)]
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(students, teachers)
        value.backward()
        return value

    optimizer.step(closure)
    assert loss(students, teachers).item() < 1e-4


def test_one_mapping_is_shared_by_all_layers_unless_their_number_is_configured() -> None:
    loss = MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=6, student_hidden_state_dim=4)
    assert len(list(loss.parameters())) == 2
    student, teacher = torch.randn(3, 4), torch.randn(3, 6)
    torch.testing.assert_close(loss([student] * 2, [teacher] * 2), loss(student, teacher))


def test_mapping_without_both_widths_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a mapping needs both widths: pass teacher_hidden_state_dim and"):
        MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=6)


@pytest.mark.parametrize("need_mapping", [False, True])
def test_hidden_states_of_another_width_than_configured_are_refused(need_mapping: bool) -> None:
    loss = MSEHiddenStatesLoss(
        need_mapping=need_mapping, teacher_hidden_state_dim=8, student_hidden_state_dim=8, num_layers=1
    )
    with pytest.raises(ConfigurationError) as caught:
        loss(torch.zeros(2, 4), torch.zeros(2, 6))
    assert caught.value.problems == [
        "student_hidden_state_dim is 8, but the student's hidden states are 4 wide.",
        "teacher_hidden_state_dim is 8, but the teacher's hidden states are 6 wide.",
    ]


def test_widths_that_differ_without_a_mapping_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match="where only the widths differ, set need_mapping"):
        MSEHiddenStatesLoss()(torch.zeros(2, 4), torch.zeros(2, 6))


def test_maps_for_another_number_of_layers_are_refused() -> None:
    loss = MSEHiddenStatesLoss(need_mapping=True, teacher_hidden_state_dim=6, student_hidden_state_dim=4, num_layers=3)
    with pytest.raises(ConfigurationError, match="num_layers must be the number of compared layers, but is 3 for 2"):
        loss([torch.zeros(2, 4)] * 2, [torch.zeros(2, 6)] * 2)


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [MSEHiddenStatesLoss(), AttentionLoss()], ids=["error", "attention"])
def test_unequal_numbers_of_layers_are_refused_unless_a_mapping_pairs_them(loss) -> None:
    layers = [pair(2, 3, 4, seed=seed)[0] for seed in range(5)]
    student, teacher = layers[:2], layers[2:]
    with pytest.raises(ConfigurationError, match="must have equally many layers, but have 2 and 3; choose which to"):
        loss(student, teacher)
    expected = (loss(student[0], teacher[2]) + loss(student[0], teacher[0])) / 2
    torch.testing.assert_close(loss(student, teacher, layer_mapping=[(0, -1), (0, 0)]), expected)


def test_missing_layer_is_refused() -> None:
    layers = [torch.zeros(2, 3)] * 2
    with pytest.raises(ConfigurationError, match=r"\(0, 2\) does not for 2 layers of the student and 2 of the teacher"):
        paired_layers(layers, layers, [(0, 0), (0, 2)])
    with pytest.raises(ConfigurationError, match="at least one layer must be compared, but there is none"):
        paired_layers([], [])


# --- AttentionLoss ---------------------------------------------------------------------------------------------------


def attention_distance(student: torch.Tensor, teacher: torch.Tensor, p: int) -> float:
    """Equation 2 of the paper, one sample and one pixel at a time: images (N, C, H, W) of one size."""
    total = 0.0
    for one, other in zip(student.tolist(), teacher.tolist(), strict=True):
        maps = []
        for channels in (one, other):
            height, width = len(channels[0]), len(channels[0][0])
            pixels = [sum(abs(c[i][j]) ** p for c in channels) for i in range(height) for j in range(width)]
            length = math.sqrt(sum(value**2 for value in pixels))
            maps.append([value / length for value in pixels])
        total += math.sqrt(sum((a - b) ** 2 for a, b in zip(*maps, strict=True)))
    return total / len(student)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_attention_transfer_is_the_papers_definition_with_absolute_values(p: int) -> None:
    student, teacher = pair(3, 4, 2, 5)[0], pair(3, 6, 2, 5)[1]
    assert AttentionLoss(p)(student, teacher).item() == pytest.approx(attention_distance(student, teacher, p), rel=1e-9)
    torch.testing.assert_close(AttentionLoss(p)(-student, teacher), AttentionLoss(p)(student, teacher))


def test_larger_attention_map_is_averaged_down_to_the_smaller() -> None:
    student, teacher = pair(2, 3, 2, 3)[0], pair(2, 5, 4, 6)[1]
    activations = teacher.square().sum(1)
    small = torch.stack(
        [activations[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for i in range(2) for j in range(3)], dim=1
    )
    maps = [student.square().sum(1).flatten(1), small]
    unit = [each / each.square().sum(1, keepdim=True).sqrt() for each in maps]
    expected = (unit[0] - unit[1]).square().sum(1).sqrt().mean()
    torch.testing.assert_close(AttentionLoss()(student, teacher), expected)
    torch.testing.assert_close(AttentionLoss()(teacher, student), expected)


def test_attention_of_sequences_leaves_padding_out() -> None:
    student, teacher = pair(2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    alone = [AttentionLoss()(student[:1, :2], teacher[:1, :2]), AttentionLoss()(student[1:], teacher[1:])]
    torch.testing.assert_close(AttentionLoss()(student, teacher, mask), sum(alone) / 2)


@pytest.mark.parametrize("p", [0, -2, math.nan, math.inf])
def test_power_below_one_is_refused(p: float) -> None:
    with pytest.raises(ConfigurationError, match="must be finite and at least 1, but got"):
        AttentionLoss(p)


def test_features_without_positions_or_of_other_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"needs features with positions, .* but got \(2, 3\)"):
        AttentionLoss()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ConfigurationError, match="attention transfer compares position with position"):
        AttentionLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4))


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "loss",
    [KLDivLoss(2.0), MSEHiddenStatesLoss(), MSEHiddenStatesLoss(normalize=True), AttentionLoss(2), AttentionLoss(3)],
    ids=["divergence", "error", "normalised error", "attention", "attention, p = 3"],
)
def test_gradient_agrees_with_finite_differences(loss, shape) -> None:
    if isinstance(loss, AttentionLoss) and len(shape) == 2:
        shape = (2, 4, 3)
    student, teacher = pair(*shape)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


def test_gradient_of_a_perfect_match_is_zero() -> None:
    student = torch.rand(2, 3, 4, 4, requires_grad=True)
    AttentionLoss()(student, student.detach()).backward()
    assert bool((student.grad == 0).all())


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [KLDivLoss(), MSEHiddenStatesLoss(), AttentionLoss()], ids=["KL", "error", "attention"]
)
def test_mask_of_another_shape_is_refused_and_one_of_integers_is_as_booleans(loss) -> None:
    student, teacher = pair(2, 3, 4)
    with pytest.raises(
        ConfigurationError, match=r"one entry for each position, but is \(2, 4\) for positions \(2, 3\)"
    ):
        loss(student, teacher, torch.ones(2, 4, dtype=torch.bool))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(loss(student, teacher, mask), loss(student, teacher, mask == 1))
    assert loss(student, teacher, mask) != loss(student, teacher)
