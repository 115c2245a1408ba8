"""Files on file systems of fsspec: one contract on a local disk, in memory, and on a loopback S3 server."""

from __future__ import annotations

import pickle
import time
import uuid

import fsspec
import pytest
from loopback_s3 import loopback_s3

from autodistill import ConfigurationError, StorageError
from autodistill.remote_files import RemoteFiles, files_seen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def s3_options():
    with loopback_s3("bucket") as options:
        yield options


@pytest.fixture(params=["file", "memory", "s3"])
def remote(request, tmp_path):
    name = uuid.uuid4().hex
    if request.param == "s3":
        return RemoteFiles(f"s3://bucket/{name}", request.getfixturevalue("s3_options"))
    return RemoteFiles(f"file://{tmp_path}/remote" if request.param == "file" else f"memory://{name}")


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def write(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_folder_arrives_as_it_was_and_replaces_what_is_there(remote, local, tmp_path):
    write(local, one=b"\x00\xff" * 70_000, deep__er__two=b"")
    remote.check()
    remote.upload(local, "trials/000001/student")
    write(tmp_path / "copy", old=b"old")
    assert remote.download("trials/000001/student", tmp_path / "copy")
    assert read(tmp_path / "copy") == read(local) == {"one": b"\x00\xff" * 70_000, "deep/er/two": b""}


def test_file_is_overwritten_and_listed_once(remote, local, tmp_path):
    for content in (b"first", b"second"):
        write(local, notes=content)
        remote.upload(local / "notes", "folder/notes")
    assert remote.names("folder") == ["notes"]
    assert remote.names("") == ["folder"]
    remote.download("folder", tmp_path / "copy")
    assert read(tmp_path / "copy") == {"notes": b"second"}


def test_nothing_is_no_error(remote, tmp_path):
    remote.check()
    assert remote.names("none") == []
    assert not remote.download("none", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    remote.remove("none")


def test_removed_folder_is_gone_and_others_stay(remote, local):
    write(local, one=b"1", two=b"2")
    remote.upload(local, "a/x")
    remote.upload(local, "a/y")
    remote.remove("a/x")
    assert remote.names("a") == ["y"]
    remote.remove("a/y/one")
    assert remote.names("a/y") == ["two"]


def test_another_process_reads_what_one_has_written(remote, local, tmp_path):
    other = pickle.loads(pickle.dumps(remote))
    assert other == remote
    assert other.names("folder") == []
    write(local, one=b"1")
    remote.upload(local, "folder")
    assert other.names("folder") == ["one"]


@pytest.mark.parametrize("path", ["../outside", "a/../../b", "/etc/passwd"])
def test_path_outside_of_the_folder_is_refused(remote, local, path):
    write(local, one=b"1")
    with pytest.raises(StorageError, match="must be inside of the folder"):
        remote.upload(local, path)


def test_mirror_copies_what_is_new_or_changed_and_leaves_out_the_rest(remote, local, tmp_path):
    write(local, old=b"old", changing=b"before")
    with remote.mirroring(local, "target", seen=files_seen(local), excluded=["activations"], seconds=0.05):
        write(local, new=b"new", changing=b"after", activations__large=b"large")
        write(local, **{f"unfinished.{'0f' * 16}.tmp": b"half"})
        until = time.monotonic() + 20
        while len(remote.names("target")) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert remote.names("target") == ["changing", "new"]  # before the end
        write(local, last=b"last")
    remote.download("target", tmp_path / "copy")
    assert read(tmp_path / "copy") == {"new": b"new", "changing": b"after", "last": b"last"}


def test_mirror_copies_a_last_time_when_the_context_fails_and_its_folder_may_come_later(remote, tmp_path):
    def interrupted():
        with remote.mirroring(tmp_path / "later", "target", seconds=60):
            write(tmp_path / "later", checkpoint=b"step 200")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert remote.names("target") == ["checkpoint"]


def test_failure_of_the_mirror_is_tried_again_and_raised_at_the_end_only(local, monkeypatch, caplog):
    remote = RemoteFiles(f"memory://{uuid.uuid4().hex}")
    failures = [StorageError("no network")] * 2
    upload = remote.upload

    def fail_first(*arguments):
        if failures:
            raise failures.pop()
        upload(*arguments)

    monkeypatch.setattr(remote, "upload", fail_first)
    with remote.mirroring(local, "target", seconds=0.05):
        write(local, one=b"1")
        until = time.monotonic() + 20
        while not remote.names("target") and time.monotonic() < until:
            time.sleep(0.05)
    assert remote.names("target") == ["one"]
    assert len([record for record in caplog.records if "no network; this is tried again" in record.message]) == 1
    write(local, two=b"2")
    failures = [StorageError("still none")]
    with pytest.raises(StorageError, match="still none"), remote.mirroring(local, "target", seconds=60):
        pass


def test_half_written_file_is_never_seen(local, tmp_path, monkeypatch):
    remote = RemoteFiles(f"file://{tmp_path}/remote")
    write(local, one=b"whole")
    remote.upload(local, "folder")
    system, _ = remote._place

    def half(source, target):
        with open(target, "wb") as file:
            file.write(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "put_file", half)
    write(local, one=b"changed", two=b"2")
    with pytest.raises(StorageError, match=r"cannot write folder/one: OSError.*No space left"):
        remote.upload(local, "folder")
    monkeypatch.undo()
    assert remote.names("folder") == ["one"]
    remote.download("folder", tmp_path / "copy")
    assert read(tmp_path / "copy") == {"one": b"whole"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nowhere://bucket/folder", "Protocol not known: nowhere; take a URL of a file system of fsspec"),
        ("file:///proc/none/folder", "check the URL, the credentials and the network"),
    ],
)
def test_storage_that_cannot_be_used_is_a_mistake_in_the_configuration(url, sentence):
    with pytest.raises(ConfigurationError, match=f"storage must be a folder.*{sentence}"):
        RemoteFiles(url).check()


def test_missing_bucket_and_missing_server_are_mistakes_in_the_configuration(s3_options):
    with pytest.raises(ConfigurationError, match=r"s3://none/folder is not: .*check the URL"):
        RemoteFiles("s3://none/folder", s3_options).check()
    gone = s3_options | {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(ConfigurationError, match=r"s3://bucket/folder is not: .*check the URL"):
        RemoteFiles("s3://bucket/folder", gone).check()


def test_missing_library_of_s3_is_named_with_the_extra(monkeypatch):
    def missing(url, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigurationError, match=r'pip install "autodistill-nas\[s3\]"'):
        RemoteFiles("s3://bucket/folder").check()
