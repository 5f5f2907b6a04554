"""Lock files: each names the upstream package of a vendored folder, by its hash."""

import hashlib
import json
import os
import re
from pathlib import Path

from . import TOP, CllmError

SOURCES = ("debian", "sdist", "wheel")


class Lock:
    """One vendored folder: `FOLDER/lock.json`, and `FOLDER/src/`, unpacked from the package that
    the lock names. Raises CllmError when the lock file is not as described here.

    name, version, file, sha256: of the upstream package. origin: its source, one of SOURCES. size:
    bytes of the file, 0 if unknown. suite: Debian's suite, for the origin "debian". member: path
    inside the package that becomes `src/`, "" for the whole package. override: environment
    variable that names a checkout to use instead, or None. model: path of the model inside `src/`,
    or None. patches, patched: see patches.py.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "lock.json"
        try:
            entry = json.loads(self.path.read_text())
            self.name = entry["name"]
            self.version = entry["version"]
            self.origin = entry["from"]
            self.file = entry["file"]
            self.sha256 = entry["sha256"]
            self.member = entry["member"]
        except OSError as error:
            raise CllmError(f"cannot read the lock file {self.path}: {error.strerror}") from None
        except ValueError as error:
            raise CllmError(f"{self.path} is not JSON: {error}") from None
        except (KeyError, TypeError) as error:
            raise CllmError(f"{self.path} lacks the key {error}") from None
        if self.origin not in SOURCES:
            raise CllmError(f'{self.path}: "from" must be one of {", ".join(SOURCES)}')
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise CllmError(f'{self.path}: "sha256" must be 64 lower-case hexadecimal digits')
        if os.path.basename(self.file) != self.file:
            raise CllmError(f'{self.path}: "file" must be a plain file name')
        self.size = entry.get("size", 0)
        self.suite = entry.get("suite")
        self.override = entry.get("override")
        self.model = entry.get("model")
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


def locks(top: Path = TOP) -> dict[str, Lock]:
    """Return the vendored folders by short name."""
    return {
        "micropython": Lock(top / "micropython"),
        "llama.cpp": Lock(top / "llama.cpp"),
        "model": Lock(top / "models"),
    }


def sha256_of(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
