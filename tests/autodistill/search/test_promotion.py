"""Two rungs: which trials are finished, and that a finished one equals one that was never paused."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
import toy_search
from interruptions import Killed, assert_same_outcomes, count_steps, outcomes
from safetensors.torch import load_file
from toy_search import make_config, make_search

from autodistill import (
    Advisor,
    ConfigurationError,
    Metric,
    SearchDirectoryError,
    SearchResult,
    SearchStoppedError,
    TrialState,
)
from autodistill.metrics.metric import losses, violations
from autodistill.search.loop import SearchLoop
from autodistill.search.promotion import best_paused, best_slice, promotable, rung_order
from autodistill.search.trial import Trial

# --- the rule ---------------------------------------------------------------------------------------------------------


def halving(values, share):
    """Asynchronous successive halving with two rungs, as the paper has it: what is done, in order.

    Li et al., 2020, algorithm 2: a free worker promotes the best that is in the top share of its rung and was not
    promoted; else it starts a new configuration. Smaller values are better.
    """
    done, rung, promoted = [], [], set()
    waiting = list(range(len(values)))
    while True:
        top = sorted(rung, key=lambda number: (values[number], number))[: int(Fraction(share) * len(rung))]
        candidates = [number for number in top if number not in promoted]
        if candidates:
            promoted.add(candidates[0])
            done.append((candidates[0], "complete"))
        elif waiting:
            rung.append(waiting[0])
            done.append((waiting.pop(0), "paused"))
        else:
            return done


def paused(number, **metrics):
    return Trial(number, {"layers": number}).pause(metrics)


@pytest.mark.parametrize("share", ["1/3", "1/2", "2/5", "1/10"])
def test_trials_are_promoted_as_the_paper_says(share):
    generator = random.Random(share)
    for _ in range(30):
        values = [generator.randrange(8) / 8 for _ in range(17)]  # with equals among them
        trials, done = [], []
        while True:
            trial = promotable(SearchResult(trials, [Metric("loss", False)]), float(Fraction(share)))
            if trial is not None:
                trials[trial.number] = trial.promote().complete({"loss": 0.0})  # its result decides nothing
                done.append((trial.number, "complete"))
            elif len(trials) < len(values):
                trials.append(paused(len(trials), loss=values[len(trials)]))
                done.append((len(trials) - 1, "paused"))
            else:
                break
        assert done == halving(values, share)


@pytest.mark.parametrize(("share", "count", "expected"), [(0.29, 100, 29), (1 / 3, 3, 1), (1 / 3, 2, 0), (0.9, 1, 0)])
def test_as_many_are_promoted_as_the_share_allows_rounded_down(share, count, expected):
    trials = [paused(number, loss=number) for number in range(count)]
    promoted = 0
    while (trial := promotable(SearchResult(trials, [Metric("loss", False)]), share)) is not None:
        trials[trial.number] = trial.promote().complete({"loss": 0.0})
        promoted += 1
    assert promoted == expected


def test_a_promoted_trial_counts_towards_the_share_if_it_runs_or_has_failed():
    metrics = [Metric("loss", False)]
    others = [Trial(4, {}).fail("boom"), Trial(5, {}), Trial(6, {}).complete({"loss": 0.0})]
    trials = [paused(number, loss=number) for number in range(4)]
    assert promotable(SearchResult(trials + others, metrics), 0.5).number == 0
    for promoted in (trials[0].promote(), trials[0].promote().fail("boom"), trials[0].promote().complete({"loss": 9})):
        result = SearchResult([promoted, *trials[1:], *others], metrics)
        assert promotable(result, 0.5).number == 1
        assert promotable(result, 0.25) is None
        assert best_paused(result).number == 1
    assert promotable(SearchResult(trials, metrics), None).number == 0
    assert best_paused(SearchResult(others, metrics)) is None


def fronts(points):
    """The front of each point, by the definition: those that only points of earlier fronts beat."""
    number, left = {}, set(range(len(points)))

    def beats(a, b):
        return all(x <= y for x, y in zip(points[a], points[b], strict=True)) and points[a] != points[b]

    for front in itertools.count():
        if not left:
            return number
        members = {i for i in left if not any(beats(j, i) for j in left)}
        number |= dict.fromkeys(members, front)
        left -= members


def test_several_metrics_are_ranked_by_fronts_and_those_that_break_a_bound_come_last():
    metrics = [Metric("accuracy"), Metric("latency", at_most=6.0)]
    generator = random.Random(0)
    for _ in range(20):
        trials = [
            paused(number, accuracy=generator.randrange(10), latency=float(generator.randrange(10)))
            for number in range(15)
        ]
        order = rung_order(SearchResult(trials, metrics))
        broken = [max(0.0, *violations(metrics, trial.after_flash)) for trial in order]
        kept = [trial for trial, excess in zip(order, broken, strict=True) if excess == 0]
        assert order[: len(kept)] == kept
        assert broken == sorted(broken)
        front = fronts([losses(metrics, trial.after_flash) for trial in kept])
        assert [front[i] for i in range(len(kept))] == sorted(front.values())


def test_within_a_front_the_compromise_comes_first():
    metrics = [Metric("accuracy"), Metric("latency")]
    trials = [
        paused(0, accuracy=0.9, latency=9.0),
        paused(1, accuracy=0.85, latency=2.0),
        paused(2, accuracy=0, latency=1),
    ]
    assert rung_order(SearchResult(trials, metrics))[0].number == 1


# --- the search -------------------------------------------------------------------------------------------------------


def promoting(search_dir, *, share=1 / 3, config=None, **arguments):
    config = config or make_config()
    return make_search(search_dir, config | {"search": config["search"] | {"promote": share}}, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every trial finished."""
    search_dir = tmp_path_factory.mktemp("whole") / "search"
    make_search(search_dir).search_loop()
    return search_dir


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    """A search with two rungs, and what was done in it, in order."""
    search_dir, done = tmp_path_factory.mktemp("promoted") / "search", []
    promoting(search_dir, callbacks=[lambda _, trial: done.append((trial.number, trial.state.value))]).search_loop()
    return search_dir, done


def test_one_metric_trials_are_finished_in_the_order_of_the_paper(tmp_path):
    done = []
    search = promoting(
        tmp_path / "search",
        config=make_config(metrics=["accuracy"]),
        callbacks=[lambda _, trial: done.append((trial.number, trial.state.value))],
    )
    search.search_loop()
    values = [-trial.after_flash["accuracy"] for trial in search.search_result]
    assert done == halving(values, "1/3")
    assert len(search.search_result) == 8
    assert len(search.search_result.completed) >= 2
    assert search.search_result.best in search.search_result.completed


def test_a_promoted_trial_equals_one_that_was_never_paused(promoted, whole):
    search_dir, done = promoted
    result, reference = SearchResult.load(search_dir), SearchResult.load(whole)
    assert [trial.architecture for trial in result] == [trial.architecture for trial in reference]
    assert len(result.completed) == [state for _, state in done].count("complete") >= 2
    assert len(result.paused) == 8 - len(result.completed)
    for trial in result.completed:
        other = reference[trial.number]
        assert trial.metrics == other.metrics
        assert trial.details["distillation"] == other.details["distillation"]
        for file in ("progress.jsonl", "student/architecture.json"):
            assert (trial.directory / file).read_text() == (other.directory / file).read_text()
        left, right = (load_file(t.directory / "student/model.safetensors") for t in (trial, other))
        assert left.keys() == right.keys()
        assert all((left[name] == right[name]).all() for name in left)


def test_a_paused_trial_keeps_its_checkpoint_and_a_finished_one_does_not(promoted):
    search_dir, _ = promoted
    for trial in SearchResult.load(search_dir):
        assert (trial.directory / "checkpoint").exists() == (trial.state is TrialState.PAUSED)
        assert (trial.directory / "student").exists() == (trial.state is TrialState.COMPLETE)


def test_flash_metrics_are_those_of_the_flash_distilled_student(promoted, tmp_path):
    flash_only = make_config()
    del flash_only["regular_distillation"]
    make_search(tmp_path / "search", flash_only).search_loop()
    for trial, other in zip(SearchResult.load(promoted[0]), SearchResult.load(tmp_path / "search"), strict=True):
        assert trial.after_flash == other.metrics


def test_the_advisor_receives_metrics_after_flash_distillation(tmp_path):
    seen = []

    class Watching(Advisor):
        def suggest(self, history, *, seed):
            seen.append(list(history))
            tried = [observation.architecture for observation in history]
            return next(architecture for architecture in self.space.enumerate() if architecture not in tried)

    search = promoting(tmp_path / "search", config=make_config(max_trials=5), advisor=Watching)
    added = search.add_trial({"width": 16, "depth": 3}, {"accuracy": 9.0, "parameters": 1.0})
    search.search_loop()
    result = search.search_result
    assert result.completed != [added]
    assert result.best == added
    states = [observation.state.value for observation in seen[-1]]
    assert states == ["failed", "complete", "complete", "complete"]  # what was added is no rung's: only taken
    expected = [losses(result.metrics, trial.after_flash) for trial in result if trial is not result[0]]
    assert [observation.objectives for observation in seen[-1][1:]] == expected[:3]


def test_an_earlier_search_is_learnt_from_as_it_was_after_flash_distillation(promoted, whole, tmp_path):
    search = promoting(tmp_path / "search", history_from=[promoted[0]])
    assert len(search.predict({"width": 8, "depth": 1})) == 2
    plain = make_search(tmp_path / "search", history_from=[promoted[0]])
    finished = len(SearchResult.load(promoted[0]).completed)
    assert len(plain._proposals._history(plain.search_result)) == finished
    assert len(search._proposals._history(search.search_result)) == 8
    assert search._proposals._history(search.search_result)[0].objectives == losses(
        search.search_result.metrics, SearchResult.load(promoted[0])[0].after_flash
    )
    alien = promoting(tmp_path / "search", history_from=[whole])
    assert alien._proposals._history(alien.search_result) == []


def test_one_trial_is_finished_in_the_end_so_that_a_best_exists(tmp_path):
    search = promoting(tmp_path / "search", config=make_config(max_trials=2))
    best = search.search_loop()
    result = search.search_result
    assert [trial.state.value for trial in result].count("complete") == 1
    assert best == rung_order(result)[0].architecture
    before = outcomes(tmp_path / "search")
    promoting(tmp_path / "search", config=make_config(max_trials=2)).search_loop()
    assert outcomes(tmp_path / "search")[0] == before[0]


def test_the_best_is_finished_after_a_timeout_but_not_after_a_stop(tmp_path):
    search = promoting(tmp_path / "search", callbacks=[lambda search, trial: search.stop()])
    assert search.search_loop() is None
    assert [trial.state.value for trial in search.search_result] == ["paused"]
    search.callbacks = []
    assert search.search_loop(timeout=0) == search.search_result[0].architecture
    assert [trial.state.value for trial in search.search_result] == ["complete"]


def test_more_trials_a_larger_share_or_none_may_finish_what_was_paused(tmp_path, whole):
    search_dir = tmp_path / "search"
    states = []
    for share, trials in ((1 / 3, 3), (1 / 3, 6), (1 / 2, 6), (None, 8)):
        search = promoting(search_dir, share=share, config=make_config(max_trials=trials))
        search.search_loop()
        states.append([len(search.search_result.completed), len(search.search_result.paused)])
    assert [sum(counts) for counts in states] == [3, 6, 6, 8]
    first, second, third, last = (complete for complete, _ in states)
    assert first == 1
    assert first < second < third < last == 8
    assert third >= 3  # more than the half where one was promoted early, and is not of the best any more
    for trial, other in zip(SearchResult.load(search_dir), SearchResult.load(whole), strict=True):
        assert (trial.architecture, trial.metrics) == (other.architecture, other.metrics)
    promoting(search_dir, config=make_config(max_trials=8)).search_loop()  # and back again


def test_patience_counts_what_was_done_since_the_front_moved(tmp_path):
    done = []
    search = promoting(tmp_path / "search", callbacks=[lambda _, trial: done.append((trial.number, trial.state.value))])
    search.search_loop(patience=1)
    # The end has come after one trial; it is finished, which moves the front; and the end comes again.
    assert done == [(0, "paused"), (0, "complete"), (1, "paused")]


@pytest.mark.parametrize("moment", ["step 2", "step 14", "step 22", "evaluation 1", "evaluation 3", "evaluation 4"])
def test_a_search_killed_at_any_point_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, moment):
    def search(name, **arguments):
        return promoting(tmp_path / name, share=1 / 2, config=make_config(max_trials=4), **arguments)

    search("uninterrupted").search_loop()
    kind, number = moment.split()
    calls = []

    def evaluate(student):
        calls.append(student)
        if kind == "evaluation" and len(calls) == int(number):
            raise Killed
        return toy_search.evaluate(student)

    with monkeypatch.context() as patch:
        count_steps(patch, die_at=int(number) if kind == "step" else None)
        patch.setattr(SearchLoop, "_interrupt", lambda *_: None)  # `kill -9` gives no time to write
        with pytest.raises(Killed):
            search("killed", eval_func=evaluate).search_loop()
    assert [trial.state for trial in SearchResult.load(tmp_path / "killed")].count(TrialState.RUNNING) == 1
    search("killed").search_loop()
    assert_same_outcomes(outcomes(tmp_path / "killed"), outcomes(tmp_path / "uninterrupted"))


def failing(at):
    """An eval_func that fails when it sees an architecture for the n-th time, n by width."""
    seen = []

    def evaluate(student):
        width = student.head.in_features
        key = (width, len(student.layers))
        seen.append(key)
        if seen.count(key) == at.get(width):
            raise OSError("nothing to evaluate with")
        return toy_search.evaluate(student)

    return evaluate


def test_a_failure_in_either_rung_costs_that_trial_alone(tmp_path):
    config = make_config(search_algorithm="Grid", max_trials=9)
    search = promoting(
        tmp_path / "search", share=1 / 2, config=config, eval_func=failing({8: 1, 12: 2}), max_consecutive_failures=9
    )
    search.search_loop()
    for trial in search.search_result:
        if trial.architecture["width"] == 8:
            assert trial.state is TrialState.FAILED
            assert trial.after_flash == {}
        elif trial.architecture["width"] == 12:
            assert trial.state in (TrialState.FAILED, TrialState.PAUSED)
            assert trial.after_flash
        assert (trial.directory / "checkpoint").exists() == (trial.state is TrialState.PAUSED)
    assert {t.architecture["width"] for t in search.search_result.completed} == {16}


def test_failures_of_promoted_trials_stop_the_search_too(tmp_path):
    search = promoting(
        tmp_path / "search", share=0.9, eval_func=failing({8: 2, 12: 2, 16: 2}), max_consecutive_failures=1
    )
    with pytest.raises(SearchStoppedError, match="1 trials fail in a row"):
        search.search_loop()
    assert [trial.state.value for trial in search.search_result] == ["failed", "paused"]


def test_paused_trials_are_results_that_another_search_may_not_discard(tmp_path):
    promoting(tmp_path / "search", callbacks=[lambda search, trial: search.stop()]).search_loop()
    with pytest.raises(SearchDirectoryError, match="seed was 3, but is now 4"):
        promoting(tmp_path / "search", config=make_config(seed=4)).search_loop()
    assert len(SearchResult.load(tmp_path / "search").paused) == 1


@pytest.mark.parametrize("keep", ["pareto", "none"])
def test_students_are_kept_as_without_promotion_and_paused_ones_are_refused(tmp_path, keep):
    search = promoting(tmp_path / "search", keep=keep, config=make_config(max_trials=4))
    search.search_loop()
    kept = [trial for trial in search.search_result if (trial.directory / "student").exists()]
    assert kept == (search.search_result.pareto_front if keep == "pareto" else [])
    with pytest.raises(ConfigurationError, match="is paused; resume the search with a larger"):
        search.load_model(search.search_result.paused[0])


def test_a_data_frame_has_both_kinds_of_metrics(promoted):
    frame = SearchResult.load(promoted[0]).to_dataframe()
    assert frame["after_flash_accuracy"].notna().all()
    assert frame["metrics_accuracy"].notna().tolist() == (frame["state"] == "complete").tolist()


def test_promotion_without_both_phases_is_named(tmp_path):
    for missing in ("flash_distillation", "regular_distillation"):
        config = make_config(max_trials=10)
        del config[missing]
        with pytest.raises(ConfigurationError) as caught:
            promoting(tmp_path / "search", config=config).search_loop()
        assert len(caught.value.problems) == 1
        assert f"but there is no {missing}; add it, or leave promote out." in str(caught.value)
    search = promoting(tmp_path / "search", train_func=lambda student: student)
    with pytest.raises(ConfigurationError, match="promote runs between the phases of the built-in distillation"):
        search.search_loop()
    assert not (tmp_path / "search").exists()


def test_modules_that_flash_distillation_leaves_untrained_are_logged_once(tmp_path, caplog):
    promoting(tmp_path / "search", config=make_config(max_trials=2)).search_loop()
    (warning,) = [record.getMessage() for record in caplog.records if "by chance" in record.getMessage()]
    assert "leaves embedding, head as model_builder made them" in warning
    caplog.clear()
    config = make_config(max_trials=1)
    names = [["embedding", "layers.0"], "head"]
    mappings = [[("layers.0", "layers.3")], [("head", "head")]]
    config["search"]["search_space"] = {"width": [8, 12], "depth": [1]}
    config["flash_distillation"] |= {"block_names": names, "layer_mappings_for_knowledge_transfer": mappings}
    promoting(tmp_path / "head", config=config).search_loop()
    assert "by chance" not in caplog.text


# --- the best slice ---------------------------------------------------------------------------------------------------


def slices(*values, metrics):
    """Paused trials with these values of the metrics."""
    names = [metric.name for metric in metrics]
    return [Trial(n, {"n": n}).pause(dict(zip(names, one, strict=True))) for n, one in enumerate(values)]


def test_best_slice_keeps_every_bound_and_is_the_first_of_the_rung():
    metrics = [Metric("accuracy"), Metric("latency", measured=True, at_most=5.0)]
    trials = slices((0.9, 6.0), (0.7, 5.0), (0.8, 4.0), (0.6, 1.0), metrics=metrics)
    assert best_slice(SearchResult(trials, metrics)).number == 2
    assert best_slice(SearchResult(trials[:1], metrics)) is None
    assert best_slice(SearchResult([], metrics)) is None


def test_best_slice_compares_the_first_rung_and_final_metrics_only_without_it():
    metrics = [Metric("accuracy")]
    paused, promoted = slices((0.5,), (0.4,), metrics=metrics)
    finished = promoted.promote().complete({"accuracy": 0.9})
    added = Trial(2, {"n": 2}).complete({"accuracy": 0.6})
    assert best_slice(SearchResult([paused, finished], metrics)).number == 0
    assert best_slice(SearchResult([paused, finished, added], metrics)).number == 2
    failed = Trial(3, {"n": 3}).fail("Traceback")
    assert best_slice(SearchResult([failed, paused], metrics)).number == 0
