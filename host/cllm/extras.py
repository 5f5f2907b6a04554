"""Environments beside .venv for the packages of single tasks; each has its own lock file.

CLIENTS  client libraries of tests/api, whose pins conflict with others in .venv
PLOTS    matplotlib, for the plots of the benchmark
LINT     checkers and formatters of the sources
"""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

from . import TOP, CllmError


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment in build/, made from host/`name`.lock.

    what: description of its packages, for messages.
    """

    name: str
    what: str

    @property
    def lock(self) -> Path:
        return TOP / "host" / f"{self.name}.lock"

    @property
    def folder(self) -> Path:
        return TOP / "build" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def _stamp(self) -> Path:
        return self.folder / "cllm.stamp"

    def _fingerprint(self) -> str:
        return sys.version + self.lock.read_text()

    def is_current(self) -> bool:
        """Return whether the environment exists and was made from the present lock file."""
        return self._stamp().exists() and self._stamp().read_text() == self._fingerprint()

    def ensure(self) -> None:
        """Make the environment unless it is current. Raises CllmError when pip fails."""
        if self.is_current():
            return
        print(f"cllm: installing {self.what} into build/{self.name}", file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        options = ["--require-hashes", "--only-binary", ":all:", "-r", str(self.lock)]
        for command in ([sys.executable, "-m", "venv", str(self.folder)], pip + options):
            if subprocess.run(command).returncode != 0:
                raise CllmError(
                    f"pip could not install host/{self.lock.name} (its own words are above)"
                )
        self._stamp().write_text(self._fingerprint())


CLIENTS = Environment("clients", "the client libraries of tests/api")
PLOTS = Environment("plots", "matplotlib")
LINT = Environment("lint", "ruff, mypy, clang-format and codespell")
