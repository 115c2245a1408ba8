"""What hooks leave in the process or on the teacher does not reach later students."""

from __future__ import annotations

import logging
import os
import random
import sys

import numpy as np
import pytest
import torch
from interruptions import assert_same_outcomes, outcomes
from small_models import Transformer
from torch import nn
from toy_search import make_config, make_search

from autodistill import AutoDistillation, SearchResult, TeacherChangedError, TrialError
from autodistill.frameworks.hook_guard import SETTINGS, HookGuard

CHANGES = {
    "the number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 2),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the gradient mode": lambda: torch.set_grad_enabled(False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "torch.backends.cudnn.deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "the working directory": lambda: os.chdir(os.path.dirname(os.getcwd())),
}


def state():
    return {setting.name: setting.read() for setting in SETTINGS}


def search(tmp_path, trials=3, **arguments):
    config = {"search": {"search_space": {"width": [1, 2, 3]}, "metrics": ["score"], "max_trials": trials}}
    return AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        config,
        **{
            "train_func": lambda student: student,
            "eval_func": lambda student: {"score": student.in_features},
            "search_dir": tmp_path / "search",
            "show_progress_bar": False,
            "device": "cpu",
        }
        | arguments,
    )


@pytest.fixture(autouse=True)
def process_as_it_was():
    with HookGuard().isolated(None):
        yield


def test_every_setting_has_a_test():
    assert [setting.name for setting in SETTINGS] == list(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_setting_that_a_hook_changes_is_restored_and_reported_once(name, caplog):
    before, guard = state(), HookGuard()
    for _ in range(2):
        with guard.isolated(None):
            CHANGES[name]()
            assert state() != before
        assert state() == before
    (record,) = caplog.records
    assert f"a hook changed {name} from {before[name]} to " in record.getMessage()


@pytest.mark.parametrize("hook", ["model_builder", "train_func", "eval_func", "callbacks"])
@pytest.mark.parametrize("name", ["the number of threads", "the default dtype", "the working directory"])
def test_later_trials_do_not_see_the_settings_that_a_hook_changes(tmp_path, name, hook):
    seen = []

    def build(architecture):
        seen.append(state())
        student = nn.Linear(architecture["width"], 1)
        if hook == "model_builder":
            CHANGES[name]()
        return student

    def changing(result):
        def change(argument):
            CHANGES[name]()
            return result(argument)

        return change

    arguments = {
        "model_builder": {},
        "train_func": {"train_func": changing(lambda student: student)},
        "eval_func": {"eval_func": changing(lambda student: {"score": student.in_features})},
        "callbacks": {"callbacks": [lambda search, trial: CHANGES[name]()]},
    }[hook]
    agent = search(tmp_path, keep="none", **arguments)
    agent.model_builder = build
    before = state()
    agent.search_loop()
    assert len(seen) == 4  # the first student is also built for the checks
    assert seen == [before] * 4
    assert state() == before


def test_global_random_state_that_hooks_set_does_not_change_students(tmp_path):
    def reseed(*_):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(9)

    def evaluate(student):
        reseed()
        return {"score": float(student.weight.detach().sum())}

    def scores(folder, **arguments):
        agent = search(tmp_path / folder, **arguments)
        agent.search_loop()
        return [trial.metrics for trial in agent.search_result]

    plain = scores("plain", eval_func=lambda student: {"score": float(student.weight.detach().sum())})
    assert scores("seeding", eval_func=evaluate, callbacks=[reseed], train_func=reseed) == plain


def test_what_hooks_leave_on_the_teacher_is_removed(caplog):
    teacher, guard = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval(), HookGuard()
    kept = teacher.register_forward_hook(lambda *_: None)
    teacher[0].weight.grad = before = torch.ones(2, 2)
    for _ in range(2):
        with guard.isolated(teacher, verified=True):
            kept.remove()
            teacher.train()
            teacher[1].register_forward_pre_hook(lambda *_: None, with_kwargs=True)
            teacher[0].weight.grad = None
            teacher(torch.ones(1, 2)).sum().backward()
            teacher[0].register_full_backward_hook(lambda *_: None)
            teacher[0].bias.requires_grad_(False)
    assert not teacher.training
    assert not teacher[1].training
    assert len(teacher._forward_hooks) == 1
    assert not teacher[1]._forward_pre_hooks
    assert not teacher[1]._forward_pre_hooks_with_kwargs
    assert not teacher[0]._backward_hooks
    assert teacher[0].weight.grad is before
    assert teacher[0].bias.grad is None
    assert teacher[0].bias.requires_grad
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        f"a hook changed the teacher's {what}" for what in ("gradients", "hooks", "mode")
    ]


def test_eval_mode_that_the_engine_sets_within_a_trial_stays():
    teacher = nn.Dropout()
    with HookGuard().isolated(teacher, verified=True):
        teacher.eval()
    assert not teacher.training


def zero_through_data(teacher):
    teacher.norm.weight.data.zero_()


def step_in_place(teacher):
    with torch.no_grad():
        teacher.norm.weight.add_(1e-6)


def replace_parameter(teacher):
    teacher.norm.weight = nn.Parameter(torch.zeros_like(teacher.norm.weight))


def negate(teacher):
    teacher.norm.weight.data.neg_()


@pytest.mark.parametrize("change", [zero_through_data, step_in_place, replace_parameter, negate])
@pytest.mark.parametrize("hook", ["train_func", "eval_func", "model_builder", "callbacks"])
def test_changed_teacher_stops_the_search_and_leaves_its_trial_to_be_repeated(tmp_path, hook, change):
    teacher = nn.ModuleDict({"norm": nn.LayerNorm(4)})
    calls = []

    def harm(result):
        def hooked(*arguments):
            calls.append(hook)
            if len(calls) == 2:
                change(teacher)
            return result(*arguments)

        return hooked

    hooks = {
        "model_builder": lambda architecture: nn.Linear(architecture["width"], 1),
        "train_func": lambda student: student,
        "eval_func": lambda student: {"score": student.in_features},
        "callbacks": lambda search, trial: None,
    }
    harmful = harm(hooks[hook])
    agent = search(tmp_path, teacher_model=teacher, keep="none")
    setattr(agent, hook, [harmful] if hook == "callbacks" else harmful)
    with pytest.raises(TeacherChangedError, match=r"the teacher must stay as it is .*'norm.weight'.*copy.deepcopy"):
        agent.search_loop()
    complete = {"model_builder": 0, "train_func": 1, "eval_func": 1, "callbacks": 2}[hook]
    result = SearchResult.load(tmp_path / "search")
    assert len(result.completed) == complete
    assert not result.failed
    with torch.no_grad():
        teacher.norm.weight = nn.Parameter(torch.ones(4))
    setattr(agent, hook, [] if hook == "callbacks" else hooks[hook])
    agent.search_loop()
    assert [trial.number for trial in agent.search_result.completed] == [0, 1, 2]


def test_failing_trial_that_also_changed_the_teacher_stops_the_search(tmp_path):
    teacher = nn.Linear(2, 1)

    def fail(student):
        teacher.weight.data.zero_()
        raise RuntimeError("by chance")

    with pytest.raises(TeacherChangedError, match="'weight'"):
        search(tmp_path, teacher_model=teacher, train_func=fail).search_loop()
    assert not SearchResult.load(tmp_path / "search").failed


def test_statistics_of_a_teacher_that_trains_are_weights_too(tmp_path):
    teacher = nn.BatchNorm1d(2).eval()

    def train(student):
        teacher.train()(torch.randn(4, 2))

    with pytest.raises(TeacherChangedError, match="'running_mean', 'running_var', 'num_batches_tracked'"):
        search(tmp_path, teacher_model=teacher, train_func=train).search_loop()


def test_buffer_that_is_not_saved_may_be_recomputed_by_a_forward():
    teacher, guard = nn.Module(), HookGuard()
    teacher.register_buffer("frequencies", torch.ones(2), persistent=False)
    with guard.isolated(teacher, verified=True):
        teacher.frequencies.mul_(2)


@pytest.mark.parametrize("build", [1, 2])
def test_features_of_a_teacher_that_model_builder_changed_are_not_kept(tmp_path, build):
    config = make_config(max_trials=1)
    agent = make_search(tmp_path / "search", config)
    builds = []

    def zero(architecture):
        builds.append(architecture)
        if len(builds) == build:
            agent.teacher_model.head.weight.data.zero_()
        return Transformer(**architecture)

    agent.model_builder = zero
    with pytest.raises(TeacherChangedError):
        agent.search_loop()
    for folder in ("search", "undisturbed"):
        make_search(tmp_path / folder, config).search_loop()
    assert_same_outcomes(outcomes(tmp_path / "search"), outcomes(tmp_path / "undisturbed"))


@pytest.mark.parametrize("hook", ["model_builder", "train_func", "eval_func"])
@pytest.mark.parametrize("status", [0, None, 3])
def test_exit_in_a_hook_fails_its_trial_and_the_search_goes_on(tmp_path, hook, status):
    def leave(argument):
        width = argument["width"] if hook == "model_builder" else argument.in_features
        if width == 2:
            sys.exit(status)
        return {"score": width} if hook == "eval_func" else nn.Linear(width, 1) if hook == "model_builder" else argument

    agent = search(tmp_path)
    setattr(agent, hook, leave)
    agent.search_loop()
    (failed,) = agent.search_result.failed
    assert failed.architecture == {"width": 2}
    assert f"a hook must not end the program, but one called sys.exit({status!r})" in failed.error
    assert len(agent.search_result.completed) == 2


def test_exit_in_a_callback_is_an_error(tmp_path):
    agent = search(tmp_path, callbacks=[lambda search, trial: sys.exit(0)])
    with pytest.raises(TrialError, match=r"sys.exit\(0\).*search.stop\(\)"):
        agent.search_loop()


def test_directory_that_a_hook_removes_is_reported(tmp_path, caplog):
    before = tmp_path / "before"
    before.mkdir()
    os.chdir(before)
    with caplog.at_level(logging.WARNING), HookGuard().isolated(None):
        os.chdir(tmp_path)
        before.rmdir()
    assert "a hook changed the working directory, and it cannot be restored" in caplog.text
