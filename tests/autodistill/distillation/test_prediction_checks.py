"""Logits of different classes are refused where they are compared, and only there."""

from __future__ import annotations

import pytest
import torch
from families import seeded
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from autodistill import AutoDistillationConfig, ConfigurationError, Distiller

TOKENS = torch.arange(1, 8).reshape(1, 7)
SIZES = {"num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}


def language_model(width, vocabulary):
    return seeded(lambda: BertForMaskedLM(BertConfig(hidden_size=width, vocab_size=vocabulary, **SIZES)))


def classifier(width, labels):
    config = BertConfig(hidden_size=width, vocab_size=20, num_labels=labels, **SIZES)
    return seeded(lambda: BertForSequenceClassification(config))


def prepare(student, teacher, labels=TOKENS, **sections):
    config = AutoDistillationConfig.load({"search": {"search_space": {"w": [1]}, "metrics": ["parameters"]}} | sections)
    batch = {"input_ids": TOKENS, "labels": labels}
    return Distiller(teacher, config, [batch], torch.device("cpu")).prepare(student)


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "numbers"),
    [
        (language_model(8, 20), language_model(16, 21), TOKENS, "20 tokens and the teacher 21 tokens"),
        (classifier(8, 3), classifier(16, 4), torch.tensor([1]), "3 labels and the teacher 4 labels"),
    ],
)
@pytest.mark.parametrize("loss_types", [None, "CE", ["CE", "KL"]])
def test_different_vocabularies_and_numbers_of_labels_are_refused(student, teacher, labels, numbers, loss_types):
    section = "auto" if loss_types is None else {"loss_types": loss_types}
    with pytest.raises(ConfigurationError, match=f"the student has {numbers}"):
        prepare(student, teacher, labels, regular_distillation=section)


def test_different_vocabularies_are_no_matter_where_only_hidden_states_are_mapped():
    plan, _ = prepare(language_model(8, 20), language_model(16, 21), flash_distillation="auto")
    assert plan.regular is None


def test_hidden_states_of_other_widths_may_be_compared_by_divergence():
    mapping = {"layer_mappings_for_knowledge_transfer": [("bert", "0", "bert", "0")], "loss_types": ["KL"]}
    _, (criterion,) = prepare(language_model(8, 20), language_model(16, 20), regular_distillation=mapping)
    assert criterion.feature_matchers[0].linear.weight.shape == (16, 8)
