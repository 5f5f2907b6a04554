"""Random and mutated records against gpud's worker, under AddressSanitizer and UBSan.

FUZZ_RECORDS is how many of each there are (`make gpu-fuzz` asks for 100,000), FUZZ_SEED which.

clang 19 compiles it with gpud's own interpreter. Where that compiler is not there, g++ does, with
an interpreter of one kernel (fake_ptx.cpp): native/ptx needs clang.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cllm import TOP, cuda, sanitizers

HERE = Path(__file__).parent
PTX = TOP / "native" / "ptx"
GPUD = [
    TOP / "native" / "gpud" / f"{name}.cpp"
    for name in (
        "commands", "engine_ptx", "inflate", "memory", "modules", "pack_file", "ptx_names",
        "sha256", "shared", "worker",
    )
]  # fmt: skip
OPTIONS = ["-std=c++17", "-O0", "-g1"]
SECONDS = 3600


def of_interpreter():
    """Return (sources, options) of native/ptx as its CMakeLists.txt has them."""
    text = (PTX / "CMakeLists.txt").read_text()
    names = re.search(r"add_library\(ptx STATIC(.*?)\)", text, re.DOTALL).group(1).split()
    found = re.search(r"target_compile_options\(ptx PRIVATE(.*?)\)", text, re.DOTALL).group(1)
    dropped = ("-O2", "-g0", "-Wall", "-Wextra")
    return [PTX / name for name in names], [o for o in found.split() if o not in dropped]


class Build:
    """A build of the program. compiler: words of its command, the sanitizers' flags among them."""

    def __init__(self, folder, compiler):
        self.folder, self.compiler = folder, compiler
        self.objects, self.running = [], []
        folder.mkdir(parents=True, exist_ok=True)
        headers = sorted((TOP / "native").glob("[gpu]*/*.h"))
        self.common = b"".join(path.read_bytes() for path in headers)

    def add(self, sources, options=()):
        """Compile what has changed, as many at a time as there are processors."""
        words = [*self.compiler, *OPTIONS, *options]
        for source in sources:
            key = hashlib.sha256(self.common + repr(words).encode() + source.read_bytes())
            made = self.folder / f"{source.stem}-{key.hexdigest()[:24]}.o"
            self.objects.append(made)
            if not made.exists():
                part = made.with_suffix(f".{os.getpid()}")
                command = [*words, "-c", source, "-o", part]
                self.running.append((subprocess.Popen(command), part, made))
            if len(self.running) >= len(os.sched_getaffinity(0)):
                self._finish_one()

    def _finish_one(self):
        process, part, made = self.running.pop(0)
        assert process.wait() == 0
        part.rename(made)

    def link(self):
        """Return the program."""
        while self.running:
            self._finish_one()
        for old in set(self.folder.glob("*.o")) - set(self.objects):
            old.unlink()
        program = self.folder / "fuzz_records"
        subprocess.run([*self.compiler, *self.objects, "-o", program, "-lpthread"], check=True)
        return program


def works(compiler, folder):
    source = folder / "empty.cpp"
    source.write_text("#include <vector>\nint main() {}\n")
    command = [*compiler, source, "-o", folder / "empty"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asan")
    if "FUZZ_RECORDS" in os.environ or (cuda.TOOLCHAIN / "stamp").exists():
        clang = sanitizers.compiler()
        if works(clang, folder):
            build = Build(TOP / "build" / "gpud-asan", clang)
            sources, options = of_interpreter()
            build.add(sources, options)
            build.add([*GPUD, HERE / "fuzz_records.cpp"], ["-DFUZZ_REAL_PTX"])
            return build.link()
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine: zig brings no AddressSanitizer")
    gnu = [compiler, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if not works(gnu, folder):
        pytest.skip("g++ has no sanitizers here")
    build = Build(TOP / "build" / "gpud-asan-gnu", gnu)
    build.add([*GPUD, HERE / "fuzz_records.cpp", HERE / "fake_ptx.cpp"])
    return build.link()


@pytest.mark.parametrize("mode", [[], ["hostile"]])
def test_no_record_does_harm(harness, mode):
    count, seed = os.environ.get("FUZZ_RECORDS", "2000"), os.environ.get("FUZZ_SEED", "1")
    words = [harness, count, seed, *mode]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-8000:]
    print(ran.stdout)
