"""Facts: found once, by all that they depend on; found again if a file is damaged; kept in memory if none can be."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from autodistill.distillation.facts import Facts, problem_in

FACT = {"axes": [["inputs", 0, 1], None], "eager": True}


class Finder:
    """Returns a fact, and counts how often it is asked."""

    def __init__(self, fact: object = FACT) -> None:
        self.fact = fact
        self.calls = 0

    def __call__(self) -> object:
        self.calls += 1
        return self.fact


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_fact_is_found_once_for_all_that_it_depends_on(tmp_path: Path, on_disk: bool) -> None:
    facts, find = Facts(tmp_path / "facts" if on_disk else None), Finder()
    assert [facts.get(("axes", name), find) for name in ("a", "b", "a", "b")] == [FACT] * 4
    assert find.calls == 2


def test_another_process_finds_it_in_the_directory(tmp_path: Path) -> None:
    find = Finder(("tuples", ("are", "lists")))
    assert [Facts(tmp_path).get(("fact",), find) for _ in range(2)] == [["tuples", ["are", "lists"]]] * 2
    assert find.calls == 1


def test_no_answer_is_a_fact_too(tmp_path: Path) -> None:
    find = Finder(None)
    assert [Facts(tmp_path).get(("problem",), find) for _ in range(2)] == [None, None]
    assert find.calls == 1


def test_what_has_no_hash_is_kept_in_memory_alone(tmp_path: Path) -> None:
    facts, find = Facts(tmp_path), Finder()
    for _ in range(2):
        facts.get(("fact",), find, on_disk=False)
    assert find.calls == 1
    assert not list(tmp_path.iterdir())


def changed(text: str) -> str:
    content = json.loads(text)
    content["fact"]["eager"] = False
    return json.dumps(content)


@pytest.mark.parametrize("damage", [lambda text: text[:20], lambda text: "[]", lambda text: "{}", changed])
def test_a_damaged_fact_is_found_again_with_a_warning(tmp_path: Path, caplog, damage) -> None:
    find = Finder()
    Facts(tmp_path).get(("fact",), find)
    (path,) = tmp_path.iterdir()
    assert problem_in(path) is None
    path.write_text(damage(path.read_text()))
    assert problem_in(path) is not None
    with caplog.at_level(logging.WARNING):
        assert Facts(tmp_path).get(("fact",), find) == FACT
    assert f"{path} is damaged; it is found again" in caplog.text
    assert Facts(tmp_path).get(("fact",), find) == FACT
    assert find.calls == 2


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        problem_in(tmp_path / "fact.json")


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").touch()
    facts, find = Facts(tmp_path / "file" / "facts"), Finder()
    with caplog.at_level(logging.WARNING):
        assert [facts.get(("fact",), find) for _ in range(2)] == [FACT] * 2
    assert find.calls == 1
    assert "facts about the teacher are not kept" in caplog.text
