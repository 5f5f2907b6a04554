"""Prepare this machine: system packages, the locked PyPI packages in .venv, the `cllm` command.

It runs on the system's Python and needs only the standard library, because it installs everything
else. A stamp in .venv makes every run after the first take a fraction of a second.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
VENV = TOP / ".venv"
LOCK = TOP / "host" / "requirements.lock"
STAMP = VENV / "cllm.stamp"
OLDEST = (3, 10)  # the oldest CPython that requirements.lock was resolved for

COMMAND = """\
#!/bin/sh
# Starts host/cllm with the Python of this virtual environment, from wherever the tree lies now.
venv=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
exec "$venv/bin/python" "$venv/../host" "$@"
"""


# Folders whose modules .venv/bin/python can import, relative to site-packages: the tree may move.
PATHS = "".join(f"../../../../{folder}\n" for folder in ("host", "tests", "bench"))


class Failure(Exception):
    """A reason to stop that the user can act on."""


def say(text):
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def has_ensurepip():
    return importlib.util.find_spec("ensurepip") is not None


def has_python_headers():
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def program(name):
    return lambda: shutil.which(name) is not None


def library(name):
    def present():
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    return present


CLANG = "clang 19, which compiles for GPUs, is linked with it"

# (purpose, is it here?, Debian package, what for). "build" is needed by every purpose.
NEEDS = (
    ("build", program("make"), "make", "builds the port"),
    ("build", has_ensurepip, "python3-venv", "makes the virtual environment"),
    ("build", program("qemu-system-x86_64"), "qemu-system-x86", "boots the image"),
    ("test", program("cc"), "gcc", "compiles the C of native/ for the unit tests"),
    ("test", has_python_headers, "libpython3-dev", "cffi makes Python modules of it"),
    ("test", program("ip"), "iproute2", "makes a tap for the guest tests"),
    ("test", program("gdb"), "gdb", "a guest test debugs the image"),
    ("debug", program("gdb"), "gdb", "make debug attaches it to the guest"),
    ("cuda", program("g++"), "g++", "its headers are for tests of gpud under sanitizers"),
    ("cuda", library("libedit.so.2"), "libedit2", CLANG),
    ("cuda", library("libffi.so.8"), "libffi8", CLANG),
    ("cuda", library("libxml2.so.2"), "libxml2", CLANG),
    ("cuda", library("libz3.so.4"), "libz3-4", CLANG),
    ("cuda", library("libzstd.so.1"), "libzstd1", CLANG),
)


def missing_packages(purpose, needs=NEEDS):
    """Return what `purpose` needs and this machine lacks, as (package, what for) pairs."""
    return [
        (package, why)
        for group, present, package, why in needs
        if group in ("build", purpose) and not present()
    ]


def apt(*arguments):
    command = ["apt-get", "-y", "-o", "DPkg::Lock::Timeout=300", *arguments]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise Failure(f"not root and no sudo; run as root: {' '.join(command)}")
        command = ["sudo", "env", "DEBIAN_FRONTEND=noninteractive", *command]
    say("$ " + " ".join(command))
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode == 0


def install_packages(missing):
    """Install Debian packages, given as (package, what for) pairs."""
    for package, why in missing:
        say(f"this machine lacks {package} ({why})")
    names = [package for package, _ in missing]
    if shutil.which("apt-get") is None:
        raise Failure(
            "no apt-get here: install by your system's own means what these Debian packages "
            "hold, then run this again: " + " ".join(names)
        )
    install = ("install", "--no-install-recommends", *names)
    # Package lists may be absent (a fresh container), or so old that they name files that are gone.
    if not apt(*install) and not (apt("update") and apt(*install)):
        raise Failure("apt-get could not install: " + " ".join(names))


def fingerprint():
    """Return a digest of what the environment is made from: a new value asks for a new one."""
    digest = hashlib.sha256(LOCK.read_bytes())
    digest.update((COMMAND + PATHS + sys.version).encode())
    return digest.hexdigest()


def up_to_date():
    return STAMP.exists() and STAMP.read_text() == fingerprint()


@contextlib.contextmanager
def alone():
    """Let one process at a time run the block; the lock is on this file's folder."""
    folder = os.open(LOCK.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make_environment():
    if sys.version_info < OLDEST:
        raise Failure(
            "CPython {}.{} or newer is needed, {} is {}.{}; name another one with "
            "`make PYTHON=/path/to/python3 ...`".format(
                *OLDEST, sys.executable, *sys.version_info[:2]
            )
        )
    say(f"making {VENV.name} and installing the locked packages into it")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    if subprocess.run(pip + options).returncode != 0:
        raise Failure(
            "pip could not install host/requirements.lock (its own words are above); a hash "
            "mismatch means that the file served is not the one the lock names"
        )
    (site_packages,) = VENV.glob("lib/python3*/site-packages")
    (site_packages / "cllm.pth").write_text(PATHS)
    command = VENV / "bin" / "cllm"
    command.write_text(COMMAND)
    command.chmod(0o755)
    STAMP.write_text(fingerprint())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "purpose",
        nargs="?",
        default="build",
        choices=("build", "test", "debug", "cuda"),
        help="install what this needs (default: build, which also boots)",
    )
    purpose = parser.parse_args(arguments).purpose
    started = time.monotonic()
    try:
        missing = missing_packages(purpose)
        if missing:
            install_packages(missing)
            still = [package for package, _ in missing_packages(purpose)]
            if still:
                raise Failure(f"installed, yet not usable by {sys.executable}: {' '.join(still)}")
        if not up_to_date():
            with alone():
                if not up_to_date():
                    make_environment()
            say(f"done in {time.monotonic() - started:.0f} s")
    except (Failure, OSError, subprocess.CalledProcessError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
