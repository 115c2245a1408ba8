"""How a student reads and writes the stream: each formula in a selection of channels, so that it can be written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from identity_cases import CASES, DEPTH, WIDTH, randomised
from pairings import CHANNELS, means, pairing

from autodistill.batch import Batch
from autodistill.config.initialization import InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.initialization.initializer import TeacherInitializer
from autodistill.initialization.stream import (
    Reader,
    down,
    read_after,
    rotated_gain,
    stream_scale,
    write_norm_after_sum,
    writer,
)
from autodistill.models.weights import Affine


def test_bias_of_a_norm_that_no_reader_can_absorb_is_reported():
    case = CASES["GPT-2, words"]
    teacher, student = case.teacher(), randomised(case.make(WIDTH // 2, DEPTH), 2)
    initializer = TeacherInitializer(InitializationConfig(), teacher, [Batch(case.batch())], TeacherCache(teacher))
    (approximation,) = initializer.start(student).approximations
    assert approximation == (
        "the maps after 'transformer.ln_f' have no bias, and the bias of the norm has fewer channels than the "
        "teacher's: a part of the teacher's bias is lost."
    )


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("bias", [random(3), None], ids=["bias", "no bias"])
def test_reader_of_the_students_state_equals_the_map_of_the_stream(bias: torch.Tensor | None) -> None:
    affine, up, offset, hidden = Affine(random(3, 16), bias), random(16, 8), random(16), random(8)
    expected = affine.weight @ (offset + up @ hidden) + (0 if bias is None else bias)
    read = Reader(up, offset)(affine)
    torch.testing.assert_close(read.weight @ hidden + read.bias, expected)


def test_scale_of_the_stream_is_the_root_mean_square_over_channels() -> None:
    pair = pairing("BERT")
    pair.subspace = replace(pair.subspace, scale=torch.tensor([1.0, 7.0] * 4, dtype=torch.float64))
    assert stream_scale(pair).item() == pytest.approx(5.0)


def test_gain_of_selected_channels_is_multiplied_by_the_correction() -> None:
    pair, gain = pairing("BERT"), random(16)
    torch.testing.assert_close(rotated_gain(pair, gain), pair.correction * gain[CHANNELS])


@pytest.mark.parametrize(("name", "mean"), [("BERT", True), ("Llama", False)])
def test_writer_divides_by_the_scale_and_adds_the_mean_if_norms_need_it(name: str, mean: bool) -> None:
    pair, affine = pairing(name, mean=mean, scale=4.0), Affine(random(16, 5), random(16))
    found = writer(pair, affine, 2)
    torch.testing.assert_close(found.weight, affine.weight[CHANNELS] / 4)
    bias = affine.bias + means()[2] if mean else affine.bias
    torch.testing.assert_close(found.bias, bias[CHANNELS] / 4)


def test_writer_before_layer_norms_leaves_out_the_mean_over_channels() -> None:
    matrix = torch.eye(16, dtype=torch.float64)[:, CHANNELS]
    torch.testing.assert_close(down(pairing("GPT-2")), matrix - 1 / 16)
    torch.testing.assert_close(down(pairing("Llama")), matrix)


def test_norm_after_the_sum_has_the_gain_and_bias_of_its_channels() -> None:
    pair = pairing("BERT", mean=True, scale=4.0)
    norm = pair.weight("output.LayerNorm", 1)
    write_norm_after_sum(pair, norm, 4)
    teacher, student = (model.bert.encoder.layer[-1].output.LayerNorm for model in (pair.teacher, pair.student))
    torch.testing.assert_close(student.weight.data, pair.correction * teacher.weight[CHANNELS].data / 4)
    torch.testing.assert_close(student.bias.data, ((teacher.bias - means()[4]) / 4)[CHANNELS].data)


def test_gain_before_readers_is_folded_into_them() -> None:
    pair = pairing("Llama")
    norm = pair.weight("input_layernorm", 0)
    reader = read_after(pair, norm, 0, [])
    gain = pair.teacher.model.layers[1].input_layernorm.weight.data
    torch.testing.assert_close(reader.up, torch.diag(gain)[:, CHANNELS])
    assert not reader.offset.any()
    assert pair.student.model.layers[0].input_layernorm.weight.tolist() == pytest.approx([pair.correction] * 8)


def test_stream_after_the_sum_is_read_unchanged() -> None:
    pair = pairing("BERT", mean=True, scale=4.0)
    before = pair.student.bert.encoder.layer[0].output.LayerNorm.weight.clone()
    reader = read_after(pair, pair.weight("output.LayerNorm", 0), 2, [])
    torch.testing.assert_close(reader.up, 4 * torch.eye(16, dtype=torch.float64)[:, CHANNELS])
    torch.testing.assert_close(reader.offset, means()[2])
    assert torch.equal(pair.student.bert.encoder.layer[0].output.LayerNorm.weight, before)
