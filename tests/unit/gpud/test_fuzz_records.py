"""Random and mutated records against gpud's worker, under AddressSanitizer and UBSan.

FUZZ_RECORDS is how many of each there are (the release's count is 100,000), FUZZ_SEED which.
An interpreter of one kernel (fake_ptx.cpp) stands in for native/ptx, which only clang compiles.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cllm import TOP

FOLDER = TOP / "build" / "gpud-asan"
SOURCES = [
    TOP / "native" / "gpud" / f"{name}.cpp"
    for name in (
        "commands", "engine_ptx", "inflate", "memory", "modules", "pack_file", "ptx_names",
        "sha256", "shared", "worker",
    )
]  # fmt: skip
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
OPTIONS = ["-std=c++17", "-O0", "-g1", *SANITIZE]


def compile_harness(compiler):
    """Compile what has changed; return the program."""
    here = Path(__file__).parent
    sources = [*SOURCES, here / "fuzz_records.cpp", here / "fake_ptx.cpp"]
    headers = sorted((TOP / "native").glob("[gpu]*/*.h"))
    common = b"".join(path.read_bytes() for path in headers) + repr(OPTIONS).encode()
    FOLDER.mkdir(parents=True, exist_ok=True)
    objects, running = [], []
    for source in sources:
        key = hashlib.sha256(common + source.read_bytes()).hexdigest()[:24]
        made = FOLDER / f"{source.stem}-{key}.o"
        objects.append(made)
        if not made.exists():
            part = made.with_suffix(f".{os.getpid()}")
            command = [compiler, *OPTIONS, "-c", source, "-o", part]
            running.append((subprocess.Popen(command), part, made))
        if len(running) >= len(os.sched_getaffinity(0)):
            finish(running)
    finish(running)
    for old in set(FOLDER.glob("*.o")) - set(objects):
        old.unlink()
    program = FOLDER / "fuzz_records"
    subprocess.run([compiler, *SANITIZE, *objects, "-o", program, "-lpthread"], check=True)
    return program


def finish(running):
    for process, part, made in running:
        assert process.wait() == 0
        part.rename(made)
    running.clear()


def sanitizers_work(compiler, folder):
    source = folder / "empty.cpp"
    source.write_text("int main() {}\n")
    tried = subprocess.run([compiler, *SANITIZE, source, "-o", folder / "empty"],
                           capture_output=True)  # fmt: skip
    return tried.returncode == 0


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine: zig brings no AddressSanitizer")
    if not sanitizers_work(compiler, tmp_path_factory.mktemp("asan")):
        pytest.skip("g++ has no sanitizers here")
    return compile_harness(compiler)


@pytest.mark.parametrize("mode", [[], ["hostile"]])
def test_no_record_does_harm(harness, mode):
    count, seed = os.environ.get("FUZZ_RECORDS", "2000"), os.environ.get("FUZZ_SEED", "1")
    ran = subprocess.run([harness, count, seed, *mode], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(ran.stdout)
