"""The common interface of all engines: one method, a record for each stage, an error for a loss that is not finite."""

from __future__ import annotations

import pytest
import torch
from families import seeded
from naive_distillation import make_distiller
from protocols import differences
from small_models import Transformer
from teacher_fed_models import tokens

from autodistill.distillation.engine import Engine
from autodistill.distillation.flash import FlashDistillation
from autodistill.distillation.regular import RegularDistillation
from autodistill.distillation.teacher_fed import TeacherFedDistillation
from autodistill.errors import NonFiniteError
from autodistill.integrations.huggingface.trainer_distillation import TrainerDistillation
from autodistill.training import TrainingContext

ENGINES = [FlashDistillation, TeacherFedDistillation, RegularDistillation, TrainerDistillation]


@pytest.mark.parametrize("engine", ENGINES)
def test_class_has_the_method_of_an_engine(engine: type) -> None:
    assert differences(engine, Engine) == {}


def test_class_without_the_method_is_no_engine() -> None:
    assert differences(object, Engine) == {"run": None}


@pytest.mark.parametrize("settings", [{}, {"add_origin_loss": True}, {"inputs": "teacher"}], ids=str)
def test_nan_in_a_batch_is_an_error_that_names_the_batch(settings):
    data = tokens()
    data[2][0][0, 0, 0] = float("nan")
    distiller = make_distiller(seeded(lambda: Transformer(12, 2)), data, train_steps=4, **settings)
    with pytest.raises(NonFiniteError, match=r"at step 2 of .*; the inputs already hold NaN for batch 2: find"):
        distiller.train(seeded(lambda: Transformer(12, 2), 1), TrainingContext(seed=0))


@pytest.mark.parametrize("settings", [{}, {"add_origin_loss": True}, {"inputs": "teacher"}], ids=str)
def test_each_stage_has_a_record_and_the_student_is_trained_in_place(settings):
    student = seeded(lambda: Transformer(12, 2), 1)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    distiller = make_distiller(seeded(lambda: Transformer(12, 2)), tokens(), train_steps=4, **settings)
    trained = distiller.train(student, TrainingContext(seed=0))
    assert trained.model is student
    assert [record.stage for record in trained.stages] == ["layers.0", "layers.1"]
    assert all(record.first_loss > 0 and record.first_loss != record.last_loss for record in trained.stages)
    changed = {
        name.split(".")[1] for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"0", "1"}
