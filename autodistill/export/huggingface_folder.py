"""Exports a trained student and its preprocessor to a folder that transformers loads without AutoDistillation."""

from __future__ import annotations

import shutil
from pathlib import Path

from autodistill.errors import ConfigurationError
from autodistill.export.preprocessor import find_preprocessor
from autodistill.files import replacing
from autodistill.frameworks.student_files import DESCRIPTION_FILE, OWN_WEIGHTS_FILE, reload_problems
from autodistill.search.layout import ensure_no_links
from autodistill.search.students import find_student
from autodistill.search.trial import Trial


def export_folder(search_dir: Path, trial: Trial, out: Path) -> None:
    """Write a trained student, its configuration and its tokenizer or image processor into a new folder.

    `AutoModel.from_pretrained(out)`, or the class of the task, loads it. For a sentence encoder this is the model with
    its own width; `SentenceTransformer(out)` adds `1_Pooling` and `2_Dense`, and returns the embeddings.

    Args:
        search_dir: the search directory.
        trial: the trial of the student.
        out: the folder, which must be new or empty.

    Raises:
        ConfigurationError: the student or its preprocessor does not exist, the folder is not empty, or the class of the
            student would load another model from it than the one that was measured.
        SearchDirectoryError: the directory holds no search, or holds links, of which the targets would be exported; or
            the student or its preprocessor is damaged.
        OSError: the folder cannot be written.
    """
    ensure_no_links(search_dir)
    student = find_student(search_dir, trial)
    preprocessor = find_preprocessor(search_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"a student is exported into a new folder, but {out} exists; name another.")
    if not (student / "config.json").exists():
        raise ConfigurationError(
            "a student is exported with its configuration, which its save_pretrained writes, but that of trial "
            f"{trial.number} has none; use best_model() or load_model."
        )
    problems = reload_problems(student) if (student / DESCRIPTION_FILE).exists() else []
    if problems:
        raise ConfigurationError(
            "an exported student must be loaded by from_pretrained as it was measured, but that of trial "
            f"{trial.number} is changed by it: {'; '.join(problems)}. Use best_model() or load_model, which load it "
            "into what model_builder returns, or let model_builder make only models that their configuration describes."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        for folder in (student, preprocessor):
            _copy_files(folder, temporary)


def _copy_files(folder: Path, to: Path) -> None:
    """Copy what transformers reads, without permissions: those of a search directory may be narrow."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name not in (DESCRIPTION_FILE, OWN_WEIGHTS_FILE):
            target = to / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
