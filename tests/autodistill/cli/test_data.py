"""Every form of local data has the same rows; mistakes in the data are raised before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from saved_teachers import write_images, write_lines

from autodistill.cli.data import label_numbers, load_data, read_image
from autodistill.config.command_line import DataConfig
from autodistill.errors import ConfigurationError

ROWS = {"text": [f"text {number}" for number in range(10)], "label": [number % 2 for number in range(10)]}
NAMED = {"bad": 0, "good": 1}


def save_dict(path):
    rows = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(path)


WRITERS = {
    "rows.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "rows.tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    "rows.jsonl": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
    "rows.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    "saved": lambda path: datasets.Dataset.from_dict(ROWS).save_to_disk(path),
    "saved_splits": save_dict,
}


def load(roles=("text", "label"), optional=(), **settings):
    return load_data(DataConfig(**settings), roles, optional)


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_those_of_the_file(name):
    WRITERS[name](name)
    train, validation = load(train=name, validation=name)
    assert train.to_dict() == ROWS
    assert validation.to_dict() == ROWS


def test_lines_of_a_text_file_are_texts():
    lines = write_lines(Path("lines.txt")).read_text(encoding="utf-8").splitlines()
    train, _ = load(("text",), train="lines.txt")
    assert set(train["text"]) < set(lines)


def test_folders_of_images_are_labels():
    train, _ = load(("image", "label"), train=str(write_images(Path("images"))), validation=0.5)
    assert train.features["label"].names == ["bad", "good"]
    assert read_image(train[0]["image"]).size == (8, 8)


def test_broken_image_files_are_named_before_anything_runs():
    folder = write_images(Path("images"))
    (folder / "bad" / "0.png").write_bytes(b"no image")
    (folder / "good" / "1.png").write_bytes(b"")
    with pytest.raises(ConfigurationError) as error:
        load(("image", "label"), train=str(folder))
    assert len(error.value.problems) == 2
    assert "bad/0.png is not: cannot identify image file" in str(error.value)
    assert "good/1.png is not: " in str(error.value)


def test_image_that_ends_too_early_is_named_when_it_is_decoded():
    file = write_images(Path("images")) / "bad" / "0.png"
    file.write_bytes(file.read_bytes()[:45])
    train, validation = load(("image", "label"), train="images", validation=0.5)
    stored = [row for table in (train, validation) for row in table["image"]]
    with pytest.raises(ConfigurationError, match=r"bad/0\.png is not: .*; remove or replace it"):
        [read_image(image) for image in stored]
    content = {"path": None, "bytes": file.read_bytes()}
    with pytest.raises(ConfigurationError, match="one without a file name is not"):
        read_image(content)


def test_share_that_is_held_out_is_the_same_every_time():
    WRITERS["rows.csv"]("rows.csv")
    first, again = (load(train="rows.csv", validation=0.3) for _ in range(2))
    assert [table.to_dict() for table in first] == [table.to_dict() for table in again]
    train, validation = first
    assert len(validation) == 3
    assert sorted([*train["text"], *validation["text"]]) == ROWS["text"]


def test_columns_of_other_names_are_renamed_and_the_rest_left_out():
    pd.DataFrame({"sentence": ["a", "b"], "target": [0, 1], "more": [1, 2]}).to_csv("rows.csv", index=False)
    train, _ = load(train="rows.csv", validation="rows.csv", columns={"text": "sentence", "label": "target"})
    assert train.to_dict() == {"text": ["a", "b"], "label": [0, 1]}


def test_optional_column_is_read_if_it_exists():
    pd.DataFrame({"text": ["a"], "text_pair": ["b"]}).to_csv("pairs.csv", index=False)
    train, _ = load(("text",), ("text_pair",), train="pairs.csv", validation="pairs.csv")
    assert train.column_names == ["text", "text_pair"]


def test_all_missing_and_unknown_columns_are_in_one_error():
    pd.DataFrame({"sentence": ["a"]}).to_csv("rows.csv", index=False)
    with pytest.raises(ConfigurationError) as error:
        load(train="rows.csv", validation="rows.csv", columns={"lable": "sentence"})
    assert error.value.problems == [
        "data.columns.lable: is no column of the task; did you mean 'label'?",
        "data.columns.text: the task needs a column 'text', but rows.csv has sentence; write which one it is, as in "
        "`columns: {text: sentence}`.",
        "data.columns.label: the task needs a column 'label', but rows.csv has sentence; write which one it is, as in "
        "`columns: {label: sentence}`.",
    ]


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("rows.xlsx", "x", "a file of data ends in .csv, .tsv, .json, .jsonl, .txt, .parquet, but got rows.xlsx"),
        ("no/such/rows.csv", None, "must exist, but no/such/rows.csv does not"),
        ("no-such-data", None, "the data in no-such-data must be readable, but: "),  # taken for one of the hub
        ("rows.jsonl", "{", "the data in rows.jsonl must be readable, but: "),
        ("rows.parquet", "x", "the data in rows.parquet must be readable, but: "),
        ("rows.jsonl", "", "data must have rows, but rows.jsonl is empty"),
        ("rows.csv", "text,label\n", "data must have rows, but rows.csv has none"),
        (
            "rows.csv",
            "text,label\na,0\n",
            "must have at least two rows, but rows.csv has 1; add rows, or set data.validation",
        ),
    ],
)
def test_data_that_cannot_be_read_are_refused(source, content, message):
    if content is not None:
        Path(source).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load(train=source)


def test_numbers_and_words_for_missing_values_in_a_csv_file_are_texts():
    Path("rows.csv").write_text("text,label\nNA,0\nnull,1\n", encoding="utf-8")
    Path("numbers.csv").write_text("text,label\n12,0\n34,1\n", encoding="utf-8")
    words, numbers = load(train="rows.csv", validation="numbers.csv")
    assert (words["text"][:], numbers["text"][:]) == (["NA", "null"], ["12", "34"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"tokens": ["a b"], "tags": [["x"]]},
            "data.columns.tokens: must hold a list in each row, but saved has a val",
        ),
        (
            {"tokens": [["a"], None], "tags": [["x"], ["x"]]},
            "data.columns.tokens: must hold a list .* has rows without",
        ),
        (
            {"tokens": [["a"], ["b"]], "tags": [["x"], []]},
            "must hold a tag for each token, but row 1 of saved does not",
        ),
    ],
)
def test_columns_with_values_of_another_kind_are_refused(rows, message):
    datasets.Dataset.from_dict(rows).save_to_disk("saved")
    with pytest.raises(ConfigurationError, match=message):
        load(("tokens", "tags"), train="saved", validation="saved")


def test_column_that_is_configured_twice_is_refused():
    WRITERS["rows.csv"]("rows.csv")
    with pytest.raises(ConfigurationError, match="must be a different column of the data, but 'label' serves several"):
        load(train="rows.csv", columns={"text": "label"})


def test_missing_split_is_refused_naming_the_existing_ones():
    save_dict("saved")
    with pytest.raises(ConfigurationError, match="saved has the splits train, validation, but not 'dev'"):
        load(train="saved", train_split="dev")


def test_missing_library_is_refused_naming_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'autodistill-nas\[data\]'"):
        load(train="rows.csv")


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["good", "bad", "good"], {"good": 1, "bad": 0}),
        ([1, 0, 1], {1: 1, 0: 0}),
        ([["bad"], ["good", "bad"]], {"bad": 0, "good": 1}),
    ],
)
def test_labels_are_numbered_as_the_teacher_numbers_them(labels, numbers):
    assert label_numbers(datasets.Dataset.from_dict({"label": labels}), "label", NAMED, "rows.csv") == numbers


def test_numbered_classes_are_matched_by_name_if_the_teacher_has_names():
    classes = datasets.Features({"label": datasets.ClassLabel(names=["good", "bad"])})
    table = datasets.Dataset.from_dict({"label": [0, 1]}, features=classes)
    assert label_numbers(table, "label", NAMED, "images") == {0: 1, 1: 0}
    assert label_numbers(table, "label", {"LABEL_0": 0, "LABEL_1": 1}, "images") == {0: 0, 1: 1}
    with pytest.raises(ConfigurationError, match="images has 'good', 'bad' in column 'label'"):
        label_numbers(table, "label", {"cat": 0, "dog": 1}, "images")


def test_labels_that_the_teacher_does_not_know_are_refused():
    table = datasets.Dataset.from_dict({"label": [0, 1, 2, -1]})
    with pytest.raises(
        ConfigurationError, match=r"which has 2 \('bad', 'good', or numbers from 0\), but rows.csv has 2, -1 in column"
    ):
        label_numbers(table, "label", NAMED, "rows.csv")
