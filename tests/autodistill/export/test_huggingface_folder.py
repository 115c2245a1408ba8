"""A student that cannot be exported is refused; an exported one is complete, or missing altogether."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.export.huggingface_folder import export_folder
from autodistill.frameworks.student_files import save_student
from autodistill.search.directory import SearchDirectory
from autodistill.search.layout import PREPROCESSOR, student_directory
from autodistill.search.result import SearchResult
from search_spaces import SearchSpace

RUNS = Path("runs")


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Two trials in a new working directory, of which the second is better and alone has its student kept."""
    monkeypatch.chdir(tmp_path)
    space = SearchSpace({"layers": [1, 2, 3]})
    with SearchDirectory.open(RUNS, {"metrics": ["accuracy"], "seed": 0}, space) as directory:
        for layers, accuracy in ((1, 0.5), (2, 0.9)):
            trial = directory.begin({"layers": layers})
            directory.record(trial.complete({"accuracy": accuracy}))
    folder = student_directory(RUNS, 1)
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (RUNS / PREPROCESSOR).mkdir()
    (RUNS / PREPROCESSOR / "tokenizer.json").write_text("{}", encoding="utf-8")
    return SearchResult.load(RUNS)


def test_student_and_tokenizer_are_written_side_by_side_into_an_empty_folder(trials):
    out = Path("new/out")
    out.mkdir(parents=True)
    export_folder(RUNS, trials[1], out)
    assert {path.name for path in out.iterdir()} == {"config.json", "tokenizer.json"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert student_directory(RUNS, 1).exists()


def test_student_that_was_not_kept_is_refused_naming_those_that_were(trials):
    with pytest.raises(ConfigurationError, match="that of trial 0 is not in runs; it has those of trial 1"):
        export_folder(RUNS, trials[0], Path("out"))


def test_search_directory_of_another_program_has_no_tokenizer(trials):
    (RUNS / PREPROCESSOR / "tokenizer.json").unlink()
    (RUNS / PREPROCESSOR).rmdir()
    with pytest.raises(ConfigurationError, match="runs has no preprocessor; resume the search"):
        export_folder(RUNS, trials[1], Path("out"))


def test_nothing_is_overwritten(trials):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="into a new folder, but out exists"):
        export_folder(RUNS, trials[1], Path("out"))
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_student_that_from_pretrained_would_change_is_refused_and_another_is_exported(trials):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    student = BertModel(BertConfig(vocab_size=10, **sizes)).eval()
    save_student(student, {}, student_directory(RUNS, 1))
    export_folder(RUNS, trials[1], Path("out"))
    assert "student.json" not in {path.name for path in Path("out").iterdir()}
    tokens = torch.tensor([[1, 2, 3]])
    loaded = BertModel.from_pretrained("out").eval()
    assert torch.equal(loaded(tokens).last_hidden_state, student(tokens).last_hidden_state)

    student.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU()
    save_student(student, {}, student_directory(RUNS, 1))
    with pytest.raises(ConfigurationError, match=r"intermediate_act_fn' becomes GELUActivation.*Use best_model\(\)"):
        export_folder(RUNS, trials[1], Path("changed"))
    save_student(nn.Linear(2, 2), {}, student_directory(RUNS, 1))
    with pytest.raises(ConfigurationError, match="exported with its configuration"):
        export_folder(RUNS, trials[1], Path("changed"))
    assert not Path("changed").exists()


@pytest.mark.parametrize("folder", [student_directory(RUNS, 1), RUNS / PREPROCESSOR])
def test_target_of_a_link_is_not_exported(trials, tmp_path, folder):
    secret = tmp_path / "secret"
    secret.write_text("mine", encoding="utf-8")
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(SearchDirectoryError, match=r"vocab\.txt is a symbolic link"):
        export_folder(RUNS, trials[1], Path("out"))
    assert not Path("out").exists()


def test_folder_of_the_user_beside_the_exported_one_is_kept(trials):
    Path("out.tmp").mkdir()
    Path("out.tmp/mine.txt").write_text("mine", encoding="utf-8")
    export_folder(RUNS, trials[1], Path("out"))
    assert Path("out.tmp/mine.txt").read_text(encoding="utf-8") == "mine"


def test_permissions_of_the_search_directory_are_not_copied(trials):
    folder = student_directory(RUNS, 1)
    (folder / "config.json").chmod(0o400)
    folder.chmod(0o500)
    export_folder(RUNS, trials[1], Path("out"))
    assert Path("out").stat().st_mode & 0o200
    assert Path("out/config.json").stat().st_mode & 0o200
