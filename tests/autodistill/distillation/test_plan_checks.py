"""Mistakes between settings, student and teacher are named, all of them; logits are compared class by class."""

from __future__ import annotations

import pytest
import torch
from families import seeded
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    XLNetConfig,
    XLNetModel,
)

from autodistill import AutoDistillationConfig, ConfigurationError, Distiller
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.plan import flash_stages
from autodistill.distillation.plan_checks import frozen_problems, path_problems
from autodistill.models.taps import AUTO, Tap

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
    return Distiller(teacher, config, [batch], torch.device("cpu")).resolve(student)


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


def test_different_vocabularies_are_accepted_if_only_hidden_states_are_mapped():
    plan = prepare(language_model(8, 20), language_model(16, 21), flash_distillation="auto")
    assert plan.regular is None


def test_hidden_states_of_other_widths_may_be_compared_by_divergence():
    mapping = {"layer_mappings_for_knowledge_transfer": [("bert", "0", "bert", "0")], "loss_types": ["KL"]}
    plan = prepare(language_model(8, 20), language_model(16, 20), regular_distillation=mapping)
    assert plan.regular_criterion.feature_matchers[0].linear.weight.shape == (16, 8)


class Blocks(nn.Module):
    def __init__(self, depth: int, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)


STUDENT, TEACHER = Blocks(2), Blocks(6, 8)


def layers_of(stages):
    blocks = [block for stage in stages for block in stage.blocks]
    return blocks, [mapping for stage in stages for mapping in stage.mappings]


def test_layers_that_exist_are_no_problem() -> None:
    stages = flash_stages(FlashDistillationConfig(), STUDENT, TEACHER)
    assert path_problems(*layers_of(stages), STUDENT, TEACHER) == []


def test_every_path_that_a_model_lacks_is_named_once_with_its_nearest() -> None:
    config = FlashDistillationConfig(
        block_names=["layer.0", "layers.1"],
        layer_mappings_for_knowledge_transfer=[
            [("layer.0", "layer.6"), ("layer.0", "heads")],
            [("layers.1", "layer.5"), ("layers.1", "layer.6")],
        ],
    )
    problems = path_problems(*layers_of(flash_stages(config, STUDENT, TEACHER)), STUDENT, TEACHER)
    assert len(problems) == 3
    assert problems[0].startswith("the student (Blocks) has no layer 'layers.1'; did you mean 'layer.1'")
    assert problems[1].startswith("the teacher (Blocks) has no layer 'layer.6'; did you mean 'layer.")
    assert problems[2] == "the teacher (Blocks) has no layer 'heads'; did you mean 'head'?"


def test_every_stage_without_a_parameter_to_train_is_named() -> None:
    student = Blocks(3)
    stages = flash_stages(FlashDistillationConfig(), student, TEACHER)
    assert frozen_problems(stages, student) == []
    student.layer[0].requires_grad_(False)
    student.layer[1].bias.requires_grad_(False)
    student.layer[2].requires_grad_(False)
    assert frozen_problems(stages, student) == [
        f"a stage must have parameters to train, but {block!r} has none that requires gradients; let them require "
        "gradients (requires_grad_), or name the blocks to train (block_names)."
        for block in ("layer.0", "layer.2")
    ]


@pytest.mark.parametrize("length", [3, 5], ids=["as many samples as positions", "fewer"])
def test_features_with_samples_on_other_axes_are_refused(length: int) -> None:
    sizes = {"vocab_size": 20, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    teacher = seeded(lambda: XLNetModel(XLNetConfig(**sizes)))  # its layers return (L, N, C)
    student = seeded(
        lambda: BertModel(
            BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        )
    )
    batch = {"input_ids": torch.ones(3, length, dtype=torch.long), "attention_mask": torch.ones(3, length)}
    search = {"search_space": {"width": [8]}, "metrics": ["loss"]}

    def resolve(tap: tuple) -> None:
        mappings = [[("encoder.layer.0", AUTO, *tap)]]
        flash = {"block_names": ["encoder.layer.0"], "layer_mappings_for_knowledge_transfer": mappings}
        config = AutoDistillationConfig.load({"search": search, "flash_distillation": flash})
        Distiller(teacher, config, [batch], torch.device("cpu")).resolve(student)

    with pytest.raises(ConfigurationError, match=r"samples on the same axis|axes 0, 1 differ"):
        resolve(("layer.0", "0"))
    resolve(("layer.0", lambda output: output[0].transpose(0, 1)))


# --- the largest logits of the teacher -------------------------------------------------------------------------------

LOGITS = ("", "logits", "", "logits")
ATTENTION = ("bert.encoder.layer.0.attention.self", "1", "bert.encoder.layer.0.attention.self", "1")
HIDDEN = ("bert.encoder.layer.0", "bert.encoder.layer.0")


def reduced(*, student=None, teacher=None, k=5, **settings):
    regular = {"top_k": k, "temperature": 2.0} | settings
    models = student or language_model(8, 20), teacher or language_model(16, 20)
    return prepare(*models, regular_distillation=regular).regular


@pytest.mark.parametrize(
    ("settings", "taps"),
    [
        ({}, [Tap("", AUTO)]),
        ({"loss_types": ["CE", "KL"]}, [Tap("", AUTO)]),
        (
            {"layer_mappings_for_knowledge_transfer": [HIDDEN, LOGITS, ATTENTION], "loss_types": ["MSE", "KL", "KL"]},
            [Tap("", "logits")],
        ),
    ],
    ids=["automatic", "pair", "mappings"],
)
def test_top_k_reduces_the_logits_that_enter_a_divergence_and_no_other_features(settings, taps) -> None:
    stage = reduced(**settings)
    assert (list(stage.top_k.taps), stage.top_k.k, stage.top_k.temperature) == (taps, 5, 2.0)
    assert reduced(k=None, **settings).top_k is None


@pytest.mark.parametrize(
    ("settings", "present"),
    [
        ({"k": 20}, "with k = 20 there are none: KL of student the model's output[auto] -> teacher"),
        (
            {"layer_mappings_for_knowledge_transfer": [LOGITS, LOGITS], "loss_types": ["KL", "MSE"]},
            "MSE of student the model's output[logits] -> teacher the model's output[logits] (1, 7, 20)",
        ),
        (
            {"layer_mappings_for_knowledge_transfer": [ATTENTION], "loss_types": "KL"},
            "teacher 'bert.encoder.layer.0.attention.self'[1] (1, 2, 7, 7)",
        ),
    ],
    ids=["k", "another loss", "attention"],
)
def test_top_k_that_can_reduce_nothing_is_refused(settings, present: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reduced(**settings)
    (problem,) = caught.value.problems
    assert problem.startswith("top_k reduces logits (N, classes) or (N, positions, classes) of more than k classes")
    assert present in problem
    assert problem.endswith("; configure a smaller k, or leave top_k out.")


@pytest.mark.parametrize("classes", [1, 2])
def test_top_k_of_a_task_with_few_classes_is_refused(classes: int) -> None:
    models = classifier(8, classes), classifier(16, classes)
    labels = torch.tensor([0.5]) if classes == 1 else torch.tensor([1])
    with pytest.raises(ConfigurationError, match=rf"there are none: \w+ of student .* \(1, {classes}\); configure"):
        prepare(*models, labels, regular_distillation={"top_k": 2})


def test_top_k_of_the_classes_of_pixels_is_refused() -> None:
    student, teacher = nn.Conv2d(2, 5, 1), nn.Conv2d(2, 5, 1)
    data = [(torch.randn(2, 2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.long))]
    sections = {"search": {"search_space": {"w": [1]}, "metrics": ["parameters"]}, "regular_distillation": {"top_k": 2}}
    distiller = Distiller(teacher, AutoDistillationConfig.load(sections), data, torch.device("cpu"))
    with pytest.raises(ConfigurationError, match=r"there are none: KL of .* \(2, 5, 3, 4\); configure"):
        distiller.resolve(student)


def test_top_k_of_a_teacher_of_no_weight_is_accepted() -> None:
    assert reduced(loss_types=["CE", "KL"], loss_weights=[1.0, 0.0]).teacher_taps == []
