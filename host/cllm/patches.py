"""Patches of a vendored folder, applied when it is unpacked.

Each patched file is checked by its hash before and after.

`FOLDER/lock.json` lists them under "patches", in order, each a unified diff in `FOLDER/patches/`,
and under "patched" the SHA-256 of every file that they change, as [before, after].
`python -m cllm.patches FOLDER TREE` prints that table for an unpatched tree.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

from . import CllmError
from .lock import Lock

Hunk = tuple[int, list[str], list[str]]  # line number, old lines, new lines
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse(text: str, name: str) -> dict[str, list[Hunk]]:
    """Return {path: [(line number, old lines, new lines)]} of a unified diff of a/... and b/...

    Raises CllmError for a patch that creates or removes files.
    """
    files: dict[str, list[Hunk]] = {}
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        if not lines[at].startswith("--- a/"):
            at += 1
            continue
        path = lines[at][len("--- a/") :].strip()
        if at + 1 == len(lines) or lines[at + 1].strip() != "+++ b/" + path:
            raise CllmError(f"{name}: a patch can only change files, and {path} is none")
        at += 2
        while at < len(lines) and (found := HUNK.match(lines[at])):
            start, left = int(found[1]), int(found[2] or 1)
            old: list[str] = []
            new: list[str] = []
            at += 1
            while (
                at < len(lines)
                and lines[at][:1] in (" ", "-", "+")
                and (len(old) < left or lines[at][0] == "+")
            ):
                kind, line = lines[at][0], lines[at][1:]
                if kind != "+":
                    old.append(line)
                if kind != "-":
                    new.append(line)
                at += 1
            if len(old) != left:
                raise CllmError(f"{name}: the part of {path} at line {start} is cut off")
            files.setdefault(path, []).append((start if left else start + 1, old, new))
    return files


def change(text: str, hunks: list[Hunk], name: str) -> str:
    """Return `text` with `hunks` (see parse) applied; raises CllmError where one does not fit."""
    lines = text.splitlines(keepends=True)
    for start, old, new in reversed(hunks):
        if lines[start - 1 : start - 1 + len(old)] != old:
            raise CllmError(f"{name} does not fit at line {start}")
        lines[start - 1 : start - 1 + len(old)] = new
    return "".join(lines)


def apply(lock: Lock, tree: Path) -> None:
    """Apply the patches of `lock` to the unpatched files in `tree`.

    Raises CllmError when a file is not what the lock names, before or after.
    """
    _check(lock, tree, 0)
    for name in lock.patches:
        text = (lock.folder / "patches" / name).read_text()
        for path, hunks in parse(text, name).items():
            if path not in lock.patched:
                raise CllmError(f'{name}: {path} is not in "patched" of {lock.path}')
            file = tree / path
            file.write_text(change(file.read_text(), hunks, f"{name}: {path}"))
    _check(lock, tree, 1)


def _check(lock: Lock, tree: Path, which: int) -> None:
    for path, hashes in lock.patched.items():
        try:
            found = sha256((tree / path).read_bytes())
        except OSError as error:
            raise CllmError(f"{tree / path}: {error.strerror}") from None
        if found != hashes[which]:
            raise CllmError(
                f"{path} is not what {lock.path} names {('before', 'after')[which]} its patches:\n"
                f"  wanted sha256 {hashes[which]}\n  found  sha256 {found}"
            )


def state(lock: Lock, tree: Path) -> str:
    """Return whether `tree` is "patched", "unpatched", or of "another" version."""
    for which, name in ((1, "patched"), (0, "unpatched")):
        try:
            _check(lock, tree, which)
        except CllmError:
            continue
        return name
    return "another"


def table(folder: Path, tree: Path) -> dict[str, list[str]]:
    """Return "patched" for the patches in `folder`, applied to the unpatched `tree` in memory."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for name in json.loads((folder / "lock.json").read_text())["patches"]:
        for path, hunks in parse((folder / "patches" / name).read_text(), name).items():
            if path not in after:
                before[path] = after[path] = (tree / path).read_text()
            after[path] = change(after[path], hunks, f"{name}: {path}")
    return {
        path: [sha256(text[path].encode()) for text in (before, after)] for path in sorted(after)
    }


if __name__ == "__main__":
    print(json.dumps(table(Path(sys.argv[1]), Path(sys.argv[2])), indent=2))
