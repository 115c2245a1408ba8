"""The checks of a trainer before its search: arguments, data and configuration, all problems in one error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_trainers import (
    SMALL,
    bert,
    make_trainer,
    problems,
)

from autodistill import ConfigurationError
from autodistill.config import AutoDistillationConfig
from autodistill.integrations.huggingface.trainer_checks import trainer_problems


def test_all_mistakes_of_the_set_up_are_in_one_error(tmp_path):
    config = SMALL | {
        "search": SMALL["search"] | {"metrics": ["accuracy"]},
        "regular_distillation": {"learning_rate": 0.1, "optimizer": "SGD"},
    }
    optimizer = torch.optim.SGD(bert().parameters())
    message = problems(tmp_path, config=config, make={"evaluated": False, "optimizers": (optimizer, None)})
    assert message.startswith("4 mistakes in the configuration:")
    assert "its learning_rate is that of TrainingArguments, but regular_distillation has learning_rate=0.1" in message
    assert "its optimizer is that of TrainingArguments" in message
    assert "every student needs an optimizer of its own, but the trainer received one" in message
    assert "the trainer's evaluation returns 'accuracy', but there is no eval_dataset" in message


CONFIG = AutoDistillationConfig.load(
    {"search": {"search_space": {"hidden_size": [8]}, "metrics": ["eval_loss"]}, "regular_distillation": "auto"}
)


def trainer(**changes) -> SimpleNamespace:
    """The attributes of a trainer that the checks read."""
    settings = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False, "optimizer": None, "lr_scheduler": None}
    data = {"args": SimpleNamespace(world_size=1), "train_dataset": [1, 2], "eval_dataset": [3]}
    return SimpleNamespace(**settings | data | changes)


PROBLEMS = {
    "FSDP": (
        {"is_fsdp_enabled": True},
        "the built-in distillation trains whole models, but FSDP or DeepSpeed splits them; use DDP.",
    ),
    "DeepSpeed": (
        {"is_deepspeed_enabled": True},
        "the built-in distillation trains whole models, but FSDP or DeepSpeed splits them; use DDP.",
    ),
    "schedule": (
        {"lr_scheduler": object()},
        "every student needs an optimizer of its own, but the trainer received one; leave `optimizers` out, or pass "
        "optimizer_cls_and_kwargs.",
    ),
    "no length": (
        {"args": SimpleNamespace(world_size=2), "train_dataset": iter([1])},
        "several processes share a data set by its length, but train_dataset has none; use one process.",
    ),
}


def test_trainer_without_problems_has_none() -> None:
    assert list(trainer_problems(trainer(), CONFIG, None, None)) == []


@pytest.mark.parametrize(("changes", "problem"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problem_of_the_built_in_training_is_none_of_a_train_func(changes: dict, problem: str) -> None:
    assert list(trainer_problems(trainer(**changes), CONFIG, None, None)) == [problem]
    assert list(trainer_problems(trainer(**changes), CONFIG, lambda model: model, None)) == []


def test_metric_of_the_trainer_needs_its_data_unless_a_function_evaluates() -> None:
    (problem,) = trainer_problems(trainer(eval_dataset=None), CONFIG, None, None)
    assert "'eval_loss', but there is no eval_dataset" in problem
    assert list(trainer_problems(trainer(eval_dataset=None), CONFIG, None, lambda model: {})) == []


def test_metric_of_several_data_sets_must_bear_the_name_of_one() -> None:
    (problem,) = trainer_problems(trainer(eval_dataset={"near": [1], "far": [2]}), CONFIG, None, None)
    assert "as 'eval_near_loss', 'eval_far_loss' do, but got 'eval_loss'" in problem


class WithoutLabels(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([1, 2, 3])}


def test_metrics_of_data_without_labels_are_refused_before_the_first_trial(tmp_path):
    trainer = make_trainer(tmp_path, bert(), data=WithoutLabels())
    trainer.autodistillation_config = SMALL
    with pytest.raises(ConfigurationError) as caught:
        trainer.autodistillation(bert(16, 2))
    assert (
        "the trainer's evaluation computes 'eval_loss' from labels ('labels', 'next_sentence_label'), but batches of "
        "eval_dataset hold 'input_ids'; add labels to it"
    ) in str(caught.value)
    assert not (tmp_path / "autodistillation").exists()
    trainer.autodistillation_config = SMALL | {"search": SMALL["search"] | {"metrics": ["parameters"]}}
    trainer.autodistillation(bert(16, 2), n_trials=1)
    assert len(trainer.autodistillation_search.search_result.completed) == 1
