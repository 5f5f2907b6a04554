"""clang 19 with AddressSanitizer and UBSan, for tests of code that takes a guest's input.

zig's clang has no runtime for the first. Debian's is a package beside those of the CUDA toolchain.
"""

import hashlib
import shutil
from pathlib import Path

from . import TOP, build, cuda, fetch
from .lock import packages

LOCK = TOP / "native" / "gpud" / "lock.json"
FOLDER = TOP / "build" / "sanitizers"
RESOURCES = FOLDER / "resources"
IN_PACKAGE = Path("lib", "llvm-19", "lib", "clang", "19")


def compiler() -> list[str]:
    """Return the words of a command that compiles C++ and links, with both sanitizers.

    Fetches what is not there. Raises CllmError where that fails.
    """
    cuda.ready()
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest() + "\n"
    stamp = FOLDER / "stamp"
    with build.alone():
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            for package in packages(LOCK):
                cuda.unpack_deb(package, fetch.package_file(package), FOLDER)
            # clang looks for headers and runtimes in one folder.
            RESOURCES.mkdir()
            (RESOURCES / "include").symlink_to(cuda.TOOLCHAIN / IN_PACKAGE / "include")
            (RESOURCES / "lib").symlink_to(FOLDER / IN_PACKAGE / "lib")
            stamp.write_text(wanted)
    return [
        str(cuda.CLANG),
        f"-resource-dir={RESOURCES}",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]


def licences() -> list[tuple[str, Path]]:
    """Return (component, path of its text) of what was fetched."""
    folder = FOLDER / "licences"
    return [(path.name, path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
