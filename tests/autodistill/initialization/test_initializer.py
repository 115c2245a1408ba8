"""Searches whose students start inside the teacher: modules beside the blocks train, and nothing is computed twice."""

from __future__ import annotations

import copy

import pytest
import torch
from families import BERT_LIKE, hugging_face, pictures, seeded, texts
from identity_cases import CASES
from torch import nn
from transformers import BertConfig, BertModel

from autodistill import AutoDistillation, AutoDistillationConfig
from autodistill.distillation.teacher_fed import TeacherFedDistillation
from autodistill.distiller import Distiller, Storage
from autodistill.errors import ConfigurationError
from autodistill.preparation import Preparation
from autodistill.training import TrainingContext

bert = hugging_face("BertForSequenceClassification", **BERT_LIKE, num_labels=3)
SEARCH = {"search_space": {"width": [8, 12], "depth": [1, 2]}, "search_algorithm": "Random", "metrics": ["parameters"]}


def model(width=16, depth=3, seed=0, make=bert):
    return seeded(lambda: make(width, depth), seed)


def distiller(teacher, flash=None, regular=None, init=None, data=None):
    phases = {"flash_distillation": flash, "regular_distillation": regular, "init": init}
    config = AutoDistillationConfig.load(
        {"search": SEARCH, **{key: value for key, value in phases.items() if value is not None}}
    )
    return Distiller(teacher, config, data or texts(), torch.device("cpu"))


def trained_parts(student, distil, stages):
    """Train a copy of the student over so many of its stages, from its first weights."""
    student = copy.deepcopy(student)
    plan = distil.resolve(student)
    distil.initialize(student, plan)
    before = copy.deepcopy(student.state_dict())
    chosen = plan.flash[:stages] if stages else plan.flash
    criteria = plan.flash_criteria[: len(chosen)]
    engine = TeacherFedDistillation(student, chosen, criteria, distil.flash_set, projection=plan.projection)
    records = engine.run(TrainingContext(seed=7))
    return before, student.state_dict(), records, plan


TEACHER_FED = {"train_steps": 5, "inputs": "teacher"}


def test_blocks_have_the_same_weights_to_the_bit_whatever_trains_beside_them():
    distil = distiller(model(), TEACHER_FED, {"train_steps": 1}, init={})
    student = model(8, 2, seed=1)
    _, alone, _, _ = trained_parts(student, distil, stages=2)
    before, beside, records, plan = trained_parts(student, distil, stages=None)
    assert [record.stage for record in records] == [
        "bert.encoder.layer.0",
        "bert.encoder.layer.1",
        plan.flash[-1].name,
    ]
    assert records[-1].mode == "teacher-fed"
    assert records[-1].last_loss < records[-1].first_loss
    for name, value in beside.items():
        inside = name.startswith("bert.encoder.layer.")
        assert torch.equal(value, alone[name]) == inside, name
        assert torch.equal(before[name], alone[name]) != inside, name


@pytest.mark.parametrize("name", ["Llama, words", "GPT-2, words", "ViT, classes", "T5 encoder", "MobileBERT, words"])
def test_blocks_of_other_families_do_not_depend_on_what_trains_beside_them(name):
    case = CASES[name]
    teacher, student = (seeded(lambda width=width: case.make(width, 2), width) for width in (16, 8))
    data = pictures() if name.startswith("ViT") else texts()
    distil = distiller(teacher, TEACHER_FED, init={}, data=data)
    _, alone, _, plan = trained_parts(student, distil, stages=2)
    _, beside, records, _ = trained_parts(student, distil, stages=None)
    blocks = tuple(f"{block}." for stage in plan.flash[:2] for block in stage.blocks)
    for key, value in beside.items():
        if key.startswith(blocks):
            assert torch.equal(value, alone[key]), key
    assert records[-1].last_loss < max(records[-1].first_loss, 1e-5)  # a table alone begins exact


def test_without_regular_distillation_the_head_stays_and_the_embeddings_train():
    before, after, _, _ = trained_parts(model(8, 2, seed=1), distiller(model(), TEACHER_FED, init={}), stages=None)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("bert.embeddings.") for name in changed)
    assert not any(name.startswith(("classifier", "bert.pooler")) for name in changed)


@pytest.mark.parametrize("frozen", [["bert.embeddings"], ["bert.embeddings", "bert.pooler", "classifier"]])
def test_frozen_parameters_outside_the_blocks_keep_their_first_weights(frozen):
    student = model(8, 2, seed=1)
    for path in frozen:
        student.get_submodule(path).requires_grad_(False)
    before, after, records, _ = trained_parts(student, distiller(model(), TEACHER_FED, {"train_steps": 1}, {}), None)
    assert len(records) == (3 if len(frozen) == 1 else 2)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("bert.encoder.layer.1.") for name in changed)
    assert not any(name.startswith(tuple(frozen)) for name in changed)


def test_a_student_of_full_width_begins_at_the_teachers_outputs():
    teacher = model(depth=2)
    begun, built = (
        distiller(teacher, regular={"train_steps": 1}, init=init)
        .train(model(depth=2, seed=1), TrainingContext(seed=0))
        .stages[0]
        .first_loss
        for init in ({}, None)
    )
    assert begun < 0.5 * built  # a principal rotation does not commute with the gains of its norms


def test_matchers_begin_as_the_way_back_from_the_subspace():
    teacher, student = (
        model(make=hugging_face("BertModel", **BERT_LIKE)),
        model(8, 2, 1, hugging_face("BertModel", **BERT_LIKE)),
    )
    regular = {
        "train_steps": 1,
        "layer_mappings_for_knowledge_transfer": [
            ("encoder.layer.0", "encoder.layer.1"),
            ("", "last_hidden_state", "", "last_hidden_state"),
        ],
        "loss_types": ["MSE", "MSE"],
    }
    distil = distiller(teacher, regular=regular, init={})
    plan = distil.resolve(student)
    distil.initialize(student, plan)
    subspace = distil.initializer.subspace(student)
    for matcher in plan.regular_criterion.feature_matchers:
        torch.testing.assert_close(matcher.linear.weight.double(), subspace.up, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(matcher.linear.bias.double(), subspace.mean(0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("process", ["", "auto"])
def test_each_boundary_has_its_mean_however_layers_are_named(process):
    make = hugging_face("BertModel", **BERT_LIKE)
    teacher, student = model(16, 4, make=make), model(8, 2, 1, make)
    pairs = [[(f"encoder.layer.{i}", process, f"encoder.layer.{2 * i + 1}", process)] for i in range(2)]
    flash = {"layer_mappings_for_knowledge_transfer": pairs, "block_names": [f"encoder.layer.{i}" for i in range(2)]}
    regular = {
        "train_steps": 1,
        "layer_mappings_for_knowledge_transfer": [
            ("encoder.layer.1", "input", "encoder.layer.2", "input"),
            ("encoder.layer.1", process, "encoder.layer.3", process),
        ],
        "loss_types": ["MSE", "MSE"],
    }
    distil = distiller(teacher, TEACHER_FED | flash, regular, init={"centring": "boundary"})
    plan = distil.resolve(student)
    distil.initialize(student, plan)
    subspace, projection = distil.initializer.subspace(student), plan.projection
    assert len({tuple(mean.tolist()) for mean in subspace.means}) == 5
    sources = [plan.flash[0].input.teacher, *(stage.mappings[0].teacher for stage in plan.flash[:2])]
    hidden = torch.randn(2, 3, 16)
    for tap, boundary in zip(sources, (0, 2, 4), strict=True):
        expected = (hidden - subspace.means[boundary].float()) @ subspace.down.float()
        torch.testing.assert_close(projection(hidden, tap), expected)
    for matcher, boundary in zip(plan.regular_criterion.feature_matchers, (2, 4), strict=True):
        torch.testing.assert_close(matcher.linear.bias.double(), subspace.means[boundary], atol=1e-6, rtol=1e-6)


class Projected(nn.Module):
    """Hidden states, projected to the teacher's width."""

    def __init__(self, width, depth=2) -> None:
        super().__init__()
        sizes = {"intermediate_size": 16, "vocab_size": 40, "num_attention_heads": 2, "max_position_embeddings": 16}
        self.body = BertModel(BertConfig(hidden_size=width, num_hidden_layers=depth, **sizes), add_pooling_layer=False)
        self.projection = nn.Linear(width, 16) if width < 16 else nn.Identity()

    def forward(self, input_ids, attention_mask):
        return self.projection(self.body(input_ids, attention_mask).last_hidden_state)


def test_a_projection_head_begins_as_the_way_back():
    teacher, student = (seeded(lambda width=width: Projected(width), 0) for width in (16, 8))
    distil = distiller(teacher, regular={"train_steps": 1}, init={"projection_head": "projection"})
    plan = distil.resolve(student)
    distil.initialize(student, plan)
    torch.testing.assert_close(
        student.projection.weight.double(), distil.initializer.subspace(student).up, atol=1e-6, rtol=1e-6
    )


def search(directory, init="teacher", teacher=None, config=None, **arguments):
    return AutoDistillation(
        lambda architecture: bert(**architecture),
        config
        or {
            "search": SEARCH | {"max_trials": 2, "seed": 3},
            "flash_distillation": TEACHER_FED,
            "regular_distillation": {"train_steps": 4},
        },
        teacher_model=teacher or model(),
        train_dataloader=texts(),
        search_dir=directory,
        keep="all",
        device="cpu",
        init=init,
        show_progress_bar=False,
        **arguments,
    )


def weights(agent):
    return {
        trial.number: sorted((trial.directory / "student").rglob("*.safetensors"))[0].read_bytes()
        for trial in agent.search_result.completed
    }


def test_a_resumed_search_has_the_same_students_bit_for_bit(tmp_path):
    whole = search(tmp_path / "whole")
    whole.search_loop()
    search(tmp_path / "parts").search_loop(n_trials=1)
    resumed = search(tmp_path / "parts")
    resumed.search_loop(n_trials=1)
    assert len(weights(whole)) == 2
    assert weights(resumed) == weights(whole)


def test_init_may_be_in_the_configuration_or_beside_it(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "search: {search_space: {width: [8], depth: [1]}, metrics: [parameters]}\n"
        "regular_distillation: {train_steps: 2}\n"
        "init: {weights: embeddings, batches: 2}\n"
    )
    agent = search(tmp_path / "a", init=None, config=path)
    assert agent.config.init.weights == "embeddings"
    agent.search_loop()
    assert search(tmp_path / "b", init={"batches": 3}, config=path).config.init.batches == 3
    path.write_text(path.read_text().replace("{weights: embeddings, batches: 2}", "teacher"))
    assert AutoDistillationConfig.load(path).init == AutoDistillationConfig.load(path).starting_from("teacher").init


def test_mistakes_in_init_are_reported(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"init\.weights: Input should be 'all' or 'embeddings', but got 'none'"
    ):
        search(tmp_path, init={"weights": "none"})


def test_an_init_that_is_no_mapping_is_refused(tmp_path):
    for given in (3, [], "Teacher"):
        with pytest.raises(ConfigurationError) as error:
            search(tmp_path, init=given)
        assert str(error.value) == f"init: must be 'teacher', or a mapping of settings, but is {given!r}."


def test_init_with_a_train_func_is_refused(tmp_path):
    with pytest.raises(
        ConfigurationError, match="init belongs to the built-in distillation, but there is a train_func"
    ):
        search(tmp_path, train_func=lambda student: student).search_loop()


def test_a_damaged_decomposition_is_computed_again(tmp_path, caplog):
    def begun():
        distil = Distiller(model(), distiller(model(), init={}).config, texts(), torch.device("cpu"), Storage(tmp_path))
        student = model(8, 2, 1)
        distil.initialize(student, distil.resolve(student))
        return student.state_dict()

    first = begun()
    (path,) = tmp_path.glob("subspace-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    second = begun()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert path.read_bytes() == whole
    assert f"{path}, computed from the teacher, is damaged and is recomputed" in caplog.text


@pytest.mark.parametrize("flash", [TEACHER_FED, None], ids=["flash", "regular only"])
def test_the_teacher_runs_once_a_sample(tmp_path, flash):
    teacher, seen = model(), []

    def count(module, args, kwargs):
        seen.append(len(kwargs["input_ids"]))

    teacher.bert.embeddings.register_forward_pre_hook(count, with_kwargs=True)
    config = {"search": SEARCH | {"max_trials": 2, "seed": 3}, "regular_distillation": {"train_steps": 9}}
    config |= {} if flash is None else {"flash_distillation": flash}
    start = {"least_squares": "none", "importance": "weights"}
    search(tmp_path, teacher=teacher, init=start, config=config).search_loop()
    sizes = [len(content["input_ids"]) for content in texts()]
    # The first batch also shows what the teacher computes: its states, its other layers, axes, and independence.
    assert sum(seen) <= sum(sizes) + 4 * sizes[0]


def test_a_model_of_no_known_family_needs_no_table_without_init():
    config = AutoDistillationConfig.load({"search": SEARCH, "regular_distillation": {"train_steps": 1}})
    data = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))]
    assert (
        Distiller(nn.Linear(3, 2), config, data, torch.device("cpu"))
        .train(nn.Linear(3, 2), TrainingContext(seed=0))
        .stages
    )


def test_a_forecast_of_the_disk_includes_what_the_start_reads(tmp_path):
    phases = {"flash_distillation": {"train_steps": 6}, "regular_distillation": {"train_steps": 6}, "init": {}}
    config = AutoDistillationConfig.load({"search": SEARCH} | phases)
    distil = Distiller(model(), config, texts(), torch.device("cpu"), Storage(tmp_path))
    student = model(8, 2, seed=1)
    predicted = Preparation(distil).forecast([student]).teacher.disk_bytes
    distil.check(student)
    distil.train(student, TrainingContext(seed=0))
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors") if "subspace" not in path.name)
    assert predicted == pytest.approx(stored, rel=0.1)
