"""`make gpu-check`: does everything above the GPU work on this machine's card, and how fast?

It runs what `make gpu-kit` collected in build/gpu-check, with the system's Python and nothing
else, so that the machine with the card needs neither network nor compiler. With `--engine ptx` the
same steps run without a card, on the interpreter of native/ptx; times are marked as emulated.

Prints one table. Exit status: 0 if everything is as it should be, 1 if anything differs, 2 if
something that it needs is not there.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import TOP, CllmError, qemu

KIT = TOP / "build" / "gpu-check"
LIMIT_S = 480  # for all of it
SMALL_LIMIT_S = 120  # for one program
# What `make gpu-kit` puts into KIT: name, what for.
NEEDED = (
    ("gpud", "the daemon"),
    ("gpu-client", "vector add and measurements"),
    ("gpu-tokens", "the engine as a program on Linux"),
    ("gpu-ops", "llama.cpp's test-backend-ops"),
    ("cllm.ptxpack", "the kernels"),
    ("cllm-gpu.elf", "the image"),
)
# Operations of test-backend-ops, and a regular expression for the shapes: the interpreter would
# take hours for all that upstream tries.
OPERATIONS = (
    (
        "MUL_MAT",
        "type_a=(f32|f16|q4_0|q4_1|q5_0|q5_1|q8_0|iq4_nl),type_b=f32,m=16,n=[18],k=256,bs=.1,1",
    ),
    ("FLASH_ATTN_EXT", "hsk=64,hsv=64,nh=4,nr23=.1,1.,kv=113,nb=3,.*type_K=f16"),
    ("RMS_NORM", "ne=.64,5,4,3"),
    ("ROPE", "ne_a=.128,32,2,1.,n_dims=128,mode=[02],n_ctx=512,fs=1.0"),
    ("SOFT_MAX", "ne=.16,16,1,1"),
    ("GET_ROWS", "type=(f32|q8_0),n=256,m=5,r=4"),
    ("SET_ROWS", "type_src=f32,type_dst=(f32|f16),type_idx=i64,ne=.256,5,1,3"),
    ("CPY", "type_src=f32,type_dst=f16,ne_src=.256,4,4,4"),
    ("ADD", "type=f32,ne=.16,5,4,3"),
    ("SWIGLU", "type=f32,ne_a=.128,2,2,2"),
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SHAPE = re.compile(r"^  \w+\(.*\): (?!not supported)(.*)$", re.MULTILINE)
# Models in KIT, a prompt, and how many greedy tokens must be the CPU's; None: all of them.
# Activations are rounded differently on a GPU, by upstream's own choice, so that longer texts part
# ways. With random weights they do so soon: the prompt of tiny-q8_0 is one after which the best
# token is better than the next by 0.5 (logarithm of probability) eight times.
MODELS: tuple[tuple[str, str, int | None], ...] = (
    ("tiny-f32.gguf", "The capital of France is", None),
    ("tiny-q8_0.gguf", "dog dog", 8),
    ("smollm2.gguf", "The capital of France is", 5),
)


class Missing(Exception):
    """Something that the check needs is not on this machine."""


class Differs(Exception):
    """A step's result is not what it should be."""


class Table:
    """Rows of (check, value, ok); a time's value says if the GPU is emulated."""

    def __init__(self, emulated: bool) -> None:
        self.emulated = emulated
        self.rows: list[tuple[str, str, bool]] = []

    def fact(self, check: str, value: object) -> None:
        self.rows.append((check, str(value), True))

    def timing(self, check: str, value: float, unit: str) -> None:
        mark = " (emulated)" if self.emulated else ""
        self.fact(check, f"{value:.4g} {unit}{mark}")

    def failure(self, check: str, value: object) -> None:
        self.rows.append((check, str(value), False))

    @property
    def failures(self) -> int:
        return sum(not ok for _, _, ok in self.rows)

    def print(self) -> None:
        width = max(len(check) for check, _, _ in self.rows)
        for check, value, ok in self.rows:
            print(f"{'    ' if ok else 'BAD '}{check:<{width}}  {value}")


class Check:
    """One run: the table, the deadline, and gpud's socket while it runs."""

    def __init__(self, kit: Path, engine: str, limit_s: float = LIMIT_S) -> None:
        self.kit = kit
        self.engine = engine
        self.table = Table(emulated=engine == "ptx")
        self.until = time.monotonic() + limit_s
        self.socket = ""
        self.expected: dict[str, list[int]] = {}  # greedy tokens of the CPU, by model

    def step(self, name: str, function: Callable[[], None]) -> None:
        """Run a step and keep going after a failure; what it raises is its row."""
        begin = time.monotonic()
        try:
            if self.left() <= 0:
                raise Differs("no time left for it")
            function()
        except (Differs, CllmError, OSError, ValueError, KeyError) as error:
            self.table.failure(name, error)
        print(f"gpu-check: {name}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)

    def left(self) -> float:
        return self.until - time.monotonic()

    def program(self, *words: object, environment: dict[str, str] | None = None) -> str:
        """Run a program of the kit; return what it printed. Raises Differs with the reason."""
        line = [str(self.kit / str(words[0])), *map(str, words[1:])]
        limit_s = max(1.0, min(SMALL_LIMIT_S, self.left()))
        try:
            done = subprocess.run(
                line,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                env={**os.environ, **(environment or {})},
            )
        except subprocess.TimeoutExpired:
            raise Differs(f"not done after {limit_s:.0f} s") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
            raise Differs(f"status {done.returncode}: {said[-1]}")
        return done.stdout

    # --- The steps

    def vectors(self) -> None:
        got = json.loads(self.program("gpu-client", self.socket, "add"))
        if got["wrong"]:
            raise Differs(f"{got['wrong']} sums are wrong")
        if got["emulated"] != self.table.emulated:
            raise Differs("gpud runs another engine than it was asked for")
        self.table.fact("device", f"{got['device']}, {got['memory'] >> 20} MiB")
        self.table.fact("compute capability", got["capability"])
        self.table.fact("multiprocessors", got["multiprocessors"])
        self.table.fact("vector add", "2^20 sums, all exact")

    def measurements(self) -> None:
        got = json.loads(self.program("gpu-client", self.socket, "measure"))
        self.table.timing("round trip", got["round_trip_us"], "us")
        self.table.timing("launch, in a batch", got["launch_us"], "us")
        self.table.timing("upload", got["upload_gbs"], "GB/s")
        self.table.timing("download", got["download_gbs"], "GB/s")

    def operations(self) -> None:
        passed = 0
        for operation, shapes in OPERATIONS:
            said = self.program("gpu-ops", self.socket, operation, shapes)
            results = [match[1] for match in SHAPE.finditer(COLOUR.sub("", said))]
            if not results or set(results) != {"OK"}:
                bad = len(results) - results.count("OK")
                raise Differs(f"{operation}: {bad} of {len(results)} shapes are wrong")
            passed += len(results)
        self.table.fact("backend operations", f"{passed} shapes of {len(OPERATIONS)} operations")

    def tokens(self, name: str, prompt: str, agree: int | None) -> None:
        """A model's greedy tokens on the CPU, and on the GPU without and with graphs."""
        count = 32 if agree is None or not self.table.emulated else agree
        words = (self.kit / name, prompt, count, min(4, os.cpu_count() or 1))
        cpu = json.loads(self.program("gpu-tokens", *words))
        self.expected[name] = cpu["tokens"]
        for graphs, switch in ((False, "1"), (True, "")):
            environment = {"GGML_CUDA_DISABLE_GRAPHS": switch} if switch else {}
            got = json.loads(
                self.program("gpu-tokens", *words, self.socket, environment=environment)
            )
            what = f"{name}, {'with' if graphs else 'without'} graphs"
            compare(cpu["tokens"], got["tokens"], agree)
            self.table.fact(what, f"{same(cpu['tokens'], got['tokens'])} tokens are the CPU's")
            if got["token_s"]:
                self.table.timing(f"{what}: speed", 1 / got["token_s"], "tokens/s")
            self.table.fact(
                f"{what}: a token",
                f"{got['launches']:g} launches, {got['graph_launches']:g} graphs, "
                f"{got['round_trips']:g} round trips",
            )
        if cpu["token_s"]:
            self.table.fact(f"{name}, CPU: speed", f"{1 / cpu['token_s']:.4g} tokens/s")

    def upstream(self, name: str) -> None:
        """llama.cpp's own CUDA build for comparison, where this machine has its llama-bench."""
        program = shutil.which("llama-bench")
        if program is None:
            self.table.fact("llama.cpp's own CUDA build", "not on this machine")
            return
        line = [program, "-m", str(self.kit / name), "-ngl", "99", "-p", "0", "-n", "64"]
        done = subprocess.run(
            [*line, "-o", "json"], capture_output=True, text=True, timeout=max(1.0, self.left())
        )
        if done.returncode != 0:
            raise Differs(f"llama-bench: {done.stderr.strip()[-200:]}")
        speed = json.loads(done.stdout)[0]["avg_ts"]
        self.table.fact("llama.cpp's own CUDA build", f"{speed:.4g} tokens/s of {name}")

    def guest(self, name: str, prompt: str, agree: int | None) -> None:
        """The image in QEMU, which emulates its processor and reaches the GPU through gpud."""
        settings = {"model": {"file": "model.gguf", "n_ctx": 512, "slots": 1}}
        count = len(self.expected.get(name) or [0] * 8)
        machine = qemu.Guest(
            self.kit / "cllm-gpu.elf",
            modules={"model.gguf": self.kit / name, "config.json": json.dumps(settings).encode()},
            port=qemu.free_port(),
            memory=768,
            accel="tcg",
            gpu=self.socket,
        )
        machine.start()
        try:
            until = time.monotonic() + min(self.left(), SMALL_LIMIT_S)
            while not ready(machine, until):
                time.sleep(0.2)
            body = {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "return_tokens": True,
                "cache_prompt": False,
            }
            answer = ask(machine.url + "/completion", body, max(1.0, self.left()))
            on_gpu = ask(machine.url + "/props", None, 10).get("gpu")
        finally:
            machine.stop()
        if not on_gpu:
            raise Differs("the guest found no GPU")
        if name in self.expected:
            compare(self.expected[name], answer["tokens"], agree)
            number = same(self.expected[name], answer["tokens"])
            self.table.fact(f"QEMU, {name}", f"{number} tokens are the CPU's")
        speed = answer["timings"]["predicted_per_second"]
        self.table.timing(f"QEMU, {name}: speed", speed, "tokens/s")


def same(one: list[int], other: list[int]) -> int:
    """Return how many tokens two lists have in common at their start."""
    pairs = enumerate(zip(one, other))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def compare(expected: list[int], got: list[int], agree: int | None) -> None:
    """Raise Differs unless the first `agree` tokens, or all of them, are equal."""
    needed = len(expected) if agree is None else min(agree, len(expected))
    if same(expected, got) < needed:
        raise Differs(f"tokens {got[:needed]}, and the CPU gives {expected[:needed]}")


def ready(machine: qemu.Guest, until: float) -> bool:
    """Whether the guest's model is loaded; raises Differs when it died or time is up."""
    if machine.ended.is_set():
        raise Differs(machine.reason())
    if time.monotonic() > until:
        raise Differs("the guest does not serve")
    try:
        return ask(machine.url + "/health", None, 5).get("status") == "ok"
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())["error"]["message"]
        if "load" not in said.lower():
            raise Differs(said) from None
    except OSError:
        pass  # it boots
    return False


def ask(url: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read())


# --- What is needed


def driver() -> str:
    """Return the version that libcuda reports; raises Missing without it or without a card."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise Missing("no libcuda.so.1: this machine has no NVIDIA driver") from None
    code = cuda.cuInit(0)
    if code != 0:
        raise Missing(f"NVIDIA's driver does not start: cuInit() gives {code}")
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise Missing("NVIDIA's driver finds no card")
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} card(s)"


def unpack(kit: Path) -> None:
    """Unpack the kit's archive beside it where it was carried alone, or is newer."""
    archive = kit.with_name(kit.name + ".tar.gz")
    stamp = kit / "unpacked"
    if not archive.is_file() or (kit / "gpud").is_file() and not stamp.is_file():
        return  # there is none, or the kit was made here
    if not stamp.is_file() or stamp.stat().st_mtime < archive.stat().st_mtime:
        with tarfile.open(archive) as file:
            file.extractall(kit.parent)
        stamp.touch()


def look(kit: Path) -> list[tuple[str, str, int | None]]:
    """Return the models of the kit; raises Missing with all that is not there."""
    absent = [f"{name} ({what})" for name, what in NEEDED if not (kit / name).is_file()]
    models = [model for model in MODELS if (kit / model[0]).is_file()]
    if not models:
        absent.append("a model")
    if absent:
        raise Missing(f"{kit} has not: {', '.join(absent)}. `make gpu-kit` makes them")
    return models


@contextlib.contextmanager
def daemon(check: Check) -> Iterator[None]:
    """Run gpud; check.socket is its socket."""
    with tempfile.TemporaryDirectory(prefix="cllm-gpu-") as folder:
        check.socket = os.path.join(folder, "gpud")
        line = [str(check.kit / "gpud"), "--socket", check.socket, "--engine", check.engine]
        line += ["--pack", str(check.kit / "cllm.ptxpack"), "--upload", "--memory", "2048"]
        # ggml-cuda makes graphs from 7.0 on.
        line += ["--cc", "7.0"] if check.engine == "ptx" else []
        with open(os.path.join(folder, "log"), "w+") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                until = time.monotonic() + 20
                while not os.path.exists(check.socket):
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        raise Missing(f"gpud does not start: {log.read().strip()}")
                    time.sleep(0.05)
                yield
                if process.poll() is not None:
                    log.seek(0)
                    check.table.failure("gpud", f"ended: {log.read().strip()[-200:]}")
            finally:
                process.terminate()
                process.wait(10)


def run(kit: Path, engine: str, limit_s: float = LIMIT_S) -> int:
    """Make every check and print the table; return the exit status."""
    try:
        version = driver() if engine == "cuda" else "none: the interpreter computes"
        unpack(kit)
        models = look(kit)
        # QEMU of the kit, where the machine has none.
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{kit}"
        check = Check(kit, engine, limit_s)
        check.table.fact("driver", version)
        with daemon(check):
            check.step("vector add", check.vectors)
            check.step("measurements", check.measurements)
            check.step("backend operations", check.operations)
            for name, prompt, agree in models:
                check.step(name, lambda: check.tokens(name, prompt, agree))
            if engine == "cuda":
                check.step("llama.cpp's own CUDA build", lambda: check.upstream(models[-1][0]))
            for name, prompt, agree in models:
                check.step(f"QEMU, {name}", lambda: check.guest(name, prompt, agree))
    except Missing as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        if engine == "cuda":
            print("gpu-check: without a card: make gpu-check ARGS='--engine ptx'", file=sys.stderr)
        return 2
    check.table.fact("time for all", f"{limit_s - check.left():.0f} s of {limit_s:.0f}")
    check.table.print()
    return 1 if check.table.failures else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--engine", choices=("cuda", "ptx"), default="cuda")
    parser.add_argument("--kit", type=Path, default=KIT, help="folder of what was built")
    return run(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
