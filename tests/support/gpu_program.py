"""tests/unit/engine/gpu/program.cpp: the engine with a GPU in a process of this machine.

It is linked from the image's archives, because ggml-cuda's objects are made for musl.
"""

import subprocess
from pathlib import Path

from cllm import TOP, build, cuda, gpud

SOURCES = TOP / "tests" / "unit" / "engine" / "gpu"
FOLDER = build.BUILD / "gpu-program"
LIBS = build.BUILD / "native" / "libs.txt"
GPU_LIBS = build.BUILD / "native" / "libs-gpu.txt"


def libraries(file):
    """Return the paths in libs.txt or libs-gpu.txt."""
    return [Path(line) for line in file.read_text().split()]


class Fake:
    """A GPU that computes on the CPU. Used as the real one."""

    missing = [LIBS]
    spare = 24 * 1024  # bytes in which it computes one token and not 60

    def __init__(self):
        libs = [Path(str(lib).replace("no_gpu", "gpu")) for lib in libraries(LIBS)]
        self.path = link("fake", libs)

    def start(self, mib=1024):
        """Return a GpuProgram with a device of that much memory; 0: without one."""
        self.program = GpuProgram(self.path, quota=mib << 20)
        return self.program

    def lose(self):
        """End the device."""
        self.program.send("lose")

    def restore(self):
        """Make a lost one work again, without what it held."""
        self.program.send("quota", 1 << 30)

    def remove(self):
        """Let there be none where the lost one was."""
        self.program.send("quota", 0)

    def stop(self):
        """End all that was started."""


class Real:
    """gpud with the interpreter of PTX, below ggml-cuda."""

    missing = [GPU_LIBS, cuda.PACK, gpud.PROGRAM]

    def __init__(self):
        native = TOP / "native"
        names = ("gpud/socket.cpp", "gpud/waiting.cpp", "gpud/shared.cpp")
        clients = ("calls.c", "copies.c", "heap.c", "ring.c")
        objects = [compile_c(native / "ucuda" / name) for name in clients]
        sources = [native / name for name in names]
        self.path = link("socket", libraries(GPU_LIBS), *sources, *objects)
        self.daemon: gpud.Daemon | None = None

    def start(self, mib=1024, devices=1):
        """As Fake.start(), with more than one device."""
        self.stop()
        if mib == 0:
            return GpuProgram(self.path)
        self.daemon = gpud.Daemon(memory=mib, devices=devices, pack=cuda.PACK)
        self.daemon.start()
        return GpuProgram(self.path, socket=self.daemon.socket)

    def lose(self):
        """As Fake.lose()."""
        assert self.daemon
        self.daemon.kill()

    def restore(self):
        """As Fake.restore()."""
        assert self.daemon
        self.daemon.start()

    def remove(self):
        """As Fake.remove()."""

    def stop(self):
        """As Fake.stop()."""
        if self.daemon:
            self.daemon.stop()
        self.daemon = None


def compile_c(source):
    """Compile a file of C for the program; return the object."""
    FOLDER.mkdir(exist_ok=True)
    build.write_tools()
    target = FOLDER / f"{source.stem}.o"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        command = [build.TOOLS / "zig-cc", "-O2", "-c", "-fno-sanitize=undefined", source]
        subprocess.run([*command, "-o", target], check=True)
    return target


class GpuFailure(Exception):
    """An error of the engine. code: its number. str(): the text of engine_error()."""

    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code


def link(name, libs, *extra):
    """Compile and link program.cpp with device `name`.cpp and the archives `libs`; return its path.

    extra: further sources and flags.
    """
    FOLDER.mkdir(exist_ok=True)
    program = FOLDER / name
    sources = [SOURCES / "program.cpp", SOURCES / f"{name}.cpp"]
    ggml = TOP / "llama.cpp" / "src" / "ggml"
    parts = [*sources, SOURCES / "device.h", *libs, *(p for p in extra if isinstance(p, Path))]
    if program.exists() and program.stat().st_mtime > max(p.stat().st_mtime for p in parts):
        return program
    build.write_tools()
    command = [
        build.TOOLS / "zig-c++",
        "-static",
        "-O1",
        "-std=c++17",
        "-Wall",
        "-fno-sanitize=undefined",
        "-fno-pic",
        "-no-pie",
        f"-I{TOP / 'native' / 'engine'}",
        f"-I{ggml / 'include'}",
        f"-I{ggml / 'src'}",
        *sources,
        *extra,
        "-Wl,--start-group",
        *libs,
        "-Wl,--end-group",
        "-o",
        program,
    ]
    subprocess.run([str(word) for word in command], check=True)
    return program


class GpuProgram:
    """A running program. Methods are its commands; they raise GpuFailure."""

    def __init__(self, program, **options):
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self._to, self._from = self.process.stdin, self.process.stdout
        for name, value in options.items():
            self.send(name, value)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """End it, unless it has died."""
        self._to.close()
        self._from.close()
        self.process.wait(30)

    def send(self, *words):
        """Return the words of the answer to a command."""
        try:
            self._to.write(" ".join(map(str, words)) + "\n")
            self._to.flush()
        except BrokenPipeError:
            pass
        line = self._from.readline()
        if not line:
            raise AssertionError(f"the program died, status {self.process.wait(30)}")
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "error":
            code, _, reason = rest.partition(" ")
            raise GpuFailure(int(code), reason)
        return rest

    def open(self, model, layers=-1, threads=1, split=0, main=0, shares=()):
        """Return how many layers are the GPU's. split: ENGINE_SPLIT_*."""
        return int(self.send("open", model, layers, threads, split, main, *shares))

    def generate(self, n, tokens):
        """Return `n` greedy tokens after a prompt."""
        return [int(word) for word in self.send("generate", n, *tokens).split()]
