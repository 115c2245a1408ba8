"""Searches in a `Trainer`: the specification's program, resuming, metrics, and what must be told before it runs."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    AutoModelForPreTraining,
    BertConfig,
    BertForPreTraining,
    MobileBertConfig,
    MobileBertForPreTraining,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from autodistill import ConfigurationError, SearchDirectoryError, SearchResult
from autodistill.integrations.huggingface.trainer import AutoDistillationMixin, AutoDistillationTrainer

LAYERS, VOCABULARY = 24, 30

SPACE = {
    "hidden_size": [8, 12],
    "intra_bottleneck_size": [4, 8],
    "num_attention_heads": [1, 2],
    "intermediate_size": [8, 12],
    "num_feedforward_networks": [1, 2],
}

KNOWLEDGE_TRANSFER = {
    "block_names": [f"mobilebert.encoder.layer.{i}" for i in range(LAYERS)],
    "layer_mappings_for_knowledge_transfer": [
        [
            (f"mobilebert.encoder.layer.{i}.attention.self", "1", f"bert.encoder.layer.{i}.attention.self", "1"),
            (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
        ]
        for i in range(LAYERS)
    ],
    "loss_types": [["KL", "MSE"] for i in range(LAYERS)],
}

REGULAR_DISTILLATION = {
    "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
    "loss_types": [["KL"]],
    "add_origin_loss": [True],
}


class OneSentencePair(Dataset):
    """One sample for masked language modelling, with one masked token, and for next sentence prediction."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        labels = [-100] * 6
        labels[3] = 7
        return {
            "input_ids": torch.tensor([1, 5, 6, 2, 8, 3]),
            "attention_mask": torch.ones(6, dtype=torch.long),
            "token_type_ids": torch.tensor([0, 0, 0, 1, 1, 1]),
            "labels": torch.tensor(labels),
            "next_sentence_label": torch.tensor(1),
        }


def teacher(attention="eager", **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 16}
    config = BertConfig(**{**sizes, "vocab_size": VOCABULARY, **changes}, attn_implementation=attention)
    return BertForPreTraining(config)


def student(attention="eager", layers=LAYERS, **changes):
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intra_bottleneck_size": 4, "num_attention_heads": 2, "intermediate_size": 8}
    config = MobileBertConfig(
        **{**sizes, "num_hidden_layers": layers, "embedding_size": 4, "vocab_size": VOCABULARY, **changes},
        attn_implementation=attention,
    )
    return MobileBertForPreTraining(config)


def make_trainer(directory, model, *, cls=AutoDistillationTrainer, data=None, evaluated=True, arguments=None, **others):
    data = data or OneSentencePair()
    settings = {"max_steps": 2, "report_to": [], "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3}
    trainer = cls(
        model,
        TrainingArguments(str(directory), **settings | (arguments or {})),
        train_dataset=data,
        eval_dataset=data if evaluated else None,
        **others,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


# --- the specification's program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["BO", "Grid", "Random", "TPE"])
def test_the_program_of_the_specification_runs_out_of_the_box(tmp_path, algorithm):
    trainer = make_trainer(tmp_path, student())
    trainer.autodistillation_config = {
        "search": {"search_space": SPACE, "search_algorithm": algorithm, "max_trials": 1},
        "flash_distillation": {
            "knowledge_transfer": KNOWLEDGE_TRANSFER | {"train_steps": [1] * LAYERS},
            "regular_distillation": REGULAR_DISTILLATION,
        },
    }
    best = trainer.autodistillation(teacher(), model_cls=AutoModelForPreTraining)
    result = SearchResult.load(tmp_path / "autodistillation")
    assert best == result.best.architecture
    (trial,) = result
    assert trial.metrics.keys() == {"eval_loss", "parameters"}
    assert [record["stage"] for record in trial.details["distillation"]] == [
        *KNOWLEDGE_TRANSFER["block_names"],
        "regular distillation",
    ]
    assert trial.details["distillation"][-1]["steps"] == 2


def test_the_program_of_the_specification_runs_in_advanced_mode(tmp_path):
    trainer, seen = make_trainer(tmp_path, student()), []
    trainer.autodistillation_config = {
        "search": {
            "search_space": SPACE,
            "search_algorithm": "BO",
            "metrics": ["accuracy", "latency"],
            "higher_is_better": [True, False],
            "max_trials": 3,
            "seed": 42,
        },
        "flash_distillation": {
            "knowledge_transfer": KNOWLEDGE_TRANSFER
            | {"loss_weights": [[0.5, 0.5] for i in range(LAYERS)], "train_steps": [500 for i in range(LAYERS)]},
            "regular_distillation": REGULAR_DISTILLATION | {"train_steps": [25000]},
        },
    }

    def model_builder(model_arch_paras):
        return student(layers=1, **model_arch_paras)

    def train_func(model):
        seen.append(model)
        return model

    def eval_func(model):
        assert model is seen[-1]
        return {"accuracy": float(model.config.hidden_size)}

    best = trainer.autodistillation(teacher(), model_builder, train_func=train_func, eval_func=eval_func)
    assert len(seen) == 3
    assert best in [trial.architecture for trial in SearchResult.load(tmp_path / "autodistillation")]


# --- what is the trainer's --------------------------------------------------------------------------------------------

SMALL = {
    "search": {"search_space": {"hidden_size": [8, 12]}, "search_algorithm": "Grid", "max_trials": 2},
    "flash_distillation": {"train_steps": 2},
    "regular_distillation": "auto",
}


class Pairs(Dataset):
    """Six samples: random tokens, one of each masked, and whether they are a pair."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(4, VOCABULARY, (6,), generator=generator)
        labels = torch.full((6,), -100)
        labels[index] = tokens[index]
        return {
            "input_ids": tokens.index_fill(0, torch.tensor([index]), 2),
            "labels": labels,
            "next_sentence_label": torch.tensor(index % 2),
        }


def bert(width=8, layers=1, **changes):
    torch.manual_seed(2)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForPreTraining(BertConfig(**{**sizes, "vocab_size": VOCABULARY, **changes}))


EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def search(directory, *, config=SMALL, arguments=EPOCHS, teacher_model=None, model=None, n_trials=None, **others):
    trainer = make_trainer(directory, model or bert(), data=Pairs(), arguments=arguments, **others)
    trainer.autodistillation_config = config
    trainer.autodistillation(teacher_model or bert(16, 2), n_trials=n_trials, keep="all")
    return trainer


def weights(trainer):
    agent = trainer.autodistillation_search
    return {
        (trial.number, name): tensor
        for trial in agent.search_result.completed
        for name, tensor in agent.load_model(trial).state_dict().items()
    }


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_arguments_of_the_trainer_say_how_long_regular_distillation_is_and_train_steps_overrides_them(tmp_path):
    epochs = search(tmp_path / "epochs")
    steps = search(tmp_path / "steps", config=SMALL | {"regular_distillation": {"train_steps": 5}})
    for trainer, expected in ((epochs, 2 * 2), (steps, 5)):
        assert [t.details["distillation"][-1]["steps"] for t in trainer.autodistillation_search.search_result] == [
            expected
        ] * 2


def test_the_same_seed_gives_the_same_students_bit_for_bit_and_leaves_the_trainer_as_it_was(tmp_path):
    model = bert()
    first = search(tmp_path / "first", model=model)
    assert first.model is model
    assert first.args.output_dir == str(tmp_path / "first")
    assert first.model_init is None
    assert_equal(weights(first), weights(search(tmp_path / "second")))


def test_an_interrupted_run_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(tmp_path):
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


def test_a_mixin_searches_in_a_trainer_of_ones_own_and_its_loss_is_the_student_s(tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True)
            seen.append(model.training)
            return (loss + 1000, outputs) if return_outputs else loss + 1000

    class OwnWithSearch(AutoDistillationMixin, Own):
        pass

    seen = []
    trainer = search(tmp_path, cls=OwnWithSearch)
    assert set(seen) == {True, False}
    for trial in trainer.autodistillation_search.search_result:
        assert trial.metrics["eval_loss"] > 1000
        assert trial.details["distillation"][-1]["first_loss"] > 1000


def test_metrics_of_compute_metrics_are_known_with_and_without_their_prefix(tmp_path):
    config = SMALL | {"search": SMALL["search"] | {"metrics": ["f1", "eval_recall", "eval_loss"]}}
    trainer = search(tmp_path, config=config, compute_metrics=lambda prediction: {"f1": 0.25, "recall": 0.5})
    for trial in trainer.autodistillation_search.search_result:
        assert trial.metrics["f1"] == 0.25
        assert trial.metrics["eval_recall"] == 0.5
        assert not [name for name in trial.metrics if "second" in name or "runtime" in name]


def test_results_of_compute_metrics_that_are_no_numbers_are_left_out(tmp_path):
    def results(prediction):
        return {"f1": 0.25, "confusion": [[1, 0], [0, 1]], "report": "good"}

    trainer = search(tmp_path, compute_metrics=results, n_trials=1)
    (trial,) = trainer.autodistillation_search.search_result
    assert trial.metrics.keys() == {"eval_loss", "eval_f1", "parameters"}


def test_several_evaluation_data_sets_give_metrics_with_their_names(tmp_path):
    sets = {"near": Pairs(), "far": Pairs()}
    config = SMALL | {"search": SMALL["search"] | {"metrics": ["eval_near_loss", "far_loss"]}}
    trainer = make_trainer(tmp_path, bert(), data=Pairs())
    trainer.eval_dataset, trainer.autodistillation_config = sets, config
    trainer.autodistillation(bert(16, 2), n_trials=1)
    (trial,) = trainer.autodistillation_search.search_result
    assert trial.metrics.keys() == {"eval_near_loss", "far_loss"}
    trainer.autodistillation_config = SMALL
    with pytest.raises(ConfigurationError, match=r"as 'eval_near_loss', 'eval_far_loss' do, but got 'eval_loss'; add"):
        trainer.autodistillation(bert(16, 2))


def test_data_without_labels_are_distilled_by_the_teacher_s_predictions_alone(tmp_path):
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


def test_regular_distillation_is_the_divergence_of_the_logits_and_the_student_s_own_loss(tmp_path):
    # One update without a learning rate, on all samples at once: its loss is that of the student that is saved.
    config = SMALL | {"flash_distillation": None, "regular_distillation": {"train_steps": 1, "temperature": 2.0}}
    still = {"learning_rate": 0.0, "per_device_train_batch_size": 6}
    small, large = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), bert(16, 2).eval()
    trainer = make_trainer(tmp_path, small, data=Pairs(), arguments=still)
    trainer.autodistillation_config = config
    trainer.autodistillation(large, init=None, n_trials=1, keep="all")
    (trial,) = trainer.autodistillation_search.search_result
    trained = trainer.autodistillation_search.load_model(trial).eval()
    batch = {key: torch.stack([sample[key] for sample in Pairs()]) for key in Pairs()[0]}
    with torch.no_grad():
        ours, theirs = trained(**batch), large(**batch)
    counted = batch["labels"] != -100
    student, teacher = (
        torch.log_softmax(output.prediction_logits[counted].double() / 2, -1) for output in (ours, theirs)
    )
    divergence = 2.0**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()
    expected = (divergence + ours.loss).item()
    assert trial.details["distillation"][-1]["first_loss"] == pytest.approx(expected, rel=1e-5)
    assert trial.metrics["eval_loss"] == pytest.approx(ours.loss.item(), rel=1e-5)


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


def test_feature_matchers_are_trained_by_the_trainer_and_are_no_part_of_the_student(tmp_path):
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


def test_data_without_a_length_is_trained_on_for_so_many_steps(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return (Pairs()[index] for index in range(6))

    trainer = make_trainer(tmp_path, bert(), data=Stream(), arguments={"max_steps": 5})
    trainer.autodistillation_config = SMALL
    trainer.autodistillation(bert(16, 2), n_trials=1)
    (trial,) = trainer.autodistillation_search.search_result
    assert trial.details["distillation"][-1]["steps"] == 5


# --- what is told before a trial runs ---------------------------------------------------------------------------------


def problems(directory, *, teacher_model=None, call=None, **others):
    trainer = make_trainer(directory, others.pop("model", None) or bert(), data=Pairs(), **others.pop("make", {}))
    trainer.autodistillation_config = others.pop("config", SMALL)
    with pytest.raises(ConfigurationError) as caught:
        trainer.autodistillation(teacher_model or bert(16, 2), **(call or {}))
    assert not list((directory / "autodistillation").glob("trials/*/trial.json"))
    return str(caught.value)


def test_attention_of_a_model_that_does_not_compute_it_is_refused_naming_the_setting(tmp_path):
    config = {
        "search": {"search_space": SPACE, "max_trials": 1},
        "flash_distillation": {"knowledge_transfer": KNOWLEDGE_TRANSFER, "regular_distillation": "auto"},
    }
    message = problems(tmp_path, model=student("sdpa"), teacher_model=teacher("sdpa"), config=config)
    assert 'load the model with attn_implementation="eager"' in message


def test_a_class_for_other_models_is_refused_by_name(tmp_path):
    message = problems(tmp_path, call={"model_cls": MobileBertForPreTraining})
    assert "MobileBertForPreTraining takes a MobileBertConfig and the configuration is a BertConfig" in message


def test_a_dimension_that_is_no_field_is_refused_naming_the_nearest(tmp_path):
    config = SMALL | {"search": {"search_space": {"hiden_size": [8]}}}
    assert "'hiden_size' is not; did you mean 'hidden_size'" in problems(tmp_path, config=config)


def test_every_mistake_of_the_set_up_is_told_at_once(tmp_path):
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


def test_another_vocabulary_is_refused_where_logits_are_compared(tmp_path):
    message = problems(tmp_path, teacher_model=bert(16, 2, vocab_size=VOCABULARY + 1))
    assert "the student has 30 tokens and the teacher 31 tokens" in message


def test_students_that_cannot_start_inside_the_teacher_are_trained_as_they_are_built(tmp_path, caplog):
    with caplog.at_level("INFO", logger="autodistill"):
        config = SMALL | {"search": SMALL["search"] | {"search_space": {"vocab_size": [30, 40]}}}
        trainer = search(tmp_path, config={key: config[key] for key in ("search", "flash_distillation")})
    assert [trial.state.value for trial in trainer.autodistillation_search.search_result] == ["complete"] * 2
    assert "students start as they are built: of {'vocab_size': 40}: embeddings are copied row by row" in caplog.text


def test_the_search_of_another_model_is_refused_naming_what_differs(tmp_path):
    search(tmp_path, n_trials=1)
    with pytest.raises(SearchDirectoryError, match=r"student\.config\.intermediate_size was 8, but is now 10"):
        search(tmp_path, model=bert(intermediate_size=10))
    with pytest.raises(SearchDirectoryError, match=r"trainer\.learning_rate was 0\.001, but is now 0\.1"):
        search(tmp_path, arguments=EPOCHS | {"learning_rate": 0.1})


def test_a_mixin_behind_its_trainer_is_refused():
    with pytest.raises(TypeError, match=r"the bases of Wrong are Trainer, AutoDistillationMixin; put it first\."):

        class Wrong(Trainer, AutoDistillationMixin):
            pass


def test_a_wish_for_the_best_checkpoint_is_told_to_have_no_effect(tmp_path, caplog):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    search(tmp_path, arguments=EPOCHS | best, n_trials=1)
    assert "load_best_model_at_end has no effect" in caplog.text


def test_a_trainer_without_configuration_says_which_attribute_is_missing(tmp_path):
    with pytest.raises(ConfigurationError, match=r"set trainer\.autodistillation_config"):
        make_trainer(tmp_path, bert()).autodistillation(bert())


def test_what_is_recorded_of_a_trainer_s_search_is_json(tmp_path):
    search(tmp_path, n_trials=1)
    recorded = json.loads((tmp_path / "autodistillation/search.json").read_text())
    assert recorded["trainer"]["num_train_epochs"] == 2
    assert recorded["student"]["model_cls"] == "BertForPreTraining"
