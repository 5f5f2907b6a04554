"""Build the image: toolchain wrappers, mpy-cross, llama.cpp with native/, the port, in that order.

make and ninja decide what is out of date, so a second build with nothing changed takes seconds. All
compilers are zig's clang; the host's are never used.
"""

import contextlib
import fcntl
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import TOP, CllmError, cuda, fetch, image
from .lock import locks
from .steps import Steps

BUILD = TOP / "build"
TOOLS = BUILD / "tools"
IMAGE = BUILD / "cllm.elf"
DEBUG_IMAGE = BUILD / "cllm.debug.elf"
# The second product: the same with ggml-cuda.
GPU_IMAGE = BUILD / "cllm-gpu.elf"
DEBUG_GPU_IMAGE = BUILD / "cllm-gpu.debug.elf"
# Suffix of the same image before it is packed.
UNPACKED = ".unpacked.elf"
MPY_CROSS = BUILD / "mpy-cross" / "mpy-cross"
UNIX = BUILD / "unix" / "micropython"
HOST_LIBRARY = BUILD / "native-host"
PTX_LIBRARY = BUILD / "ptx"
TLS_LIBRARY = BUILD / "tls"
# C modules of the unix build: those that need no machine, and the image's dictionaries and sets.
UNIX_MODULES = ("modules/json", "ports/cllm_x86")

# clang preprocesses one file to stdout at a time; MicroPython's makeqstrdefs.py names many.
ZIG_CPP = """\
import subprocess, sys
inputs = [a for a in sys.argv[1:] if a == "-" or a.endswith((".c", ".cpp"))]
options = [a for a in sys.argv[1:] if a not in inputs]
for path in inputs:
    compiler = sys.path[0] + ("/zig-c++" if path.endswith(".cpp") else "/zig-cc")
    # zig needs the language of standard input before it translates -mcpu for clang.
    language = ["-x", "c"] if path == "-" else []
    if status := subprocess.call([compiler, "-E", *options, *language, path]):
        sys.exit(status)
"""

# CMake gives -c always; zig makes a precompiled header where it is absent.
DROP_C = """\
case " $* " in *" -x c++-header "*)
    for word; do
        shift
        [ "$word" = -c ] || set -- "$@" "$word"
    done
esac
"""


def jobs() -> int:
    return len(os.sched_getaffinity(0))


def build_image() -> Path:
    """Bring build/cllm.elf and build/cllm.debug.elf up to date; return the path of the first."""
    with alone():
        sources = {name: fetch.ensure(lock) for name, lock in locks().items() if not lock.model}
        steps = Steps()
        write_tools()
        _mpy_cross(steps, sources["micropython"])
        _native(
            steps,
            sources["llama.cpp"],
            BUILD / "native",
            "llama.cpp/zig-musl.cmake",
            *_checkout_of_mbedtls(sources["mbedtls"]),
        )
        _port(steps, sources["micropython"], IMAGE, DEBUG_IMAGE, BUILD / "native" / "libs.txt")
    return IMAGE


def build_gpu_image(profile: str = "ci", capabilities: Iterable[int] = (61,)) -> Path:
    """Bring build/cllm-gpu.elf, its pack of PTX and gpud up to date; return the image's path.

    It differs from build/cllm.elf in what it links: ggml-cuda with the runtime below it, and the
    engine's gpu.cpp. profile, capabilities: as in cuda.build().
    """
    build_image()
    archives = cuda.build(profile, capabilities)
    with alone():
        libs = BUILD / "native" / "libs-gpu.txt"
        native = (BUILD / "native" / "libs.txt").read_text().replace("cllm_no_gpu", "cllm_gpu")
        _write(libs, native + "".join(f"{path}\n" for path in archives))
        source = fetch.ensure(locks()["micropython"])
        _port(Steps(), source, GPU_IMAGE, DEBUG_GPU_IMAGE, libs)
    return GPU_IMAGE


def build_host_library() -> None:
    """Bring the shared library of native/ that unit tests load up to date."""
    with alone():
        source = fetch.ensure(locks()["llama.cpp"])
        write_tools()
        _native(Steps(), source, HOST_LIBRARY, "llama.cpp/zig-gnu.cmake", "-DCLLM_HOST_SHARED=ON")


def build_ptx() -> Path:
    """Bring the interpreter of PTX that unit tests load up to date; return its path."""
    with alone():
        write_tools()
        cmake(Steps(), TOP / "native" / "ptx", PTX_LIBRARY, "llama.cpp/zig-gnu.cmake")
    return PTX_LIBRARY / "libptx_test.so"


def build_tls() -> Path:
    """Bring the TLS library that unit tests load up to date; return its path."""
    with alone():
        source = fetch.ensure(locks()["mbedtls"])
        write_tools()
        options = _checkout_of_mbedtls(source)
        cmake(Steps(), TOP / "native" / "tls", TLS_LIBRARY, "llama.cpp/zig-gnu.cmake", *options)
    return TLS_LIBRARY / "libtls_test.so"


def _checkout_of_mbedtls(source: Path) -> list[str]:
    """Return CMake's options for a source tree that is not the locked one."""
    return [] if source == locks()["mbedtls"].unpacked else [f"-DMBEDTLS_SRC={source}"]


def build_unix() -> Path:
    """Bring MicroPython for this machine up to date; return its path.

    It tests frozen Python that needs no machine. It has the image's dictionaries and sets
    (ports/cllm_x86/micropython.mk), and lacks modules that need further libraries.
    """
    with alone():
        source = fetch.ensure(locks()["micropython"])
        steps = Steps()
        write_tools()
        _mpy_cross(steps, source)
        options = ("SSL", "BTREE", "FFI", "BLUETOOTH")
        command, environment = _make(
            source / "ports" / "unix",
            VARIANT="standard",
            FROZEN_MANIFEST=source / "extmod" / "asyncio" / "manifest.py",
            BUILD=UNIX.parent,
            MPY_LIB_DIR=TOP,
            CLLM_TOP=TOP,
            USER_C_MODULES=_unix_modules(),
            MICROPY_MPYCROSS=MPY_CROSS,
            MICROPY_MPYCROSS_DEPENDENCY=MPY_CROSS,
            **{f"MICROPY_PY_{option}": 0 for option in options},
            **_HOST_PROGRAM,
        )
        steps.run("unix MicroPython", command, environment)
    return UNIX


def _unix_modules() -> Path:
    """Make a folder with links to UNIX_MODULES, for USER_C_MODULES; return it."""
    folder = UNIX.parent.with_name("unix-modules")
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        link.unlink()
    for path in UNIX_MODULES:
        (folder / Path(path).name).symlink_to(TOP / path)
    return folder


def build_reference() -> Path:
    """Bring llama.cpp's own server for this machine up to date; return its path.

    tests/api compares with it. No other build includes it, because it takes as long as the image.
    """
    build_host_library()
    with alone():
        command: list[str | Path] = [_program("cmake"), "--build", HOST_LIBRARY, "-j", str(jobs())]
        Steps().run("build llama-server", [*command, "--target", "llama-server"])
    return HOST_LIBRARY / "llama-server"


@contextlib.contextmanager
def alone(folder: Path = BUILD) -> Iterator[None]:
    """Let one build at a time use a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"build: waiting for another build in {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def zig() -> Path:
    """Return the path of the zig program inside the `ziglang` package."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CllmError("the Python package ziglang is missing: run `make build`")
    return Path(spec.origin).parent / "zig"


def write_tools() -> None:
    """Write the compiler wrappers; an unchanged one keeps its time stamp."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    program = shlex.quote(str(zig()))
    for name, words in {
        "zig-cc": "cc -target x86_64-linux-musl",
        "zig-c++": "c++ -target x86_64-linux-musl",
        "zig-ar": "ar",
        "zig-ranlib": "ranlib",
        "zig-ld": "ld.lld",
    }.items():
        before = DROP_C if name == "zig-c++" else ""
        _write_tool(name, f'#!/bin/sh\n{before}exec {program} {words} "$@"\n')
    _write_tool("zig-cpp.py", ZIG_CPP)
    python = shlex.quote(sys.executable)
    _write_tool("zig-cpp", f'#!/bin/sh\nexec {python} "${{0%/*}}/zig-cpp.py" "$@"\n')
    _write_tool("python", f'#!/bin/sh\nexec {python} "$@"\n')


def _write_tool(name: str, text: str) -> None:
    if _write(TOOLS / name, text):
        (TOOLS / name).chmod(0o755)


def _write(path: Path, text: str) -> bool:
    """Write a file unless it has this text already; return whether it had another."""
    if path.exists() and path.read_text() == text:
        return False
    path.write_text(text)
    return True


def _make(folder: Path, **variables: object) -> tuple[list[str | Path], dict[str, str]]:
    # The flags of an outer make must not reach this one.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    if not os.environ.get(locks()["micropython"].override):
        # Otherwise MicroPython would describe itself by the tags of this repository.
        environment["MICROPY_GIT_TAG"] = "v" + locks()["micropython"].version.split("+")[0]
        environment["MICROPY_GIT_HASH"] = ""
    command: list[str | Path] = ["make", "--no-print-directory", "-C", folder, f"-j{jobs()}"]
    return [*command, *(f"{name}={value}" for name, value in variables.items())], environment


# Variables of MicroPython's makefiles for programs of this machine.
_HOST_PROGRAM = {
    "PYTHON": sys.executable,
    "CC": TOOLS / "zig-cc",
    "CPP": TOOLS / "zig-cpp",
    "CWARN": "-Wall",
    # gchelper_generic.c reads rbp as a general register.
    "CFLAGS_EXTRA": "-fomit-frame-pointer -fno-sanitize=undefined",
    "STRIP": "true",
    "SIZE": "true",
    # zig's linker writes no map; without -fno-sanitize it builds a runtime library for nothing.
    "LDFLAGS_ARCH": "-Wl,--gc-sections -fno-sanitize=undefined",
}


def _mpy_cross(steps: Steps, source: Path) -> None:
    command, environment = _make(source / "mpy-cross", BUILD=MPY_CROSS.parent, **_HOST_PROGRAM)
    steps.run("mpy-cross", command, environment)


def _native(steps: Steps, source: Path, folder: Path, toolchain: str, *options: str) -> None:
    if os.environ.get(locks()["llama.cpp"].override):
        # The tree is being edited: compile a changed file alone.
        options = (*options, "-DCLLM_UNITY=OFF")
    cmake(steps, TOP / "native", folder, toolchain, f"-DLLAMA_SRC={source}", *options)


def cmake(
    steps: Steps,
    tree: Path,
    folder: Path,
    toolchain: str,
    *options: str,
    target: str | None = None,
) -> None:
    """Configure once for a given set of arguments, then let ninja build what is out of date.

    tree: folder with CMakeLists.txt. folder: for the output. toolchain: CMake's toolchain file,
    below TOP. target: what to build, or None for the default.
    """
    program = _program("cmake")
    options_of_cmake: list[str | Path] = [
        "-S",
        tree,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}",
        f"-DCMAKE_TOOLCHAIN_FILE={TOP / toolchain}",
        f"-DCLLM_TOOLS={TOOLS}",
        *options,
    ]
    wanted = shlex.join(str(word) for word in (program, *options_of_cmake))
    wanted += "\n" + zig().as_posix()
    wanted += "\n" + locks()["llama.cpp"].identity()
    stamp = folder / "cllm-configure.stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        # Remove objects of other versions of the tree.
        steps.run(f"configure {folder.name}", [program, "--fresh", *options_of_cmake])
        if stamp.exists():
            steps.run(f"clean {folder.name}", [program, "--build", folder, "-t", "clean"])
        stamp.write_text(wanted)
    command: list[str | Path] = [program, "--build", folder, "-j", str(jobs())]
    steps.run(f"build {folder.name}", [*command, *(["--target", target] if target else [])])


def _program(name: str) -> Path:
    """Return the path of a program that came with a locked Python package."""
    return Path(sys.executable).parent / name


def _port(steps: Steps, source: Path, packed: Path, debug: Path, libs: Path) -> None:
    """Link the port with the archives that `libs` lists; make the images `packed` and `debug`."""
    command, environment = _make(
        TOP / "ports" / "cllm_x86",
        CLLM_TOP=TOP,
        MPY_DIR=source,
        BUILD=BUILD / "port",
        CROSS_TOOLS=TOOLS,
        IMAGE=packed.name,
        NATIVE_LIBS=libs,
        MICROPY_MPYCROSS=MPY_CROSS,
        PYTHON=sys.executable,
        CLLM_SELFTEST=os.environ.get("CLLM_SELFTEST", "1"),
    )
    steps.run("port", command, environment)
    unpacked = packed.with_suffix(UNPACKED)
    image.finish(BUILD / "port" / packed.name, unpacked, debug)
    image.pack(steps, zig(), unpacked, packed)
