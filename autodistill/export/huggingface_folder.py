"""Exports a trained student and its preprocessor to a folder that transformers loads without AutoDistillation."""

from __future__ import annotations

import shutil
from pathlib import Path

from autodistill.errors import ConfigurationError
from autodistill.files import replacing
from autodistill.search.layout import PREPROCESSOR, student_directory
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, ensure_has_student


def export_folder(search_dir: Path, trial: Trial, out: Path) -> None:
    """Write a trained student, its configuration and its tokenizer or image processor into a new folder.

    `AutoModel.from_pretrained(out)`, or the class of the task, loads it. For a sentence encoder this is the model with
    its own width; `SentenceTransformer(out)` adds `1_Pooling` and `2_Dense`, and returns the embeddings.

    Args:
        search_dir: the search directory.
        trial: the trial of the student.
        out: the folder, which must be new or empty.

    Raises:
        ConfigurationError: the student or its preprocessor does not exist, or the folder is not empty.
        SearchDirectoryError: the directory holds no search.
    """
    student = student_directory(search_dir, trial.number)
    ensure_has_student(trial)
    if not student.exists():
        kept = [
            other.number
            for other in SearchResult.load(search_dir)
            if student_directory(search_dir, other.number).exists()
        ]
        raise ConfigurationError(
            f"only students of the Pareto front are kept, but that of trial {trial.number} is not among them; "
            f"there are {', '.join(map(str, kept)) or 'none'}."
        )
    if not (search_dir / PREPROCESSOR).exists():
        raise ConfigurationError(
            f"a student is exported with its tokenizer or image processor, but {search_dir} has no {PREPROCESSOR}; "
            "resume the search with `autodistill search`, which writes it."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"a student is exported into a new folder, but {out} exists; name another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        shutil.copytree(student, temporary)
        shutil.copytree(search_dir / PREPROCESSOR, temporary, dirs_exist_ok=True)
