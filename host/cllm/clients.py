"""Client libraries that tests/api runs but that cannot live in .venv, because they pin packages
which others there want newer: an environment of their own in build/clients, from clients.lock."""

import shutil
import subprocess
import sys

from . import TOP, CllmError

LOCK = TOP / "host" / "clients.lock"
FOLDER = TOP / "build" / "clients"
PYTHON = FOLDER / "bin" / "python"
_STAMP = FOLDER / "cllm.stamp"


def _fingerprint():
    return sys.version + LOCK.read_text()


def is_current():
    """Whether the environment is there and of this lock."""
    return _STAMP.exists() and _STAMP.read_text() == _fingerprint()


def ensure():
    """Make the environment unless it is current. CllmError when pip cannot."""
    if is_current():
        return
    print("cllm: installing the client libraries of tests/api into build/clients", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    options = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    for command in ([sys.executable, "-m", "venv", str(FOLDER)], pip + options):
        if subprocess.run(command).returncode != 0:
            raise CllmError("pip could not install host/clients.lock (its own words are above)")
    _STAMP.write_text(_fingerprint())
