"""Regular distillation as a run of a trainer: its loss, its steps, its checkpoints, and the batches that it reads."""

from __future__ import annotations

import pytest
import torch
from independent_losses import divergence, joined_divergence
from small_trainers import (
    SMALL,
    Pairs,
    assert_equal,
    bert,
    make_trainer,
    search,
    weights,
)
from torch.utils.data import IterableDataset

from autodistill.data_stream import DataStream
from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer
from autodistill.integrations.huggingface.trainer_distillation import EpochLoader


def test_steps_are_those_of_the_trainers_arguments_unless_configured(tmp_path):
    epochs = search(tmp_path / "epochs")
    steps = search(tmp_path / "steps", config=SMALL | {"regular_distillation": {"train_steps": 5}})
    for trainer, expected in ((epochs, 2 * 2), (steps, 5)):
        assert [t.details["distillation"][-1]["steps"] for t in trainer.autodistillation_search.search_result] == [
            expected
        ] * 2


def test_interrupted_run_resumes_from_its_checkpoint_to_the_same_weights(tmp_path):
    config = SMALL | {"checkpoint_steps": 1}
    whole = search(tmp_path / "whole", config=config)

    class Killed(AutoDistillationTrainer):
        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            if self.state.global_step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", config=config, cls=Killed)
    files = [path.name for path in (tmp_path / "killed").rglob("*") if path.is_file()]
    assert "regular.safetensors" in files
    assert not [name for name in files if name.endswith((".pt", ".pth", ".bin", ".pkl"))]
    steps = []

    class Counting(AutoDistillationTrainer):
        def training_step(self, *arguments):
            steps.append(self.state.global_step)
            return super().training_step(*arguments)

    resumed = search(tmp_path / "killed", config=config, cls=Counting)
    assert steps[:3] == [3, 0, 0]
    assert_equal(weights(resumed), weights(whole))


def test_data_without_labels_are_distilled_by_the_teachers_predictions(tmp_path):
    unlabelled = [{"input_ids": sample["input_ids"]} for sample in (Pairs()[index] for index in range(6))]
    trainer = make_trainer(tmp_path, bert(), data=unlabelled, evaluated=False, arguments={"learning_rate": 0.0})
    trainer.autodistillation_config = {
        "search": SMALL["search"] | {"metrics": ["parameters"]},
        "regular_distillation": {"train_steps": 1},
    }
    large = bert(16, 2).eval()
    trainer.autodistillation(large, init=None, n_trials=1, keep="all")
    (trial,) = trainer.autodistillation_search.search_result
    assert 0 < trial.details["distillation"][-1]["first_loss"] < 1  # a divergence; the labels' loss would be above 3


def one_update(folder, config, arguments, student, teacher):
    """A trial of a trainer, its student, and all samples as one batch."""
    trainer = make_trainer(folder, student, data=Pairs(), arguments=arguments)
    trainer.autodistillation_config = config
    trainer.autodistillation(teacher, init=None, n_trials=1, keep="all")
    (trial,) = trainer.autodistillation_search.search_result
    trained = trainer.autodistillation_search.load_model(trial).eval()
    return trial, trained, {key: torch.stack([sample[key] for sample in Pairs()]) for key in Pairs()[0]}


def test_loss_is_the_divergence_of_the_logits_and_the_students_own_loss(tmp_path):
    # One update without a learning rate, on all samples together: its loss is that of the student that is saved.
    config = SMALL | {"flash_distillation": None, "regular_distillation": {"train_steps": 1, "temperature": 2.0}}
    still = {"learning_rate": 0.0, "per_device_train_batch_size": 6}
    small, large = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), bert(16, 2).eval()
    trial, trained, batch = one_update(tmp_path, config, still, small, large)
    with torch.no_grad():
        student_output, teacher_output = trained(**batch), large(**batch)
    counted = batch["labels"] != -100
    student, teacher = (
        torch.log_softmax(output.prediction_logits[counted].double() / 2, -1)
        for output in (student_output, teacher_output)
    )
    divergence = 2.0**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()
    expected = (divergence + student_output.loss).item()
    assert trial.details["distillation"][-1]["first_loss"] == pytest.approx(expected, rel=1e-5)
    assert trial.metrics["eval_loss"] == pytest.approx(student_output.loss.item(), rel=1e-5)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_top_k_joins_the_small_classes_of_tokens_and_keeps_the_two_of_pairs(tmp_path, precision):
    config = SMALL | {
        "flash_distillation": None,
        "regular_distillation": {"train_steps": 1, "temperature": 2.0, "top_k": 7, "add_origin_loss": False},
    }
    still = {"learning_rate": 0.0, "per_device_train_batch_size": 6} | ({precision: True} if precision else {})
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.5}
    small, large = bert(**dropless), bert(16, 2, initializer_range=0.5).eval()
    trial, trained, batch = one_update(tmp_path, config, still, small, large)
    with torch.no_grad():
        outputs = [model(**batch) for model in (trained, large)]
    tokens, pair = ([output[key] for output in outputs] for key in ("prediction_logits", "seq_relationship_logits"))
    expected = joined_divergence(*tokens, batch["labels"] != -100, 2.0, 7)
    expected = (expected + divergence(*(logits.double() for logits in pair), None, 2.0)).item()  # of two classes
    tolerance = 1e-5 if precision is None else 0.05
    assert trial.details["distillation"][-1]["first_loss"] == pytest.approx(expected, rel=tolerance)


def test_feature_matchers_are_trained_and_are_no_part_of_the_student(tmp_path):
    regular = {"layer_mappings_for_knowledge_transfer": [("bert", "0", "bert", "0")], "loss_types": ["MSE"]}
    config = SMALL | {"flash_distillation": None, "regular_distillation": regular | {"train_steps": 2}}
    before, after = {}, {}

    class Looking(AutoDistillationTrainer):
        def create_optimizer(self, model=None):
            before.update({id(p): p.detach().clone() for p in self._run.matchers})
            return super().create_optimizer(model)

        def train_student(self, run):
            record = super().train_student(run)
            after.update({id(p): p.detach().clone() for p in run.matchers})
            return record

    trainer = search(tmp_path, config=config, cls=Looking, n_trials=1)
    assert before.keys() == after.keys()
    assert sorted(p.shape for p in after.values()) == [(16,), (16, 8)]
    assert all(not torch.equal(before[key], after[key]) for key in after)
    (trial,) = trainer.autodistillation_search.search_result
    assert trainer.autodistillation_search.load_model(trial).state_dict().keys() == bert().state_dict().keys()


def test_accumulated_batches_make_the_update_of_one_large_batch(tmp_path):
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # Every sample has one masked token, so the mean of the batches' means is that of all.
    config = SMALL | {"flash_distillation": None, "regular_distillation": {"train_steps": 2}}
    students = []
    for size, accumulated in ((6, 1), (2, 3)):
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        trainer = search(tmp_path / str(size), config=config, arguments=arguments, model=bert(**dropless), n_trials=1)
        students.append(weights(trainer))
    for name, tensor in students[0].items():
        torch.testing.assert_close(students[1][name], tensor, rtol=1e-4, atol=1e-6)
    untrained = bert(**dropless).state_dict()
    assert any(not torch.equal(tensor, untrained[name]) for (_, name), tensor in students[0].items())


def test_data_without_a_length_is_trained_on_for_max_steps(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return (Pairs()[index] for index in range(6))

    trainer = make_trainer(tmp_path, bert(), data=Stream(), arguments={"max_steps": 5})
    trainer.autodistillation_config = SMALL
    trainer.autodistillation(bert(16, 2), n_trials=1)
    (trial,) = trainer.autodistillation_search.search_result
    assert trial.details["distillation"][-1]["steps"] == 5


class Shuffled:
    """Three batches, in an order that depends on the epoch."""

    def __iter__(self):
        return iter([(torch.tensor([number]), None) for number in torch.randperm(3).tolist()])


def numbers(batches) -> list[int]:
    return [inputs.item() for inputs, _ in batches]


def test_loader_reads_the_stream_an_epoch_at_a_time() -> None:
    loader = EpochLoader(DataStream(Shuffled(), seed=0), length=3, samples=9)
    assert (len(loader), loader.samples) == (3, 9)
    expected = [[batch.inputs.item() for batch in DataStream(Shuffled(), seed=0).epoch(number)] for number in range(8)]
    assert len({tuple(order) for order in expected}) > 1
    for number in (0, 5, 7, 0):
        loader.set_epoch(number)
        assert numbers(loader) == numbers(loader) == expected[number]


def test_loader_of_a_stream_of_unknown_length_has_none() -> None:
    loader = EpochLoader(DataStream(Shuffled(), seed=0), length=None, samples=None)
    assert sorted(numbers(loader)) == [0, 1, 2]
    with pytest.raises(TypeError):
        len(loader)
