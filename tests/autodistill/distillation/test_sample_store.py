"""Rows are returned to the bit, from memory and from disk, whatever happens to the files."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autodistill.distillation import sample_store
from autodistill.distillation.sample_store import Row, SampleStore, problem_in
from autodistill.tensors import identical

LARGE = 2**30
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


def keys(count: int) -> list[bytes]:
    return [key(number) for number in range(count)]


def row(number: int) -> dict[str, torch.Tensor]:
    """Fields of several types, two of them of a length that depends on the row."""
    generator = torch.Generator().manual_seed(number)
    return {
        "indices": torch.randint(1000, (number % 4, 2), generator=generator, dtype=torch.int32),
        "rest": torch.tensor(float(number)),
        "values": torch.randn(number % 4, 2, 3, generator=generator).bfloat16(),
    }


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    return [row(number) for number in range(count)]


def stored(directory: Path, count: int = 6) -> Path:
    """A directory with one segment; the path of the segment."""
    store = SampleStore(directory, memory_bytes=LARGE)
    store.put(keys(count), rows(count))
    store.flush()
    (path,) = directory.iterdir()
    return path


def found(store: SampleStore, count: int = 6) -> list[int]:
    """The numbers of the rows that a store returns; all of them must be right."""
    numbers = []
    for number, received in enumerate(store.get(keys(count))):
        if received is not None:
            assert identical(dict(received), row(number))
            numbers.append(number)
    return numbers


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Returns the warnings since its last call."""

    def take() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return messages

    yield take
    assert take() == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sample_store, "write_tensors", write)


MEMORY = pytest.mark.parametrize("memory_bytes", [0, 100, LARGE])


# --- rows come back ---------------------------------------------------------------------------------------------------


@MEMORY
def test_rows_come_back_from_disk(tmp_path: Path, memory_bytes: int) -> None:
    stored(tmp_path)
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    for _ in range(3):
        assert found(store, 8) == [0, 1, 2, 3, 4, 5]


@MEMORY
@pytest.mark.parametrize("write_through", [False, True])
def test_rows_come_back_before_and_after_they_are_written(
    tmp_path: Path, memory_bytes: int, write_through: bool
) -> None:
    store = SampleStore(tmp_path / "new", memory_bytes=memory_bytes, write_through=write_through)
    assert found(store) == []
    store.put(keys(3), rows(3))
    assert (tmp_path / "new").exists() == write_through
    assert found(store) == [0, 1, 2]
    store.flush()
    assert found(store) == [0, 1, 2]
    store.put(keys(6), rows(6))
    store.flush()
    assert found(store) == [0, 1, 2, 3, 4, 5]
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize("memory_bytes", [0, LARGE])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype, memory_bytes: int) -> None:
    special = torch.tensor([float("nan"), -0.0, float("inf"), -float("inf"), 1e-40, 1.5])
    values = special.to(dtype) if dtype.is_floating_point else torch.tensor([0, 1, 1, 0, 1, 1]).to(dtype)
    shapes = [(6,), (0,), (3,)]
    given = [{"x": values[: shape[0]], "scalar": values[4], "empty": values[:0].view(0, 3)} for shape in shapes]
    SampleStore(tmp_path, memory_bytes=0, write_through=True).put(keys(3), given)
    received = SampleStore(tmp_path, memory_bytes=memory_bytes).get(keys(3))
    for one, other in zip(received, given, strict=True):
        assert one is not None
        assert list(one) == ["empty", "scalar", "x"]
        assert all(identical(one[name], other[name]) for name in other)


def test_nan_keeps_its_payload(tmp_path: Path) -> None:
    given = torch.tensor([0x7FC01234, -0x3FFFF0], dtype=torch.int32).view(torch.float32)
    SampleStore(tmp_path, memory_bytes=0, write_through=True).put([key(0)], [{"x": given}])
    (received,) = SampleStore(tmp_path, memory_bytes=0).get([key(0)])
    assert received is not None
    assert received["x"].view(torch.int32).tolist() == [0x7FC01234, -0x3FFFF0]


def test_store_whose_rows_are_all_empty_comes_back(tmp_path: Path) -> None:
    given = [{"x": torch.empty(0, 4)}, {"x": torch.empty(5, 0)}]
    SampleStore(tmp_path, memory_bytes=0, write_through=True).put(keys(2), given)
    for memory_bytes in (0, LARGE):
        received = SampleStore(tmp_path, memory_bytes=memory_bytes).get(keys(2))
        assert [dict(one or {})["x"].shape for one in received] == [(0, 4), (5, 0)]


def test_rows_are_copies_without_gradients() -> None:
    batch = torch.ones(2, 3, requires_grad=True)
    store = SampleStore(None, memory_bytes=LARGE)
    store.put(keys(2), [{"x": part} for part in (batch * 2).unbind()])
    values = torch.zeros(4, 4).t()[:, 1]
    store.put([key(2)], [{"x": values}])
    values += 1
    received = store.get(keys(3))
    assert [dict(one or {})["x"].tolist() for one in received] == [[2, 2, 2], [2, 2, 2], [0, 0, 0, 0]]
    assert not any(dict(one or {})["x"].requires_grad for one in received)


def test_repeated_keys_are_returned_in_order(tmp_path: Path) -> None:
    stored(tmp_path)
    for memory_bytes in (0, LARGE):
        received = SampleStore(tmp_path, memory_bytes=memory_bytes).get([key(n) for n in (3, 9, 1, 3)])
        assert [None if one is None else one["rest"].item() for one in received] == [3, None, 1, 3]


@pytest.mark.parametrize("directory", [False, True])
def test_first_row_of_a_key_is_kept(tmp_path: Path, directory: bool) -> None:
    def value(number: float) -> Row:
        return {"x": torch.tensor(number)}

    def put_and_read(store: SampleStore) -> list[float]:
        store.put([key(0), key(1), key(0)], [value(1), value(2), value(3)])
        store.put([key(1), key(2)], [value(4), value(5)])
        store.flush()
        store.put([key(2)], [value(6)])
        return [one["x"].item() for one in store.get(keys(3)) if one is not None]

    assert put_and_read(SampleStore(tmp_path if directory else None, memory_bytes=LARGE)) == [1, 2, 5]
    if directory:  # also before the first `get`
        again = SampleStore(tmp_path, memory_bytes=0)
        again.put(keys(3), [value(7)] * 3)
        assert [one["x"].item() for one in again.get(keys(3)) if one is not None] == [1, 2, 5]
        again.flush()
        assert len(list(tmp_path.iterdir())) == 1


def test_random_calls_match_a_dictionary(tmp_path: Path) -> None:
    chooser = random.Random(0)
    for trial in range(12):
        directory = tmp_path / str(trial)
        memory_bytes = chooser.choice([0, 300, 3000, LARGE])
        expected: set[int] = set()
        store = SampleStore(directory, memory_bytes=memory_bytes, write_through=chooser.random() < 0.3)
        for _ in range(20):
            numbers = [chooser.randrange(40) for _ in range(chooser.randrange(6))]
            action = chooser.choice(["put", "put", "get", "get", "flush", "reopen"])
            if action == "put":
                store.put([key(number) for number in numbers], [row(number) for number in numbers])
                expected |= set(numbers)
            elif action == "get":
                received = store.get([key(number) for number in numbers])
                assert [one is not None for one in received] == [number in expected for number in numbers]
            else:
                store.flush()
            if action == "reopen":
                store = SampleStore(directory, memory_bytes=memory_bytes)
        assert found(store, 40) == sorted(expected)


def size_on_disk(store: SampleStore) -> int:
    """The size of the segments in a store's directory, in bytes."""
    return (
        0 if store._directory is None else sum(path.stat().st_size for path in store._directory.glob("*.safetensors"))
    )


# --- memory -----------------------------------------------------------------------------------------------------------


def test_without_directory_rows_are_kept_while_they_fit() -> None:
    store = SampleStore(None, memory_bytes=100)
    store.put(keys(3), [{"x": torch.ones(size)} for size in (20, 10, 5)])  # 80, 40 and 20 bytes
    store.put([key(3)], [{"x": torch.ones(1)}])
    store.flush()
    assert [one is not None for one in store.get(keys(4))] == [True, False, True, False]
    assert size_on_disk(store) == 0


@pytest.mark.parametrize(("memory_bytes", "expected"), [(0, []), (90, [1, 3]), (LARGE, [0, 1, 2, 3, 4])])
def test_rows_that_were_read_stay_in_memory_while_they_fit(
    tmp_path: Path, memory_bytes: int, expected: list[int]
) -> None:
    SampleStore(tmp_path, memory_bytes=0, write_through=True).put(keys(5), [{"x": torch.ones(10)}] * 5)  # of 40 bytes
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    for numbers in ([1], [3, 0], [2]):
        assert None not in store.get([key(number) for number in numbers])
    next(tmp_path.iterdir()).unlink()
    assert [number for number, one in enumerate(store.get(keys(5))) if one is not None] == expected


def test_segments_are_read_whole_while_they_fit(tmp_path: Path) -> None:
    writer = SampleStore(tmp_path, memory_bytes=0, write_through=True)
    for start in (0, 5):
        writer.put([key(start + number) for number in range(5)], [{"x": torch.ones(10)}] * 5)
    sizes = {path.stat().st_size for path in tmp_path.iterdir()}
    store = SampleStore(tmp_path, memory_bytes=sum(sizes))  # both have the same size
    for number in (0, 5):
        assert None not in store.get([key(number)])
    for path in tmp_path.iterdir():
        path.unlink()
    assert [one is not None for one in store.get(keys(10))] == [True] * 5 + [False] * 5


@pytest.mark.parametrize(("memory_bytes", "expected"), [(0, []), (90, [0, 1]), (LARGE, [0, 1, 2, 3, 4])])
def test_rows_that_were_put_stay_in_memory_while_they_fit(
    tmp_path: Path, memory_bytes: int, expected: list[int]
) -> None:
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    for number in range(5):
        store.put([key(number)], [{"x": torch.ones(10)}])  # of 40 bytes
    store.flush()
    next(tmp_path.iterdir()).unlink()
    assert [number for number, one in enumerate(store.get(keys(5))) if one is not None] == expected


def test_pending_rows_are_written_beyond_sixteen_mebibytes(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, memory_bytes=0)
    large = {"x": torch.zeros(9 * 2**20, dtype=torch.uint8)}
    store.put([key(0)], [large])
    assert size_on_disk(store) == 0
    store.put([key(1)], [large])
    assert 18 * 2**20 < size_on_disk(store) < 18 * 2**20 + 1000
    assert [one is not None for one in SampleStore(tmp_path, memory_bytes=0).get(keys(2))] == [True, True]


# --- several processes ------------------------------------------------------------------------------------------------


@MEMORY
def test_rows_that_another_store_flushes_later_are_found(tmp_path: Path, memory_bytes: int) -> None:
    first, second = (SampleStore(tmp_path, memory_bytes=memory_bytes) for _ in range(2))
    assert found(second) == []
    for count in (2, 4):
        first.put(keys(count), rows(count))
        assert found(second) == list(range(count - 2))
        first.flush()
        assert found(second) == list(range(count))


def test_stores_that_write_in_turns_lose_nothing(tmp_path: Path) -> None:
    stores = [SampleStore(tmp_path, memory_bytes=0, write_through=through) for through in (True, False, True)]
    for number in range(30):
        stores[number % 3].put([key(number), key(number // 2)], [row(number), row(number // 2)])
    for store in stores:
        store.flush()
    assert found(SampleStore(tmp_path, memory_bytes=0), 30) == list(range(30))
    assert all(found(store, 30) == list(range(30)) for store in stores)


def test_stores_that_write_the_same_rows_write_the_same_file(tmp_path: Path) -> None:
    assert stored(tmp_path / "one").read_bytes() == stored(tmp_path / "other").read_bytes()
    assert stored(tmp_path / "one").name == stored(tmp_path / "other").name


PROGRAM = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_sample_store import SampleStore, keys, rows
store = SampleStore(Path({directory!r}), memory_bytes=0)
store.put(keys(3), rows(3))
store.flush()
store.put(keys(6), rows(6))
os._exit(7)
"""


def test_killed_process_loses_only_rows_that_were_not_flushed(tmp_path: Path) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent), directory=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=False)
    assert process.returncode == 7
    assert found(SampleStore(tmp_path, memory_bytes=0)) == [0, 1, 2]


def test_leftover_temporary_files_are_ignored(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    path = stored(tmp_path)
    leftover = tmp_path / f"{path.name}.0123.tmp"
    leftover.write_bytes(path.read_bytes()[:50])
    size = path.stat().st_size
    store = SampleStore(tmp_path, memory_bytes=0)
    assert found(store) == [0, 1, 2, 3, 4, 5]
    assert size_on_disk(store) == size
    assert leftover.exists()
    assert warnings() == []


def test_flush_syncs_every_segment_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), sync(descriptor)))
    store = SampleStore(tmp_path, memory_bytes=0, write_through=True)
    store.put(keys(1), rows(1))
    store.put(keys(2), rows(2))
    assert synced == []
    store.flush()
    assert sorted(synced) == sorted(path.stat().st_ino for path in [*tmp_path.iterdir(), tmp_path])
    store.flush()
    assert len(synced) == 3


# --- damage -----------------------------------------------------------------------------------------------------------

Tensors = dict[str, torch.Tensor]


def with_tensors(change: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        save_file(dict(change(load_file(path))), path)

    return damage


def with_shape(row_number: int, sizes: list[int]) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> Tensors:
        tensors["shapes.values"][row_number] = torch.tensor(sizes)
        return tensors

    return with_tensors(change)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "no tensors": with_tensors(lambda tensors: {}),
    "other tensors": with_tensors(lambda tensors: {"feature": torch.ones(3)}),
    "further tensor": with_tensors(lambda tensors: tensors | {"feature": torch.ones(3)}),
    "no field": with_tensors(lambda tensors: {name: tensors[name] for name in ("keys", "checksums")}),
    "no shapes": with_tensors(lambda tensors: {name: tensors[name] for name in tensors if name != "shapes.rest"}),
    "no checksums": with_tensors(lambda tensors: {name: tensors[name] for name in tensors if name != "checksums"}),
    "fewer keys": with_tensors(lambda tensors: tensors | {"keys": tensors["keys"][:-1].clone()}),
    "short keys": with_tensors(lambda tensors: tensors | {"keys": tensors["keys"][:, :-1].clone()}),
    "flat keys": with_tensors(lambda tensors: tensors | {"keys": tensors["keys"].reshape(-1)}),
    "a scalar for keys": with_tensors(lambda tensors: tensors | {"keys": torch.tensor(0, dtype=torch.uint8)}),
    "keys of another type": with_tensors(lambda tensors: tensors | {"keys": tensors["keys"].int()}),
    "fewer checksums": with_tensors(lambda tensors: tensors | {"checksums": tensors["checksums"][1:].clone()}),
    "fewer shapes": with_tensors(lambda tensors: tensors | {"shapes.rest": tensors["shapes.rest"][1:].clone()}),
    "shapes of another type": with_tensors(lambda tensors: tensors | {"shapes.values": tensors["shapes.values"].int()}),
    "matrix of values": with_tensors(lambda tensors: tensors | {"values.values": tensors["values.values"][:, None]}),
    "fewer values": with_tensors(lambda tensors: tensors | {"values.values": tensors["values.values"][:-1].clone()}),
    "larger shape": with_shape(1, [2, 2, 3]),
    "smaller shape": with_shape(1, [0, 2, 3]),
    "negative shape": with_shape(1, [-1, -2, 3]),
    "huge shape": with_shape(1, [2**62, 2**62, 2**62]),
    "shape whose product overflows to the right number": with_shape(1, [2**32, 2**32, 6]),
    "huge empty shape": with_shape(0, [0, 2**62, 2**62]),
}


@pytest.mark.parametrize("memory_bytes", [0, LARGE])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_segment_is_deleted_with_a_warning_and_written_again(
    tmp_path: Path, damage: str, memory_bytes: int, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)
    assert problem_in(path) is None
    DAMAGE[damage](path)
    assert problem_in(path) is not None
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    assert found(store) == []
    assert len(messages := warnings()) == 1
    assert f"the segment {path} of teacher outputs is damaged (" in messages[0]
    assert "its rows are recomputed" in messages[0]
    assert not path.exists()
    assert found(store) == []
    store.put(keys(6), rows(6))
    store.flush()
    assert found(store) == found(SampleStore(tmp_path, memory_bytes=memory_bytes)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", DAMAGE)
def test_segment_that_is_damaged_while_it_is_used_is_missing(
    tmp_path: Path, damage: str, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)
    for warm in (False, True):
        store = SampleStore(tmp_path, memory_bytes=0)
        assert store.get([key(9)]) == [None]
        if warm:
            assert found(store) == [0, 1, 2, 3, 4, 5]
        content = path.read_bytes()
        # A new file, since a file that is in use may be mapped into memory.
        path.rename(tmp_path / "old")
        path.write_bytes(content)
        DAMAGE[damage](path)
        # What has been read of the old file may still be valid for rows of the new one.
        assert found(store) in ([], [0, 1, 2, 3, 4, 5])
        assert len(warnings()) <= 1
        path.write_bytes(content)


@pytest.mark.parametrize("memory_bytes", [0, LARGE])
@pytest.mark.parametrize("field", ["values.values", "values.rest", "shapes.values", "checksums", "keys"])
def test_damaged_row_is_missing_with_a_warning_and_can_be_put_again(
    tmp_path: Path, field: str, memory_bytes: int, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)
    tensors = load_file(path)
    if field == "shapes.values":
        tensors[field][3] = torch.tensor([3, 3, 2])
    else:
        data = tensors[field].view(torch.uint8).view(-1)
        data[data.numel() * 3 // 6 + (1 if field != "values.values" else 0)] ^= 1
    save_file(tensors, path)
    assert problem_in(path) == "1 of 6 rows have other checksums"
    os.utime(path, ns=(0, 0))
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    (missing,) = set(range(6)) - set(found(store))
    assert missing == 3
    if field != "keys":
        assert warnings() == [f"rows of the segment {path} of teacher outputs are damaged; they are recomputed"]
    assert found(store) == [0, 1, 2, 4, 5]
    store.put([key(3)], [row(3)])
    store.flush()
    assert path.exists()
    assert len(list(tmp_path.iterdir())) == 2
    assert found(store) == found(SampleStore(tmp_path, memory_bytes=memory_bytes)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("memory_bytes", [0, LARGE])
def test_row_under_the_key_of_another_is_missing(
    tmp_path: Path, memory_bytes: int, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)
    tensors = load_file(path)
    tensors["keys"][[1, 2]] = tensors["keys"][[2, 1]]
    save_file(tensors, path)
    assert found(SampleStore(tmp_path, memory_bytes=memory_bytes)) == [0, 3, 4, 5]
    assert len(warnings()) == 1


def test_row_is_checked_whenever_it_is_read_from_disk(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    path = stored(tmp_path)
    store = SampleStore(tmp_path, memory_bytes=0)
    assert found(store) == [0, 1, 2, 3, 4, 5]
    tensors = load_file(path)
    tensors["values.rest"][4] = 5
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "new")
    (tmp_path / "new").rename(path)
    assert found(store) == [0, 1, 2, 3, 5]
    assert len(warnings()) == 1


@MEMORY
def test_damaged_rows_of_a_segment_cause_one_warning(
    tmp_path: Path, memory_bytes: int, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)
    tensors = load_file(path)
    tensors["checksums"][[1, 2]] ^= 1
    save_file(tensors, path)
    store = SampleStore(tmp_path, memory_bytes=memory_bytes)
    for number in (1, 2, 1):
        assert store.get([key(number)]) == [None]
    assert len(warnings()) == 1


@pytest.mark.parametrize("memory_bytes", [0, LARGE])
def test_every_flipped_bit_of_a_row_is_noticed(tmp_path: Path, memory_bytes: int) -> None:
    path = stored(tmp_path, 2)
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    logging.disable()
    try:
        for position in range(start, len(good)):
            data = bytearray(good)
            data[position] ^= 1 << position % 8
            path.write_bytes(data)
            assert found(SampleStore(tmp_path, memory_bytes=memory_bytes), 2) in ([], [0], [1])
    finally:
        logging.disable(logging.NOTSET)


def test_segment_that_cannot_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    store = SampleStore(tmp_path, memory_bytes=0)
    with monkeypatch.context() as patch:
        patch.setattr(sample_store, "safe_open", refuse)
        assert found(store) == found(store) == []
    assert len(warnings()) == 1
    assert path.exists()
    assert found(SampleStore(tmp_path, memory_bytes=0)) == [0, 1, 2, 3, 4, 5]


def test_segment_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        problem_in(tmp_path / "missing.safetensors")


def test_folder_with_the_name_of_a_segment_is_missing(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    store = SampleStore(tmp_path, memory_bytes=0)
    assert found(store) == found(store) == []
    assert len(warnings()) == 1


@MEMORY
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: (path.unlink(), path.parent.rmdir())])
def test_deleted_rows_are_missing_and_can_be_put_again(
    tmp_path: Path, memory_bytes: int, damage: Callable[[Path], object], warnings: Callable[[], list[str]]
) -> None:
    path = stored(tmp_path / "store")
    store = SampleStore(tmp_path / "store", memory_bytes=memory_bytes)
    assert found(store) == [0, 1, 2, 3, 4, 5]
    damage(path)
    kept = found(store)
    assert kept == [0, 1, 2, 3, 4, 5] if memory_bytes == LARGE else len(kept) < 6
    store.put(keys(6), rows(6))
    store.flush()
    assert found(store) == [0, 1, 2, 3, 4, 5]
    assert warnings() == []


def test_segment_that_is_deleted_before_it_is_synced_is_missing(
    tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    store = SampleStore(tmp_path, memory_bytes=0, write_through=True)
    store.put(keys(6), rows(6))
    next(tmp_path.iterdir()).unlink()
    store.flush()
    assert found(store) == []
    assert warnings() == []


def test_segment_that_was_deleted_and_written_again_is_found(tmp_path: Path) -> None:
    path = stored(tmp_path)
    store = SampleStore(tmp_path, memory_bytes=0)
    assert found(store) == [0, 1, 2, 3, 4, 5]
    path.unlink()
    assert found(store) == []
    stored(tmp_path)
    assert found(store) == [0, 1, 2, 3, 4, 5]


# --- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("write_through", [False, True])
def test_rows_stay_in_memory_if_the_disk_is_full(
    tmp_path: Path, write_through: bool, warnings: Callable[[], list[str]]
) -> None:
    store = SampleStore(tmp_path, memory_bytes=30, write_through=write_through)
    for number in range(6):  # of 4, 24, 44, 64, 4 and 24 bytes
        store.put([key(number)], [row(number)])
    store.flush()
    assert found(store) == [0, 1]
    (message,) = warnings()
    assert f"the teacher's outputs cannot be written to {tmp_path} ([Errno 28] No space left on device)" in message
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_no_longer_full_is_written_again(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    store = SampleStore(tmp_path / "file" / "store", memory_bytes=0)
    (tmp_path / "file").touch()
    store.put(keys(6), rows(6))
    store.flush()
    assert len(warnings()) == 1
    assert found(store) == []
    (tmp_path / "file").unlink()
    store.put(keys(6), rows(6))
    store.flush()
    assert found(store) == [0, 1, 2, 3, 4, 5]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_read_only_directory_is_read(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    stored(tmp_path)
    tmp_path.chmod(0o500)
    try:
        store = SampleStore(tmp_path, memory_bytes=0)
        store.put(keys(8), rows(8))
        store.flush()
        assert found(store, 8) == [0, 1, 2, 3, 4, 5]
        assert len(warnings()) == 1
    finally:
        tmp_path.chmod(0o700)


def test_flush_without_rows_writes_nothing(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "store", memory_bytes=0)
    store.put([], [])
    store.flush()
    assert size_on_disk(store) == 0
    assert not (tmp_path / "store").exists()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a key must have 16 bytes, but b'short' has 5; use a hash"):
        SampleStore(None, memory_bytes=LARGE).put([b"short"], rows(1))


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"y": torch.ones(2)},
        {"x": torch.ones(2), "y": torch.ones(2)},
        {"x": torch.ones(2, 1)},
        {"x": torch.ones(2, dtype=torch.float64)},
    ],
    ids=["no field", "another name", "further field", "further axis", "another type"],
)
def test_rows_of_another_form_are_refused(other: Row) -> None:
    store = SampleStore(None, memory_bytes=LARGE)
    store.put([key(0)], [{"x": torch.ones(2)}])
    with pytest.raises(ValueError, match="the rows of a store must have the same fields, types and numbers of axes"):
        store.put([key(1), key(2)], [{"x": torch.ones(2)}, other])
    assert [one is not None for one in store.get(keys(3))] == [True, False, False]


def test_unequal_numbers_of_keys_and_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        SampleStore(None, memory_bytes=LARGE).put(keys(2), rows(1))


def test_rows_are_counted_with_those_of_other_processes(tmp_path: Path) -> None:
    store, other = (SampleStore(tmp_path, memory_bytes=LARGE) for _ in range(2))
    store.put(keys(3), rows(3))
    assert (store.count(), other.count()) == (3, 0)
    store.flush()
    other.put(keys(5)[2:], rows(5)[2:])
    assert other.count() == 5
    assert SampleStore(None, memory_bytes=LARGE).count() == 0
