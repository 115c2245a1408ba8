"""The tokenizer of a search directory: saved once, verified when it is exported, and saved again if it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.export.preprocessor import find_preprocessor, keep_preprocessor


class Tokenizer:
    """Has a vocabulary, and counts how often it is saved."""

    saved = 0

    def save_pretrained(self, folder: Path) -> None:
        self.saved += 1
        folder.mkdir()
        (folder / "vocabulary").write_text("a b c", encoding="utf-8")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    tokenizer = Tokenizer()
    keep_preprocessor(tmp_path, tokenizer)
    return tokenizer


def test_it_is_saved_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    keep_preprocessor(tmp_path, tokenizer)
    assert tokenizer.saved == 1
    assert (find_preprocessor(tmp_path) / "vocabulary").read_text(encoding="utf-8") == "a b c"


@pytest.mark.parametrize("file", ["preprocessor/vocabulary", "preprocessor.json"])
@pytest.mark.parametrize("content", ["a b d", "", "{}", None])
def test_damage_is_refused_and_repaired_by_the_next_save(
    tmp_path: Path, tokenizer: Tokenizer, file: str, content: str | None
) -> None:
    if content is None:
        (tmp_path / "preprocessor/vocabulary").unlink()
    else:
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(SearchDirectoryError, match=r"as it was saved, but in .*preprocessor.*; resume the search"):
        find_preprocessor(tmp_path)
    keep_preprocessor(tmp_path, tokenizer)
    assert (find_preprocessor(tmp_path) / "vocabulary").read_text(encoding="utf-8") == "a b c"


def test_one_without_hashes_can_be_exported_and_is_saved_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "preprocessor.json").unlink()  # an earlier version, or a process that was killed meanwhile
    assert find_preprocessor(tmp_path) == tmp_path / "preprocessor"
    keep_preprocessor(tmp_path, tokenizer)
    assert tokenizer.saved == 2
    assert (tmp_path / "preprocessor.json").exists()


def test_missing_one_is_refused_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no preprocessor; resume the search with `autodistill search`"):
        find_preprocessor(tmp_path)
