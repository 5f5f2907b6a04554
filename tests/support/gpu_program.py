"""tests/unit/engine/gpu/program.cpp: the engine with a GPU in a process of this machine.

It is linked from the image's archives, because ggml-cuda's objects are made for musl.
"""

import subprocess
from pathlib import Path

from cllm import TOP, build

SOURCES = TOP / "tests" / "unit" / "engine" / "gpu"
FOLDER = build.BUILD / "gpu-program"
LIBS = build.BUILD / "native" / "libs.txt"
GPU_LIBS = build.BUILD / "native" / "libs-gpu.txt"


def libraries(file):
    """Return the paths in libs.txt or libs-gpu.txt."""
    return [Path(line) for line in file.read_text().split()]


def program(device):
    """Return the program with a device ("fake" or "loop"), and the options to start it with."""
    if device == "fake":
        libs = [Path(str(lib).replace("no_gpu", "gpu")) for lib in libraries(LIBS)]
        return link("fake", libs), {}
    return link("loop", libraries(GPU_LIBS)), {"pack": build.BUILD / "cllm.ptxpack"}


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
        for name, value in options.items():
            self.send(name, value)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """End it, unless it has died."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    def send(self, *words):
        """Return the words of the answer to a command."""
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the program died, status {self.process.wait(30)}")
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "error":
            code, _, reason = rest.partition(" ")
            raise GpuFailure(int(code), reason)
        return rest

    def open(self, model, layers=-1, threads=1):
        """Return how many layers are the GPU's."""
        return int(self.send("open", model, layers, threads))

    def generate(self, n, tokens):
        """Return `n` greedy tokens after a prompt."""
        return [int(word) for word in self.send("generate", n, *tokens).split()]
