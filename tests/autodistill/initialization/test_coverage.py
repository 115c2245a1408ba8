"""Models that compute more than the table of their family describes are refused, instead of started halfway."""

from __future__ import annotations

import logging

import pytest
import torch
from families import BERT_LIKE, T5_LIKE, VOCABULARY, hugging_face, seeded
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5EncoderModel,
    VisionEncoderDecoderModel,
)

from autodistill.errors import ConfigurationError
from autodistill.initialization.coverage import rows_outside
from autodistill.initialization.from_teacher import initialize_from_teacher, start_blocker
from autodistill.initialization.subspace import TeacherSubspace

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of peft

bert = hugging_face("BertForSequenceClassification", **BERT_LIKE)
tower = hugging_face("BertModel", **BERT_LIKE)
decoder = hugging_face("BertLMHeadModel", **BERT_LIKE, is_decoder=True, add_cross_attention=True)
vit = hugging_face(
    "ViTModel", image_size=16, patch_size=8, num_attention_heads=2, intermediate_size=16, add_pooling_layer=False
)
t5 = hugging_face("T5ForConditionalGeneration", "d_model", "num_layers", **T5_LIKE)
clip = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16}


def refusal(student, teacher):
    """The reason, which is the same before a search and when a student is written."""
    reason = start_blocker(student, teacher)
    subspace = TeacherSubspace(torch.zeros(1, 16), torch.eye(16)[:, :8], torch.ones(8), 1.0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(student, teacher, subspace)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert reason is not None
    assert any(problem in reason for problem in error.value.problems)
    return reason


def lora(**options):
    return LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False, **options)


def transformers_adapter(model):
    model.add_adapter(lora())
    return model


ADAPTERS = {
    "LoRA": lambda model: get_peft_model(model, lora()),
    "LoRA and a saved head": lambda model: get_peft_model(model, lora(task_type="SEQ_CLS")),
    "LoRA without a wrapper": lambda model: inject_adapter_in_model(lora(), model),
    "LoRA of transformers": transformers_adapter,
    "IA3": lambda model: get_peft_model(model, IA3Config(target_modules=["key"], feedforward_modules=[])),
    "LoRA of a head": lambda model: get_peft_model(model, LoraConfig(r=2, target_modules=["classifier"])),
    "LoRA of embeddings": lambda model: get_peft_model(model, LoraConfig(r=2, target_modules=["word_embeddings"])),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_teacher_with_adapters_is_refused(name):
    reason = refusal(bert(8, 2), ADAPTERS[name](bert(16, 2)))
    assert "merge_and_unload()" in reason
    assert "of the teacher" in reason


def test_a_teacher_with_trained_prompts_is_refused():
    teacher = get_peft_model(bert(16, 2), PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS"))
    assert "the teacher has trained prompts" in refusal(bert(8, 2), teacher)


def test_a_merged_teacher_starts_students_as_a_plain_one_with_the_same_weights():
    adapted = seeded(lambda: get_peft_model(bert(16, 2), lora()))
    merged, plain = adapted.merge_and_unload(), bert(16, 2)
    plain.load_state_dict(merged.state_dict())
    subspace = TeacherSubspace(torch.zeros(1, 16), torch.eye(16)[:, :8], torch.ones(8), 1.0)
    first, second = (seeded(lambda: bert(8, 2)) for _ in range(2))
    initialize_from_teacher(first, merged, subspace)
    initialize_from_teacher(second, plain, subspace)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Extended(nn.Linear):
    def __init__(self, *sizes) -> None:
        super().__init__(*sizes)
        self.lora_A = nn.Parameter(torch.ones(2, 2))


def hooked(model):
    model.bert.encoder.layer[0].attention.self.query.register_forward_hook(lambda module, inputs, output: 2 * output)


def replaced(kind):
    def change(model):
        model.bert.encoder.layer[0].attention.self.query = kind(16, 16)

    return change


def quantised(model):
    query = model.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(query.weight.detach().mul(100).to(torch.int8), requires_grad=False)


CHANGES = {
    "a parametrization": lambda model: nn.utils.parametrizations.weight_norm(
        model.bert.encoder.layer[0].attention.self.query
    ),
    "a parametrization of a head": lambda model: nn.utils.parametrizations.spectral_norm(model.classifier),
    "a subclass with another forward": replaced(Doubled),
    "a subclass with further parameters": replaced(Extended),
    "a hook": hooked,
    "integer weights": quantised,
    "another weight in a block": lambda model: model.bert.encoder.layer[1].register_parameter(
        "gate", nn.Parameter(torch.ones(16))
    ),
}


OF_STUDENTS = ["a parametrization", "another weight in a block"]


@pytest.mark.parametrize(
    ("owner", "name"), [*(("teacher", name) for name in CHANGES), *(("student", name) for name in OF_STUDENTS)]
)
def test_modules_that_do_not_compute_a_linear_map_of_their_weight_are_refused(owner, name):
    teacher, student = bert(16, 2), bert(8, 2)
    CHANGES[name](teacher if owner == "teacher" else student)
    reason = refusal(student, teacher)
    assert f"of the {owner}" in reason
    assert reason.endswith("extend the table, or leave init out.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_teachers_of_every_precision_are_accepted(dtype):
    assert start_blocker(bert(8, 2), bert(16, 2).to(dtype)) is None


class Towers(nn.Module):
    def __init__(self, width, depth=2) -> None:
        super().__init__()
        self.question, self.answer = tower(width, depth), tower(width, depth)


def encoder_decoder(width):
    return EncoderDecoderModel(encoder=tower(width, 2), decoder=decoder(width, 2))


def captioner(width):
    sizes = {"n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    words = GPT2LMHeadModel(GPT2Config(n_embd=width, add_cross_attention=True, **sizes))
    return VisionEncoderDecoderModel(encoder=vit(width, 2), decoder=words)


@pytest.mark.parametrize(
    ("make", "row"),
    [
        (lambda width: t5(width, 2), "decoder.block"),
        (lambda width: t5(width, 1), "decoder.block"),
        (Towers, "answer.encoder.layer"),
        (lambda width: Towers(width, 1), "answer.encoder.layer"),
        (encoder_decoder, "decoder.bert.encoder.layer"),
        (captioner, "decoder.transformer.h"),
    ],
    ids=["T5", "T5 of one block", "towers", "towers of one block", "BERT and BERT", "ViT and GPT-2"],
)
def test_a_student_with_a_second_row_of_blocks_is_refused(make, row):
    reason = refusal(make(8), make(16))
    assert f"the student also has repeated blocks at {row!r}, which would stay random" in reason
    assert "leave init out" in reason


def test_two_towers_of_an_unknown_family_are_refused():
    def make(width):
        sizes = {**clip, "hidden_size": width}
        return CLIPModel(
            CLIPConfig(
                text_config={**sizes, "vocab_size": VOCABULARY},
                vision_config={**sizes, "image_size": 16, "patch_size": 8},
            )
        )

    assert "CLIPModel holds none of them" in start_blocker(make(8), make(16))


def test_an_encoder_starts_inside_the_encoder_of_an_encoder_decoder():
    student = T5EncoderModel(t5(8, 2).config)
    assert start_blocker(student, t5(16, 2)) is None


def test_a_head_of_a_few_layers_is_no_row_of_blocks(caplog):
    def make(width):
        model = bert(width, 2)
        model.classifier = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
        return model

    assert rows_outside(make(8), "bert.encoder.layer") == []
    subspace = TeacherSubspace(torch.zeros(1, 16), torch.eye(16)[:, :8], torch.ones(8), 1.0)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        start = initialize_from_teacher(make(8), make(16), subspace)
    assert "classifier.0.weight" in start.untouched
    assert "leaves as built" in caplog.text
