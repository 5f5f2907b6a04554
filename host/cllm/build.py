"""Build the image: toolchain wrappers, mpy-cross, llama.cpp with native/, the port, in that order.

Every step hands the question of what is out of date to make or ninja, so a second build with
nothing changed takes seconds. All compilers are zig's clang; the host's are never used.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shlex
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

from . import TOP, CllmError, fetch, symbols
from .lock import locks

BUILD = TOP / "build"
TOOLS = BUILD / "tools"
IMAGE = BUILD / "cllm.elf"
UNPACKED_IMAGE = BUILD / "cllm.unpacked.elf"
DEBUG_IMAGE = BUILD / "cllm.debug.elf"
MPY_CROSS = BUILD / "mpy-cross" / "mpy-cross"
UNIX = BUILD / "unix" / "micropython"
HOST_LIBRARY = BUILD / "native-host"
# C modules that need no machine, and the image's dictionaries and sets.
UNIX_MODULES = ("modules/json", "ports/cllm_x86")

TAIL_LINES = 40  # of a failed step's output shown; the rest is in its log
PACKED_SOURCES = (
    "boot/packed_entry.S", "boot/unpack.c", "dev/nic.c", "dev/nic.h", "cpu/io.h", "boot/packed.ld",
)
QUIET_SECONDS = 15  # between progress lines when stderr is no terminal

# clang writes preprocessed text of one input to stdout; MicroPython's makeqstrdefs.py names many.
ZIG_CPP = """\
import subprocess, sys
inputs = [a for a in sys.argv[1:] if a == "-" or a.endswith((".c", ".cpp"))]
options = [a for a in sys.argv[1:] if a not in inputs]
for path in inputs:
    compiler = sys.path[0] + ("/zig-c++" if path.endswith(".cpp") else "/zig-cc")
    # Of standard input zig must be told the language before it translates -mcpu for clang.
    language = ["-x", "c"] if path == "-" else []
    if status := subprocess.call([compiler, "-E", *options, *language, path]):
        sys.exit(status)
"""


class Steps:
    """Runs commands one after another, showing which one, how far it is and for how long.

    The whole output of a step goes to `build/log/STEP.log`; a failure shows its end.
    """

    def __init__(self, folder=BUILD / "log", stream=sys.stderr):
        self.folder = folder
        self.stream = stream
        self.started = time.monotonic()
        self.live = stream.isatty()

    def run(self, title, command, environment=None):
        """Run `command`; raises CllmError when it cannot be started or fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / (title.replace(" ", "-") + ".log")
        began = time.monotonic()
        self._show(title)
        last = [""]
        try:
            process = subprocess.Popen(
                [str(word) for word in command], env=environment, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise CllmError(f"{title}: cannot run {command[0]}: {error.strerror}") from None
        ended = threading.Event()

        def progress():
            while not ended.wait(0.2 if self.live else QUIET_SECONDS):
                self._show(f"{title}: {last[-1].strip()}")

        watcher = threading.Thread(target=progress)
        watcher.start()
        try:
            with open(log, "w") as file, process:
                file.write("$ " + shlex.join(str(word) for word in command) + "\n")
                for line in process.stdout:
                    file.write(line)
                    last = [*last[1 - TAIL_LINES:], line]
        finally:
            ended.set()
            watcher.join()
        if process.returncode != 0:
            self._show("")
            self.stream.write("".join(last))
            raise CllmError(f"{title} failed (status {process.returncode}); all of it: {log}")
        self._show(f"{title}: done in {time.monotonic() - began:.1f} s", end=True)

    def _show(self, text, end=False):
        line = f"[{time.monotonic() - self.started:6.1f} s] {text}"
        if self.live:
            # One line, overwritten: what is cut off is in the log.
            width = os.get_terminal_size(self.stream.fileno()).columns - 1
            self.stream.write("\r\x1b[K" + (line[:width] if text else "") + ("\n" if end else ""))
        elif text:
            self.stream.write(line + "\n")
        self.stream.flush()


def jobs():
    return len(os.sched_getaffinity(0))


def build_image():
    """Bring build/cllm.elf and build/cllm.debug.elf up to date; returns the path of the first."""
    with alone():
        sources = {name: fetch.ensure(lock) for name, lock in locks().items() if not lock.model}
        steps = Steps()
        write_tools()
        _mpy_cross(steps, sources["micropython"])
        _native(steps, sources["llama.cpp"], BUILD / "native", "llama.cpp/zig-musl.cmake")
        _port(steps, sources["micropython"])
        finish(BUILD / "port" / "cllm.elf", UNPACKED_IMAGE)
        pack(steps, UNPACKED_IMAGE, IMAGE)
    return IMAGE


def build_host_library():
    """Bring the shared library of native/ that unit tests load up to date."""
    with alone():
        source = fetch.ensure(locks()["llama.cpp"])
        write_tools()
        _native(
            Steps(), source, HOST_LIBRARY, "llama.cpp/zig-gnu.cmake", "-DCLLM_HOST_SHARED=ON"
        )


def build_unix():
    """Bring MicroPython for this machine up to date; returns its path.

    Frozen Python that needs no machine is tested on it. It has the image's dictionaries and sets
    (ports/cllm_x86/micropython.mk). Without what asks for more sources than MicroPython's own.
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


def _unix_modules():
    """A folder with UNIX_MODULES, for USER_C_MODULES."""
    folder = UNIX.parent.with_name("unix-modules")
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        link.unlink()
    for path in UNIX_MODULES:
        (folder / Path(path).name).symlink_to(TOP / path)
    return folder


def build_reference():
    """Bring llama.cpp's own server for this machine up to date; returns its path.

    tests/api compares with it. Not part of any other build, because it takes as long as all.
    """
    build_host_library()
    with alone():
        command = [_program("cmake"), "--build", HOST_LIBRARY, "-j", str(jobs())]
        Steps().run("build llama-server", [*command, "--target", "llama-server"])
    return HOST_LIBRARY / "llama-server"


@contextlib.contextmanager
def alone(folder=BUILD):
    """One build at a time in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"build: waiting for another build in {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def zig():
    """Path of the zig program inside the `ziglang` package."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None:
        raise CllmError("the Python package ziglang is missing: run `make build`")
    return Path(spec.origin).parent / "zig"


def write_tools():
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
        _write_tool(name, f'#!/bin/sh\nexec {program} {words} "$@"\n')
    _write_tool("zig-cpp.py", ZIG_CPP)
    python = shlex.quote(sys.executable)
    _write_tool("zig-cpp", f'#!/bin/sh\nexec {python} "${{0%/*}}/zig-cpp.py" "$@"\n')
    _write_tool("python", f'#!/bin/sh\nexec {python} "$@"\n')


def _write_tool(name, text):
    path = TOOLS / name
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(0o755)


def _make(folder, **variables):
    # Of an outer make nothing may pass on but the environment that the user set.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    if not os.environ.get(locks()["micropython"].override):
        # Without it MicroPython would describe itself by the tags of the repository around it.
        environment["MICROPY_GIT_TAG"] = "v" + locks()["micropython"].version.split("+")[0]
        environment["MICROPY_GIT_HASH"] = ""
    command = ["make", "--no-print-directory", "-C", folder, f"-j{jobs()}"]
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
    # zig's linker writes no map.
    "LDFLAGS_ARCH": "-Wl,--gc-sections",
}


def _mpy_cross(steps, source):
    command, environment = _make(source / "mpy-cross", BUILD=MPY_CROSS.parent, **_HOST_PROGRAM)
    steps.run("mpy-cross", command, environment)


def _native(steps, source, folder, toolchain, *options):
    cmake(steps, TOP / "native", folder, toolchain, f"-DLLAMA_SRC={source}", *options)


def cmake(steps, tree, folder, toolchain, *options, target=None):
    """Configure once for a given set of arguments, then let ninja decide.

    tree: folder with CMakeLists.txt. folder: for what is built. toolchain: CMake's, below TOP.
    target: one to build, else the default.
    """
    configure = [
        "cmake", "-S", tree, "-B", folder, "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}", f"-DCMAKE_TOOLCHAIN_FILE={TOP / toolchain}",
        f"-DCLLM_TOOLS={TOOLS}", *options,
    ]
    configure[0] = _program("cmake")
    wanted = shlex.join(str(word) for word in configure) + "\n" + zig().as_posix()
    wanted += "\n" + locks()["llama.cpp"].identity()
    stamp = folder / "cllm-configure.stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        # A tree of another version must not meet objects made from the last one.
        steps.run(f"configure {folder.name}", [configure[0], "--fresh", *configure[1:]])
        if stamp.exists():
            steps.run(f"clean {folder.name}", [configure[0], "--build", folder, "-t", "clean"])
        stamp.write_text(wanted)
    command = [configure[0], "--build", folder, "-j", str(jobs())]
    steps.run(f"build {folder.name}", [*command, *(["--target", target] if target else [])])


def _program(name):
    """A program that came with a locked Python package."""
    return Path(sys.executable).parent / name


def _port(steps, source):
    command, environment = _make(
        TOP / "ports" / "cllm_x86",
        CLLM_TOP=TOP,
        MPY_DIR=source,
        BUILD=BUILD / "port",
        CROSS_TOOLS=TOOLS,
        NATIVE_LIBS=BUILD / "native" / "libs.txt",
        MICROPY_MPYCROSS=MPY_CROSS,
        PYTHON=sys.executable,
        CLLM_SELFTEST=os.environ.get("CLLM_SELFTEST", "1"),
    )
    steps.run("port", command, environment)


def finish(linked, image):
    """Split what the linker made into the image and a copy with symbols, both with the table of
    function names filled in.

    Everything behind the last loaded segment goes (section headers, symbols, debug information).
    The file offsets of what is loaded stay, because the Multiboot header, which gives QEMU the
    load address, counts on them.
    """
    newest = linked.stat().st_mtime_ns
    if all(path.exists() and path.stat().st_mtime_ns > newest for path in (image, DEBUG_IMAGE)):
        return
    data = bytearray(linked.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        raise CllmError(f"{linked} is not a 64-bit little-endian ELF file")
    # ELF-64 object file format 1.5, figures 2 and 6.
    (first,) = struct.unpack_from("<Q", data, 32)  # e_phoff
    size, count = struct.unpack_from("<HH", data, 54)  # e_phentsize, e_phnum
    end = first + size * count
    for at in range(first, end, size):
        (kind,) = struct.unpack_from("<I", data, at)
        offset, _, _, length = struct.unpack_from("<QQQQ", data, at + 8)
        if kind == 1:  # PT_LOAD
            end = max(end, offset + length)
    symbols.write_into(data)
    kept = bytearray(data[:end])
    struct.pack_into("<Q", kept, 40, 0)  # e_shoff
    struct.pack_into("<HH", kept, 60, 0, 0)  # e_shnum, e_shstrndx
    for path, content in ((DEBUG_IMAGE, data), (image, kept)):
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        os.replace(fresh, path)


def pack(steps, image, packed):
    """Make a compressed image of the one that finish() made: an ELF file that unpacks itself
    (kernel/boot/packed_entry.S), for any Multiboot loader."""
    sources = TOP / "kernel"
    parts = [*(sources / name for name in PACKED_SOURCES), Path(__file__), image]
    newest = max(path.stat().st_mtime_ns for path in parts)
    if packed.exists() and packed.stat().st_mtime_ns > newest:
        return
    data = image.read_bytes()
    # Multiboot 0.6.96, 3.1.1 to 3.1.3: flags with the addresses in the header.
    at = data.index(struct.pack("<II", 0x1BADB002, 1 << 16 | 3), 0, 8192)
    header, load, load_end, end, entry = struct.unpack_from("<5I", data, at + 12)
    if header - load != at or load_end - load > len(data):
        raise CllmError(f"{image} is not laid out as its Multiboot header says")
    content = data[:load_end - load]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    payload = compressor.compress(content) + compressor.flush()
    folder = packed.with_name("packed")
    folder.mkdir(exist_ok=True)
    (folder / "payload").write_bytes(payload)
    flags = [
        "-target", "x86-freestanding", "-mcpu=i686", "-O2", "-c", "-ffreestanding", "-fno-pic",
        "-fno-stack-protector", "-fno-sanitize=undefined", "-Wall", "-Wextra", f"-I{sources}",
        f"-DTARGET={load:#x}", f"-DSIZE={len(content):#x}", f"-DEND={end:#x}",
        f"-DENTRY={entry:#x}", f'-DPAYLOAD="{folder / "payload"}"',
        # The compiler's cache does not know of .incbin: another payload is another command.
        f"-DDIGEST={hashlib.sha256(payload).hexdigest()}",
    ]
    objects = []
    for source in (name for name in PACKED_SOURCES if name.endswith((".c", ".S"))):
        objects.append(folder / (Path(source).stem + ".o"))
        command = [zig(), "cc", *flags, "-o", objects[-1], sources / source]
        steps.run(f"pack {Path(source).name}", command)
    # Behind the image, on a page of its own as modules are.
    address = -(-end // 4096) * 4096
    fresh = packed.with_name(packed.name + ".new")
    steps.run("pack", [
        TOOLS / "zig-ld", "-m", "elf_i386", "-static", "-s", "-T", sources / "boot/packed.ld",
        f"--defsym=LOAD_ADDRESS={address:#x}", "-o", fresh, *objects,
    ])
    os.replace(fresh, packed)
