"""The tokenizer or image processor in a search directory, with which its students are exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.file_hashes import changed_files, folder_hashes
from autodistill.files import replacing
from autodistill.json_files import read_record, write_record
from autodistill.search.layout import PREPROCESSOR, PREPROCESSOR_HASHES


def keep_preprocessor(search_dir: Path, preprocessor: Any) -> None:
    """Save a tokenizer or image processor in the search directory, unless it is there with its hashes, and undamaged.

    Args:
        search_dir: the search directory.
        preprocessor: with `save_pretrained`.

    Raises:
        OSError: it cannot be written.
    """
    folder = search_dir / PREPROCESSOR
    hashed = (search_dir / PREPROCESSOR_HASHES).exists()  # else a process was killed between the two writes
    if folder.exists() and hashed and not preprocessor_problems(search_dir):
        return
    with replacing(folder) as temporary:
        preprocessor.save_pretrained(temporary)
    write_record(search_dir / PREPROCESSOR_HASHES, {"files": folder_hashes(folder)})


def find_preprocessor(search_dir: Path) -> Path:
    """The folder of the tokenizer or image processor, whose files are those that were saved.

    Raises:
        ConfigurationError: there is none.
        SearchDirectoryError: a file is damaged.
    """
    folder = search_dir / PREPROCESSOR
    if not folder.exists():
        raise ConfigurationError(
            f"a student is exported with its tokenizer or image processor, but {search_dir} has no {PREPROCESSOR}; "
            "resume the search with `autodistill search`, which writes it."
        )
    problems = preprocessor_problems(search_dir)
    if problems:
        raise SearchDirectoryError(
            f"the tokenizer or image processor must be as it was saved, but in {folder} {', '.join(problems)}; resume "
            "the search with `autodistill search`, which writes it again."
        )
    return folder


def preprocessor_problems(search_dir: Path) -> list[str]:
    """What is wrong with the files of the tokenizer or image processor, if there is one.

    Nothing if their hashes are not known, as in directories of earlier versions.
    """
    try:
        hashes = read_record(search_dir / PREPROCESSOR_HASHES)["files"]
        return changed_files(search_dir / PREPROCESSOR, hashes)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{PREPROCESSOR_HASHES} is damaged ({error})"]
