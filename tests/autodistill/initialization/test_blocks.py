"""The blocks of a student: the strongest neurons and heads of the teacher's, in the student's channels."""

from __future__ import annotations

import torch
from pairings import CHANNELS, pairing

from autodistill.initialization.blocks import write_blocks


def test_feed_forward_keeps_the_strongest_neurons_in_their_order() -> None:
    pair = pairing("BERT")
    strong = [1, 4, 5, 9, 10, 11, 14, 15, 18, 20, 21, 25, 26, 27, 29, 31]  # 16 of 32
    for layer in pair.teacher.bert.encoder.layer:
        layer.output.dense.weight.data[:, strong] *= 1000
    write_blocks(pair)
    for index, layer in ((0, 1), (1, 3)):
        teacher, student = pair.teacher.bert.encoder.layer[layer], pair.student.bert.encoder.layer[index]
        reader, writer = teacher.intermediate.dense, teacher.output.dense
        torch.testing.assert_close(student.intermediate.dense.weight.data, reader.weight.data[strong][:, CHANNELS])
        torch.testing.assert_close(student.intermediate.dense.bias.data, reader.bias.data[strong])
        torch.testing.assert_close(student.output.dense.weight.data, writer.weight.data[CHANNELS][:, strong])
        torch.testing.assert_close(student.output.dense.bias.data, writer.bias.data[CHANNELS])


def heads(weight: torch.Tensor) -> torch.Tensor:
    """(heads, 4 channels, inputs)."""
    return weight.data.reshape(-1, 4, weight.shape[1])


def test_attention_keeps_the_strongest_heads_and_what_they_compute() -> None:
    pair = pairing("BERT")
    for layer in pair.teacher.bert.encoder.layer:
        layer.attention.output.dense.weight.data[:, 4:8] *= 1000  # head 1
        layer.attention.output.dense.weight.data[:, 12:16] *= 1000  # head 3
    write_blocks(pair)
    for index, layer in ((0, 1), (1, 3)):
        teacher, student = (
            model.bert.encoder.layer[number].attention
            for model, number in ((pair.teacher, layer), (pair.student, index))
        )
        for head, kept in ((0, 1), (1, 3)):
            scores = [
                heads(own.self.query.weight)[n].T @ heads(own.self.key.weight)[n]
                for own, n in ((teacher, kept), (student, head))
            ]
            torch.testing.assert_close(scores[1], scores[0][CHANNELS][:, CHANNELS])
            outputs = [
                own.output.dense.weight.data[:, 4 * n : 4 * n + 4] @ heads(own.self.value.weight)[n]
                for own, n in ((teacher, kept), (student, head))
            ]
            torch.testing.assert_close(outputs[1], outputs[0][CHANNELS][:, CHANNELS])


def test_every_parameter_of_the_blocks_is_written() -> None:
    for name, blocks in (("BERT", "bert.encoder"), ("Llama", "model.layers"), ("GPT-2", "transformer.h")):
        pair = pairing(name)
        write_blocks(pair)
        assert pair.written == set(pair.student.get_submodule(blocks).parameters())
