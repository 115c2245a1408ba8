"""Searches in a `Trainer`: the specification's program, metrics, and problems reported before the first trial."""

from __future__ import annotations

import pytest
from peft import LoraConfig, inject_adapter_in_model
from small_trainers import (
    EPOCHS,
    KNOWLEDGE_TRANSFER,
    LAYERS,
    SMALL,
    SPACE,
    VOCABULARY,
    Pairs,
    assert_equal,
    bert,
    make_trainer,
    problems,
    search,
    student,
    teacher,
    weights,
)
from transformers import (
    AutoModelForPreTraining,
    BertForPreTraining,
    MobileBertForPreTraining,
    Trainer,
)

from autodistill import ConfigurationError, SearchResult
from autodistill.integrations.huggingface.trainer import AutoDistillationMixin

REGULAR_DISTILLATION = {
    "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
    "loss_types": [["KL"]],
    "add_origin_loss": [True],
}


SPECIFICATION_YAML = """
model:
  name: MobileBERT_NAS
  framework: pytorch

auto_distillation:
  search:
    search_space: {
      'hidden_size': [8, 12],
      'intra_bottleneck_size': [4, 8],
      'num_attention_heads': [1, 2],
      'intermediate_size': [8, 12],
      'num_feedforward_networks': [1, 2]
    }
    search_algorithm: 'BO'
    metrics: ['eval_loss', 'latency']
    higher_is_better: [False, False]
    max_trials: 1
    seed: 42
  flash_distillation:
    block_names: ['mobilebert.encoder.layer.0']
    layer_mappings_for_knowledge_transfer: [
      [
        ['mobilebert.encoder.layer.0.attention.self', '1', 'bert.encoder.layer.0.attention.self', '1'],
        ['mobilebert.encoder.layer.0.output', 'bert.encoder.layer.0.output'],
      ]
    ]
    loss_types: [['KL', 'MSE']]
    train_steps: [2]
  regular_distillation:
    layer_mappings_for_knowledge_transfer: [
      ['mobilebert.encoder.layer.1.output', 'bert.encoder.layer.1.output'],
    ]
    loss_types: ['KL']
    add_origin_loss: True
"""


# --- the specification's program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["BO", "Grid", "Random", "TPE"])
def test_the_program_of_the_specification_runs_unchanged(tmp_path, algorithm):
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


@pytest.mark.parametrize("returned", [True, False])
def test_the_program_of_the_specification_runs_with_the_default_attention(tmp_path, returned):
    """`train_func` returns the student that it trained, or trains it in place and returns None."""
    trainer, seen = make_trainer(tmp_path, student(attention=None)), []
    trainer.autodistillation_config = {
        "search": {"search_space": SPACE, "max_trials": 1},
        "flash_distillation": {"knowledge_transfer": KNOWLEDGE_TRANSFER, "regular_distillation": REGULAR_DISTILLATION},
    }

    def train_func(model):
        seen.append(model)
        return model if returned else None

    best = trainer.autodistillation(teacher(attention=None), model_cls=AutoModelForPreTraining, train_func=train_func)
    assert len(seen) == 1
    (trial,) = SearchResult.load(tmp_path / "autodistillation")
    assert best == trial.architecture
    assert type(seen[0]) is MobileBertForPreTraining
    assert seen[0].config.hidden_size == best["hidden_size"]


def test_the_built_in_training_of_the_specification_maps_the_default_attention(tmp_path):
    teacher_model, model = teacher(attention=None), student(attention=None)
    assert teacher_model.config._attn_implementation == model.config._attn_implementation == "sdpa"
    trainer = make_trainer(tmp_path, model)
    trainer.autodistillation_config = {
        "search": {"search_space": SPACE, "max_trials": 1},
        "flash_distillation": {
            "knowledge_transfer": KNOWLEDGE_TRANSFER | {"train_steps": [1] * LAYERS},
            "regular_distillation": REGULAR_DISTILLATION,
        },
    }
    best = trainer.autodistillation(teacher_model, model_cls=AutoModelForPreTraining)
    (trial,) = SearchResult.load(tmp_path / "autodistillation")
    assert best == trial.architecture
    assert [record["stage"] for record in trial.details["distillation"]] == [
        *KNOWLEDGE_TRANSFER["block_names"],
        "regular distillation",
    ]


def test_the_yaml_file_of_the_specification_runs_with_the_default_attention(tmp_path):
    file = tmp_path / "auto.yaml"
    file.write_text(SPECIFICATION_YAML)
    trainer = make_trainer(tmp_path, student(attention=None))
    trainer.autodistillation_config = file
    best = trainer.autodistillation(teacher(attention=None), model_cls=AutoModelForPreTraining)
    (trial,) = SearchResult.load(tmp_path / "autodistillation")
    assert best == trial.architecture
    assert [record["stage"] for record in trial.details["distillation"]] == [
        "mobilebert.encoder.layer.0",
        "regular distillation",
    ]


def test_a_teacher_in_bfloat16_completes_its_trials_with_the_defaults_of_the_trainer(tmp_path):
    trainer = search(tmp_path, teacher_model=bert(16, 2).bfloat16())
    assert len(trainer.autodistillation_search.search_result.completed) == 2


@pytest.mark.parametrize("model_cls", [None, AutoModelForPreTraining, MobileBertForPreTraining])
def test_the_built_in_model_builder_is_a_method_of_the_trainer(tmp_path, model_cls):
    built = make_trainer(tmp_path, student()).model_builder_builtin({"hidden_size": 12}, model_cls)
    assert type(built) is MobileBertForPreTraining
    assert built.config.hidden_size == 12


# --- hooks of the trainer ---------------------------------------------------------------------------------------------


def test_same_seed_trains_the_same_students_and_keeps_the_trainer(tmp_path):
    model = bert()
    first = search(tmp_path / "first", model=model)
    assert first.model is model
    assert first.args.output_dir == str(tmp_path / "first")
    assert first.model_init is None
    assert_equal(weights(first), weights(search(tmp_path / "second")))


def test_mixin_searches_in_an_own_trainer_with_its_own_loss(tmp_path):
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


def test_metrics_of_several_evaluation_data_sets_have_their_names(tmp_path):
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


# --- problems before a trial runs -----------------------------------------------------------------------------------


def test_attention_that_a_model_does_not_compute_by_default_is_computed_for_the_training_only(tmp_path):
    config = {
        "search": {"search_space": SPACE, "max_trials": 1},
        "flash_distillation": {
            "knowledge_transfer": KNOWLEDGE_TRANSFER | {"train_steps": [1] * LAYERS},
            "regular_distillation": "auto",
        },
    }
    default = teacher("sdpa")
    trainer = search(tmp_path, config=config, model=student("sdpa"), teacher_model=default)
    (trial,) = trainer.autodistillation_search.search_result.completed
    assert "distillation" in trial.details
    assert default.config._attn_implementation == "sdpa"
    assert trainer.autodistillation_search.best_model().config._attn_implementation == "sdpa"


def test_a_teacher_that_is_no_model_is_refused(tmp_path):
    message = problems(tmp_path, teacher_model="bert-base-uncased")
    assert "teacher_model must be an nn.Module or a function that loads one, but got 'bert-base-uncased'" in message


def test_a_function_that_needs_arguments_is_refused_as_teacher(tmp_path):
    message = problems(tmp_path, teacher_model=BertForPreTraining.from_pretrained)
    assert "called without arguments, but PreTrainedModel.from_pretrained cannot be" in message


@pytest.mark.parametrize("init", ["auto", None])
def test_a_teacher_that_is_loaded_when_needed_trains_the_same_students(tmp_path, init):
    loaded, calls = bert(16, 2), []

    def load():
        calls.append(loaded)
        return loaded

    trainers = [make_trainer(tmp_path / name, bert(), data=Pairs(), arguments=EPOCHS) for name in ("model", "function")]
    for trainer, teacher_model in zip(trainers, (loaded, load), strict=True):
        trainer.autodistillation_config = SMALL
        trainer.autodistillation(teacher_model, init=init, keep="all")
    assert calls == [loaded]
    assert_equal(*map(weights, trainers))


def test_a_class_for_other_models_is_refused_by_name(tmp_path):
    message = problems(tmp_path, call={"model_cls": MobileBertForPreTraining})
    assert "MobileBertForPreTraining takes a MobileBertConfig and the configuration is a BertConfig" in message


def test_a_dimension_that_is_no_field_is_refused_naming_the_nearest(tmp_path):
    config = SMALL | {"search": {"search_space": {"hiden_size": [8]}}}
    assert "'hiden_size' is not; did you mean 'hidden_size'" in problems(tmp_path, config=config)


def test_another_vocabulary_is_refused_where_logits_are_compared(tmp_path):
    message = problems(tmp_path, teacher_model=bert(16, 2, vocab_size=VOCABULARY + 1))
    assert "the student has 30 tokens and the teacher 31 tokens" in message


def test_students_that_cannot_start_inside_the_teacher_start_as_built(tmp_path, caplog):
    with caplog.at_level("INFO", logger="autodistill"):
        config = SMALL | {"search": SMALL["search"] | {"search_space": {"vocab_size": [30, 40]}}}
        trainer = search(tmp_path, config={key: config[key] for key in ("search", "flash_distillation")})
    assert [trial.state.value for trial in trainer.autodistillation_search.search_result] == ["complete"] * 2
    assert "students start as they are built: of {'vocab_size': 40}: embeddings are copied row by row" in caplog.text


def test_students_of_a_teacher_with_adapters_start_as_built_and_the_log_says_why(tmp_path, caplog):
    adapter = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    with caplog.at_level("INFO", logger="autodistill"):
        search(tmp_path, teacher_model=inject_adapter_in_model(adapter, bert(16, 2)))
    assert "students start as they are built: of" in caplog.text
    assert "merge adapters (merge_and_unload() of peft)" in caplog.text


def test_mixin_after_its_trainer_is_refused():
    with pytest.raises(TypeError, match=r"the bases of Wrong are Trainer, AutoDistillationMixin; put it first\."):

        class Wrong(Trainer, AutoDistillationMixin):
            pass


def test_best_checkpoint_at_the_end_is_reported_to_have_no_effect(tmp_path, caplog):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    search(tmp_path, arguments=EPOCHS | best, n_trials=1)
    assert "load_best_model_at_end has no effect" in caplog.text


def test_trainer_without_configuration_is_refused_naming_the_attribute(tmp_path):
    with pytest.raises(ConfigurationError, match=r"set trainer\.autodistillation_config"):
        make_trainer(tmp_path, bert()).autodistillation(bert())
