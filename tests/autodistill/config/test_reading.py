"""Configurations from YAML: what is read, and every mistake in one error, each with its field."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from configurations import SEARCH, mistakes

from autodistill.config import AutoDistillationConfig
from autodistill.config.reading import MAX_CHARACTERS, is_number_with_comma, read_yaml
from autodistill.errors import ConfigurationError

LOSS_TYPE = (
    "Input should be 'MSE', 'NMSE', 'L1', 'KL', 'CE', 'cosine', 'SP', 'PKT', 'CCKD', 'VID', 'DIST', 'LSKD' or 'DKD'"
)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "search: {search_space: {width: [1]}, metrics: accuracy}\nregular_distillation: {learning_rate: 1e-3}"
    )
    assert AutoDistillationConfig.load(file).regular_distillation.learning_rate == 0.001


def test_mistakes_of_all_sections_are_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(
            {
                "search": {"search_space": {"w": []}, "metrics": ["a", "b"], "higher_is_better": [True], "sed": 3},
                "flash_distillation": {
                    "block_names": ["a", "b"],
                    "layer_mappings_for_knowledge_transfer": [[("a", "t")], [("b", "t"), ("a", "b", "c")]],
                    "loss_types": ["MES", "MSE"],
                    "loss_weights": [1, 1, 1],
                    "train_steps": [1],
                    "optimizer": "AdmW",
                    "scheduler": "linea",
                    "temprature": 2,
                },
                "regular_distillation": {"temperature": {"start": 5, "end": 1, "shap": "linear"}, "loss_weights": -1},
                "trainer": {},
            }
        )
    problems = caught.value.problems
    expected = [
        "search.search_space: w: a choice needs at least one option",
        "search.metrics: higher_is_better must have one entry for each metric, but has 1 for 2",
        "search.sed: is not a key of the configuration; did you mean 'seed'?",
        "flash_distillation.optimizer: optimizer is the name of a class in torch.optim",
        "flash_distillation.scheduler: scheduler is one of linear",
        "flash_distillation.layer_mappings_for_knowledge_transfer.1: a layer mapping is",
        f"flash_distillation.loss_types.0: {LOSS_TYPE}, but got 'MES'.",
        "flash_distillation.loss_weights: loss_weights must have one entry for each block, but has 3 for 2 blocks.",
        "flash_distillation.train_steps: train_steps must have one entry for each block, but has 1 for 2 blocks.",
        "flash_distillation.temprature: is not a key of the configuration; did you mean 'temperature'?",
        "regular_distillation.temperature.shap: is not a key of the configuration; did you mean 'shape'?",
        "regular_distillation.loss_weights: Input should be greater than or equal to 0, but got -1.",
        "trainer: is not a key of the configuration; the keys here are search, ",
    ]
    for sentence in expected:
        assert sum(problem.startswith(sentence) for problem in problems) == 1, (sentence, problems)
    assert len(problems) == len(expected)
    assert str(caught.value).startswith(f"{len(expected)} mistakes in the configuration:\n  - ")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("temperature", 0, "Input should be greater than 0, but got 0."),
        ("temperature", "hot", "Input should be a valid number, unable to parse string as a number, but got 'hot'."),
        ("temperature", {"start": 1, "end": 0}, "Input should be greater than 0, but got 0."),
        ("train_steps", 0, "Input should be greater than or equal to 1, but got 0."),
        ("train_steps", True, "Input should be a valid integer, but got True."),
        ("loss_types", "MAE", f"{LOSS_TYPE}, but got 'MAE'."),
        (
            "loss_types",
            ["MSE", ["KL", "MAE"]],
            f"{LOSS_TYPE}, but got 'MAE'.",
        ),
        ("block_names", 3, "Input should be a valid tuple, but got 3."),
    ],
    ids=str,
)
def test_mistake_in_a_field_of_several_forms_is_reported_once(field: str, value, sentence: str) -> None:
    (problem,) = mistakes({"search": SEARCH, "flash_distillation": {field: value}})
    assert problem.startswith(f"flash_distillation.{field}")
    assert problem.endswith(f": {sentence}")


@pytest.mark.parametrize("source", [None, 5, [], {}, {"search": None}])
def test_source_that_is_no_configuration_is_refused_with_its_field(source) -> None:
    (problem,) = mistakes(source)
    assert problem.startswith("search: " if isinstance(source, dict) else "the configuration: ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("search: [", "must be YAML, but: "),
        ("- search", "must hold a mapping, but holds list."),
        ("", "must hold a mapping, but holds NoneType."),
        ("search: !!python/object/apply:os.system ['true']", "must be YAML, but: could not determine a constructor"),
    ],
)
def test_file_that_is_no_yaml_mapping_is_refused_by_name(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    (problem,) = mistakes(tmp_path / "config.yaml")
    assert problem.startswith(f"the configuration file {tmp_path / 'config.yaml'} {sentence}")


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path / "none.yaml")
    assert problem == f"the configuration file {tmp_path}/none.yaml must be readable, but: No such file or directory."


FILES = Path(__file__).resolve().parents[2] / "data/specification"


def test_number_followed_by_a_comma_is_refused_with_the_remedy():
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(FILES / "comma.yaml")
    assert caught.value.problems == [
        "regular_distillation.temperature: a number must stand alone, but got '1.0,', which YAML reads as text because "
        "of the comma; write 1.0."
    ]


def test_three_mistakes_in_a_file_are_in_one_error(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "auto_distillation:\n"
        "  search: {search_space: {width: [1]}, metrics: [accuracy], max_trial: 3}\n"
        "  flash_distillation: {train_steps: 0, optimizer: AdmW}\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(file)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "search.max_trial",
        "flash_distillation.optimizer",
        "flash_distillation.train_steps",
    ]


def test_yaml_file_is_read_as_a_mapping_of_plain_values(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("search: {max_trials: 3, metrics: [é, latency]}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "config.yaml") == {"search": {"max_trials": 3, "metrics": ["é", "latency"]}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.0,", True), (" 3 , ", True), ("1e-3,,", True), ("1.0", False), ("a,", False), (",", False), (1.0, False)],
    ids=repr,
)
def test_number_with_a_comma_is_recognised(value: object, expected: bool) -> None:
    assert is_number_with_comma(value) is expected


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"must be YAML, but: aliases make it more than 20,000 values +in .*, line 5, column 5"),
        (MERGED, r"must be YAML, but: aliases make it more than 20,000 values"),
        ("a: &a [1, *a]", r"must be YAML, but: aliases make it more than 20,000 values"),
        ("a: " + "[" * 49_000, "must be YAML, but is nested too deeply"),
        ("a: " + "{x: " * 51, "must be YAML, but is nested too deeply"),
        ("- " * 24_000, "must be YAML, but is nested too deeply"),
        ("a: " + "x" * MAX_CHARACTERS, "must be YAML, but: it has more than 50,000 characters"),
        ("seed: 0x" + "f" * 5_000, r"a value that is no text has more than 100 characters +in .*, line 1, column 7"),
        ("seed: 1" + ":59" * 5_000, r"a value that is no text has more than 100 characters"),
        ("a: 2024-13-01", r"must be YAML, but: month must be in 1\.\.12"),
        ("a: 2024-01-01 25:00:00", r"must be YAML, but: hour must be in 0\.\.23"),
        ("a: !!timestamp today", "must be YAML, but: "),
        ("a: !!int one", "must be YAML, but: invalid literal for int"),
        ("a: !!float ''", "must be YAML, but: "),
        ("a: !!bool perhaps", "must be YAML, but: 'perhaps'"),
        ("a: !!python/object/apply:os.getcwd []", "must be YAML, but: could not determine a constructor"),
        ("{1, [2]: 3}: 4", "must be YAML, but: while constructing a mapping"),
        ("a: \x00", "must be YAML, but: unacceptable character #x0000"),
        ("", "must hold a mapping, but holds NoneType"),
    ],
)
def test_hostile_or_odd_file_is_one_mistake(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_yaml(file)
    assert len(caught.value.problems) == 1
    assert len(str(caught.value)) < 1000


def test_file_in_another_encoding_is_one_mistake(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("metrics: [exactitude_élevée]".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"must be text in UTF-8, but: .* byte 0xe9 in position 21"):
        read_yaml(file)


def test_aliases_and_merged_mappings_within_the_limit_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 2024-02-03}\n")
    data = read_yaml(file)
    assert data["b"] == {"x": [1, 2]}
    assert data["c"] == {"x": [1, 2], "y": datetime.date(2024, 2, 3)}
    file.write_text(f"a: &a [{', '.join(['1'] * 100)}]\nb: [{', '.join(['*a'] * 190)}]")
    assert sum(map(len, read_yaml(file)["b"])) == 19_000
