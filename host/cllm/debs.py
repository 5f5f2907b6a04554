"""Programs and data of Debian packages, without root and without installing them.

apt finds what this machine lacks and downloads and verifies it; dpkg-deb unpacks it below the cache
of downloads. The packages are those of the machine's own release, so its C library fits, and its
boot loader and its list of packages stay as they are.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from . import CllmError, fetch

# `apt-get -s install` prints a line for each package that it would install.
WOULD_INSTALL = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", re.MULTILINE)
NO_LOCK = "Debug::NoLocking=1"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


class Packages:
    """Packages that this machine has, or that lie below `root`, unpacked.

    root: a folder, or None where nothing had to be unpacked.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def have(self, wanted: Iterable[str]) -> bool:
        """Return whether all that ensure() calls `present` is there."""
        try:
            for what in wanted:
                self.file(what) if what.startswith("/") else self.program(what)
        except CllmError:
            return False
        return True

    def file(self, path: str) -> Path:
        """Return where a file of the packages is. path: absolute, as the package has it."""
        for base in (Path("/"), self.root):
            if base and (base / path.lstrip("/")).exists():
                return base / path.lstrip("/")
        raise CllmError(f"{path} is missing, though the packages that hold it are there")

    def program(self, name: str) -> str:
        """Return the path of a program of the packages."""
        # An administrator's programs are not on every user's path.
        folders = ["", "/usr", *([f"{self.root}", f"{self.root}/usr"] if self.root else [])]
        path = os.pathsep.join(f"{base}/{name}" for base in folders for name in ("bin", "sbin"))
        found = shutil.which(name) or shutil.which(name, path=path)
        if not found:
            raise CllmError(f"{name} is missing, though the packages that hold it are there")
        return found

    def environment(self) -> dict[str, str]:
        """Return the environment in which the packages' programs find their libraries."""
        libraries = [str(self.root / folder) for folder in LIBRARIES] if self.root else []
        before = os.environ.get("LD_LIBRARY_PATH")
        path = os.pathsep.join(libraries + ([before] if before else []))
        return {**os.environ, **({"LD_LIBRARY_PATH": path} if path else {})}


def ensure(names: Iterable[str], purpose: str, present: Iterable[str]) -> Packages:
    """Return the Packages `names`; download and unpack those that this machine has not installed.

    purpose: what they are for, for the message. present: absolute paths and names of programs that
    show that all is there. Raises CllmError when they cannot be had.
    """
    names, present = sorted(names), list(present)
    kept = fetch.cache_folder() / "debian" / _key(names)
    for packages in (Packages(None), Packages(kept)):
        if present and packages.have(present):
            return packages
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise CllmError(
            f"{purpose} needs what Debian's packages {' '.join(names)} hold, and there is no apt "
            "here: install them by this system's own means"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix="download-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        _unpack(names, purpose, Path(folder), root)
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(root, kept)
    return Packages(kept)


def _key(names: list[str]) -> str:
    """Return a folder's name for packages of this machine's release."""
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    words = dict(re.findall(r'^(ID|VERSION_ID)="?([\w.-]+)', release, re.MULTILINE))
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    return f"{words.get('ID', 'linux')}-{words.get('VERSION_ID', '0')}-{digest}"


def _unpack(names: list[str], purpose: str, folder: Path, root: Path) -> None:
    # First with the machine's package lists, then with fresh ones of our own, which need no root:
    # lists may be absent, as in a container, or so old that they name files that are gone.
    private = fetch.private_apt(folder)
    plain = ["-o", fetch.NO_SANDBOX, "-o", NO_LOCK]
    for options in (plain, [*private, "-o", NO_LOCK]):
        if options is not plain and _apt(options, "update", folder=folder) is None:
            continue
        said = _apt(options, "-s", "--no-install-recommends", "install", *names, folder=folder)
        if said is None:
            continue
        wanted = [f"{name}={version}" for name, version in WOULD_INSTALL.findall(said)]
        if not wanted:
            return
        print(
            f"cllm: {purpose} needs Debian packages that are not installed; unpacking them into "
            f"{fetch.cache_folder() / 'debian'}: {' '.join(wanted)}",
            file=sys.stderr,
        )
        if _apt(options, "download", *wanted, folder=folder) is None:
            continue
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        return
    raise CllmError(
        f"apt could not get {' '.join(names)} (its own words are above), which {purpose} needs; "
        "installing them has the same effect"
    )


def _apt(options: list[str], *arguments: str, folder: Path) -> str | None:
    """Return what apt-get printed, or None when it failed."""
    environment = {**os.environ, "LC_ALL": "C"}
    ended = subprocess.run(
        ["apt-get", *options, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ended.stdout if ended.returncode == 0 else None
