"""Flash distillation equals a plainly written loop of full forwards to the bit, however it runs."""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch
from families import seeded
from naive_distillation import assert_identical, distil_both_ways, largest_difference, make_distiller
from small_models import ConvolutionalNetwork, Counted, Transformer
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForSequenceClassification, BertModel

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.distillation.activation_store import Budget
from autodistill.distillation.flash import FlashDistillation
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.training import TrainingContext


def tokens(batches=4, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 5, 8, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for _ in range(batches)
    ]


def images(batches=4):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 1, 8, 8, generator=generator), torch.zeros(4, dtype=torch.long)) for _ in range(batches)]


@pytest.mark.parametrize("replay", [True, False], ids=["replay", "truncated forward"])
def test_transformer_of_four_blocks_with_dropout_equals_the_naive_loop(replay):
    teacher = seeded(lambda: Transformer(16, 6))
    student = seeded(lambda: Transformer(12, 4), 1)
    data = [*tokens(), tokens(1, size=3, seed=5)[0]]  # the last batch is smaller
    engine, naive, records = distil_both_ways(student, make_distiller(teacher, data), replay=replay)
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["replay" if replay else "truncated forward"] * 4


@pytest.mark.parametrize("replay", [True, False], ids=["replay", "truncated forward"])
def test_network_with_batch_normalisation_equals_the_naive_loop(replay):
    teacher = seeded(lambda: ConvolutionalNetwork(8, 4))
    student = seeded(lambda: ConvolutionalNetwork(4, 4), 1)
    engine, naive, records = distil_both_ways(student, make_distiller(teacher, images()), replay=replay)
    assert_identical(engine, naive)
    assert {record.mode for record in records} == {"replay" if replay else "truncated forward"}


def bert_batches(count=3):
    generator = torch.Generator().manual_seed(2)
    batches = []
    for _ in range(count):
        mask = torch.ones(4, 7, dtype=torch.long)
        mask[0, 5:] = 0
        batches.append({"input_ids": torch.randint(0, 50, (4, 7), generator=generator), "attention_mask": mask})
    return batches


def bert(width, depth):
    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=16,
            attn_implementation="eager",
        )
    )


def test_only_the_block_of_the_stage_changes_if_layers_1_and_10_exist():
    teacher, student = seeded(lambda: bert(16, 12)), seeded(lambda: bert(8, 11), 1)
    path = "encoder.layer.1"
    distiller = make_distiller(
        teacher, bert_batches(), block_names=[path], layer_mappings_for_knowledge_transfer=[[(path, path)]]
    )
    before = copy.deepcopy(student.state_dict())
    distiller.train(student, TrainingContext(seed=0))
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(path + ".")}


def test_attention_and_hidden_states_of_a_padded_bert_equal_the_naive_loop():
    teacher, student = seeded(lambda: bert(16, 4)), seeded(lambda: bert(8, 2), 1)
    layers = ["encoder.layer.0", "encoder.layer.1"]
    distiller = make_distiller(
        teacher,
        bert_batches(),
        block_names=layers,
        layer_mappings_for_knowledge_transfer=[
            [(f"{layer}.attention.self", "1", f"{layer}.attention.self", "1"), (layer, layer)] for layer in layers
        ],
        loss_types=[["KL", "MSE"]] * 2,
        loss_weights=[[0.5, 0.5]] * 2,
    )
    engine, naive, records = distil_both_ways(student, distiller)
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["replay", "replay"]


def test_every_stage_changes_its_own_block_and_its_matchers():
    teacher, student = seeded(lambda: Transformer(16, 3)), seeded(lambda: Transformer(12, 3), 1)
    distiller = make_distiller(teacher, tokens())
    plan, fresh = distiller.resolve(student), distiller.resolve(student).flash_criteria
    before = copy.deepcopy(student.state_dict())
    FlashDistillation(student, plan.flash, plan.flash_criteria, distiller.flash_set).run(TrainingContext(seed=0))
    for block in ("layers.0", "layers.1", "layers.2"):
        names = [name for name in before if name.startswith(block + ".")]
        assert not any(torch.equal(student.state_dict()[name], before[name]) for name in names)
    for name in ("embedding.weight", "head.weight"):
        assert torch.equal(student.state_dict()[name], before[name])
    for trained, untrained in zip(plan.flash_criteria, fresh, strict=True):
        assert not torch.equal(trained.feature_matchers[0].linear.weight, untrained.feature_matchers[0].linear.weight)


def test_the_teacher_runs_once_for_each_batch_over_all_students_and_blocks():
    teacher = Counted(seeded(lambda: Transformer(16, 4)))
    distiller = make_distiller(teacher, tokens(batches=20, size=2), train_steps=20)
    for seed in range(3):
        distiller.train(seeded(lambda: Transformer(8, 4), seed), TrainingContext(seed=seed))
    assert teacher.forwards == 20


def test_own_loss_of_the_student_is_added_if_configured():
    teacher, student = seeded(lambda: Transformer(12, 2)), seeded(lambda: Transformer(12, 2), 1)
    records = (
        make_distiller(teacher, tokens(), add_origin_loss=True)
        .train(copy.deepcopy(student), TrainingContext(seed=0))
        .stages
    )
    without = make_distiller(teacher, tokens()).train(copy.deepcopy(student), TrainingContext(seed=0)).stages
    batch = Batch(tokens()[0])
    with torch.no_grad():
        own = nn.functional.cross_entropy(batch.call(student.eval()), batch.targets).item()
    assert {record.reason for record in records} == {"the student's own loss needs its whole forward"}
    assert records[0].first_loss - without[0].first_loss == pytest.approx(own, abs=0.3)  # dropout


def test_random_state_of_the_program_is_neither_read_nor_changed():
    teacher, student = seeded(lambda: Transformer(16, 2)), seeded(lambda: Transformer(12, 2), 1)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = torch.get_rng_state()
        twin = copy.deepcopy(student)
        make_distiller(teacher, tokens()).train(twin, TrainingContext(seed=3))
        assert torch.equal(torch.get_rng_state(), expected)
        results.append(twin)
    assert_identical(*results)


@pytest.mark.parametrize(
    ("memory", "disk", "directory"),
    [(0.0, 1.0, True), (3.5, 3.0, True), (2.0, 0.0, True), (0.0, 0.0, False)],
    ids=["all on disk", "memory, disk and computed", "memory and computed", "all computed"],
)
def test_inputs_beyond_the_budget_are_on_disk_or_computed_with_equal_weights(tmp_path, caplog, memory, disk, directory):
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 3), 1)
    one_batch = 6 * 5 * 12 * 4 / 2**30  # GiB of (6, 5, 12) floats
    budget = Budget(memory * one_batch, 1.0 if disk == 1.0 else disk * one_batch, tmp_path / "a" if directory else None)
    distiller = make_distiller(teacher, tokens(8), train_steps=8)
    twin = copy.deepcopy(student)
    results = []
    for model, given in ((student, budget), (twin, Budget())):
        plan = distiller.resolve(model)
        with caplog.at_level(logging.INFO, logger="autodistill"):
            flash = FlashDistillation(model, plan.flash, plan.flash_criteria, distiller.flash_set, budget=given)
            results.append(flash.run(TrainingContext(seed=7)))
    assert_identical(student, twin)
    assert results[0] == results[1]
    assert [record.mode for record in results[0]] == ["replay"] * 3
    assert "computed when needed" in caplog.text
    assert not (tmp_path / "a").exists()


def test_inexact_storage_trains_nearly_the_same_student():
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 3), 1)
    results = {}
    for exact in (True, False):
        results[exact] = copy.deepcopy(student)
        records = make_distiller(teacher, tokens(), exact=exact).train(results[exact], TrainingContext(seed=0)).stages
        assert [record.mode for record in records] == ["replay"] * 3
    exact, rounded = (results[flag].state_dict()["layers.2.linear1.weight"] for flag in (True, False))
    moved = (exact - student.state_dict()["layers.2.linear1.weight"]).abs().mean()
    assert 0 < (exact - rounded).abs().mean() < 0.1 * moved


@pytest.mark.parametrize("init", [None, "teacher"])
def test_pair_of_losses_without_blocks_trains_as_regular_distillation_does(init):
    pair = {"loss_types": ["CE", "KL"], "loss_weights": [0.25, 0.75], "temperature": 2.0, "train_steps": [3]}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_attention_heads": 2}
    sizes = {"num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 20, **still}
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"input_ids": (tokens := torch.randint(0, 20, (4, 5), generator=generator)), "labels": tokens[:, 0] % 2}
        for _ in range(3)
    ]
    students = []
    for phase in ("flash_distillation", "regular_distillation"):
        torch.manual_seed(0)
        teacher, student = (BertForSequenceClassification(BertConfig(hidden_size=width, **sizes)) for width in (16, 8))
        config = {"search": {"search_space": {"width": [8]}, "metrics": ["loss"]}, phase: pair, "init": init}
        config = AutoDistillationConfig.load({key: value for key, value in config.items() if value is not None})
        (record,) = (
            Distiller(teacher, config, batches, torch.device("cpu")).train(student, TrainingContext(seed=0)).stages
        )
        students.append((student.state_dict(), record.first_loss))
    (flash, first), (regular, same) = students
    assert first == same
    assert all(torch.equal(flash[name], regular[name]) for name in flash)


# --- what replay cannot handle ---------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Blocks with an operation between them: `between(output, input)` is the input of the next block."""

    def __init__(self, width, depth, between):
        super().__init__()
        self.embedding, self.between = nn.Linear(8, width), between
        self.layers = nn.ModuleList(nn.Sequential(nn.Sigmoid(), nn.Linear(width, width)) for _ in range(depth))

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for layer in self.layers:
            hidden = self.between(layer(hidden), hidden)
        return hidden


def add_in_place(output, hidden):
    output += hidden
    return output


def shift_in_place(output, hidden):
    return output.sub_(0.5)


def refuse_nan(output, hidden):
    if output.isnan().any():
        raise ValueError("NaN")
    return output


@pytest.mark.parametrize("between", [add_in_place, shift_in_place, refuse_nan])
def test_operation_between_blocks_that_fails_without_them_makes_inputs_be_captured_again(between, caplog):
    teacher, student = seeded(lambda: Chain(16, 3, between)), seeded(lambda: Chain(8, 3, between), 1)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(student, make_distiller(teacher, tokens()))
    assert_identical(engine, naive)
    assert {record.mode for record in records} == {"replay"}
    again = "the inputs of layers.2 are captured again by full forwards: the outputs of finished blocks cannot stand in"
    assert any(message.startswith(again) for message in caplog.messages)


@dataclasses.dataclass
class Hidden:
    loss: torch.Tensor | None
    hidden: torch.Tensor


class ReturnsHidden(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, hidden):
        return Hidden(None, torch.tanh(self.inner(hidden)))


class OfHidden(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.layers = nn.ModuleList(ReturnsHidden(width) for _ in range(depth))

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for layer in self.layers:
            hidden = layer(hidden).hidden
        return hidden


EXPLICIT = {
    "block_names": ["layers.0", "layers.1"],
    "layer_mappings_for_knowledge_transfer": [
        [[("layers.0", "hidden")]],
        [("layers.1", "hidden", "layers.1", "hidden")],
    ],
}


@pytest.mark.parametrize("settings", [{}, EXPLICIT], ids=["automatic", "explicit"])
def test_blocks_that_return_a_dataclass_fall_back(settings, caplog):
    teacher, student = seeded(lambda: OfHidden(16, 2)), seeded(lambda: OfHidden(8, 2), 1)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(student, make_distiller(teacher, tokens(), **settings))
    assert_identical(engine, naive)
    reason = "it returns a Hidden, which cannot be stored"
    assert [(record.mode, record.reason) for record in records] == [("truncated forward", reason)] * 2
    assert f"layers.0 runs by the truncated forward: {reason}" in caplog.messages


def compiled_model(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_blocks(model):
    for index, layer in enumerate(model.layers):
        model.layers[index] = torch.compile(layer, backend="eager")
    return model


def blocks_compiled_in_place(model):
    for layer in model.layers:
        layer.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_it", [compiled_model, compiled_in_place, compiled_blocks, blocks_compiled_in_place])
def test_compiled_students_and_teachers_are_trained_as_if_they_were_not(compile_it, caplog):
    def trained(convert):
        teacher, student = seeded(lambda: Transformer(16, 2)), seeded(lambda: Transformer(8, 2), 1)
        student = convert(student)
        distiller = make_distiller(convert(teacher), tokens())
        return distiller.train(student, TrainingContext(seed=7))

    with caplog.at_level(logging.INFO, logger="autodistill"):
        plain, compiled = trained(lambda model: model), trained(compile_it)
    assert largest_difference(plain.model, compiled.model) == 0
    assert [stage.mode for stage in compiled.stages] == ["replay"] * 2
    assert caplog.messages.count("the student was compiled: it runs uncompiled in flash distillation") == 1


@pytest.mark.parametrize("settings", [{"automatic_mapping": "blocks"}, {}], ids=["replay", "with the embeddings"])
def test_reentrant_checkpointing_trains_the_same_weights_and_is_restored(settings):
    def trained(reentrant):
        teacher, student = seeded(lambda: bert(16, 2)), seeded(lambda: bert(8, 2), 1)
        if reentrant is not None:
            student.activation_checkpointing_enable({"use_reentrant": reentrant})
        make_distiller(teacher, bert_batches(), **settings).train(student, TrainingContext(seed=7))
        return student

    reentrant = trained(True)
    assert_identical(reentrant, trained(None))
    assert_identical(reentrant, trained(False))
    assert all(layer._gradient_checkpointing_func.keywords["use_reentrant"] for layer in reentrant.encoder.layer)


class Checkpointed(nn.Module):
    """Calls PyTorch's checkpointing itself."""

    def __init__(self, width, depth):
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=True)
        return hidden


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_reentrant_checkpointing_of_the_model_itself_is_named_as_a_possible_cause():
    distiller = make_distiller(seeded(lambda: Checkpointed(16, 2)), tokens())
    student = seeded(lambda: Checkpointed(8, 2), 1)
    plan = distiller.resolve(student)
    engine = FlashDistillation(student, plan.flash, plan.flash_criteria, distiller.flash_set, replay=False)
    with pytest.raises(ConfigurationError, match=r"by reentrant checkpointing.*call it with use_reentrant=False"):
        engine.run(TrainingContext(seed=7))
