"""Lock files: each names the upstream package of a vendored folder, by its hash."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from . import TOP, CllmError

SOURCES = ("debian", "debian-binary", "sdist", "wheel")


class Package:
    """One file of an upstream, as an entry of a lock file names it.

    path: of the lock file. entry: from its JSON. Raises CllmError when the entry is not as
    described here.

    name, version, file, sha256: of the upstream package. origin: who serves it, one of SOURCES.
    size: bytes of the file, 0 if the lock does not say. suite: of Debian, for its origins.
    override: environment variable that names a checkout to use instead, or None.
    """

    def __init__(self, path: Path, entry: dict[str, Any]) -> None:
        self.path = path
        try:
            self.name = entry["name"]
            self.version = entry["version"]
            self.origin = entry["from"]
            self.file = entry["file"]
            self.sha256 = entry["sha256"]
        except (KeyError, TypeError) as error:
            raise CllmError(f"{path} lacks the key {error}") from None
        if self.origin not in SOURCES:
            raise CllmError(f'{path}: "from" must be one of {", ".join(SOURCES)}')
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise CllmError(f'{path}: "sha256" must be 64 lower-case hexadecimal digits')
        if os.path.basename(self.file) != self.file:
            raise CllmError(f'{path}: "file" must be a plain file name')
        self.size = entry.get("size", 0)
        self.suite = entry.get("suite")
        self.override: Any = entry.get("override")


class Lock(Package):
    """One vendored folder: `FOLDER/lock.json`, and `FOLDER/src/`, unpacked from what that names.

    folder: a Path. Raises CllmError when the lock file is not as described here.

    member: path inside the package that becomes `src/`, "" for all of it. model: path of the model
    inside `src/`, or None. patches, patched: see patches.py.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "lock.json"
        entry = _read(path)
        super().__init__(path, entry)
        try:
            self.member = entry["member"]
        except KeyError as error:
            raise CllmError(f"{path} lacks the key {error}") from None
        self.model: Any = entry.get("model")
        self.patches = entry.get("patches", [])
        self.patched = entry.get("patched", {})

    @property
    def unpacked(self) -> Path:
        return self.folder / "src"

    @property
    def stamp(self) -> Path:
        """The path of the stamp. It is outside `src/`, which holds upstream's files only."""
        return self.folder / ".src-stamp"

    def identity(self) -> str:
        """Return a text that identifies the content of `src/`, to compare with the stamp."""
        words = [self.sha256, self.member]
        if self.patched:
            words.append(hashlib.sha256(json.dumps(self.patched).encode()).hexdigest())
        return " ".join(words) + "\n"


def packages(path: Path) -> list[Package]:
    """Return the packages that a lock file of several names under "packages"."""
    entry = _read(path)
    try:
        return [Package(path, package) for package in entry["packages"]]
    except (KeyError, TypeError) as error:
        raise CllmError(f"{path} lacks the key {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CllmError(f"cannot read the lock file {path}: {error.strerror}") from None
    except ValueError as error:
        raise CllmError(f"{path} is not JSON: {error}") from None


def locks(top: Path = TOP) -> dict[str, Lock]:
    """Return the vendored folders by short name."""
    return {
        "micropython": Lock(top / "micropython"),
        "llama.cpp": Lock(top / "llama.cpp"),
        "mbedtls": Lock(top / "mbedtls"),
        "model": Lock(top / "models"),
    }


def sha256_of(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
