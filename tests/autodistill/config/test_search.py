"""The section `search`: its space, metrics, algorithm and promoted share, in every form, and each mistake by name."""

from __future__ import annotations

from fractions import Fraction
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from configurations import SEARCH, mistakes

import advisors.registry
from autodistill.config import AutoDistillationConfig
from autodistill.errors import ConfigurationError
from autodistill.metrics.metric import Metric
from search_spaces import FloatRange, IntRange, SearchSpace


def test_defaults_are_those_of_the_specification() -> None:
    search = AutoDistillationConfig.load({"search": SEARCH}).search
    assert (search.search_algorithm, search.max_trials, search.seed) == ("BO", 10, 42)
    assert search.search_space == SearchSpace({"width": [16, 32], "layers": [1, 2]})
    assert search.metrics == (Metric("accuracy"),)


@pytest.mark.parametrize(
    ("metrics", "directions", "expected"),
    [
        ("accuracy", None, [Metric("accuracy")]),
        (["error"], [False], [Metric("error", False)]),
        (["error", "loss"], False, [Metric("error", False), Metric("loss", False)]),
        (["accuracy", "latency"], [True, False], [Metric("accuracy"), Metric("latency")]),
        (["accuracy", "latency"], None, [Metric("accuracy"), Metric("latency")]),
        (["accuracy", "latency"], [True, None], [Metric("accuracy"), Metric("latency")]),
        ([Metric("latency", at_most=3)], [False], [Metric("latency", at_most=3)]),
        ([{"name": "error", "greater_is_better": False}, "f1"], None, [Metric("error", False), Metric("f1")]),
        (Metric("f1"), None, [Metric("f1")]),
    ],
    ids=str,
)
def test_metrics_may_be_names_with_flags_mappings_or_objects(metrics, directions, expected) -> None:
    search = SEARCH | {"metrics": metrics} | ({} if directions is None else {"higher_is_better": directions})
    assert list(AutoDistillationConfig.load({"search": search}).search.metrics) == expected


def test_space_may_hold_domains_or_be_one() -> None:
    space = SearchSpace({"layers": IntRange(1, 4)})
    for given in (space, {"layers": IntRange(1, 4)}):
        assert AutoDistillationConfig.load({"search": SEARCH | {"search_space": given}}).search.search_space == space


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metrics": []}, "search.metrics: at least one metric must be given, but got none."),
        ({"metrics": 5}, "search.metrics: metrics must be a list of names, but got 5."),
        ({"metrics": ["a", "a"]}, "search.metrics: metrics must have different names, but 'a' is given twice."),
        (
            {"higher_is_better": [True, False]},
            "search.metrics: higher_is_better must have one entry for each metric, but has 2 for 1 metrics.",
        ),
        (
            {"metrics": ["latency"], "higher_is_better": True},
            "search.metrics: for the built-in metric 'latency' less is better; leave greater_is_better out.",
        ),
        (
            {"metrics": [Metric("f1")], "higher_is_better": [False]},
            "search.metrics: higher_is_better must agree with a metric's own direction, but is False for "
            "Metric(name='f1', greater_is_better=True, at_most=None, at_least=None, measured=False, "
            "before_training=False).",
        ),
        (
            {"higher_is_better": "yes"},
            "search.metrics: greater_is_better of metric 'accuracy' must be True or False, but got 'yes'.",
        ),
        (
            {"search_space": {"w": []}},
            "search.search_space: w: a choice needs at least one option, but the list is empty",
        ),
        ({"search_space": 5}, "search.search_space: Input should be an instance of SearchSpace, but got 5."),
        *(
            (
                {"promote": share},
                f"search.promote: must be a share of the trials between 0 and 1, such as 1/3, but got {share!r}.",
            )
            for share in (0, 1, 1.5, -0.2, True, "a third", "1/0", "1e999999999", "1/1e999999999", float("nan"), [0.5])
        ),
        ({"max_trials": 0}, "search.max_trials: Input should be greater than or equal to 1, but got 0."),
        ({"max_trials": True}, "search.max_trials: Input should be a valid integer, but got True."),
        ({"max_trial": 3}, "search.max_trial: is not a key of the configuration; did you mean 'max_trials'?"),
    ],
    ids=str,
)
def test_mistake_in_the_search_is_reported_with_its_field(changes, problem: str) -> None:
    assert mistakes({"search": SEARCH | changes}) == [problem]


@pytest.mark.parametrize("share", [1 / 3, "1/3", " 1/3 ", Fraction(1, 3)])
def test_promoted_share_may_be_a_fraction_and_is_written_back(share, tmp_path) -> None:
    config = AutoDistillationConfig.load({"search": SEARCH | {"promote": share}})
    assert config.search.promote == 1 / 3
    (tmp_path / "search.yaml").write_text(config.to_yaml())
    assert AutoDistillationConfig.load(tmp_path / "search.yaml") == config
    assert AutoDistillationConfig.load({"search": SEARCH | {"promote": None}}).search.promote is None


def test_name_of_a_plug_in_is_checked_without_making_its_advisor(monkeypatch):
    entry = EntryPoint("OfWidths", "third_party:OfWidths", advisors.registry.ENTRY_POINT_GROUP)  # no such module
    monkeypatch.setattr(advisors.registry, "entry_points", lambda group: EntryPoints([entry]))
    config = AutoDistillationConfig.load({"search": SEARCH | {"search_algorithm": "OfWidths"}})
    assert config.search.search_algorithm == "OfWidths"


def test_unknown_algorithm_is_refused_naming_the_nearest() -> None:
    (problem,) = mistakes({"search": SEARCH | {"search_algorithm": "Randm"}})
    assert problem.startswith("search.search_algorithm: ")
    assert "'Random'" in problem or "'random'" in problem


def test_ranges_in_a_file_are_mappings_and_constraints_are_beside_the_space(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(
        """
search:
  search_space:
    layers: {low: 2, high: 12, step: 2}
    dropout: {low: 0.0, high: 0.3}
    heads: [2, 3]
  constraints: ["layers % heads == 0"]
  metrics: [accuracy]
"""
    )
    space = AutoDistillationConfig.load(file).search.search_space
    expected = SearchSpace(
        {"layers": IntRange(2, 12, step=2), "dropout": FloatRange(0.0, 0.3), "heads": [2, 3]}, ["layers % heads == 0"]
    )
    assert space == expected


def test_constraints_beside_a_search_space_object_are_refused():
    search = {"search_space": SearchSpace({"layers": [2]}), "constraints": ["layers > 1"], "metrics": ["accuracy"]}
    with pytest.raises(ConfigurationError, match="a SearchSpace has its own"):
        AutoDistillationConfig.load({"search": search})


def test_metrics_are_optional_but_a_direction_needs_them():
    search = {"search_space": {"w": [1]}}
    assert AutoDistillationConfig.load({"search": search}).search.metrics == ()
    with pytest.raises(ConfigurationError, match="higher_is_better belongs to metrics, but none are given"):
        AutoDistillationConfig.load({"search": search | {"higher_is_better": [True]}})


def test_lists_in_a_yaml_file_are_values_of_a_dimension(tmp_path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("search:\n  search_space: {depths: [[1, 1], [2, 2]]}\n  metrics: [accuracy]\n")
    space = AutoDistillationConfig.load(file).search.search_space
    assert space == SearchSpace({"depths": [[1, 1], [2, 2]]})
    assert space.size == 2
