"""JSON files are read as they were written, or refused: what is no JSON, too deep, too large, or changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from damage import each_with_one_bit_changed

from autodistill.json_files import decode_json, read_json, read_record, write_json, write_record

RECORD = {"accuracy": 0.1 + 0.2, "text": "é\n\ud800", "nested": [{"a": (1, None, True)}], "large": 10**300}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "target"


def test_json_that_cannot_be_written_leaves_the_old(path: Path) -> None:
    write_json(path, {"losses": [0.5]})
    with pytest.raises(ValueError, match=r"losses\[0\] is nan"):
        write_json(path, {"losses": [float("nan")]})
    assert read_json(path) == {"losses": [0.5]}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 100_000 + "]" * 100_000]
)
def test_json_of_many_levels_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        decode_json(text)


def test_json_of_a_hundred_levels_is_read() -> None:
    assert json.dumps(decode_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100


@pytest.mark.parametrize("text", ["1e999", "[-1e400]"])
def test_number_beyond_the_largest_float_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="beyond the largest float"):
        decode_json(text)


def test_record_is_read_as_json_returns_it_and_its_hash_is_that_of_its_text(path: Path) -> None:
    write_record(path, RECORD)
    assert read_record(path) == RECORD | {"nested": [{"a": [1, None, True]}]}
    written = json.loads(path.read_text())
    hashed = written.pop("hash")
    text = json.dumps(written, indent=2) + "\n"
    assert hashed == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_record_with_one_changed_bit_is_refused_or_as_it_was(path: Path) -> None:
    write_record(path, RECORD)
    content, expected = path.read_bytes(), read_record(path)
    for changed in each_with_one_bit_changed(content, range(7)):
        path.write_bytes(changed)
        try:
            found = read_record(path)
        except ValueError:
            continue
        # White space, or the name of the hash itself.
        assert {name: value for name, value in found.items() if name in expected} == expected


def test_record_without_a_hash_is_read_as_it_is(path: Path) -> None:
    for value in ({"accuracy": 0.5}, [1], 3):
        write_json(path, value)
        assert read_record(path) == value


def test_file_that_is_no_record_by_its_size_is_refused_before_it_is_read(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(ValueError, match="it has 1,099,511,627,776 bytes, and a record at most 268,435,456"):
        read_json(path)
