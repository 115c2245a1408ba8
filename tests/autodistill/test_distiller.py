"""The built-in training by the contract of a training: check, train, describe."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors import safe_open
from small_models import Transformer

from autodistill.config import AutoDistillationConfig
from autodistill.distillation.checkpoints import Checkpoints
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.training import StageRecord, Training, TrainingContext


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def make_distiller(search=None, regular_engine=None, **sections) -> Distiller:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(4, 5, 8, generator=generator), torch.randint(0, 10, (4,), generator=generator)) for _ in range(3)
    ]
    search = {"search_space": {"width": [8]}, "metrics": ["loss"]} | (search or {})
    config = AutoDistillationConfig.load({"search": search} | sections)
    engine = {} if regular_engine is None else {"regular_engine": regular_engine}
    return Distiller(seeded(lambda: Transformer(12, 4), 1), config, data, torch.device("cpu"), **engine)


BOTH = {"flash_distillation": {"train_steps": 3}, "regular_distillation": {"train_steps": 3}}
FED = {"flash_distillation": {"train_steps": 3, "inputs": "teacher"}, "regular_distillation": {"train_steps": 3}}


def student(width=8):
    return seeded(lambda: Transformer(width, 2))


def assert_identical(left, right) -> None:
    for (name, a), (_, b) in zip(left.state_dict().items(), right.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_the_student_is_trained_in_place_with_a_record_for_each_stage() -> None:
    training: Training = make_distiller(**BOTH)
    model = student()
    trained = training.train(model, TrainingContext(seed=0))
    assert training.keeps_size
    assert trained.model is model
    assert [(record.stage, record.mode) for record in trained.stages] == [
        ("layers.0", "replay"),
        ("layers.1", "replay"),
        ("regular distillation", None),
    ]


def test_two_calls_with_a_stop_after_flash_train_as_one_call_does(tmp_path) -> None:
    whole, parts = student(), student()
    expected = make_distiller(**BOTH).train(whole, TrainingContext(seed=0)).stages
    first = make_distiller(**BOTH).train(parts, TrainingContext(0, checkpoint_directory=tmp_path, flash_only=True))
    parts = student()
    second = make_distiller(**BOTH).train(parts, TrainingContext(0, checkpoint_directory=tmp_path))
    assert first.stages == expected[:2]
    assert second.stages == expected
    assert_identical(parts, whole)


@pytest.mark.parametrize(("sections", "width"), [(BOTH, 8), (FED, 12)], ids=["replay", "teacher-fed"])
def test_checkpoints_with_records_of_earlier_versions_are_read(tmp_path, sections, width) -> None:
    """They hold every field, also those without a value."""
    whole = student(width)
    expected = make_distiller(**sections).train(whole, TrainingContext(0, checkpoint_directory=tmp_path)).stages
    for path in tmp_path.glob("flash-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            content = json.loads(file.metadata()["record"])
        for record in content.get("records") or [content["record"]]:
            record.setdefault("reason", None)
        Checkpoints(tmp_path).save(path.stem, tensors, content)
    resumed = student(width)
    again = make_distiller(**sections).train(resumed, TrainingContext(1, checkpoint_directory=tmp_path)).stages
    assert again == expected
    assert_identical(resumed, whole)


def test_another_engine_may_run_regular_distillation() -> None:
    tasks = []

    class Engine:
        def __init__(self, task) -> None:
            tasks.append(task)

        def run(self, context):
            return [StageRecord(tasks[-1].stage.name, 1.0, 0.5, mode="elsewhere", steps=context.seed)]

    model = student()
    stages = make_distiller(regular_engine=Engine, **BOTH).train(model, TrainingContext(seed=5)).stages
    assert stages[-1] == StageRecord("regular distillation", 1.0, 0.5, mode="elsewhere", steps=5)
    assert tasks[0].student is model


def test_check_raises_every_problem_and_trains_nothing() -> None:
    wrong = {"layer_mappings_for_knowledge_transfer": [("heads", "head"), ("head", "tail")], "train_steps": 3}
    model = student()
    before = copy.deepcopy(model)
    make_distiller(**BOTH).check(model)
    with pytest.raises(ConfigurationError) as caught:
        make_distiller(regular_distillation=wrong).check(model)
    assert len(caught.value.problems) == 2
    assert_identical(model, before)


@pytest.mark.parametrize(("promote", "warned"), [(None, False), (0.5, True)])
def test_check_warns_of_untrained_modules_if_students_are_compared_after_flash(caplog, promote, warned) -> None:
    search = {} if promote is None else {"promote": promote}
    make_distiller(search, **BOTH).check(student())
    assert ("leaves embedding, head as model_builder made them" in caplog.text) == warned


def test_the_description_is_of_the_phases_the_loss_function_and_the_flash_set() -> None:
    described = json.loads(json.dumps(make_distiller(**BOTH).describe()))
    assert described["distillation"].keys() == {"flash_distillation", "regular_distillation", "loss_func"}
    assert described["distillation"]["flash_distillation"]["train_steps"] == 3
    assert described["distillation"]["loss_func"] == "torch.nn.functional.cross_entropy"
    assert described["environment"].keys() == {"flash_set"}


@pytest.mark.parametrize("kind", ["SP", "PKT", "CCKD", "VID"])
def test_both_phases_train_with_every_loss_between_features(kind: str) -> None:
    mapped = {"layer_mappings_for_knowledge_transfer": [("layers.1", "layers.3")], "loss_types": kind}
    sections = {
        "flash_distillation": {"train_steps": 31, "learning_rate": 1e-2, "loss_types": kind},
        "regular_distillation": mapped | {"train_steps": 31, "learning_rate": 1e-2},
    }
    trained = make_distiller(**sections).train(student(), TrainingContext(seed=0))
    assert [record.mode for record in trained.stages] == ["replay", "replay", None]
    assert all(record.last_loss < record.first_loss for record in trained.stages)


@pytest.mark.parametrize("kind", ["DIST", "LSKD", "DKD", ["CE", "DIST"], ["CE", "LSKD"], ["CE", "DKD"]], ids=str)
def test_regular_distillation_trains_with_every_loss_between_logits(kind) -> None:
    sections = {"regular_distillation": {"train_steps": 31, "learning_rate": 1e-2, "loss_types": kind}}
    (record,) = make_distiller(**sections).train(student(), TrainingContext(seed=0)).stages
    assert record.last_loss < record.first_loss
