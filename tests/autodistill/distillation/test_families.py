"""Flash and regular distillation of model families: the naive loop's weights to the bit, replayed where it can be."""

from __future__ import annotations

import logging
import math
import re

import pytest
import torch
from families import FAMILIES
from naive_distillation import distil, distil_both_ways, largest_difference, make_distiller, naive_mapping

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.losses.criterion import TrainingStep
from autodistill.training import TrainingContext

CPU = torch.device("cpu")


def family_distiller(family, **flash):
    settings = {"train_steps": 5, "automatic_mapping": "blocks"}  # of which every one is replayed
    return make_distiller(family.teacher(), family.batches(), **settings | family.flash | flash)


def settings_of(model):
    """What distillation must leave as it was: configurations, what requires gradients, hooks, replaced forwards."""
    modules = list(model.modules())
    configs = {id(m.config): m.config.to_dict() for m in modules if hasattr(m, "config")}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    forwards = [m.__dict__.get("forward") for m in modules]
    return list(configs.values()), [p.requires_grad for p in model.parameters()], hooks, forwards


@pytest.mark.parametrize("name", FAMILIES)
def test_flash_equals_the_naive_loop_and_logs_why_a_block_is_not_replayed(name, caplog):
    family = FAMILIES[name]
    student, untrained = family.student(), family.student()
    before = settings_of(student)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(student, family_distiller(family))
    assert largest_difference(engine, naive) == 0
    assert largest_difference(engine, untrained) > 1e-3
    assert tuple(record.reason for record in records) == family.reasons
    logged = [message for message in caplog.messages if "truncated forward" in message]
    assert logged == [f"{r.stage} runs by the truncated forward: {r.reason}" for r in records if r.reason]
    assert settings_of(engine) == before
    assert not engine.training


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not family.flash and "ALBERT" not in name]
)
def test_blocks_are_mapped_to_evenly_spaced_blocks_of_the_teacher(name):
    family = FAMILIES[name]
    plan = family_distiller(family).resolve(family.student())
    taught = [stage.mappings[-1].teacher.path for stage in plan.flash]
    assert [int(re.findall(r"\d+", path)[0]) for path in taught] == [
        index + ("Sequential" in name) for index in naive_mapping(*family.depths)
    ]


def test_first_loss_of_regular_distillation_of_an_encoder_decoder_has_the_targets_mask():
    family = FAMILIES["T5, sdpa"]
    student, teacher, batch = family.student().eval(), family.teacher().eval(), family.batches()[0]
    logits, target = student(**batch), teacher(**batch).logits
    counted = batch["labels"] != -100  # (N, L) of the targets, which are shorter than the inputs
    terms = target.softmax(-1) * (target.log_softmax(-1) - logits.logits.log_softmax(-1))
    expected = terms.sum(-1)[counted].mean()
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 1, "add_origin_loss": False},
        }
    )
    distiller = Distiller(teacher, config, [batch], CPU)
    plan = distiller.resolve(student)
    tap = plan.regular.student_taps[0]
    step = TrainingStep(Batch(batch), 1.0, logits)
    value = plan.regular_criterion.step_loss({tap: logits.logits}, {plan.regular.teacher_taps[0]: target}, step)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "eager" in name and not family.flash])
def test_flash_that_maps_attention_and_embeddings_too_equals_the_naive_loop(name):
    family = FAMILIES[name]
    distiller = family_distiller(family, automatic_mapping="all")
    engine, naive, records = distil_both_ways(family.student(), distiller)
    assert largest_difference(engine, naive) == 0
    assert records[0].reason == "it trains several modules together"  # the embeddings, with the first block
    assert all(record.mode == "replay" for record in records[1:])


@pytest.mark.parametrize("name", FAMILIES)
def test_regular_distillation_after_flash_changes_every_parameter(name):
    family = FAMILIES[name]
    student, teacher = family.student(), family.teacher()
    make_distiller(teacher, family.batches(), **family.flash | {"train_steps": 1}).train(
        student, TrainingContext(seed=0)
    )
    before, weights = settings_of(student), {key: p.detach().clone() for key, p in student.named_parameters()}
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 4, "learning_rate": 1e-2},
        }
    )
    (record,) = Distiller(teacher, config, family.batches(), CPU).train(student, TrainingContext(seed=0)).stages
    assert math.isfinite(record.first_loss)
    assert [key for key, p in student.named_parameters() if torch.equal(p, weights[key])] == []
    assert settings_of(student) == before


@pytest.mark.parametrize("name", ["BERT, sdpa", "GPT-2, eager", "Llama, sdpa", "T5, sdpa", "residual CNN"])
def test_with_bf16_replay_is_used_and_equals_full_forwards(name):
    family = FAMILIES[name]
    students = {replay: family.student() for replay in (True, False)}
    records = {
        replay: distil(student, family_distiller(family, mixed_precision="bf16"), replay=replay)
        for replay, student in students.items()
    }
    assert {record.mode for record in records[True]} == {"replay"}
    assert {record.mode for record in records[False]} == {"truncated forward"}
    assert largest_difference(students[True], students[False]) == 0
    in_full = family.student()
    distil(in_full, family_distiller(family))
    assert largest_difference(students[True], in_full) > 0


def specified_distiller(student_attention, teacher_attention):
    """Attention maps and hidden states in the form of the specification, from a BERT to a MobileBERT."""
    student, teacher = FAMILIES[f"MobileBERT, {student_attention}"], FAMILIES[f"BERT, {teacher_attention}"]
    distiller = make_distiller(
        teacher.teacher(),
        teacher.batches(),
        block_names=[f"mobilebert.encoder.layer.{i}" for i in range(2)],
        layer_mappings_for_knowledge_transfer=[
            [
                (f"mobilebert.encoder.layer.{i}.attention.self", "1", f"bert.encoder.layer.{i}.attention.self", "1"),
                (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
            ]
            for i in range(2)
        ],
        loss_types=[["KL", "MSE"]] * 2,
        loss_weights=[[0.5, 0.5]] * 2,
    )
    return student.student(), distiller


def test_attention_maps_and_hidden_states_of_a_bert_are_distilled_into_a_mobilebert():
    engine, naive, records = distil_both_ways(*specified_distiller("eager", "eager"))
    assert largest_difference(engine, naive) == 0
    assert [record.mode for record in records] == ["replay", "replay"]


@pytest.mark.parametrize(("attention", "of_teacher"), [("sdpa", "eager"), ("eager", "sdpa"), ("sdpa", "sdpa")])
def test_attention_maps_of_models_loaded_by_default_are_distilled_by_eager_attention(attention, of_teacher, caplog):
    student, distiller = specified_distiller(attention, of_teacher)
    by_eager, reference = specified_distiller("eager", "eager")
    during = []
    student.register_forward_hook(lambda *_: during.append(student.config._attn_implementation))
    with caplog.at_level(logging.INFO, logger="autodistill"):
        for _ in range(2):  # students
            distiller.train(student, TrainingContext(seed=7))
            reference.train(by_eager, TrainingContext(seed=7))
    assert largest_difference(student, by_eager) == 0
    assert "eager" in during
    assert student.config._attn_implementation == attention
    assert distiller.teacher.config._attn_implementation == of_teacher
    who = {"sdpa eager": "students", "eager sdpa": "the teacher", "sdpa sdpa": "students and the teacher"}
    sentence = f"attention probabilities are mapped: {who[f'{attention} {of_teacher}']} use eager attention in "
    assert [message for message in caplog.messages if "eager" in message] == [sentence + "distillation"]


def test_attention_implementations_are_restored_after_an_error():
    student, distiller = specified_distiller("sdpa", "sdpa")
    with torch.no_grad():
        student.mobilebert.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        distiller.train(student, TrainingContext(seed=7))
    assert (student.config._attn_implementation, distiller.teacher.config._attn_implementation) == ("sdpa", "sdpa")


def test_a_model_that_ignores_the_switch_is_refused_naming_the_setting(monkeypatch):
    student, distiller = specified_distiller("sdpa", "eager")
    monkeypatch.setattr(student, "set_attn_implementation", lambda name: None)
    sentence = (
        r"^'mobilebert.encoder.layer.\d.attention.self'\[1\] is None: the model does not compute it. Attention "
        'probabilities are computed only by the plain attention: load the model with attn_implementation="eager".$'
    )
    with pytest.raises(ConfigurationError, match=sentence):
        distiller.resolve(student)


def test_a_batch_that_asks_for_a_key_value_cache_makes_the_blocks_fall_back():
    family = FAMILIES["Llama, sdpa"]
    batches = [batch | {"use_cache": True} for batch in family.batches()]
    engine, naive, records = distil_both_ways(
        family.student(), make_distiller(family.teacher(), batches, automatic_mapping="blocks")
    )
    assert largest_difference(engine, naive) == 0
    reason = "its argument past_key_values (a DynamicCache) cannot be stored"
    assert [record.reason for record in records] == [reason] * 2


def test_blocks_that_share_a_weight_fall_back():
    family = FAMILIES["RoBERTa, sdpa"]
    student = family.student()
    first, second = student.roberta.encoder.layer
    second.intermediate.dense.weight = first.intermediate.dense.weight
    engine, naive, records = distil_both_ways(student, family_distiller(family))
    assert largest_difference(engine, naive) == 0
    reason = "its parameter 'intermediate.dense.weight' is shared with a module outside the block"
    assert [record.reason for record in records] == [reason] * 2


def test_a_head_tied_to_the_embedding_stays_tied_and_both_are_trained_as_one():
    family = FAMILIES["GPT-2, sdpa"]
    student = family.student()
    make_distiller(family.teacher(), family.batches(), train_steps=1).train(student, TrainingContext(seed=0))
    assert student.lm_head.weight is student.transformer.wte.weight


def test_parameters_that_the_user_froze_stay_frozen_and_unchanged():
    family = FAMILIES["Llama, sdpa"]
    student, untrained = family.student(), family.student()
    frozen = [name for name, _ in student.named_parameters() if "embed" in name or "0.self_attn" in name]
    for name in frozen:
        student.get_parameter(name).requires_grad_(False)
    engine, naive, records = distil_both_ways(student, family_distiller(family))
    assert largest_difference(engine, naive) == 0
    assert [record.mode for record in records] == ["replay", "replay"]
    for name, parameter in engine.named_parameters():
        assert parameter.requires_grad == (name not in frozen)
        inside = name.startswith("model.layers.")
        assert torch.equal(parameter, untrained.get_parameter(name)) == (name in frozen or not inside), name


def test_blocks_that_are_frozen_entirely_are_refused_before_training():
    family = FAMILIES["Llama, sdpa"]
    student = family.student()
    student.model.layers.requires_grad_(False)
    with pytest.raises(ConfigurationError) as caught:
        family_distiller(family).resolve(student)
    assert len(caught.value.problems) == 2
    for number, problem in enumerate(caught.value.problems):
        assert problem.startswith(f"a stage must have parameters to train, but 'model.layers.{number}' has none")


def test_decoder_blocks_are_replayed_after_a_second_capture(caplog):
    family = FAMILIES["T5, sdpa"]
    with caplog.at_level(logging.INFO, logger="autodistill"):
        records = distil(family.student(), family_distiller(family))
    assert [record.mode for record in records] == ["replay"] * 6
    assert [message.split(":")[0] for message in caplog.messages if "again" in message] == [
        "the inputs of decoder.block.1 are captured again by full forwards"
    ]


def test_layers_inside_a_torch_encoder_can_be_mapped_despite_its_fused_path():
    family = FAMILIES["nn.TransformerEncoder"]
    mapping = ("encoder.layers.1.linear2", "encoder.layers.3.linear2")
    distiller = family_distiller(
        family, block_names=["encoder.layers.1"], layer_mappings_for_knowledge_transfer=[[mapping]]
    )
    engine, naive, _ = distil_both_ways(family.student(), distiller)
    assert largest_difference(engine, naive) == 0
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", FAMILIES)
def test_students_of_the_zoo_are_smaller_and_its_last_batch_has_another_size(name):
    family = FAMILIES[name]
    sizes = [sum(p.numel() for p in model.parameters()) for model in (family.student(), family.teacher())]
    assert 2 * sizes[0] < sizes[1]
    first, *_, last = (len(next(iter(b.values())) if isinstance(b, dict) else b[0]) for b in family.batches())
    assert last < first
