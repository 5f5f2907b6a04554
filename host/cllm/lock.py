"""Lock files: which upstream file each vendored folder is unpacked from, to the bit."""

import hashlib
import json
import os
import re
from pathlib import Path

from . import TOP, CllmError

SOURCES = ("debian", "sdist", "wheel")


class Lock:
    """One vendored folder: `FOLDER/lock.json` and, unpacked from what it names, `FOLDER/src/`.

    folder: the folder as a Path. Raises CllmError when the lock file is not as it must be.
    Attributes: name, version, file, sha256 of the upstream package; `origin`, who serves it
    (one of SOURCES); `suite`, the Debian suite for origin "debian"; `member`, the path inside
    the package that becomes `src/` ("" for all of it); `override`, the environment variable
    naming a checkout to use instead, or None; `model`, for a model: its path inside `src/`;
    `patches` and `patched`, see patches.py.
    """

    def __init__(self, folder):
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
        self.suite = entry.get("suite")
        self.override = entry.get("override")
        self.model = entry.get("model")
        self.patches = entry.get("patches", [])
        self.patched = entry.get("patched", {})

    @property
    def unpacked(self):
        return self.folder / "src"

    @property
    def stamp(self):
        """Outside `src/`, which has nothing but upstream's files."""
        return self.folder / ".src-stamp"

    def identity(self):
        """What `src/` was made from; compared with the stamp."""
        words = [self.sha256, self.member]
        if self.patched:
            # What the patches make of it.
            words.append(hashlib.sha256(json.dumps(self.patched).encode()).hexdigest())
        return " ".join(words) + "\n"


def locks(top=TOP):
    """The vendored folders by short name."""
    return {
        "micropython": Lock(top / "micropython"),
        "llama.cpp": Lock(top / "llama.cpp"),
        "model": Lock(top / "models"),
    }


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
