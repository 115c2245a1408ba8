"""The automatic mapping as a table: hidden states, attention where both compute it, embeddings, and the logits."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, seeded
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from autodistill import ConfigurationError, explain_mapping

SEARCH = {"search": {"search_space": {"depth": [1]}, "metrics": ["parameters"]}}
AUTO = {"flash_distillation": "auto", "regular_distillation": "auto"}
TOKENS = torch.arange(1, 8).reshape(1, 7)
BATCH = {"input_ids": TOKENS, "labels": TOKENS}


def bert(width, depth, heads=2, attention="eager"):
    sizes = {"num_attention_heads": heads, "intermediate_size": 8, "vocab_size": 20}
    config = BertConfig(hidden_size=width, num_hidden_layers=depth, **sizes, attn_implementation=attention)
    return seeded(lambda: BertForMaskedLM(config))


def distilbert(width, depth, heads=2):
    config = DistilBertConfig(
        dim=width, n_layers=depth, n_heads=heads, hidden_dim=8, vocab_size=20, attn_implementation="eager"
    )
    return seeded(lambda: DistilBertForMaskedLM(config))


def table(student, teacher, batch=BATCH, **sections):
    return [
        (row.stage, row.student, row.teacher, row.loss)
        for row in explain_mapping(SEARCH | sections, student, teacher, batch)
    ]


def expected_rows(student_blocks, teacher_blocks, partners, embeddings, attention=None):
    """The table by the rule: block i of n is compared with block ceil((i + 1) * m / n) - 1 of m."""
    rows = []
    for index, partner in enumerate(partners):
        student, teacher = student_blocks.format(index), teacher_blocks.format(partner)
        stage = " + ".join([*embeddings, student]) if index == 0 else student
        if attention is not None:
            rows.append((stage, f"'{student}.{attention[0]}'[1]", f"'{teacher}.{attention[1]}'[1]", "KL"))
        if index == 0:
            rows.append((stage, f"'{student}'[input]", f"'{teacher_blocks.format(0)}'[input]", "NMSE"))
        rows.append((stage, f"'{student}'[auto]", f"'{teacher}'[auto]", "NMSE"))
    rows.append(("regular distillation", "the model's output[auto]", "the model's output[auto]", "KL"))
    return [*rows, ("regular distillation", "the student's own loss", "", "loss")]


def test_a_bert_of_four_layers_is_compared_with_every_third_of_twelve():
    blocks = "bert.encoder.layer.{}"
    assert table(bert(8, 4), bert(16, 12), **AUTO) == expected_rows(
        blocks, blocks, [2, 5, 8, 11], ["bert.embeddings"], ("attention.self", "attention.self")
    )


def test_a_distilbert_is_compared_with_a_bert():
    assert table(distilbert(8, 2), bert(16, 3), **AUTO) == expected_rows(
        "distilbert.transformer.layer.{}",
        "bert.encoder.layer.{}",
        [1, 2],
        ["distilbert.embeddings"],
        ("attention", "attention.self"),
    )


@pytest.mark.parametrize(
    ("family", "blocks", "embeddings"),
    [
        ("ViT", "vit.layers.{}", ["vit.embeddings"]),
        ("GPT-2", "transformer.h.{}", ["transformer.wte", "transformer.wpe"]),
        ("Llama", "model.layers.{}", ["model.embed_tokens"]),
    ],
)
def test_other_families_map_no_attention_between_unequal_heads(family, blocks, embeddings):
    zoo = FAMILIES[f"{family}, eager"]  # students have two heads, teachers four
    rows = table(zoo.student(), zoo.teacher(), zoo.batches()[0], **AUTO)
    assert rows == expected_rows(blocks, blocks, [1, 3], embeddings)


@pytest.mark.parametrize(("student", "teacher"), [("sdpa", "eager"), ("eager", "sdpa"), ("sdpa", "sdpa")])
def test_attention_that_one_model_does_not_compute_is_not_mapped(student, teacher):
    rows = table(bert(8, 1, attention=student), bert(16, 2, attention=teacher), **AUTO)
    assert [loss for *_, loss in rows] == ["NMSE", "NMSE", "KL", "loss"]


def test_an_empty_section_is_the_automatic_mapping():
    assert table(bert(8, 2), bert(16, 4)) == table(bert(8, 2), bert(16, 4), **AUTO)


def test_the_blocks_outputs_are_mapped_alone_on_request():
    rows = table(bert(8, 1), bert(16, 2), flash_distillation={"automatic_mapping": "blocks"})
    assert rows == [("bert.encoder.layer.0", "'bert.encoder.layer.0'[auto]", "'bert.encoder.layer.1'[auto]", "NMSE")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss_types", "MSE"),
        ("loss_weights", [0.5, 0.5]),
        ("layer_mappings_for_knowledge_transfer", lambda student, teacher: []),
    ],
)
def test_losses_and_mappings_beside_the_automatic_mapping_are_refused(field, value):
    flash = {"automatic_mapping": "all", field: value}
    with pytest.raises(
        ConfigurationError, match=f"chooses mappings and losses, but {field} are configured; leave them or it out"
    ):
        table(bert(8, 1), bert(16, 2), flash_distillation=flash)


def test_blocks_that_are_named_are_trained_without_embeddings():
    names = ["bert.encoder.layer.2", "bert.encoder.layer.3"]
    rows = table(bert(8, 4), bert(16, 6), flash_distillation={"block_names": names})
    assert {stage for stage, *_ in rows} == set(names)
    assert [(student, loss) for _, student, _, loss in rows] == [
        (f"'{name}{part}", loss)
        for name in names
        for part, loss in ((".attention.self'[1]", "KL"), ("'[auto]", "NMSE"))
    ]


def test_models_of_other_libraries_map_hidden_states_alone():
    zoo = FAMILIES["nn.TransformerEncoder"]
    rows = table(zoo.student(), zoo.teacher(), zoo.batches()[0], flash_distillation="auto")
    assert [(student.endswith("[auto]"), loss) for _, student, _, loss in rows] == [(True, "NMSE")] * 2


def test_a_mapping_function_is_called_with_both_models_and_weights_are_shown():
    def mapping(student, teacher):
        depth = len(teacher.bert.encoder.layer)
        return [[("bert.encoder.layer.0", f"bert.encoder.layer.{depth - 1}")]]

    flash = {
        "layer_mappings_for_knowledge_transfer": mapping,
        "loss_types": "MSE",
        "loss_weights": 0.25,
        "train_steps": 3,
    }
    (row,) = explain_mapping(SEARCH | {"flash_distillation": flash}, bert(8, 1), bert(16, 5), BATCH)
    assert (row.student, row.teacher) == ("'bert.encoder.layer.0'", "'bert.encoder.layer.4'")
    assert (row.loss, row.weight, row.steps) == ("MSE", 0.25, 3)


def test_students_that_start_inside_the_teacher_are_explained_from_one_batch():
    rows = explain_mapping(SEARCH | {"flash_distillation": "auto", "init": "teacher"}, bert(8, 1), bert(16, 2), BATCH)
    block, partner = "'bert.encoder.layer.0'", "'bert.encoder.layer.1'"
    assert [(row.student, row.teacher, row.loss) for row in rows] == [
        ("'bert.encoder.layer.0.attention.self'[1]", "'bert.encoder.layer.1.attention.self'[1]", "KL"),
        (f"{block}[auto]", f"{partner}[auto]", "NMSE"),
        (f"{block}[input]", f"{block}[input]", "NMSE"),  # what is outside the blocks
    ]
