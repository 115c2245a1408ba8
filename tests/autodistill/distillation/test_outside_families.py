"""Families outside the usual ones: flash and regular distillation, saving and loading, and starts inside the teacher,
each compared with what the table `outside_families` expects."""

from __future__ import annotations

import re

import pytest
import torch
from independent_losses import call, flash_loss, regular_loss, tensors
from naive_distillation import distil_both_ways, largest_difference, make_distiller
from outside_families import FAMILIES

from autodistill import AutoDistillation
from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.frameworks.student_files import load_student, save_student
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.seeds import derive_seed
from autodistill.training import TrainingContext

SEED, TEMPERATURE = 7, 2.0
UNCHANGED = 1e-30
"""A learning rate that changes no weight, so that the first loss of every block is that of the initial student."""

families = pytest.mark.parametrize("name", FAMILIES)


def distiller_for(family, **settings):
    config = {"search": {"search_space": {"width": [1]}, "metrics": ["loss"]}, **settings}
    return Distiller(family.teacher(), AutoDistillationConfig.load(config), family.batches(), torch.device("cpu"))


def predictions_of(family, model, batch):
    return tensors(call(model, batch))[family.predictions.key]


def paths_of(family):
    return [row.path.format(number) for row in family.rows for number in range(len(row.partners))]


def masks_of(family):
    """The expected mask of each block's output, in its layout, for the reference loop."""
    rows = {row.path.format(number): row for row in family.rows for number in range(len(row.partners))}

    def mask_of(path, batch):
        mask = rows[path].mask(batch)
        return mask.T if mask is not None and rows[path].layout == "LNC" else mask

    return mask_of


@families
def test_flash_equals_the_naive_loop_by_replay_or_for_a_stated_reason(name):
    family = FAMILIES[name]
    # The order in which a processor sums up features of four axes depends on how it is vectorised. Adam would turn this
    # rounding into whole steps of biases whose gradient is zero, as those of keys.
    by_rounding = name == "PatchTST"
    settings = {"optimizer": "SGD"} if by_rounding else {}
    distiller = make_distiller(
        family.teacher(), family.batches(), train_steps=3, automatic_mapping="blocks", **settings
    )
    engine, naive, records = distil_both_ways(family.student(), distiller, mask_of=masks_of(family))
    assert largest_difference(engine, naive) <= (1e-7 if by_rounding else 0)
    assert largest_difference(engine, family.student()) > 1e-3
    assert {record.stage: record.reason for record in records} == {
        path: family.reasons.get(path) for path in paths_of(family)
    }


@families
def test_first_losses_of_flash_equal_an_independent_computation(name):
    family = FAMILIES[name]
    settings = {"train_steps": 1, "learning_rate": UNCHANGED, "automatic_mapping": "blocks"}
    distiller, student = distiller_for(family, flash_distillation=settings), family.student()
    criteria = distiller.resolve(student).flash_criteria
    records = distiller.train(student, TrainingContext(seed=SEED)).stages
    places = [(row, number) for row in family.rows for number in range(len(row.partners))]
    assert [record.stage for record in records] == paths_of(family)
    initial = family.student()
    expected = [
        flash_loss(
            initial,
            family.teacher(),
            family.batches()[0],
            row,
            number,
            matcher=dict(criterion.named_parameters()),
            seed=derive_seed(derive_seed(SEED, "flash", index), 0),
        )
        for index, ((row, number), criterion) in enumerate(zip(places, criteria, strict=True))
    ]
    assert [record.first_loss for record in records] == pytest.approx(expected, rel=1e-5)


@families
def test_first_loss_of_regular_distillation_equals_an_independent_computation(name):
    family = FAMILIES[name]
    distiller = distiller_for(family, regular_distillation={"train_steps": 1, "temperature": TEMPERATURE})
    (record,) = distiller.train(family.student(), TrainingContext(seed=SEED)).stages
    expected = regular_loss(
        family.student(),
        family.teacher(),
        family.batches()[0],
        family.predictions,
        temperature=TEMPERATURE,
        seed=derive_seed(derive_seed(SEED, "regular"), 0),
    )
    assert record.first_loss == pytest.approx(expected, rel=1e-5)


@families
def test_saved_student_is_loaded_into_a_new_one_with_equal_predictions(name, tmp_path):
    family = FAMILIES[name]
    student, batch = family.student().eval(), family.batches()[0]
    save_student(student, {"depth": 2}, tmp_path / "student")
    loaded = load_student(family.make(8, family.depths[0]), tmp_path / "student")
    with torch.no_grad():
        expected, found = (predictions_of(family, model, batch) for model in (student, loaded))
    assert torch.equal(found, expected)


@families
def test_start_inside_the_teacher_begins_or_is_refused_clearly(name):
    family = FAMILIES[name]
    settings = {"init": {"batches": 1}, "regular_distillation": {"train_steps": 1}}
    student = family.student()
    if family.start is None:
        distiller_for(family, **settings).train(student, TrainingContext(seed=SEED))
        assert largest_difference(student, family.student()) > 1e-2
        return
    with pytest.raises(ConfigurationError, match=re.escape(family.start)):
        distiller_for(family, **settings).check(student)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.search])
def test_search_with_defaults_returns_the_student_that_it_measured(name, tmp_path):
    family = FAMILIES[name]
    batch, teacher = family.batches()[0], family.teacher()

    def evaluate(student):
        with torch.no_grad():
            pair = [predictions_of(family, model.eval(), batch) for model in (student, teacher)]
        return {"distance": (pair[0] - pair[1]).square().mean().item()}

    search = AutoDistillation(
        TransformersBuilder(type(family.student()), family.student().config),
        {
            "search": {
                "search_space": dict(family.search),
                "metrics": [{"name": "distance", "greater_is_better": False}],
                "max_trials": 2,
                "search_algorithm": "random",
            },
            "flash_distillation": {"train_steps": 2},
            "regular_distillation": {"train_steps": 2},
        },
        teacher_model=teacher,
        train_dataloader=family.batches(),
        eval_func=evaluate,
        search_dir=tmp_path / "search",
        device="cpu",
        show_progress_bar=False,
    )
    assert search.search_loop() is not None
    result = search.search_result
    assert [trial.state for trial in result] == ["complete"] * 2
    assert evaluate(search.best_model()) == result.best.metrics
