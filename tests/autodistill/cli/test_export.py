"""The command `export`: a folder that other programs load, and errors that leave no folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from commands import TEXTS, configure, in_another_process, run
from saved_teachers import BERT, save_teacher, write_csv, write_lines

from autodistill.cli.sentence_encoder import SentenceEncoder
from autodistill.search.layout import PREPROCESSOR, student_directory

EMBEDDINGS = """
import json
from transformers import AutoModel, AutoTokenizer
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[2])
tokens = AutoTokenizer.from_pretrained(sys.argv[1])(texts, padding=True, return_tensors="pt")
states = AutoModel.from_pretrained(sys.argv[1]).eval()(**tokens).last_hidden_state
print(json.dumps([SentenceTransformer(sys.argv[1], device="cpu").encode(texts).tolist(), states.tolist()]))
"""


def test_exported_sentence_encoder_is_loaded_by_sentence_transformers():
    teacher = save_teacher(Path("teacher"), "BertModel", **BERT)
    configure("sentence-embedding", teacher, write_lines(Path("texts.txt")))
    assert "1 trials: 1 complete" in run("search", "search.yaml", "--search-dir", "runs", "--trials", 1)
    run("export", "runs", "out", "--trial", 0)
    student = SentenceEncoder.from_pretrained("out").eval()
    assert student.width == 16  # the teacher's, although the student's own is smaller
    assert student.model.config.hidden_size < 16
    tokens = transformers.AutoTokenizer.from_pretrained("out")(TEXTS, padding=True, return_tensors="pt")
    embeddings, states = in_another_process(EMBEDDINGS, "out", json.dumps(TEXTS))
    torch.testing.assert_close(torch.tensor(embeddings), student(**tokens), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(states), student.model(**tokens).last_hidden_state, rtol=0, atol=1e-6)


def test_missing_trial_or_student_is_refused(classifier):
    configure("text-classification", classifier, write_csv(Path("train.csv")))
    run("search", "search.yaml", "--search-dir", "runs", "--trials", 1, "--no-progress")
    assert "runs has no trial 7; it has those from 0 to 0" in run("show", "runs", "7", code=2)
    assert "runs has no trial 7" in run("export", "runs", "out", "--trial", 7, code=2)
    run("export", "runs", "out")
    assert "exported into a new folder, but out exists" in run("export", "runs", "out", code=2)


@pytest.fixture
def exportable(recorded):
    """The recorded directory with a file in the student's folder, and one in the preprocessor's."""
    for folder, name in (
        (student_directory(Path(recorded), 0), "config.json"),
        (Path(recorded) / PREPROCESSOR, "tokens"),
    ):
        (folder / name).write_text(name, encoding="utf-8")
    return recorded


def test_best_trial_is_exported_with_its_preprocessor(exportable):
    assert run("export", exportable, "new/out") == "trial 0 (layers=2) is exported to new/out."
    assert {path.name: path.read_text(encoding="utf-8") for path in Path("new/out").iterdir()} == {
        "config.json": "config.json",
        "tokens": "tokens",
    }
    assert [path.name for path in Path("new").iterdir()] == ["out"]


def test_folder_that_is_not_empty_is_left_as_it_is(exportable):
    Path("out").mkdir()
    Path("out/mine").write_text("mine", encoding="utf-8")
    assert "exported into a new folder, but out exists" in run("export", exportable, "out", code=2)
    assert [path.name for path in Path("out").iterdir()] == ["mine"]


def test_student_that_is_not_kept_is_refused(exportable):
    shutil.rmtree(student_directory(Path(exportable), 0))
    assert "that of trial 0 is not in runs; it has those of no trial" in run("export", exportable, "out", code=2)
    assert not Path("out").exists()
