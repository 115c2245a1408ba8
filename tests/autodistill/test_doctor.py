"""The checks of a search directory: damage is found, and its repair leads to the result of an undisturbed search."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import elastic_search
import pytest
import torch
from directory_cases import opened
from interruptions import assert_same_outcomes, outcomes
from safetensors.torch import load_file
from toy_search import make_config, make_search

from autodistill import SearchResult, tensor_files
from autodistill.distillation import sample_store
from autodistill.distillation.checkpoints import Checkpoints
from autodistill.doctor import Finding, examine, repair
from autodistill.errors import SearchDirectoryError
from autodistill.export.preprocessor import keep_preprocessor
from autodistill.json_files import read_record, write_record
from autodistill.search.trial import Trial, TrialState

CONFIG = make_config(max_trials=4, promote=0.5, metrics=["accuracy"])

pytestmark = pytest.mark.filterwarnings("ignore:promote compares")


class Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")


def resume(path: Path) -> None:
    make_search(path, CONFIG).search_loop()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of 4 trials, of which two are complete and two are paused."""
    path = tmp_path_factory.mktemp("finished") / "search"
    resume(path)
    keep_preprocessor(path, Tokenizer())
    return path


@pytest.fixture
def search(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "search")


def numbers(path: Path, state: TrialState) -> list[int]:
    return [trial.number for trial in SearchResult.load(path) if trial.state is state]


def folder(path: Path, number: int) -> Path:
    return path / "trials" / f"{number:06d}"


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def brief(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.file.as_posix(), finding.outcome) for finding in findings]


def test_directory_of_a_finished_search_is_in_order_and_is_not_changed(search: Path) -> None:
    before = content(search)
    assert examine(search) == []
    assert content(search) == before
    assert repair(search) == []


# --- what is damaged --------------------------------------------------------------------------------------------------


def best(path: Path) -> int:
    trial = SearchResult.load(path).best
    assert trial is not None
    return trial.number


def one(path: Path, pattern: str) -> Path:
    return sorted(path.glob(pattern))[0]


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "description": lambda path: path / "search.json",
    "copy of the description": lambda path: path / "search.backup.json",
    "record": lambda path: folder(path, 3) / "trial.json",
    "weights of the best student": lambda path: folder(path, best(path)) / "student" / "model.safetensors",
    "architecture of the best student": lambda path: folder(path, best(path)) / "student" / "architecture.json",
    "weights of another student": lambda path: (
        folder(path, *set(numbers(path, TrialState.COMPLETE)) - {best(path)}) / "student" / "model.safetensors"
    ),
    "checkpoint": lambda path: one(folder(path, numbers(path, TrialState.PAUSED)[0]), "checkpoint/*/*"),
    "hidden states": lambda path: one(path, "teacher_cache/*.safetensors"),
    "outputs of samples": lambda path: one(path, "teacher_cache/samples/*/*.safetensors"),
    "fact": lambda path: one(path, "teacher_cache/facts/*.json"),
}


@pytest.mark.parametrize("how", [flip, lambda file: file.write_bytes(b"")], ids=["one bit", "emptied"])
@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_found_and_its_repair_leads_to_the_undisturbed_result(
    search: Path, finished: Path, what: str, how: Callable[[Path], object]
) -> None:
    file = DAMAGED[what](search)
    how(file)
    before = content(search)
    (found,) = examine(search)
    assert content(search) == before
    assert file.is_relative_to(search / found.file)
    assert found.is_open
    assert found.can_be_repaired
    assert "with --repair" in found.outcome
    repaired, *notes = repair(search)
    assert (repaired.file, repaired.repaired, repaired.is_open) == (found.file, True, False)
    assert repaired.outcome.startswith("was ")
    assert all(note.harmless for note in notes)
    assert not any(finding.is_open for finding in examine(search))
    resume(search)
    if what != "record":  # that trial is lost, and another may be tried in its stead
        assert_same_outcomes(outcomes(search), outcomes(finished))
    assert len(SearchResult.load(search)) == 4
    assert not any(finding.is_open for finding in examine(search))


def test_without_any_description_nothing_can_be_resumed_and_the_rest_is_checked(search: Path) -> None:
    (search / "search.json").write_text("{")
    (search / "search.backup.json").unlink()
    flip(folder(search, 0) / "trial.json")
    findings = examine(search)
    assert [finding.file.as_posix() for finding in findings if finding.is_open] == [
        "search.json",
        "search.backup.json",
        "trials/000000/trial.json",
    ]
    assert [finding.can_be_repaired for finding in findings] == [False, False, True]
    assert sum(finding.is_open for finding in repair(search)) == 2


def test_record_that_is_missing_is_set_aside_as_resuming_does(search: Path) -> None:
    number = numbers(search, TrialState.COMPLETE)[0]
    (folder(search, number) / "trial.json").unlink()
    assert examine(search)[0].problem == "is missing"
    repair(search)
    assert sorted(path.name for path in folder(search, number).iterdir()) == [
        "progress.jsonl.damaged",
        "student.damaged",
    ]
    assert all(note.problem == "was set aside" for note in examine(search))


def test_student_of_the_front_that_is_missing_is_trained_again_and_no_other(search: Path, finished: Path) -> None:
    for number in numbers(search, TrialState.COMPLETE):
        shutil.rmtree(folder(search, number) / "student")  # one of them is not on the front
    path = f"trials/{best(search):06d}"
    remedy = "given back to the search, which trains it again when it is resumed"
    assert brief(repair(search)) == [(f"{path}/student", f"was {remedy}")]
    again = repair(search)
    assert brief(again) == [(f"{path}/trial.json", "resume the search")]
    assert again[0].harmless
    resume(search)
    trial = SearchResult.load(search).best
    assert trial is not None
    expected = SearchResult.load(finished)[trial.number]
    assert (trial.metrics, trial.student) == (expected.metrics, expected.student)


def test_student_that_was_never_saved_is_not_missing(tmp_path: Path) -> None:
    make_search(tmp_path / "search", make_config(max_trials=1), keep="none").search_loop()
    assert examine(tmp_path / "search") == []


def test_student_without_hashes_is_a_note(search: Path) -> None:
    record = folder(search, best(search)) / "trial.json"
    write_record(record, read_record(record) | {"student": {}})
    (found,) = examine(search)
    assert found.problem.startswith("has no recorded hashes")
    assert found.harmless


@pytest.mark.parametrize("metrics", [None, [], "0.5", [3], [{"accuracy": "0.5"}], [{}]])
def test_odd_details_do_not_disturb_the_checks(search: Path, metrics: object) -> None:
    record = folder(search, best(search)) / "trial.json"
    running = Trial.from_json(read_record(record)).reopen().to_json()
    write_record(record, running | {"details": {"earlier_metrics": metrics}})
    assert [finding.problem for finding in examine(search)] == ["is of an interrupted trial"]


def test_preprocessor_that_is_damaged_is_written_by_the_search(search: Path) -> None:
    (search / "preprocessor" / "tokenizer.json").write_text("[]")
    (found,) = repair(search)
    assert found.is_open
    assert found.file == Path("preprocessor")
    assert "resume the search with `autodistill search`" in found.outcome


# --- what is worth knowing --------------------------------------------------------------------------------------------


def test_leftovers_are_removed_and_what_is_foreign_is_only_named(search: Path) -> None:
    complete, paused = (numbers(search, state)[0] for state in (TrialState.COMPLETE, TrialState.PAUSED))
    shutil.copytree(folder(search, paused) / "checkpoint", folder(search, complete) / "checkpoint")
    shutil.rmtree(folder(search, paused) / "checkpoint")
    half = "0f" * 16
    leftovers = [
        f"search.json.{half}.tmp",
        f"teacher_cache/abc.safetensors.{half}.tmp",
        f"trials/{paused:06d}/trial.json.{half}.tmp",
    ]
    foreign = ["notes.txt", "teacher_cache/notes.txt", "trials/notes.txt", f"trials/{paused:06d}/notes.txt"]
    for name in (*leftovers, *foreign):
        (search / name).write_text("half")
    (search / "trials" / "000000" / "old.damaged").touch()
    expected = {
        **dict.fromkeys(leftovers, "was removed"),
        **dict.fromkeys(foreign, "delete it if you do not need it"),
        "trials/000000/old.damaged": "delete it if you do not need it",
        f"trials/{complete:06d}/checkpoint": "was removed",
        f"trials/{paused:06d}/checkpoint": "none needed",
    }
    assert all(finding.harmless for finding in examine(search))
    assert dict(brief(repair(search))) == expected
    assert not any((search / name).exists() for name in leftovers)
    assert all((search / name).exists() for name in foreign)


def test_search_at_work_is_examined_without_what_it_is_about_to_finish_and_not_repaired(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin({"layers": 1, "width": 16})
        (tmp_path / "trials" / "000000" / f"trial.json.{'0f' * 16}.tmp").touch()
        assert examine(tmp_path) == []
        with pytest.raises(SearchDirectoryError, match="one process at a time works on a search"):
            repair(tmp_path)
    assert [finding.problem for finding in examine(tmp_path)] == [
        "was not written to the end",
        "is of an interrupted trial",
    ]


# --- what cannot be repaired ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [name for name in DAMAGED if "description" not in name])
def test_file_that_cannot_be_read_is_named_and_left_alone(
    search: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DAMAGED[what](search)
    refuse_to_read(file, monkeypatch)
    (found,) = repair(search)
    assert search / found.file == file
    assert (found.problem.partition(" (")[0], found.outcome) == ("cannot be read", "change its permissions")
    assert found.is_open
    assert file.exists()


def refuse_to_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be one that this process may not read, as its permissions do for any user but root."""
    read_text, access = Path.read_text, os.access

    def refusing(original: Callable[..., object], *arguments: object, **options: object) -> object:
        if arguments and Path(str(arguments[0])) == file:
            raise PermissionError(13, "Permission denied", str(file))
        return original(*arguments, **options)

    monkeypatch.setattr(Path, "read_text", lambda *arguments, **options: refusing(read_text, *arguments, **options))
    monkeypatch.setattr(os, "access", lambda path, mode: path != file and access(path, mode))
    for module in (tensor_files, sample_store):
        original = module.safe_open
        monkeypatch.setattr(
            module,
            "safe_open",
            lambda *arguments, _original=original, **options: refusing(_original, *arguments, **options),
        )


def test_repair_that_fails_is_still_open(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(DAMAGED["hidden states"](search))

    def refuse(*arguments: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("autodistill.doctor.remove", refuse)
        (found,) = repair(search)
    assert found.is_open
    assert found.outcome == "could not be removed: [Errno 30] Read-only file system"


def test_file_in_the_place_of_a_trial_is_renamed(search: Path) -> None:
    (search / "trials" / "000077").touch()
    assert [(found.problem, found.can_be_repaired) for found in examine(search)] == [
        ("is where the folder of a trial belongs", True)
    ]
    repair(search)
    assert (search / "trials" / "000077.damaged").exists()


@pytest.mark.parametrize("check", [examine, repair])
def test_directory_without_a_search_is_refused(tmp_path: Path, check: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(SearchDirectoryError, match=r"a search directory (holds|must)"):
            check(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("check", [examine, repair])
def test_directory_of_which_the_trials_cannot_be_listed_is_refused(
    tmp_path: Path, check: Callable[[Path], object]
) -> None:
    opened(tmp_path).close()
    (tmp_path / "trials").rmdir()
    (tmp_path / "trials").touch()
    with pytest.raises(SearchDirectoryError, match=r"the trials in .* must be readable, but are not"):
        check(tmp_path)


def test_what_else_is_computed_from_the_stream_of_the_teacher_is_checked(search: Path) -> None:
    file = search / "teacher_cache" / "importance-c0ffee.safetensors"
    tensor_files.write_hashed_tensors(file, {"layer": torch.ones(2)})
    assert examine(search) == []
    flip(file)
    (found,) = repair(search)
    assert found.outcome == "was removed"


@pytest.mark.parametrize("check", [examine, repair])
def test_directory_of_another_version_is_refused(search: Path, check: Callable[[Path], object]) -> None:
    for name in ("search.json", "search.backup.json"):
        write_record(search / name, read_record(search / name) | {"schema_version": 99})
    with pytest.raises(SearchDirectoryError, match="schema 99"):
        check(search)


# --- elastic students -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of three slices, of which one is complete."""
    path = tmp_path_factory.mktemp("sliced") / "search"
    elastic_search.make_search(path, elastic_search.make_config(max_trials=3)).search_loop()
    return path


@pytest.fixture
def slices(sliced: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sliced, tmp_path / "search")


def test_paused_slices_need_no_checkpoints_and_their_elastic_student_belongs_to_the_search(slices: Path) -> None:
    before = content(slices)
    assert len(numbers(slices, TrialState.PAUSED)) == 2
    assert examine(slices) == repair(slices) == []
    assert content(slices) == before


@pytest.mark.parametrize("how", [flip, lambda file: file.write_bytes(b"")], ids=["one bit", "emptied"])
def test_damaged_elastic_student_is_removed_and_trained_again(
    slices: Path, sliced: Path, how: Callable[[Path], object]
) -> None:
    file = one(slices, "elastic/*.safetensors")
    how(file)
    (found,) = examine(slices)
    assert found.file == file.relative_to(slices)
    assert found.is_open
    assert found.cost.startswith("the elastic student is trained again")
    (repaired,) = repair(slices)
    assert (repaired.repaired, repaired.outcome) == (True, "was removed")
    assert not file.exists()
    search = elastic_search.make_search(slices, elastic_search.make_config(max_trials=3))
    search.load_model(elastic_search.paused(search)[0])
    trained, expected = load_file(file), load_file(one(sliced, "elastic/*.safetensors"))
    assert trained.keys() == expected.keys()
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_damaged_checkpoint_of_the_elastic_student_is_removed_and_what_is_foreign_is_named(slices: Path) -> None:
    folder = slices / "elastic" / "checkpoint"
    folder.mkdir()
    Checkpoints(folder).save("elastic", {"weight": torch.ones(20)}, {"losses": []})
    assert examine(slices) == []
    flip(one(folder, "*.safetensors"))
    (slices / "elastic" / "notes.txt").touch()
    (damaged, foreign) = repair(slices)
    assert (damaged.outcome, damaged.cost) == ("was removed", "that part of the training is repeated")
    assert not list(folder.iterdir())
    assert (foreign.file, foreign.harmless) == (Path("elastic/notes.txt"), True)


def test_without_a_description_slices_are_known_by_their_elastic_student(slices: Path) -> None:
    for name in ("search.json", "search.backup.json"):
        (slices / name).write_text("{")
    assert [finding.file.as_posix() for finding in examine(slices)] == ["search.json", "search.backup.json"]
