"""Programs of Debian packages that tests run, unpacked below build/ and not installed: an installed
daemon would start on the developer's machine.
"""

import os
import shutil
import subprocess
from pathlib import Path

from cllm.build import BUILD


class MissingPackagesError(Exception):
    """Why the packages cannot be had."""


def unpack(*names):
    """Return the folder that holds what these packages hold, downloaded by the machine's apt.

    Name the libraries that they need, too. Raises MissingPackagesError.
    """
    folder = BUILD / "cache" / "debian" / "-".join(names[:2])
    if (folder / "complete").exists():
        return folder / "root"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise MissingPackagesError(f"no {program} here, so no {names[0]}")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "root").mkdir(parents=True)
    for command in (["apt-get", "update"], None):
        done = subprocess.run(
            ["apt-get", "download", *names], cwd=folder, capture_output=True, text=True
        )
        if done.returncode == 0:
            break
        if command is None or os.geteuid() != 0:
            raise MissingPackagesError(f"apt-get download: {done.stderr.strip()[-300:]}")
        subprocess.run(command, capture_output=True)  # lists may be absent in a fresh container
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
    (folder / "complete").touch()
    return folder / "root"


def environment(root: Path):
    """Return environment variables with which the programs find their libraries."""
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    programs = [root / "usr/sbin", root / "usr/bin"]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
    }
