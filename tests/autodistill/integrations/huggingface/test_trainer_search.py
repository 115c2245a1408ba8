"""The search that a trainer runs: its record, and the evaluation after each training."""

from __future__ import annotations

import json

import elastic_search
import pytest
import torch
from protocols import differences
from saved_teachers import BERT, make_tokenizer
from small_trainers import (
    EPOCHS,
    SMALL,
    Pairs,
    assert_equal,
    bert,
    make_trainer,
    search,
    weights,
)
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding

from autodistill import ConfigurationError, SearchDirectoryError
from autodistill.data_stream import DataStream
from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer
from autodistill.integrations.huggingface.trainer_search import EvaluatedTraining
from autodistill.padding import padding_share
from autodistill.training import Trained, Training, TrainingContext


def test_promoted_students_are_those_of_a_search_that_finishes_all(tmp_path):
    config = SMALL | {"search": SMALL["search"] | {"promote": "1/2"}}
    promoting = search(tmp_path / "promoting", config=config)
    result = promoting.autodistillation_search.search_result
    assert len(result.completed) == len(result.paused) == 1
    assert all(trial.after_flash.keys() == {"eval_loss", "parameters"} for trial in result)
    whole = search(tmp_path / "whole")
    trained, reference = weights(promoting), weights(whole)
    assert trained.keys() < reference.keys()
    assert all(torch.equal(trained[name], reference[name]) for name in trained)
    (trial,) = result.completed
    assert trial.metrics == whole.autodistillation_search.search_result[trial.number].metrics
    own = make_trainer(tmp_path / "own", bert(), data=Pairs())
    own.autodistillation_config = config
    with pytest.raises(ConfigurationError, match="promote runs between the phases of the built-in distillation"):
        own.autodistillation(bert(16, 2), train_func=lambda student: student)


def test_search_of_another_model_is_refused_naming_the_difference(tmp_path):
    search(tmp_path, n_trials=1)
    with pytest.raises(SearchDirectoryError, match=r"student\.config\.intermediate_size was 8, but is now 10"):
        search(tmp_path, model=bert(intermediate_size=10))
    with pytest.raises(SearchDirectoryError, match=r"trainer\.learning_rate was 0\.001, but is now 0\.1"):
        search(tmp_path, arguments=EPOCHS | {"learning_rate": 0.1})


def test_record_of_a_trainers_search_is_json(tmp_path):
    search(tmp_path, n_trials=1)
    recorded = json.loads((tmp_path / "autodistillation/search.json").read_text())
    assert recorded["trainer"]["num_train_epochs"] == 2
    assert recorded["student"]["model_cls"] == "BertForPreTraining"


class Halving:
    """A training that returns another model."""

    keeps_size = False

    def __init__(self) -> None:
        self.checked: list[nn.Module] = []
        self.trained = nn.Linear(1, 1)

    def check(self, student: nn.Module) -> None:
        self.checked.append(student)

    def train(self, student: nn.Module, context: TrainingContext) -> Trained:
        return Trained(self.trained)

    def describe(self) -> dict:
        return {"halves": True}


def test_trained_model_is_evaluated_after_its_training() -> None:
    inner, evaluated, student = Halving(), [], nn.Linear(2, 2)
    training = EvaluatedTraining(inner, evaluated.append)
    training.check(student)
    assert (inner.checked, evaluated) == ([student], [])
    assert training.train(student, TrainingContext(seed=0)).model is inner.trained
    assert evaluated == [inner.trained]
    assert (training.keeps_size, training.describe()) == (False, {"halves": True})


def test_evaluated_training_is_a_training() -> None:
    assert differences(EvaluatedTraining, Training) == {}


# --- texts of different lengths ---------------------------------------------------------------------------------------

LENGTHS = [2 + (number % 9) ** 2 // 8 for number in range(130)]  # 2 to 10
GROUPED = {"train_sampling_strategy": "group_by_length"}


def classifier(width):
    torch.manual_seed(3)
    return BertForSequenceClassification(
        BertConfig(**BERT | {"hidden_size": width, "num_hidden_layers": 1}, vocab_size=30)
    )


def of_lengths(directory, cls=AutoDistillationTrainer, **arguments):
    """A search with texts of these lengths, in batches of four, and updates of eight."""
    rows = [
        {"input_ids": [5 + number % 20, *[5 + number // 20] * (length - 1)], "labels": number % 2}
        for number, length in enumerate(LENGTHS)
    ]
    trainer = make_trainer(
        directory,
        classifier(8),
        cls=cls,
        data=rows,
        arguments=EPOCHS | {"per_device_train_batch_size": 4} | arguments,
        data_collator=DataCollatorWithPadding(make_tokenizer()),
        processing_class=make_tokenizer(),
    )
    search_one = SMALL["search"] | {"search_space": {"num_attention_heads": [1, 2]}, "max_trials": 1}
    trainer.autodistillation_config = SMALL | {"search": search_one, "checkpoint_steps": 1}
    trainer.autodistillation(classifier(16), init=None, keep="all")
    return trainer


def stream_of(trainer):
    return DataStream(trainer.autodistillation_search.train_dataloader, seed=0)


def rows_in(batches):
    return [tuple(row[row != 0].tolist()) for batch in batches for row in batch.content["input_ids"]]


def test_batches_of_similar_length_are_the_same_in_every_pass_and_hold_every_sample_once(tmp_path):
    trainer = of_lengths(tmp_path, max_steps=1, **GROUPED)
    stream = stream_of(trainer)
    first, second, again = (rows_in(stream.epoch(number)) for number in (0, 1, 0))
    assert first == again != second
    assert sorted(map(len, first)) == sorted(map(len, second)) == sorted(LENGTHS)
    assert len({*first}) == len(LENGTHS)
    grouped, other = (
        padding_share(stream.epoch(0)) for stream in (stream, stream_of(of_lengths(tmp_path / "other", max_steps=1)))
    )
    assert grouped < 0.1 < 0.2 < other


def test_first_batches_of_similar_length_are_as_long_as_the_others(tmp_path):
    source = of_lengths(tmp_path, max_steps=1, **GROUPED).autodistillation_search.train_dataloader
    firsts = [rows_in(DataStream(source, seed).flash_set(8)) for seed in range(20)]
    mean = sum(len(row) for rows in firsts for row in rows) / sum(map(len, firsts))
    assert mean == pytest.approx(sum(LENGTHS) / len(LENGTHS), abs=0.7)


def test_the_trainers_own_training_keeps_the_order_of_transformers(tmp_path):
    trainer = of_lengths(tmp_path, max_steps=1, **GROUPED)
    torch.manual_seed(0)
    lengths = [LENGTHS[sample] for sample in trainer._get_train_sampler()]
    assert lengths[0] == max(LENGTHS)


def test_interrupted_run_with_batches_of_similar_length_resumes_to_the_same_weights(tmp_path):
    class Killed(AutoDistillationTrainer):
        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            if self.state.global_step == 20:  # in the second of two epochs of 17 updates
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of_lengths(tmp_path / "killed", cls=Killed, **GROUPED)
    resumed, whole = (of_lengths(tmp_path / name, **GROUPED) for name in ("killed", "whole"))
    (trial,) = whole.autodistillation_search.search_result
    assert trial.details["distillation"][-1]["steps"] == 2 * 17
    assert_equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("arguments", [{}, GROUPED])
def test_much_padding_is_logged_once_with_what_reduces_it(tmp_path, caplog, arguments):
    with caplog.at_level("INFO", logger="autodistill"):
        of_lengths(tmp_path, max_steps=1, **arguments)
    lines = [record.message for record in caplog.records if "padding" in record.message]
    advised = [
        line for line in lines if line.endswith("set train_sampling_strategy='group_by_length' in TrainingArguments")
    ]
    assert len(lines) <= 1
    assert len(advised) == (0 if arguments else 1)


# --- elastic students -------------------------------------------------------------------------------------------------

WIDTHS = {"hidden_size": [4, 8], "num_hidden_layers": [1, 2]}
LARGEST = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 12}
ELASTIC = {
    "search": {"search_space": WIDTHS, "search_algorithm": "Grid", "max_trials": 4, "promote": 0.25},
    "elastic": {"train_steps": 4},
    "init": {"least_squares": "none", "batches": 3},
    "regular_distillation": "auto",
}


class Labelled(Dataset):
    """Samples with a label."""

    def __init__(self):
        (self.batch,) = elastic_search.batches(1, 8)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.batch.items()}


def elastic_trainer(directory, config=ELASTIC, *, elastic=None, arguments=EPOCHS, **call):
    trainer = make_trainer(directory, elastic_search.bert(LARGEST), data=Labelled(), arguments=arguments)
    trainer.autodistillation_config = config
    trainer.autodistillation(elastic_search.make_teacher(), keep="all", elastic=elastic, **call)
    return trainer


def test_trainer_evaluates_slices_and_finishes_the_best(tmp_path):
    trainer = elastic_trainer(tmp_path)
    agent, model = trainer.autodistillation_search, trainer.model
    result = agent.search_result
    assert (len(result.paused), len(result.completed)) == (3, 1)
    best = min(result, key=lambda trial: (trial.after_flash["eval_loss"], trial.after_flash["parameters"]))
    assert best.after_flash["eval_loss"] < 10
    for trial in result.paused:
        trainer.evaluate_student(agent.load_model(trial))
        assert trainer._measured["eval_loss"] == trial.after_flash["eval_loss"]
    trainer.model = trainer.model_wrapped = model
    (stage,) = result.completed[0].details["distillation"]
    assert (stage["mode"], stage["steps"]) == ("Trainer", 4)


def test_trainer_finishes_students_and_its_model_stays(tmp_path):
    trainer = elastic_trainer(tmp_path)
    agent, model, arguments = trainer.autodistillation_search, trainer.model, trainer.args
    trial = agent.search_result.paused[0]
    finished = agent.finish(trial.architecture, train_steps=3)
    assert finished.details["distillation"][0]["steps"] == 3
    assert finished.after_flash == trial.after_flash
    assert agent.load_model(finished).config.hidden_size == trial.architecture["hidden_size"]
    assert agent.finish(trial.architecture).metrics == finished.metrics  # it is finished
    again = agent.finish(trial.architecture, train_steps=4)
    assert again.details["distillation"][0]["steps"] == 4
    chosen = agent.for_limit(n_trials=0, train_steps=1, parameters=100_000)
    assert chosen.details["distillation"][0]["steps"] == 1
    assert (trainer.model, trainer.args) == (model, arguments)


def test_elastic_student_is_requested_by_an_argument_also_if_the_phases_are_automatic(tmp_path):
    config = {"search": ELASTIC["search"] | {"max_trials": 2}, "init": ELASTIC["init"]}
    trainer = elastic_trainer(tmp_path, config, elastic={"train_steps": 3}, arguments=EPOCHS | {"bf16": True})
    used = trainer.autodistillation_search.config
    assert used.flash_distillation is None
    assert (used.elastic.train_steps, used.elastic.mixed_precision) == (3, "bf16")
    assert used.regular_distillation.mixed_precision == "bf16"
    assert trainer.autodistillation_search.search_result.completed


def test_automatic_start_is_that_of_the_elastic_student(tmp_path):
    config = {"search": ELASTIC["search"] | {"max_trials": 1}, "elastic": {"train_steps": 2}}
    trainer = elastic_trainer(tmp_path, config)
    assert trainer.autodistillation_search.config.init is not None
    chosen = make_trainer(tmp_path / "flash", elastic_search.bert(LARGEST), data=Labelled(), arguments=EPOCHS)
    chosen.autodistillation_config = ELASTIC | {"flash_distillation": {"train_steps": 2}}
    with pytest.raises(ConfigurationError, match="takes the place of flash distillation"):
        chosen.autodistillation(elastic_search.make_teacher())


def test_workers_train_the_students_of_a_trainer_to_the_bit(tmp_path):
    alone = search(tmp_path / "alone")
    config = SMALL | {"executor": {"name": "processes", "workers": 2}}
    spread = search(tmp_path / "spread", config=config)
    found = [[trial.metrics for trial in one.autodistillation_search.search_result] for one in (alone, spread)]
    assert found[0] == found[1]
    assert len(found[0]) == 2
    expected, students = weights(alone), weights(spread)
    assert expected.keys() == students.keys()
    assert all(torch.equal(expected[name], students[name]) for name in expected)
