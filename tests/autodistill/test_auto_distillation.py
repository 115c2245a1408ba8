"""The search loop: resumes to the bit, runs the teacher as rarely as possible, and reports every mistake clearly."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import elastic_search
import pytest
import torch
import toy_search
from interruptions import Killed, assert_same_outcomes, count_steps, outcomes
from small_models import Counted, Transformer
from torch import nn
from toy_search import make_config, make_loader, make_search, make_teacher
from width_search import search as width_search

from autodistill import (
    Advisor,
    AdvisorError,
    AutoDistillation,
    ConfigurationError,
    FloatRange,
    LayerNotFoundError,
    Metric,
    SearchDirectoryError,
    SearchResult,
    SearchSpace,
    SearchSpaceError,
    SearchStoppedError,
    TrialState,
)
from autodistill.search import promotion

ROOT = Path(__file__).resolve().parents[2]


def plain_search(tmp_path, evaluate=None, *, space=None, metrics=("score",), max_trials=4, builder=None, **arguments):
    """A search without distillation: the student is a linear layer that is not trained."""
    return AutoDistillation(
        builder or (lambda architecture: nn.Linear(architecture["width"], 1)),
        {
            "search": {
                "search_space": space or {"width": [1, 2, 3, 4, 5, 6]},
                "metrics": list(metrics),
                "max_trials": max_trials,
                "search_algorithm": "Grid",
            }
        },
        **{
            "train_func": lambda student: student,
            "eval_func": evaluate or (lambda student: {"score": student.in_features}),
            "search_dir": tmp_path / "search",
            "device": "cpu",
            "show_progress_bar": False,
        }
        | arguments,
    )


def subprocess_environment():
    """For a process that must compute the same as this one: the same code, the same number of threads."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(toy_search.__file__).parent)]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    search_dir = tmp_path_factory.mktemp("uninterrupted") / "search"
    make_search(search_dir).search_loop()
    return search_dir


def test_a_search_killed_after_a_trial_and_resumed_equals_an_uninterrupted_one(tmp_path, uninterrupted):
    program = [sys.executable, toy_search.__file__, str(tmp_path / "search")]
    killed = subprocess.run([*program, "3"], env=subprocess_environment(), capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(SearchResult.load(tmp_path / "search").finished) == 3
    subprocess.run(program, env=subprocess_environment(), check=True)
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(uninterrupted))


def test_an_interrupted_trial_is_started_again_with_the_same_architecture(tmp_path, uninterrupted):
    calls = []

    def interrupting(student):
        calls.append(student)
        if len(calls) == 3:
            raise Killed
        return toy_search.evaluate(student)

    with pytest.raises(Killed):
        make_search(tmp_path / "search", eval_func=interrupting).search_loop()
    running = SearchResult.load(tmp_path / "search")[-1]
    assert running.state is TrialState.RUNNING
    make_search(tmp_path / "search").search_loop()
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(uninterrupted))


# Trial 0 has blocks of 4 steps each, then 9 of regular distillation with a checkpoint every 3.
@pytest.mark.parametrize(("die_at", "lost"), [(3, 2), (5, 0), (7, 2), (-9, 0), (-7, 2), (-1, 2)])
def test_an_interrupted_trial_continues_from_its_last_block_or_checkpoint(
    tmp_path, uninterrupted, monkeypatch, die_at, lost
):
    whole = 4 * SearchResult.load(uninterrupted)[0].architecture["depth"] + 9
    die_at = die_at if die_at > 0 else whole + 1 + die_at
    config = make_config() | {"checkpoint_steps": 3}
    with monkeypatch.context() as patch:
        count_steps(patch, die_at=die_at)
        with pytest.raises(Killed):
            make_search(tmp_path / "search", config).search_loop()
    steps = count_steps(monkeypatch)
    make_search(tmp_path / "search", config).search_loop(n_trials=1)
    assert len(steps) == whole - (die_at - 1) + lost
    left, right = outcomes(tmp_path / "search"), outcomes(uninterrupted)
    assert_same_outcomes(left, (right[0][:1], right[1][:1]))
    progress = "trials/000000/progress.jsonl"
    assert (tmp_path / "search" / progress).read_text() == (uninterrupted / progress).read_text()
    assert not (tmp_path / "search/trials/000000/checkpoint").exists()


@pytest.mark.slow
def test_a_trial_killed_at_random_moments_ends_with_the_same_weights(tmp_path, uninterrupted):
    expected = outcomes(uninterrupted)
    generator = random.Random(0)
    kills = 0
    for round_number in range(20):
        search_dir = tmp_path / str(round_number)
        program = [sys.executable, toy_search.__file__, str(search_dir)]
        process = subprocess.Popen(program, env=subprocess_environment(), stderr=subprocess.PIPE)
        while not (search_dir / "trials/000000/trial.json").exists():
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.6))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
        subprocess.run(program, env=subprocess_environment(), check=True)
        assert_same_outcomes(outcomes(search_dir), expected)
    assert kills >= 15


def test_trials_in_two_portions_equal_trials_in_one(tmp_path, uninterrupted):
    search = make_search(tmp_path / "search")
    search.search_loop(n_trials=5)
    assert len(search.search_result) == 5
    search.search_loop()
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(uninterrupted))


def test_the_random_state_of_the_program_has_no_influence_and_is_not_changed(tmp_path, uninterrupted):
    torch.manual_seed(12345)
    expected = torch.get_rng_state()
    make_search(tmp_path / "search").search_loop()
    assert torch.equal(torch.get_rng_state(), expected)
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(uninterrupted))


def test_a_search_of_several_trials_runs_the_teacher_once_for_each_batch(tmp_path):
    teacher = Counted(make_teacher())
    config = make_config(search_space={"width": [8, 10, 12, 14, 16, 18], "depth": [4]}, max_trials=6)
    config |= {"flash_distillation": {"train_steps": 20}, "regular_distillation": None}
    search = make_search(tmp_path / "search", config, teacher_model=teacher, train_dataloader=make_loader(160))
    search.search_loop()
    assert len(search.search_result.completed) == 6
    assert all(len(trial.details["distillation"]) == 4 for trial in search.search_result)
    assert teacher.forwards == 20


def test_regular_distillation_of_the_same_batches_costs_no_further_teacher_forward(tmp_path):
    teacher = Counted(make_teacher())
    config = make_config(max_trials=2) | {
        "flash_distillation": {"train_steps": 20},
        "regular_distillation": {"train_steps": 20},
    }
    make_search(tmp_path / "s", config, teacher_model=teacher, train_dataloader=make_loader(160)).search_loop()
    assert teacher.forwards == 20 + 1  # a part of the first batch shows whether outputs depend on other samples


def test_regular_distillation_changes_every_parameter(tmp_path):
    config = make_config(max_trials=1) | {"flash_distillation": None}
    del config["flash_distillation"]
    built = {}

    def builder(architecture):
        student = Transformer(**architecture)
        built.update({name: value.clone() for name, value in student.state_dict().items()})
        return student

    search = make_search(tmp_path / "search", config)
    search.model_builder = builder
    search.search_loop()
    trained = search.best_model().state_dict()
    assert not any(torch.equal(trained[name], built[name]) for name in built)


def test_the_best_model_is_the_trained_student_in_eval_mode(tmp_path):
    search = make_search(tmp_path / "search", make_config(max_trials=2), keep="pareto")
    architecture = search.search_loop()
    student = search.best_model()
    assert not student.training
    assert architecture == search.best_model_arch == search.search_result.best.architecture
    with torch.no_grad():  # as in a trial: PyTorch chooses kernels by it
        assert toy_search.evaluate(student)["accuracy"] == search.search_result.best.metrics["accuracy"]


def test_student_of_an_architecture_outside_of_the_space_is_not_built(tmp_path):
    search = make_search(tmp_path / "search", make_config(max_trials=1))
    search.search_loop()
    odd = dataclasses.replace(search.search_result.best, architecture={"width": 10**400, "depth": 1})
    with pytest.raises(SearchSpaceError, match="width"):
        search.load_model(odd)


def test_only_students_on_the_pareto_front_are_kept(tmp_path):
    search = make_search(tmp_path / "search", keep="pareto")
    search.search_loop()
    kept = {path.parent.name for path in (tmp_path / "search/trials").glob("*/student")}
    assert kept == {f"{trial.number:06d}" for trial in search.search_result.pareto_front}
    assert 0 < len(kept) < 8


def test_a_trial_writes_the_losses_of_every_step(tmp_path, uninterrupted):
    lines = [json.loads(line) for line in (uninterrupted / "trials/000000/progress.jsonl").read_text().splitlines()]
    depth = SearchResult.load(uninterrupted)[0].architecture["depth"]
    assert [len(line["losses"]) for line in lines] == [4] * depth + [9]


def test_built_in_metrics_are_measured_with_their_spread(tmp_path):
    names = ["accuracy", "latency", "speedup", "parameters", "flops", "size_mb"]
    search = make_search(tmp_path / "search", make_config(metrics=names, max_trials=1))
    search.search_loop()
    trial = search.search_result[0]
    student = search.best_model()
    assert trial.metrics["parameters"] == sum(p.numel() for p in student.parameters())
    assert trial.metrics["size_mb"] == pytest.approx(4 * trial.metrics["parameters"] / 1e6)
    assert trial.metrics["speedup"] > 0
    assert trial.details["latency"]["student"]["interquartile_ms"] >= 0


def test_callbacks_receive_every_trial_and_may_stop_the_search(tmp_path):
    numbers = []

    def stop_after_two(search, trial):
        numbers.append(trial.number)
        if trial.number == 1:
            search.stop()

    plain_search(tmp_path, callbacks=[stop_after_two]).search_loop()
    assert numbers == [0, 1]


def test_hooks_may_be_assigned_after_construction_and_replace_the_training(tmp_path):
    search = make_search(tmp_path / "search", make_config(metrics=["score"], max_trials=2), teacher_model=None)
    search.train_func = lambda student: student
    search.eval_func = lambda student: {"score": 0.0 if student.training else 1.0}
    search.search_loop()
    assert [trial.metrics["score"] for trial in search.search_result] == [1.0, 1.0]


class LoadedTeacher:
    """Loads the teacher, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return make_teacher()


def test_a_teacher_is_loaded_once_and_only_to_search(tmp_path):
    load = LoadedTeacher()
    search = make_search(tmp_path / "search", make_config(max_trials=2), teacher_model=load)
    assert search.has_teacher
    assert len(search.search_result) == 0
    assert load.calls == 0
    search.search_loop()
    assert load.calls == 1
    assert search.teacher_model is search.teacher_model
    assert isinstance(search.teacher_model, Transformer)
    search.search_loop(n_trials=1)
    search.train_evaluate({"width": 8, "depth": 1})
    assert load.calls == 1
    expected = make_search(tmp_path / "loaded", make_config(max_trials=2))
    expected.search_loop()
    expected.search_loop(n_trials=1)
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(tmp_path / "loaded"))


def test_results_and_students_are_read_without_loading_the_teacher(tmp_path):
    make_search(tmp_path / "search", make_config(max_trials=2)).search_loop()
    load = LoadedTeacher()
    search = make_search(tmp_path / "search", make_config(max_trials=2), teacher_model=load)
    assert search.best_model_arch == search.search_result.best.architecture
    assert search.best_model_archs
    assert isinstance(search.best_model(), Transformer)
    assert load.calls == 0
    search.search_loop()  # resumed: the teacher is compared with the one of the directory
    assert load.calls == 1


def test_a_loaded_teacher_may_be_drawn_at_random_and_leaves_the_random_states_alone(tmp_path):
    def search():
        config = make_config(metrics=["parameters", "flops"], max_trials=1)
        return make_search(tmp_path / "search", config, teacher_model=lambda: Transformer(16, 4), eval_func=None)

    search().search_loop()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    agent = search()
    agent.search_loop(n_trials=1)  # refused if the teacher were another one
    assert agent.teacher_model is not None
    assert torch.equal(torch.rand(1), expected)


def test_mistakes_in_the_set_up_are_found_before_the_teacher_is_loaded(tmp_path):
    load = LoadedTeacher()
    search = make_search(tmp_path / "search", make_config(metrics=["accuracy"]), teacher_model=load, eval_func=None)
    with pytest.raises(ConfigurationError, match="eval_func must return 'accuracy'"):
        search.search_loop()
    assert load.calls == 0


def test_function_that_loads_no_teacher_is_refused_when_it_is_called(tmp_path):
    search = make_search(tmp_path / "search", make_config(max_trials=1), teacher_model=dict)
    with pytest.raises(ConfigurationError, match="but dict returned dict; return the loaded model"):
        search.search_loop()
    assert not (tmp_path / "search" / "search.json").exists()


def test_speedup_is_measured_against_a_loaded_teacher(tmp_path):
    load = LoadedTeacher()
    search = plain_search(
        tmp_path,
        metrics=("speedup",),
        max_trials=1,
        builder=lambda architecture: Transformer(8, architecture["width"]),
        eval_func=None,
        teacher_model=load,
        example_batch=(torch.randn(2, 5, 8), None),
    )
    search.search_loop()
    assert load.calls == 1
    assert search.search_result.best.metrics["speedup"] > 0


def test_a_student_is_built_in_the_same_random_state_in_every_trial(tmp_path):
    weights = []

    def builder(architecture):
        student = nn.Linear(4, 4)
        weights.append(student.weight.detach().clone())
        return student

    plain_search(tmp_path, builder=builder).search_loop()
    assert len(weights) >= 4
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_a_timed_metric_marked_measured_is_hidden_from_the_advisor(tmp_path):
    received = []

    class Watching(Advisor):
        def suggest(self, history, *, seed):
            received.extend(observation.objectives for observation in history)
            return {"width": 1 + len(history)}

    metrics = [Metric("score"), Metric("latency", measured=True)]
    plain_search(tmp_path, metrics=metrics, advisor=Watching, example_batch=(torch.zeros(1, 1), None),
                 builder=lambda architecture: nn.Linear(1, architecture["width"]),
                 evaluate=lambda student: {"score": student.out_features}).search_loop()  # fmt: skip
    assert received
    assert all(len(objectives) == 1 for objectives in received)


# -- mistakes: each is reported clearly, and no trial is lost --------------------------------------------------------


def test_a_missing_layer_is_reported_with_the_nearest_names_before_any_trial(tmp_path):
    config = make_config(search_space={"width": [8], "depth": [2]}, max_trials=1)
    config["flash_distillation"] = {
        "block_names": ["layers.0"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0.linaer1", "layers.0.linear1")]],
    }
    search = make_search(tmp_path / "search", config)
    with pytest.raises(ConfigurationError, match=r"has no layer 'layers.0.linaer1'; did you mean 'layers.0.linear1'"):
        search.search_loop()
    assert list((tmp_path / "search/trials").iterdir()) == []
    config["flash_distillation"]["layer_mappings_for_knowledge_transfer"] = [[("layers.0.linear1", "layers.0.linear1")]]
    fixed = make_search(tmp_path / "search", config)
    fixed.search_loop()
    assert len(fixed.search_result.completed) == 1


def test_all_wrong_paths_are_reported_in_one_error(tmp_path):
    config = make_config(search_space={"width": [8], "depth": [2]}, max_trials=1)
    config["flash_distillation"] = {
        "block_names": ["layer.0"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0.nrom1", "layers.7")]],
    }
    with pytest.raises(ConfigurationError) as caught:
        make_search(tmp_path / "search", config).search_loop()
    assert len(caught.value.problems) == 3
    assert isinstance(caught.value, ConfigurationError)
    assert issubclass(LayerNotFoundError, ConfigurationError)


def test_features_that_differ_in_two_axes_are_refused_before_any_trial(tmp_path):
    config = make_config(search_space={"width": [8], "depth": [2]}, max_trials=1)
    config["flash_distillation"] = {
        "block_names": ["layers.0"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0", "head")]],
    }
    with pytest.raises(ConfigurationError, match=r"the same number of axes.*\(8, 5, 8\).*\(8, 10\)"):
        make_search(tmp_path / "search", config).search_loop()


def test_lists_of_unequal_length_are_all_reported_in_one_error(tmp_path):
    config = make_config()
    config["search"]["higher_is_better"] = [True]
    config["flash_distillation"] = {
        "block_names": ["layers.0", "layers.1"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0", "layers.0")]],
        "loss_types": [["MSE"], ["MSE"], ["MSE"]],
        "train_steps": [1],
    }
    with pytest.raises(ConfigurationError) as caught:
        make_search(tmp_path / "search", config)
    message = str(caught.value)
    for part in (
        "higher_is_better must have one entry for each metric, but has 1 for 2",
        "layer_mappings_for_knowledge_transfer must have one entry for each block, but has 1 for 2",
        "loss_types must have one entry for each block, but has 3 for 2",
        "train_steps must have one entry for each block, but has 1 for 2",
    ):
        assert part in message


def test_a_missing_metric_stops_the_search_and_the_first_trial_is_started_again(tmp_path):
    search = plain_search(tmp_path, lambda student: {"acuracy": 1.0}, metrics=["accuracy"])
    with pytest.raises(ConfigurationError, match=r"'accuracy' is missing; it returned 'acuracy'"):
        search.search_loop()
    assert [trial.state for trial in search.search_result] == [TrialState.RUNNING]
    fixed = plain_search(tmp_path, lambda student: {"accuracy": 1.0}, metrics=["accuracy"])
    fixed.search_loop()
    assert [trial.metrics for trial in fixed.search_result] == [{"accuracy": 1.0}] * 4


def test_nan_from_eval_func_fails_the_trial_and_the_search_continues(tmp_path):
    search = plain_search(
        tmp_path, lambda student: {"score": float("nan") if student.in_features == 2 else student.in_features}
    )
    assert search.search_loop() == {"width": 4}
    assert [trial.state.value for trial in search.search_result] == ["complete", "failed", "complete", "complete"]
    assert "a metric must be a finite number, but eval_func returned nan for 'score'" in search.search_result[1].error


def test_a_builder_that_raises_on_some_architectures_costs_those_trials_only(tmp_path):
    def builder(architecture):
        if architecture["width"] % 2:
            raise RuntimeError("odd widths are not supported")
        return nn.Linear(architecture["width"], 1)

    search = plain_search(tmp_path, builder=builder)
    assert search.search_loop() == {"width": 4}
    assert "odd widths are not supported" in search.search_result[0].error
    assert "Traceback" in search.search_result[0].error


def test_three_failures_in_a_row_stop_the_search_and_it_can_be_resumed(tmp_path):
    def fail(student):
        raise torch.OutOfMemoryError(f"width {student.in_features}")

    with pytest.raises(SearchStoppedError, match=r"3 trials fail in a row.*OutOfMemoryError: width 3") as caught:
        plain_search(tmp_path, fail).search_loop()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    fixed = plain_search(tmp_path)
    assert fixed.search_loop() == {"width": 4}
    assert len(fixed.search_result.failed) == 3


def test_an_empty_space_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="search_space"):
        AutoDistillation(nn.Linear, {"search": {"search_space": {}, "metrics": ["score"]}})


def test_a_space_emptied_by_its_constraints_is_refused_naming_the_constraint(tmp_path):
    space = SearchSpace({"width": [1, 2, 3]}, constraints=["width > 5"])
    with pytest.raises(ConfigurationError, match="width > 5"):
        plain_search(tmp_path, space=space, max_trials=1).search_loop()


@pytest.mark.parametrize("advisor", ["Grid", "BO", "Random", "TPE"])
def test_more_trials_than_architectures_end_with_the_space(tmp_path, caplog, advisor):
    for _ in range(2):  # the second resumes
        search = plain_search(tmp_path, max_trials=9, advisor=advisor)
        assert search.search_loop() == {"width": 6}
        assert len(search.search_result) == 6
    assert "the search ends before 9 trials: " in caplog.text


def test_no_limit_tries_every_architecture_and_needs_a_finite_space(tmp_path, caplog):
    assert plain_search(tmp_path, max_trials=None).search_loop() == {"width": 6}
    assert "the search ends before" not in caplog.text
    endless = plain_search(tmp_path, max_trials=None, space=SearchSpace({"x": FloatRange(0, 1)}))
    with pytest.raises(ConfigurationError, match=r"max_trials=None tries every architecture.*infinitely many"):
        endless.search_loop()


def test_a_seed_of_none_is_chosen_recorded_and_used_again(tmp_path):
    def search(directory):
        config = {"search": {"search_space": {"width": [1, 2, 3]}, "metrics": ["score"], "seed": None}}
        return AutoDistillation(
            lambda architecture: nn.Linear(architecture["width"], 1),
            config,
            train_func=lambda student: None,
            eval_func=lambda student: student.in_features,
            search_dir=directory,
            show_progress_bar=False,
        )

    first = search(tmp_path / "a")
    first.search_loop(1)
    assert json.loads((tmp_path / "a/search.json").read_text())["seed"] == first.config.seed
    assert search(tmp_path / "a").config.seed == first.config.seed != search(tmp_path / "b").config.seed
    search(tmp_path / "a").search_loop()
    assert [trial.metrics for trial in search(tmp_path / "a").search_result.pareto_front] == [{"score": 3.0}]


def test_metrics_that_are_not_named_are_what_eval_func_returns(tmp_path, caplog):
    for _ in range(2):
        search = AutoDistillation(
            lambda architecture: nn.Linear(architecture["width"], 1),
            {"search_space": {"width": [1, 2, 3]}},
            train_func=lambda student: None,
            eval_func=lambda student: {"accuracy": 1.0, "val_loss": student.in_features},
            search_dir=tmp_path,
            show_progress_bar=False,
        )
        assert search.search_loop() == {"width": 1}
    assert caplog.text.count("the search is for accuracy (greater is better), val_loss (less is better)") == 1
    assert search.train_evaluate({"width": 2}) == {"accuracy": 1.0, "val_loss": 2.0}


def test_train_evaluate_proposes_an_architecture(tmp_path):
    assert plain_search(tmp_path).train_evaluate() == {"score": 1.0}


def test_another_framework_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="framework must be 'pytorch'"):
        plain_search(tmp_path, framework="tensorflow")
    with pytest.raises(ConfigurationError, match="framework must be 'pytorch'"):
        plain_search(tmp_path).framework = "tensorflow"


def test_an_exhausted_space_ends_the_search_with_a_message(tmp_path, caplog):
    search = plain_search(tmp_path, max_trials=6)
    search.search_loop()
    assert search.search_loop(n_trials=2) == {"width": 6}
    assert len(search.search_result) == 6
    assert "the search ends before 8 trials" in caplog.text


def test_a_directory_of_another_search_is_refused_naming_the_fields(tmp_path):
    make_search(tmp_path / "search", make_config(max_trials=1)).search_loop()
    before = (tmp_path / "search/search.json").read_text()
    config = make_config(max_trials=1, seed=4)
    config["regular_distillation"] = {"train_steps": 10}
    other = Transformer(16, 4)
    with pytest.raises(SearchDirectoryError) as caught:
        make_search(tmp_path / "search", config, teacher_model=other).search_loop()
    message = str(caught.value)
    assert "seed was 3, but is now 4" in message
    assert "distillation.regular_distillation.train_steps was 9, but is now 10" in message
    assert "teacher was" in message
    assert (tmp_path / "search/search.json").read_text() == before


def test_more_trials_another_advisor_and_a_wider_space_are_accepted(tmp_path):
    plain_search(tmp_path, max_trials=2).search_loop()
    wider = plain_search(tmp_path, space={"width": [1, 2, 3, 9]}, max_trials=4, advisor="Random")
    assert wider.search_loop() == {"width": 9}


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "search").write_text("mine")
    with pytest.raises(SearchDirectoryError, match="is a file"):
        plain_search(tmp_path).search_loop()
    assert (tmp_path / "search").read_text() == "mine"


def test_an_advisor_that_repeats_an_architecture_is_an_error(tmp_path):
    class Repeating(Advisor):
        def suggest(self, history, *, seed):
            return {"width": 1}

    with pytest.raises(AdvisorError, match="not in its history, but Repeating repeated"):
        plain_search(tmp_path, advisor=Repeating).search_loop()


def test_a_student_with_the_teachers_weights_is_refused_and_the_teacher_unchanged(tmp_path):
    teacher = make_teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}

    def builder(architecture):
        student = Transformer(16, architecture["depth"])
        student.layers[0] = teacher.layers[0]
        return student

    search = make_search(tmp_path / "search", teacher_model=teacher)
    search.model_builder = builder
    with pytest.raises(SearchStoppedError, match=r"is the teacher's 'layers.0.self_attn.in_proj_weight'"):
        search.search_loop()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_builder_that_always_returns_the_same_model_is_an_error(tmp_path):
    student = nn.Linear(1, 1)
    search = plain_search(tmp_path, builder=lambda architecture: student)
    with pytest.raises(SearchStoppedError, match="must build a new model each time"):
        search.search_loop()


def test_a_student_that_cannot_run_fails_and_the_next_checks_the_settings(tmp_path):
    class Refusing(Transformer):
        def forward(self, tokens):
            raise RuntimeError("not on this machine")

    def builder(architecture):
        return (Refusing if architecture["depth"] == 1 else Transformer)(**architecture)

    config = make_config(search_space={"width": [8], "depth": [1, 2, 3]}, search_algorithm="Grid", max_trials=3)
    search = make_search(tmp_path / "search", config)
    search.model_builder = builder
    search.search_loop()
    assert [trial.state.value for trial in search.search_result] == ["failed", "complete", "complete"]
    config["flash_distillation"] = {
        "block_names": ["layer.0"],
        "layer_mappings_for_knowledge_transfer": [[("layers.0", "layers.0")]],
    }
    wrong = make_search(tmp_path / "wrong", config)
    wrong.model_builder = builder
    with pytest.raises(ConfigurationError, match=r"has no layer 'layer.0'"):
        wrong.search_loop()
    assert [trial.state.value for trial in wrong.search_result] == ["failed"]


def test_a_space_of_one_architecture_is_resumed(tmp_path, monkeypatch):
    config = make_config(search_space={"width": [8], "depth": [1]}, max_trials=1)
    with monkeypatch.context() as patch:
        count_steps(patch, die_at=2)
        with pytest.raises(Killed):
            make_search(tmp_path / "search", config).search_loop()
    assert make_search(tmp_path / "search", config).search_loop() == {"width": 8, "depth": 1}


def test_the_default_number_of_trials_does_not_refuse_a_small_space(tmp_path, caplog):
    config = make_config(search_space={"width": [8], "depth": [1, 2]})
    del config["search"]["max_trials"]
    search = make_search(tmp_path / "search", config)
    search.search_loop()
    assert len(search.search_result.completed) == 2


def test_an_architecture_whose_layers_do_not_fit_fails_its_trial_alone(tmp_path):
    config = make_config(search_space={"width": [8], "depth": [3, 1, 2]}, search_algorithm="Grid", max_trials=3)
    config["flash_distillation"] = {
        "block_names": ["layers.1"],
        "layer_mappings_for_knowledge_transfer": [[("layers.1", "layers.1")]],
        "train_steps": 2,
    }
    search = make_search(tmp_path / "search", config)
    search.search_loop()
    assert [trial.state.value for trial in search.search_result] == ["complete", "failed", "complete"]
    assert "has no layer 'layers.1'" in search.search_result[1].error


def test_the_configuration_of_a_criterion_alone_is_no_search(tmp_path):
    criterion = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {"temperature": 2.0}}}}}
    with pytest.raises(ConfigurationError, match="search: is required, but the configuration is that of one distill"):
        AutoDistillation(nn.Linear, criterion, search_dir=tmp_path)


def test_more_trials_than_a_space_with_constraints_has_end_with_a_warning(tmp_path, caplog):
    space = SearchSpace({"width": [8, 10, 12], "depth": [1, 2]}, ["width * depth <= 16"])
    search = plain_search(tmp_path, lambda model: {"score": 1.0}, space=space, max_trials=50)
    search.search_loop()
    assert len(search.search_result.completed) == 4
    assert any(record.levelname == "WARNING" for record in caplog.records)


# --- before searching ------------------------------------------------------------------------------------------------


def students_of(search_dir):
    """The weights of the students that a search kept, as they are on disk."""
    return {path.parent.parent.name: path.read_bytes() for path in search_dir.glob("trials/*/student/*.safetensors")}


def counting_samples(teacher):
    """The sizes of the batches that a teacher runs on, from now on."""
    sizes = []
    teacher.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    return sizes


def repeating_loader():
    """Samples of which some occur in several batches, with a last batch that is smaller."""
    inputs, labels = make_loader(30).dataset.tensors
    data = torch.utils.data.TensorDataset(torch.cat([inputs, inputs[:17]]), torch.cat([labels, labels[:17]]))
    return torch.utils.data.DataLoader(data, 8, shuffle=True)


def test_forecast_is_logged_before_the_first_trial_and_changes_no_bit_of_the_students(tmp_path, caplog):
    config = make_config(max_trials=3)
    with caplog.at_level("WARNING", logger="autodistill"):
        make_search(tmp_path / "without", config, train_dataloader=repeating_loader()).search_loop()
    assert not caplog.records
    agent = make_search(tmp_path / "with", config, train_dataloader=repeating_loader())
    with caplog.at_level("INFO", logger="autodistill"):
        agent.forecast()
        agent.search_loop()
    lines = [record.message for record in caplog.records if record.message.startswith("predicted from one batch")]
    assert len(lines) == 1
    assert "the teacher runs on 47 samples" in lines[0]
    assert "and 3 trials with the teacher" in lines[0]
    assert len(students_of(tmp_path / "with")) == 3
    assert students_of(tmp_path / "with") == students_of(tmp_path / "without")
    caplog.clear()
    with caplog.at_level("INFO", logger="autodistill"):
        agent.search_loop(n_trials=1)
    assert not any(record.message.startswith("predicted") for record in caplog.records)


def test_forecast_leaves_the_search_directory_and_random_states_as_they_are(tmp_path):
    agent = make_search(tmp_path / "search")
    state = torch.get_rng_state()
    forecast = agent.forecast()
    assert torch.equal(torch.get_rng_state(), state)
    assert not agent.search_dir.exists()
    assert (forecast.trials, forecast.training_samples, forecast.teacher.samples) == (8, 48, 48)
    agent.search_loop(n_trials=2)
    before = {path: path.stat().st_mtime_ns for path in agent.search_dir.rglob("*")}
    again = make_search(tmp_path / "search").forecast()
    assert {path: path.stat().st_mtime_ns for path in agent.search_dir.rglob("*")} == before
    assert (again.trials, again.teacher.samples, again.teacher.stored_samples) == (6, 0, 48)
    assert agent.forecast(n_trials=11).trials == 11


def test_forecast_counts_the_samples_and_bytes_of_the_search(tmp_path):
    teacher = make_teacher()
    agent = make_search(
        tmp_path, make_config(max_trials=2), teacher_model=teacher, train_dataloader=make_loader(960, 32)
    )
    forecast = agent.forecast().teacher
    sizes = counting_samples(teacher)
    agent.search_loop()
    assert forecast.flash_samples == 4 * 32
    assert forecast.samples == 9 * 32  # 9 steps read 288 of 960 samples
    assert forecast.samples <= sum(sizes) <= forecast.samples + 6 * 32  # the checks of the set-up
    stored = sum(path.stat().st_size for path in (tmp_path / "teacher_cache").rglob("*.safetensors"))
    assert forecast.disk_bytes == pytest.approx(stored, rel=0.1)


def test_forecast_names_the_limits_and_their_remedies(tmp_path):
    config = make_config()
    config["flash_distillation"]["flash_set_gb"] = 5e-5
    limits = make_search(tmp_path, config, teacher_cache_gb=1e-6).forecast().limits
    assert any("teacher_cache_gb is 1e-06" in limit and "set teacher_cache_gb=1" in limit for limit in limits)
    assert any("limits the flash set to" in limit and "of 4 batches; flash_set_gb: " in limit for limit in limits)


@pytest.mark.parametrize("inputs", ["student", "teacher"])
def test_search_with_a_filled_cache_yields_the_same_students_and_runs_the_teacher_for_checks_only(tmp_path, inputs):
    config = make_config(max_trials=2, search_space={"width": [16], "depth": [1, 2, 3]})
    config["flash_distillation"]["inputs"] = inputs
    make_search(tmp_path / "alone", config, train_dataloader=repeating_loader()).search_loop()
    for part in (2, 0, 1, None):
        teacher = make_teacher()
        sizes = counting_samples(teacher)
        agent = make_search(
            tmp_path / "filled",
            config,
            teacher_model=teacher,
            train_dataloader=repeating_loader(),
            teacher_cache=tmp_path / "c",
        )
        agent.fill_teacher_cache(*(() if part is None else (part, 3)))
        assert part is not None or sum(sizes) <= 3 * 8, "what the others stored is computed again"
    sizes.clear()
    agent.search_loop()
    assert not (tmp_path / "filled" / "teacher_cache").exists()
    assert sum(sizes) <= 3 * 8
    assert len(students_of(tmp_path / "alone")) == 2
    assert students_of(tmp_path / "filled") == students_of(tmp_path / "alone")


def test_two_searches_share_a_cache(tmp_path):
    for name in ("first", "second"):
        teacher = make_teacher()
        sizes = counting_samples(teacher)
        config = make_config(max_trials=1)
        make_search(tmp_path / name, config, teacher_model=teacher, teacher_cache=tmp_path / "cache").search_loop()
    assert sum(sizes) <= 3 * 8
    assert students_of(tmp_path / "first") == students_of(tmp_path / "second")


def test_cost_and_cache_belong_to_the_built_in_distillation(tmp_path):
    agent = plain_search(tmp_path)
    for method, name in ((agent.forecast, "forecast"), (agent.fill_teacher_cache, "fill_teacher_cache")):
        with pytest.raises(ConfigurationError, match=f"{name} .* but there is a train_func"):
            method()


def test_part_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="part must be less than parts, but got 2 of 2"):
        make_search(tmp_path).fill_teacher_cache(2, 2)


def test_nothing_is_cached_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "teacher_cache").symlink_to(tmp_path / "outside")
    with pytest.raises(SearchDirectoryError, match="teacher_cache is a symbolic link"):
        make_search(tmp_path / "search").train_evaluate({"width": 8, "depth": 1})
    assert not list((tmp_path / "outside").iterdir())


def test_hook_that_changes_the_working_directory_does_not_move_the_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    earlier = width_search("earlier", widths=[7], max_trials=1)
    earlier.search_loop()

    def moving(width):
        monkeypatch.chdir(tmp_path / "elsewhere")
        return width

    agent = width_search("runs", widths=[1, 2, 7], max_trials=2, score=moving, keep="all", history_from=["earlier"])
    assert agent.search_dir == tmp_path / "runs"
    assert agent.search_loop() == {"width": 2}
    assert agent.best_model().in_features == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(agent.search_result.completed) == 2


# --- elastic students -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliced(tmp_path_factory):
    """A finished search of six slices, of which one is promoted."""
    search_dir = tmp_path_factory.mktemp("sliced") / "search"
    elastic_search.make_search(search_dir).search_loop()
    return search_dir


@pytest.fixture
def slices(sliced, tmp_path):
    """A copy of it."""
    return shutil.copytree(sliced, tmp_path / "search")


def agent_of(search_dir, config=None, **arguments):
    return elastic_search.make_search(search_dir, config, **arguments)


def complete_of(agent):
    return [trial.number for trial in agent.search_result.completed]


SMALLEST = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 6}


def test_trial_evaluates_a_slice_that_is_cut_out_again_to_the_bit(slices):
    agent = agent_of(slices)
    paused = elastic_search.paused(agent)
    assert len(paused) == 5
    for trial in paused[:2]:
        student = agent.load_model(trial)
        again = agent.load_model(trial)
        assert not student.training
        assert elastic_search.evaluate(student)["closeness"] == trial.after_flash["closeness"]
        assert all(map(torch.equal, student.parameters(), again.parameters()))
    (complete,) = agent.search_result.completed
    best = promotion.rung_order(agent.search_result)[0]
    assert complete.number == best.number
    assert elastic_search.evaluate(agent.load_model(complete))["closeness"] == complete.metrics["closeness"]
    assert complete.metrics != complete.after_flash


def test_best_is_promoted_after_all_new_trials(tmp_path):
    order = []
    agent = agent_of(tmp_path, callbacks=[lambda search, trial: order.append((trial.number, trial.state.value))])
    agent.search_loop()
    assert [state for _, state in order] == ["paused"] * 6 + ["complete"]
    assert sorted(number for number, state in order if state == "paused") == list(range(6))


@pytest.mark.parametrize("die_at", [1, 3, 7])
def test_elastic_search_that_is_killed_between_trials_equals_an_uninterrupted_one(tmp_path, sliced, die_at):
    calls = []

    def dying(student):
        calls.append(student)
        if len(calls) == die_at:
            raise Killed
        return elastic_search.evaluate(student)

    with pytest.raises(Killed):
        agent_of(tmp_path / "search", eval_func=dying).search_loop()
    agent_of(tmp_path / "search").search_loop()
    elastic_search.assert_same(elastic_search.outcomes(tmp_path / "search"), elastic_search.outcomes(sliced))


def test_without_regular_distillation_slices_are_the_students_and_are_not_stored(tmp_path):
    agent = agent_of(tmp_path, elastic_search.make_config(regular=False, max_trials=3))
    agent.search_loop()
    assert [trial.state for trial in agent.search_result] == [TrialState.COMPLETE] * 3
    assert not list(tmp_path.glob("trials/*/student"))
    best = agent.search_result.best
    assert elastic_search.evaluate(agent.best_model())["closeness"] == best.metrics["closeness"]
    finished = agent.finish(best.architecture, train_steps=2)
    assert finished.student
    assert finished.metrics != best.metrics
    assert elastic_search.evaluate(agent.load_model(finished))["closeness"] == finished.metrics["closeness"]


def test_mistakes_of_an_elastic_search_are_in_one_error_before_anything_runs(tmp_path):
    config = elastic_search.make_config(regular=False, promote=0.5)
    config |= {"flash_distillation": {"train_steps": 2}, "init": {"weights": "embeddings"}}
    with pytest.raises(ConfigurationError) as caught:
        agent_of(tmp_path / "search", config).search_loop()
    found = caught.value.problems
    assert len(found) == 3
    assert any("takes the place of flash distillation" in problem for problem in found)
    assert any("init.weights is 'embeddings'; leave it out" in problem for problem in found)
    assert any("but there is no regular_distillation; add it, or leave promote out" in problem for problem in found)
    with pytest.raises(ConfigurationError) as caught:
        agent_of(tmp_path / "search", config, train_func=lambda student: student).search_loop()
    assert any("elastic belongs to the built-in distillation" in problem for problem in caught.value.problems)
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher_model": Transformer(8, 2)}, "Transformer"),
        ({"teacher_model": elastic_search.make_teacher(hidden_size=4)}, "wider"),
        ({"build": lambda sizes: WithExtra(elastic_search.bert(sizes))}, "extra"),
        ({"build": lambda sizes: elastic_search.bert({"hidden_size": 8})}, "share"),
    ],
    ids=["family of the teacher", "wider than the teacher", "extra weights", "nothing to share"],
)
def test_students_that_cannot_be_slices_are_refused_before_any_trial(tmp_path, changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        agent_of(tmp_path / "search", **changes).search_loop()
    assert not list((tmp_path / "search").glob("trials/*/trial.json"))
    assert not list((tmp_path / "search").glob("elastic/*.safetensors"))


class WithExtra(nn.Module):
    """A classifier with a parameter of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.extra = nn.Parameter(torch.zeros(3, 3))

    def forward(self, **inputs):
        return self.model(**inputs)


def test_paused_trial_is_finished_and_its_student_is_kept_though_it_is_not_on_the_front(slices):
    agent = agent_of(slices, keep="pareto")
    worst = promotion.rung_order(agent.search_result)[-1]
    finished = agent.finish(worst.architecture, train_steps=2)
    assert (finished.number, finished.state, finished.after_flash) == (
        worst.number,
        TrialState.COMPLETE,
        worst.after_flash,
    )
    assert finished.details["chosen"]
    agent_of(slices, keep="pareto").search_loop(n_trials=1)
    agent = agent_of(slices, keep="pareto")
    assert elastic_search.evaluate(agent.load_model(finished))["closeness"] == finished.metrics["closeness"]


def test_finished_student_is_that_of_a_promotion_and_more_steps_lead_further(slices, sliced):
    (number,) = complete_of(agent_of(sliced))
    first = agent_of(sliced).search_result[number]
    same = agent_of(slices).finish(first.architecture)  # it is complete already
    assert (same.metrics, same.student, same.details["chosen"]) == (first.metrics, first.student, True)
    assert "earlier_metrics" not in same.details
    again = agent_of(slices).finish(first.architecture, train_steps=4)
    assert (again.number, again.metrics, again.student) == (number, first.metrics, first.student)
    assert again.details["earlier_metrics"] == [first.metrics]
    longer = agent_of(slices).finish(first.architecture, train_steps=7)
    assert longer.student["model.safetensors"] != first.student["model.safetensors"]
    assert len(agent_of(slices).search_result) == 6


def test_failed_and_new_architectures_are_finished(tmp_path):
    broken = []

    def evaluating(student):
        if broken:
            raise ValueError("broken")
        return elastic_search.evaluate(student)

    agent = agent_of(tmp_path, eval_func=evaluating)
    agent.enqueue_trial(SMALLEST)
    broken.append(True)
    agent.search_loop(n_trials=1)
    assert agent.search_result[0].state is TrialState.FAILED
    with pytest.raises(SearchStoppedError, match=r"must be trained to the end, but ValueError: broken"):
        agent.finish(SMALLEST)
    broken.clear()
    finished = agent.finish(SMALLEST)
    assert (finished.number, finished.state) == (0, TrialState.COMPLETE)
    assert len(finished.details["earlier_errors"]) == 2
    new = agent.finish(SMALLEST | {"hidden_size": 8}, train_steps=2)
    assert (new.number, new.state) == (1, TrialState.COMPLETE)
    with pytest.raises(SearchSpaceError, match="hidden_size"):
        agent.finish(SMALLEST | {"hidden_size": 5})
    with pytest.raises(ConfigurationError, match="train_steps must be a whole number of at least 1, but got 0"):
        agent.finish(SMALLEST, train_steps=0)


def test_finishing_that_is_killed_continues_with_the_same_steps_and_starts_again_with_others(slices, monkeypatch):
    config = elastic_search.make_config() | {"checkpoint_steps": 2}
    trial = elastic_search.paused(agent_of(slices, config))[0]
    expected = agent_of(shutil.copytree(slices, slices.parent / "whole"), config).finish(trial.architecture, 6)
    with monkeypatch.context() as patch:
        count_steps(patch, die_at=6)
        with pytest.raises(Killed):
            agent_of(slices, config).finish(trial.architecture, 6)
    other = shutil.copytree(slices, slices.parent / "other")
    steps = count_steps(monkeypatch)
    assert agent_of(slices, config).finish(trial.architecture, 6).student == expected.student
    assert len(steps) == 2
    del steps[:]
    agent_of(other, config).search_loop()  # which trains for the four steps that are configured
    resumed = agent_of(other, config).search_result[trial.number]
    assert steps.count("regular distillation") == 4
    assert resumed.student == agent_of(slices, config).finish(trial.architecture, 4).student


def test_student_that_is_finished_is_kept_if_others_are_not(tmp_path):
    agent = agent_of(tmp_path, elastic_search.make_config(max_trials=2), keep="none")
    agent.search_loop()
    finished = agent.finish(SMALLEST, train_steps=2)
    agent.search_loop(n_trials=1)
    assert elastic_search.evaluate(agent.load_model(finished))["closeness"] == finished.metrics["closeness"]
    assert [path.parent for path in tmp_path.glob("trials/*/student")] == [finished.directory]


def test_added_trial_is_finished_and_then_has_a_student(tmp_path):
    agent = agent_of(tmp_path)
    added = agent.add_trial(SMALLEST, {"closeness": -1.0, "parameters": 5})
    finished = agent.finish(SMALLEST, train_steps=2)
    assert (finished.number, finished.added) == (added.number, False)
    assert finished.details["earlier_metrics"] == [added.metrics]
    assert elastic_search.evaluate(agent.load_model(finished))["closeness"] == finished.metrics["closeness"]


def test_finishing_without_regular_distillation_has_the_precision_of_the_elastic_student(tmp_path):
    config = elastic_search.make_config(elastic={"mixed_precision": "bf16"}, regular=False, max_trials=1)
    agent = agent_of(tmp_path, config)
    agent.search_loop()
    assert agent.finish(SMALLEST, train_steps=2).state is TrialState.COMPLETE


def test_finish_needs_no_elastic_student(tmp_path):
    agent = make_search(tmp_path, make_config(max_trials=1, promote=0.5))
    agent.search_loop()
    architecture = {"width": 8, "depth": 1}
    finished = agent.finish(architecture, train_steps=3)
    assert finished.details["distillation"][-1]["stage"] == "regular distillation"
    assert agent.load_model(finished) is not None
    plain = plain_search(tmp_path / "plain")
    with pytest.raises(
        ConfigurationError, match=r"finish trains by the built-in distillation, but there is a train_func"
    ):
        plain.finish({"width": 1})


def test_best_student_under_a_new_limit_is_chosen_without_training_and_finished(slices, monkeypatch):
    agent = agent_of(slices)
    steps = count_steps(monkeypatch)
    before = len(agent.search_result)
    finished = agent.for_limit(n_trials=2, train_steps=2, parameters=500)
    assert finished.metrics["parameters"] <= 500
    assert finished.details["chosen"]
    assert steps == ["regular distillation"] * 2
    rung = [trial for trial in agent.search_result if trial.after_flash["parameters"] <= 500]
    assert finished.after_flash["closeness"] == max(trial.after_flash["closeness"] for trial in rung)
    assert len(agent.search_result) - before <= 2
    assert all(trial.state is TrialState.PAUSED for trial in list(agent.search_result)[before:])
    assert agent.search_result.metrics[1].at_most is None


def test_limit_of_a_metric_of_which_more_is_better_is_its_least_value(slices):
    agent = agent_of(slices)
    values = sorted(trial.after_flash["closeness"] for trial in agent.search_result)
    finished = agent.for_limit(n_trials=0, train_steps=1, closeness=values[-2])
    assert finished.after_flash["closeness"] >= values[-2]


def test_limit_of_a_metric_that_is_not_configured_but_that_the_function_returns(tmp_path):
    config = elastic_search.make_config(max_trials=1)
    del config["search"]["metrics"]
    agent_of(tmp_path, config).search_loop()
    finished = agent_of(tmp_path, config).for_limit(n_trials=1, train_steps=2, closeness=-1e6)
    assert finished.state is TrialState.COMPLETE


def test_limits_that_cannot_be_kept_or_are_wrong_are_refused(slices, tmp_path):
    agent = agent_of(slices)
    with pytest.raises(ConfigurationError, match=r"must keep the limits \(parameters=3\).*relax them"):
        agent.for_limit(n_trials=1, parameters=3)
    with pytest.raises(ConfigurationError) as caught:
        agent.for_limit(n_trials=-1, train_steps=0, speed=3, parameters=float("nan"))
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigurationError, match="for_limit needs a limit, but there is none; set one of closeness"):
        agent.for_limit()
    with pytest.raises(ConfigurationError, match="the search has none; configure elastic"):
        make_search(tmp_path / "plain").for_limit(parameters=5)


def test_for_limit_trains_no_student_of_a_search_that_finishes_all(tmp_path, monkeypatch):
    agent = agent_of(tmp_path, elastic_search.make_config(promote=None, max_trials=1))
    agent.search_loop()
    steps = count_steps(monkeypatch)
    agent.for_limit(n_trials=2, train_steps=2, parameters=10_000)
    assert steps == ["regular distillation"] * 2


@pytest.mark.slow
def test_several_hundred_slices_are_evaluated(tmp_path):
    space = {"hidden_size": [2, 4, 6, 8], "num_hidden_layers": [1, 2], "intermediate_size": list(range(4, 84))}
    config = elastic_search.make_config(space, max_trials=300, promote=0.01)
    del config["search"]["search_algorithm"]  # the default advisor
    agent = agent_of(tmp_path, config, keep="pareto")
    agent.search_loop()
    assert len(agent.search_result) == 300
    assert len(agent.search_result.completed) == 3
    assert len({tuple(trial.architecture.items()) for trial in agent.search_result}) == 300


def test_forecast_of_an_elastic_search_counts_its_training_until_it_is_trained(tmp_path):
    agent = agent_of(tmp_path)
    new = agent.forecast()
    assert new.elastic_seconds > 0
    assert (new.flash_seconds, new.promoted, new.trials) == (0.0, 0.1, 6)
    assert new.teacher.samples == 48
    agent.search_loop()
    done = agent.forecast(n_trials=5)
    assert done.elastic_seconds == 0
    assert done.search_seconds == pytest.approx(done.teacher.seconds + 5 * 0.1 * done.regular_seconds)
    alone = agent_of(tmp_path / "alone", elastic_search.make_config(regular=False)).forecast()
    assert alone.elastic_seconds > 0
    assert (alone.regular_seconds, alone.teacher.samples) == (0.0, 48)


def test_filled_cache_holds_what_the_elastic_student_requests(tmp_path):
    agent_of(tmp_path / "filled").fill_teacher_cache()
    assert agent_of(tmp_path / "filled").forecast().teacher.samples == 0
