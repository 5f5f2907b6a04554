"""Patches at unpacking: files must have the lock's hashes before and after."""

import hashlib
import subprocess

import pytest
from cllm import CllmError, fetch, patches
from cllm.lock import locks
from test_host_fetch import make_lock, put_in_cache, tarball

BEFORE = b"one\ntwo\nthree\nfour\nfive\n"
AFTER = b"one\n2\nthree\nfour\nfive\nsix\n"
PATCH = """\
Words that explain it.

--- a/py/list.c
+++ b/py/list.c
@@ -1,3 +1,3 @@
 one
-two
+2
 three
@@ -5 +5,2 @@
 five
+six
"""
CONTENT = tarball({"thing-1/py/list.c": BEFORE, "thing-1/other": b"x"})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_patched(folder, patch=PATCH, patched=None, content=CONTENT):
    (folder / "patches").mkdir(parents=True, exist_ok=True)
    (folder / "patches" / "0001-list.patch").write_text(patch)
    if patched is None:
        patched = {"py/list.c": [sha256(BEFORE), sha256(AFTER)]}
    lock = make_lock(folder, content, patches=["0001-list.patch"], patched=patched)
    put_in_cache(lock, content)
    return lock


def test_patches_are_applied_when_it_is_unpacked(home):
    tree = fetch.ensure(make_patched(home / "thing"))
    assert (tree / "py" / "list.c").read_bytes() == AFTER


def test_a_tree_without_the_patches_is_unpacked_anew(home):
    lock = make_lock(home / "thing", CONTENT)
    put_in_cache(lock, CONTENT)
    tree = fetch.ensure(lock)
    assert (tree / "py" / "list.c").read_bytes() == BEFORE
    lock = make_patched(home / "thing")
    assert (fetch.ensure(lock) / "py" / "list.c").read_bytes() == AFTER
    (tree / "mark").write_text("")
    assert (fetch.ensure(lock) / "mark").exists(), "once is enough"


def test_files_are_newer_than_what_was_built_before(home):
    built = home / "built"
    built.write_text("")
    tree = fetch.ensure(make_patched(home / "thing"))
    for path in ("py/list.c", "other"):
        assert (tree / path).stat().st_mtime >= built.stat().st_mtime


@pytest.mark.parametrize(
    "patch, patched, words",
    [
        (PATCH, {"py/list.c": [sha256(AFTER), sha256(AFTER)]}, "before its patches"),
        (PATCH, {"py/list.c": [sha256(BEFORE), sha256(BEFORE)]}, "after its patches"),
        (PATCH, {}, "py/list.c is not in"),
        (PATCH, {"py/none.c": ["0", "0"]}, "py/none.c: No such file"),
        (
            PATCH.replace(" three", " tree"),
            None,
            "0001-list.patch: py/list.c does not fit at line 1",
        ),
        (PATCH.replace("+++ b/py/list.c", "+++ /dev/null"), None, "can only change files"),
        (PATCH.replace("-1,3", "-1,9"), None, "is cut off"),
    ],
)
def test_what_is_not_as_listed_stops(home, patch, patched, words):
    lock = make_patched(home / "thing", patch, patched)
    with pytest.raises(CllmError, match=words):
        fetch.ensure(lock)
    assert not lock.unpacked.exists() and not lock.stamp.exists()


@pytest.mark.parametrize(
    "content, words",
    [(BEFORE, "lacks the patches.*patch -p1"), (AFTER, None), (b"else\n", "is not thing 1 with")],
)
def test_a_checkout_is_used_as_it_is_with_a_word(home, monkeypatch, capsys, content, words):
    lock = make_patched(home / "thing")
    checkout = home / "checkout"
    (checkout / "py").mkdir(parents=True)
    (checkout / "py" / "list.c").write_bytes(content)
    monkeypatch.setenv("THING_SRC", str(checkout))
    assert fetch.ensure(lock) == checkout
    assert (checkout / "py" / "list.c").read_bytes() == content
    said = capsys.readouterr().err
    assert patches.re.search(words, said) if words else not said


def test_the_committed_patches_are_listed_and_name_their_reports():
    lock = locks()["micropython"]
    folder = lock.folder / "patches"
    assert sorted(path.name for path in folder.glob("*.patch")) == sorted(lock.patches)
    changed = set()
    for name in lock.patches:
        text = (folder / name).read_text()
        assert "\nUpstream: " in text.partition("\n--- a/")[0], name
        changed |= set(patches.parse(text, name))
    assert changed == set(lock.patched)


def test_the_command_for_a_checkout_does_the_same(home):
    lock = make_patched(home / "thing")
    (home / "py").mkdir()
    (home / "py" / "list.c").write_bytes(BEFORE)
    patch = (lock.folder / "patches" / "0001-list.patch").read_bytes()
    try:
        subprocess.run(["patch", "-p1", "-d", home], input=patch, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no patch program")
    assert (home / "py" / "list.c").read_bytes() == AFTER
