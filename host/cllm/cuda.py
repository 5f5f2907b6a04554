"""The CUDA backend: fetch its toolchain, build llama.cpp's ggml-cuda for the image, make the pack.

Nothing here runs unless it is asked for (`cllm cuda`, `cllm build --gpu`): the toolchain is 87 MB
to download, and building takes minutes. What it brings is clang 19 of Debian, unpacked into
build/cuda-tools and not installed, and CUDA's headers and libdevice from NVIDIA's wheels.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from . import TOP, CllmError, fetch, ptxpack
from . import build as builds  # which imports this module, too
from .lock import Package, locks, packages
from .steps import Steps

TREE = TOP / "native" / "cudart"
LOCK = TREE / "lock.json"
TOOLCHAIN = TOP / "build" / "cuda-tools"
FOLDER = TOP / "build" / "cuda"
PACK = TOP / "build" / "cllm.ptxpack"
ARCHIVES = (FOLDER / "libggml-cuda.a", FOLDER / "libcudart.a")
PROGRAM = TOP / "build" / "cudart-program"
CLANG = TOOLCHAIN / "lib" / "llvm-19" / "bin" / "clang++"
CUDA_ROOT = TOOLCHAIN / "cuda"

# ci: what the tests compute with. full: every file and template instance that upstream builds.
PROFILES = ("ci", "full")
# What clang 19 and upstream both know. 61 has the integer dot product that the kernels want.
ARCHITECTURES = (61, 70, 75, 80, 86, 89, 90)
DEFAULT_ARCHITECTURES = (61,)

# The libraries of other Debian packages that libLLVM needs.
NEEDED = "libedit2 libffi8 libxml2 libz3-4 libzstd1 zlib1g"


def architectures(text: str) -> list[int]:
    """Return the compute capabilities in a list such as "61,80". Raises CllmError."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise CllmError(f"{text} is no list of compute capabilities, such as 61,80") from None


def toolchain() -> Path:
    """Return the folder of the toolchain; fetch and unpack it where it is not there."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest() + "\n"
    stamp = TOOLCHAIN / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return TOOLCHAIN
    files = [(package, fetch.package_file(package)) for package in packages(LOCK)]
    fresh = TOOLCHAIN.with_name(f"{TOOLCHAIN.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        for package, file in files:
            unpack = unpack_deb if package.origin == "debian-binary" else _unpack_wheel
            unpack(package, file, fresh)
        # Where clang looks; Debian's package has it in the system's folder only.
        library = "libLLVM.so.19.1"
        (fresh / "lib/llvm-19/lib" / library).symlink_to(f"../../x86_64-linux-gnu/{library}")
        (fresh / "stamp").write_text(wanted)
        shutil.rmtree(TOOLCHAIN, ignore_errors=True)
        os.replace(fresh, TOOLCHAIN)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise CllmError(f"cannot unpack the CUDA toolchain: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    fetch.say(f"unpacked clang and CUDA's headers into {TOOLCHAIN}")
    return TOOLCHAIN


def _members_of_deb(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Yield (name, bytes) of each member of an ar archive; the file is then at its content."""
    if file.read(8) != b"!<arch>\n":
        raise tarfile.TarError("not a Debian package")
    while header := file.read(60):
        # ar(5): name 16, date 12, owner 6, group 6, mode 8, size 10, end 2.
        name, size = header[:16].decode().strip(" /"), int(header[48:58])
        start = file.tell()
        yield name, size
        file.seek(start + size + size % 2)


def unpack_deb(package: Package, path: Path, target: Path) -> None:
    """Unpack what compiles, and the licence, of a Debian package; without the folder usr/."""
    with open(path, "rb") as file:
        for name, _ in _members_of_deb(file):
            if not name.startswith("data.tar"):
                continue
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    member.name = member.name.removeprefix("./").removeprefix("usr/")
                    licence = member.name == f"share/doc/{package.name}/copyright"
                    if licence:
                        member.name = f"licences/{package.name}"
                    if licence or _compiles(member.name):
                        safe = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
                        archive.extract(member, target, **safe)  # type: ignore[arg-type]
            return
    raise tarfile.TarError(f"{path.name} has no data")


def _compiles(name: str) -> bool:
    return name.startswith(
        ("lib/x86_64-linux-gnu/lib", "lib/llvm-19/bin/", "lib/llvm-19/lib/")
    ) and not name.startswith("lib/llvm-19/lib/cmake/")


def _unpack_wheel(package: Package, path: Path, target: Path) -> None:
    """Unpack headers, libdevice, ptxas and the licence of one of NVIDIA's wheels."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if parts[-1] == "License.txt":
                place = target / "licences" / package.name
            elif parts[2:3] in (["include"], ["bin"]) or parts[2:4] == ["nvvm", "libdevice"]:
                place = target / "cuda" / Path(*parts[2:])
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(name))
            if parts[2:3] == ["bin"]:
                place.chmod(0o755)


def ready() -> None:
    """Fetch the toolchain and see that it runs. Raises CllmError with what is missing."""
    with builds.alone():
        toolchain()
    ran = subprocess.run([CLANG, "--version"], capture_output=True, text=True)
    if ran.returncode != 0:
        raise CllmError(
            f"clang 19 does not run on this machine: {ran.stderr.strip()}. It needs what Debian "
            f"has in the packages {NEEDED}."
        )


def build(profile: str = "ci", capabilities: Iterable[int] = DEFAULT_ARCHITECTURES) -> list[Path]:
    """Bring build/cuda and build/cllm.ptxpack up to date; return the archives, in link order.

    profile: one of PROFILES. capabilities: of devices to compile for, 61 for 6.1. Raises CllmError.
    """
    wanted = sorted(set(capabilities))
    if profile not in PROFILES or not wanted or not set(wanted) <= set(ARCHITECTURES):
        raise CllmError(
            f"the CUDA backend has the profiles {', '.join(PROFILES)} and the architectures "
            f"{', '.join(map(str, ARCHITECTURES))}"
        )
    ready()
    with builds.alone():
        source = fetch.ensure(locks()["llama.cpp"])
        builds.write_tools()
        listed = ";".join(map(str, wanted))
        builds.cmake(
            Steps(),
            TREE,
            FOLDER,
            "llama.cpp/zig-musl.cmake",
            f"-DLLAMA_SRC={source}",
            f"-DCLANG={CLANG}",
            f"-DCUDA_ROOT={CUDA_ROOT}",
            f"-DCLLM_CUDA_PROFILE={profile}",
            f"-DCLLM_CUDA_ARCHITECTURES={listed}",
            f"-DCLLM_CUDA_CACHE={fetch.cache_folder() / 'cuda'}",
            f"-DCLLM_CUDA_IDENTITY={(TOOLCHAIN / 'stamp').read_text().strip()}",
        )
        # Other units may be left from another profile.
        listed_files = FOLDER / "ptx.txt"
        units = [Path(line) for line in listed_files.read_text().splitlines()]
        if _is_older(PACK, [listed_files, Path(ptxpack.__file__), *units]):
            ptxpack.write(PACK, units)
            os.utime(PACK)
    return list(ARCHIVES)


def _is_older(path: Path, inputs: Iterable[Path]) -> bool:
    """Return whether a file is missing, or older than one of `inputs`."""
    return not path.exists() or path.stat().st_mtime < max(i.stat().st_mtime for i in inputs)


def build_program() -> Path:
    """Bring the test program of native/cudart up to date; return its path.

    It links what build/native and build/cuda hold, which must have been built.
    """
    with builds.alone():
        source = fetch.ensure(locks()["llama.cpp"])
        builds.write_tools()
        builds.cmake(
            Steps(),
            TOP / "tests" / "unit" / "cudart" / "program",
            PROGRAM,
            "llama.cpp/zig-musl.cmake",
            f"-DLLAMA_SRC={source}",
            f"-DCUDA_ROOT={CUDA_ROOT}",
            f"-DLIBS={FOLDER / 'libs.txt'};{TOP / 'build' / 'native' / 'libs.txt'}",
        )
    return PROGRAM / "program"


def licences() -> list[tuple[str, Path]]:
    """Return (component, path of its text) of what the CUDA backend was made with, if it was."""
    folder = TOOLCHAIN / "licences"
    if not folder.is_dir():
        return []
    return [(path.name, path) for path in sorted(folder.iterdir())]
