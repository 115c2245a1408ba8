"""A search directory from somebody else runs nothing, and nothing outside of it is read, changed or deleted."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from entry_points import ENTRY_POINTS, MISBEHAVE
from safetensors.torch import load_file
from toy_search import make_config, make_search
from transformers import BertConfig, BertModel

import autodistill
from autodistill.distillation.checkpoints import RECORD
from autodistill.export.preprocessor import keep_preprocessor
from autodistill.file_hashes import folder_hashes
from autodistill.frameworks.student_files import save_student
from autodistill.json_files import read_record, write_record
from autodistill.tensor_files import write_hashed_tensors

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="links and pipes"),
    pytest.mark.filterwarnings("ignore:promote compares"),
]

Case = Callable[[Path, Path], object]
"""Changes a search directory; the second argument is the folder outside."""

DEEP = "[" * 100_000 + "]" * 100_000
ESCAPES = "\x1b]0;owned\x07\x9b2J\u202e\r\n[bold]"
HUGE = 10**400


class Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")


class Canary:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of four trials, trial 0 of which is complete, with a student of the form of pretrained models."""
    path = tmp_path_factory.mktemp("template") / "search"
    make_search(path, make_config(max_trials=4, promote=0.5, metrics=["accuracy"])).search_loop()
    keep_preprocessor(path, Tokenizer())
    return path


# --- parts of the directory -------------------------------------------------------------------------------------------


def complete(path: Path) -> Path:
    """The folder of a complete trial."""
    return min(path.glob("trials/*/student")).parent


def paused(path: Path) -> Path:
    """The folder of a paused trial, which has checkpoints."""
    return min(path.glob("trials/*/checkpoint")).parent


PARTS: dict[str, Callable[[Path], Path]] = {
    "search.json": lambda path: path / "search.json",
    "search.backup.json": lambda path: path / "search.backup.json",
    "search.lock": lambda path: path / "search.lock",
    "owner.json": lambda path: path / "owner.json",
    "trials": lambda path: path / "trials",
    "trial": complete,
    "trial.json": lambda path: complete(path) / "trial.json",
    "progress.jsonl": lambda path: complete(path) / "progress.jsonl",
    "student": lambda path: complete(path) / "student",
    "weights": lambda path: complete(path) / "student" / "model.safetensors",
    "architecture.json": lambda path: complete(path) / "student" / "architecture.json",
    "checkpoint": lambda path: paused(path) / "checkpoint",
    "checkpoint file": lambda path: min((paused(path) / "checkpoint").glob("*/*")),
    "teacher_cache": lambda path: path / "teacher_cache",
    "feature": lambda path: min(path.glob("teacher_cache/*.safetensors")),
    "facts": lambda path: path / "teacher_cache" / "facts",
    "fact": lambda path: min(path.glob("teacher_cache/facts/*.json")),
    "samples": lambda path: path / "teacher_cache" / "samples",
    "samples of a kind": lambda path: min(path.glob("teacher_cache/samples/*")),
    "segment": lambda path: min(path.glob("teacher_cache/samples/*/*.safetensors")),
    "preprocessor": lambda path: path / "preprocessor",
    "tokenizer": lambda path: path / "preprocessor" / "tokenizer.json",
    "preprocessor.json": lambda path: path / "preprocessor.json",
}
NEW = ("owner.json.tmp", "search.json.tmp", "architectures", "trials/000008", "trials/000000/trial.json.tmp", "notes")
TENSORS = ("weights", "checkpoint file", "feature", "segment")
RECORDS = ("search.json", "trial.json", "owner.json", "preprocessor.json", "fact", "architecture.json")


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- what is put there ------------------------------------------------------------------------------------------------


def linked(part: str) -> Case:
    """A part is a link to its copy outside, which would be used if the link was followed."""

    def change(path: Path, outside: Path) -> None:
        target = PARTS[part](path) if part in PARTS else path / part
        copy = outside / target.name
        if target.exists():
            target.rename(copy)
        else:
            copy = outside / "below"
        target.symlink_to(copy)

    return change


def piped(part: str) -> Case:
    def change(path: Path, outside: Path) -> None:
        target = PARTS[part](path) if part in PARTS else path / part
        if target.exists():
            delete(target)
        os.mkfifo(target)

    return change


def swapped(part: str) -> Case:
    """A file is a folder, and a folder is a file."""

    def change(path: Path, outside: Path) -> None:
        target = PARTS[part](path)
        was_file = target.is_file() or not target.exists()
        delete(target)
        if was_file:
            (target / "below").mkdir(parents=True)
        else:
            target.write_text("{}")

    return change


def filled(part: str, content: bytes) -> Case:
    """A file has another content; for the description, also the copy."""

    def change(path: Path, outside: Path) -> None:
        PARTS[part](path).write_bytes(content)
        if part == "search.json":
            PARTS["search.backup.json"](path).write_bytes(content)
        hashed(path)

    return change


def hashed(path: Path) -> None:
    """Record the hashes of the files of students and of the tokenizer as they are, as whoever sends a directory can."""
    for folder in path.glob("trials/*/student"):
        record = folder.parent / "trial.json"
        with contextlib.suppress(OSError, ValueError, TypeError):  # the record may be what was changed
            write_record(record, read_record(record) | {"student": folder_hashes(folder)})


def recorded(part: str, **changes: Any) -> Case:
    """A record has other values, with the right hash."""

    def change(path: Path, outside: Path) -> None:
        file = PARTS[part](path)
        old = read_record(file) if file.exists() else {}
        write_record(file, {**old, **{key: resolved(value, outside) for key, value in changes.items()}})
        if part == "search.json":
            shutil.copyfile(file, PARTS["search.backup.json"](path))

    return change


def resolved(value: Any, outside: Path) -> Any:
    """A value in which `OUTSIDE` is the path of the folder outside."""
    return json.loads(json.dumps(value).replace("OUTSIDE", str(outside)))


def described(**changes: Any) -> Case:
    """The student has a description, as pretrained models have, with another class or other files."""

    def change(path: Path, outside: Path) -> None:
        folder = complete(path) / "student"
        description = {"class": ["small_models", "Transformer"], "weights": ["model.safetensors"], "modules": {}}
        (folder / "config.json").write_text('{"model_type": "canary", "auto_map": {"AutoModel": "canary_code.Model"}}')
        (folder / "canary_code.py").write_text("import canary_module")
        (folder / "student.json").write_text(json.dumps(description | resolved(changes, outside)))
        hashed(path)

    return change


def indexed(weight_map: Any) -> Case:
    """The weights are in the files that an index names."""

    def change(path: Path, outside: Path) -> None:
        folder = complete(path) / "student"
        text = json.dumps({"weight_map": resolved(weight_map, outside)})
        (folder / "model.safetensors.index.json").write_text(text)
        hashed(path)

    return change


def pickled(part: str) -> Case:
    """Every file of tensors is a pickle, and there are more under the names that other libraries use."""

    def change(path: Path, outside: Path) -> None:
        data = pickle.dumps(Canary(outside / "canary"))
        PARTS[part](path).write_bytes(data)
        for name in ("pytorch_model.bin", "optimizer.pt", "trial.pkl"):
            (PARTS[part](path).parent / name).write_bytes(data)
        hashed(path)

    return change


def with_checkpoint_record(text: str) -> Case:
    """A checkpoint has this record, with the right hash."""

    def change(path: Path, outside: Path) -> None:
        for file in (paused(path) / "checkpoint").glob("*/*"):
            write_hashed_tensors(file, load_file(file), {RECORD: text})

    return change


def with_tensors(part: str, tensors: dict[str, torch.Tensor]) -> Case:
    """A file has other tensors, with the right hash."""

    def change(path: Path, outside: Path) -> None:
        write_hashed_tensors(PARTS[part](path), tensors, {RECORD: "{}"})
        hashed(path)

    return change


def pretrained(index: str, **files: Any) -> Case:
    """The student is a model of the transformers library, with files that make the library look elsewhere."""

    def change(path: Path, outside: Path) -> None:
        folder = complete(path) / "student"
        shutil.rmtree(folder)
        model = BertModel(BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4))
        save_student(model, {}, folder)
        weights = load_file(folder / "model.safetensors")
        write_hashed_tensors(outside / "model.safetensors", weights, {"format": "pt"})
        if index:
            (folder / "model.safetensors").rename(folder / "own.safetensors")
            description = json.loads((folder / "student.json").read_text())
            (folder / "student.json").write_text(json.dumps(description | {"weights": ["own.safetensors"]}))
            files["model.safetensors.index.json"] = {"weight_map": dict.fromkeys(weights, index)}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(resolved(content, outside)))
        hashed(path)

    return change


def named(name: str) -> Case:
    """There are files with this name, wherever names are listed."""

    def change(path: Path, outside: Path) -> None:
        for folder in (path, path / "trials", complete(path), path / "teacher_cache", complete(path) / "student"):
            (folder / name).write_text("half")

    return change


def folder_named(name: str) -> Case:
    """There is a folder of a trial with this name, with the record of another."""

    def change(path: Path, outside: Path) -> None:
        shutil.copytree(complete(path), path / "trials" / name)

    return change


def header(length: int, text: bytes = b"{}") -> bytes:
    """The beginning of a file of tensors, whose header is said to be of this length."""
    return struct.pack("<Q", length) + text


def nested_header() -> bytes:
    text = DEEP.encode()
    return header(len(text), text)


def large_tensor(size: int) -> bytes:
    shape = {"dtype": "F32", "shape": [size, size], "data_offsets": [0, 4 * size * size % 2**64]}
    text = json.dumps({"feature": shape, "keys": shape}).encode()
    return header(len(text), text)


NAMES = [
    ["../../../../outside/below/thesis.txt"],
    ["OUTSIDE/below/thesis.txt"],
    [".."],
    ["a\0b"],
    ["x" * 5000],
    [""],
    [3],
    3,
]
FILES = [
    "../../../outside/below/thesis.txt",
    "OUTSIDE/below/thesis.txt",
    "/dev/zero",
    "..",
    "a\0b",
    "x" * 5000,
    "",
    ".",
]
CLASSES = [
    ["canary_module", "Canary"],
    ["os", "system"],
    ["autodistill.__main__", "app"],
    ["transformers", "AutoModel"],
    ["transformers", "AutoConfig"],
    ["transformers.utils.import_utils", "os.system"],
    ["small_models", "__loader__.load_module"],
    ["small_models", 3],
    3,
]
ADAPTER = {"base_model_name_or_path": "OUTSIDE", "peft_type": "LORA"}
ODD_RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "huge metric": ("trial.json", {"metrics": {"accuracy": HUGE}}),
    "huge number": ("trial.json", {"number": HUGE}),
    "huge attempts": ("trial.json", {"attempts": HUGE}),
    "first year": ("trial.json", {"started_at": "0001-01-01T00:00:00+14:00"}),
    "last year": ("trial.json", {"finished_at": "9999-12-31T23:59:59-14:00"}),
    "escapes": ("trial.json", {"state": "failed", "architecture": {ESCAPES: ESCAPES}, "error": ESCAPES}),
    "other architecture": ("trial.json", {"architecture": {"width": HUGE}}),
    "huge architecture": ("trial.json", {"architecture": {"width": HUGE, "depth": 1}}),
    "odd details": ("trial.json", {"details": {"earlier_metrics": {"0": 1}, "earlier_errors": 3, "distillation": 3}}),
    "odd earlier metrics": (
        "trial.json",
        {"state": "running", "details": {"earlier_metrics": ["x"], "earlier_errors": 3}},
    ),
    "huge limits": ("search.json", {"max_trials": HUGE, "promote": HUGE, "seed": HUGE}),
    "odd limits": ("search.json", {"max_trials": "x", "promote": [1], "seed": {}}),
    "bombs as constraints": ("search.json", {"space": {"constraints": ["round(w, -10**7)", "9**9**9**9"]}}),
    "escapes as metric": ("search.json", {"metrics": [{"name": ESCAPES}]}),
    "odd metrics": ("search.json", {"metrics": [{"name": "accuracy", "at_most": HUGE}]}),
    "odd version": ("search.json", {"schema_version": ESCAPES}),
    "escapes as owner": ("owner.json", {"process": 1, "host": ESCAPES, "since": "2026-01-01T00:00:00+00:00"}),
    "group of processes": (
        "owner.json",
        {"process": -1, "host": os.uname().nodename, "since": "2026-01-01T00:00:00+00:00"},
    ),
    "huge process": (
        "owner.json",
        {"process": HUGE, "host": os.uname().nodename, "since": "2026-01-01T00:00:00+00:00"},
    ),
    "list of files": ("preprocessor.json", {"files": ["tokenizer.json"]}),
    "hash that is no text": ("preprocessor.json", {"files": {"tokenizer.json": 3}}),
}

REFUSED: dict[str, Case] = {
    **{f"link: {part}": linked(part) for part in (*PARTS, *NEW)},
    **{f"pipe: {part}": piped(part) for part in (*PARTS, *NEW)},
}
"""With these every entry point refuses the directory."""

HARMLESS: dict[str, Case] = {
    **{f"folder for file, or file for folder: {part}": swapped(part) for part in PARTS},
    **{f"pickle: {part}": pickled(part) for part in TENSORS},
    **{f"huge header: {part}": filled(part, header(2**62)) for part in TENSORS},
    **{f"header of a terabyte: {part}": filled(part, header(2**40)) for part in TENSORS},
    **{f"nested header: {part}": filled(part, nested_header()) for part in TENSORS},
    **{f"huge tensor: {part}": filled(part, large_tensor(2**31)) for part in TENSORS},
    **{f"other tensors: {part}": with_tensors(part, {"weight": torch.ones(2)}) for part in TENSORS},
    **{f"nested: {part}": filled(part, DEEP.encode()) for part in RECORDS},
    **{f"huge number: {part}": filled(part, b'{"schema_version": 1' + b"0" * 5000 + b"}") for part in RECORDS},
    **{f"no UTF-8: {part}": filled(part, b'{"\xff\xfe": "\x00"}') for part in RECORDS},
    **{
        f"record of a checkpoint: {text[:9]}": with_checkpoint_record(text)
        for text in (DEEP, "3", "{}", "1e999", '"x"')
    },
    **{f"odd record: {name}": recorded(part, **changes) for name, (part, changes) in ODD_RECORDS.items()},
    **{f"files of a student: {names!r:.40}": described(weights=names) for names in NAMES},
    **{f"class of a student: {name!r:.40}": described(**{"class": name}) for name in CLASSES},
    **{f"modules of a student: {modules!r}": described(modules=modules) for modules in (3, [3], {"": 3})},
    **{f"index: {names!r:.40}": indexed({"weight": names[0]} if isinstance(names, list) else names) for names in NAMES},
    "pretrained": pretrained(""),
    "pretrained, in a file outside": pretrained("../../../../outside/model.safetensors"),
    "pretrained, in a file outside by its path": pretrained("OUTSIDE/model.safetensors"),
    "pretrained, as an adapter of a model outside": pretrained("", **{"adapter_config.json": ADAPTER}),
    **{f"hashed file: {name!r:.40}": recorded("trial.json", student={name: "00"}) for name in FILES},
    **{
        f"hashed file of a tokenizer: {name!r:.40}": recorded("preprocessor.json", files={name: "00"}) for name in FILES
    },
    **{
        f"name: {name!r:.40}": named(name) for name in ("\x1b]0;owned\x07", "a\nb", "-rf", "$(touch canary)", "x" * 200)
    },
    **{f"trial: {name!r:.40}": folder_named(name) for name in ("9" * 250, "٣", "000000000", "-1", "\x1b[2J")},
}
"""With these an entry point refuses the directory, or uses what is not affected."""

SHORT = [
    "link: checkpoint file",
    "pipe: fact",
    "pickle: weights",
    "nested: trial.json",
    "files of a student: ['../../../../outside/below/thesis.txt']",
    "hashed file: '/dev/zero'",
]


# --- the campaign -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The program of the entry points; importing `canary_module` would leave a file."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "canary_module.py").write_text(f"import os; os.mkdir({str(folder / 'canary')!r})")
    root = Path(autodistill.__file__).resolve().parents[1]
    support = root / "tests" / "support"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (root, support, folder))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(support / "entry_points.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
    assert not (folder / "canary").exists()


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """The content and the time of the last change of everything below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes().hex() if path.is_file() else "", path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def outcomes_of(
    program: subprocess.Popen[str], template: Path, tmp_path: Path, case: Case, entries: tuple[str, ...]
) -> list[str]:
    """What entry points do with a directory that a case has changed; fails if one does what it must not do."""
    work, outside = tmp_path / "work", tmp_path / "outside"
    for folder in (work, outside):
        shutil.rmtree(folder, ignore_errors=True)
    (outside / "below").mkdir(parents=True)
    for name in ("notes.tmp", "thesis.txt", "0a.safetensors", "trial.json", "below/notes.tmp", "below/thesis.txt"):
        (outside / name).write_text("mine")
    path = shutil.copytree(template, work / "search")
    case(path, outside)
    before = snapshot(outside)
    request = {"entries": entries, "path": str(path), "work": str(work), "outside": str(outside)}
    assert program.stdin is not None
    assert program.stdout is not None
    print(json.dumps(request), file=program.stdin, flush=True)
    answers: list[dict[str, Any]] = json.loads(program.stdout.readline())
    if entries == (MISBEHAVE,):
        return answers[0]["violations"]
    for entry, answer in zip(entries, answers, strict=False):  # fewer if a call hangs
        assert answer["violations"] == [], entry
        assert not answer["outcome"].startswith("crashed"), f"{entry} {answer['outcome']}"
    assert snapshot(outside) == before
    return [answer["outcome"] for answer in answers]


# The repair changes the directory, and so does the search, which therefore comes last.
CALLS = (
    (*(entry for entry in ENTRY_POINTS if entry not in ("doctor --repair", "search_loop")), "search_loop"),
    ("doctor --repair", "best_model", "export", "search_loop"),
)


def check(program: subprocess.Popen[str], template: Path, tmp_path: Path, name: str) -> list[str]:
    """The outcomes of all entry points with the directory of a case."""
    case = (REFUSED | HARMLESS)[name]
    outcomes = [text for entries in CALLS for text in outcomes_of(program, template, tmp_path, case, entries)]
    if name in REFUSED:
        assert all(text.startswith("refused") for text in outcomes), outcomes
    if name.startswith("pretrained, "):  # what the library reads is not seen by the watch
        assert outcomes[ENTRY_POINTS.index("export_folder")].startswith("refused"), outcomes
    return outcomes


def test_the_directory_itself_is_used_by_every_entry_point(program, template, tmp_path):
    for entries in CALLS:
        for entry, used in zip(
            entries, outcomes_of(program, template, tmp_path, lambda path, outside: None, entries), strict=True
        ):
            assert used.startswith("refused: " if "export" in entry else ("done", "4 trials")), (entry, used)


def test_what_must_not_be_done_is_noticed(program, template, tmp_path):
    violations = outcomes_of(program, template, tmp_path, lambda path, outside: None, (MISBEHAVE,))
    assert [violation.partition(" ")[0] for violation in violations] == [
        "os.system",
        "open",
        "os.symlink",
        "os.utime",
        "open",
        "pickle.find_class",
    ]


@pytest.mark.parametrize("name", SHORT)
def test_hostile_directory_runs_nothing_and_touches_nothing_outside(program, template, tmp_path, name):
    check(program, template, tmp_path, name)


@pytest.mark.slow
def test_campaign_of_hostile_directories(program, template, tmp_path, report):
    failures, refused, calls = [], 0, 0
    for name in REFUSED | HARMLESS:
        try:
            outcomes = check(program, template, tmp_path, name)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
            continue
        calls += len(outcomes)
        refused += sum(text.startswith("refused") for text in outcomes)
    report(
        f"hostile directories: {len(REFUSED)} with links or pipes, {len(HARMLESS)} others, {len(ENTRY_POINTS)} entry "
        f"points: {refused} of {calls} calls refused, {len(failures)} directories ran, touched or broke something"
    )
    assert failures == [], "\n".join(failures)
