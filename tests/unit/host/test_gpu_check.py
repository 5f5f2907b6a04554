"""`make gpu-check` with a kit of stand-ins: what it prints, and which differences it reports."""

import json
import os
import stat
import sys
import tarfile

import pytest
from cllm import gpu_check

GPUD = """
import socket, sys, time
words = sys.argv[1:]
assert words[words.index("--engine") + 1] == "ptx" and "--upload" in words
if {dies}:
    sys.exit("no such engine")
listening = socket.socket(socket.AF_UNIX)
listening.bind(words[words.index("--socket") + 1])
time.sleep({lives})
"""
CLIENT = {
    "add": {
        "device": "Interpreter",
        "capability": "6.1",
        "memory": 1 << 30,
        "multiprocessors": 4,
        "emulated": True,
        "wrong": 0,
    },
    "measure": {"round_trip_us": 20.5, "launch_us": 1.25, "upload_gbs": 1.5, "download_gbs": 2.0},
}
TOKENS = {
    "tokens": [11, 12, 13, 14, 15, 16, 17, 18],
    "gpu_layers": 3,
    "prompt_s": 0.1,
    "token_s": 0.25,
    "launches": 30,
    "graph_launches": 0,
    "round_trips": 1,
    "copied_bytes": 100,
}
GOOD = "  ADD(type=f32,ne=[1,1]): \033[1;32mOK\033[0m\n"
UNKNOWN = "  ADD(type=f64,ne=[1,1]): not supported [CUDA0] \n"


def write_program(path, text):
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Kit:
    """A folder of stand-ins; attributes are what they answer."""

    def __init__(self, folder):
        self.folder = folder
        self.client = json.loads(json.dumps(CLIENT))
        self.cpu, self.gpu = dict(TOKENS), dict(TOKENS, graph_launches=0)
        self.ops = "Backend 1/2: CUDA0\n" + GOOD * 3 + UNKNOWN + "  Backend CUDA0: OK\n"
        self.guest = {"tokens": TOKENS["tokens"], "timings": {"predicted_per_second": 2.5}}
        self.props = {"gpu": {"name": "Interpreter"}}
        self.gpud = {"dies": False, "lives": 60}

    def write(self):
        def answers(text):
            return f"print({text!r})"

        write_program(self.folder / "gpud", GPUD.format(**self.gpud))
        client = {key: json.dumps(value) for key, value in self.client.items()}
        write_program(self.folder / "gpu-client", f"import sys\nprint({client!r}[sys.argv[2]])")
        both = (json.dumps(self.cpu), json.dumps(self.gpu))
        write_program(
            self.folder / "gpu-tokens", f"import sys\nprint({both!r}[len(sys.argv) > 5])"
        )
        write_program(self.folder / "gpu-ops", answers(self.ops))
        for name in ("cllm.ptxpack", "cllm-gpu.elf", "tiny-f32.gguf"):
            (self.folder / name).write_bytes(b"")


class Guest:
    """Stands in for QEMU."""

    kit = None

    def __init__(self, image, **options):
        assert image.name == "cllm-gpu.elf" and options["gpu"]
        settings = json.loads(options["modules"]["config.json"])
        assert "gpu_layers" not in settings["model"]  # all of them
        self.url = "http://guest"
        self.ended = type("Event", (), {"is_set": lambda self: False})()
        self.stopped = False

    def start(self):
        pass

    def stop(self):
        self.stopped = True


@pytest.fixture
def kit(tmp_path, monkeypatch):
    made = Kit(tmp_path)

    def ask(url, body, timeout):
        path = url.removeprefix("http://guest")
        return {"/health": {"status": "ok"}, "/props": made.props, "/completion": made.guest}[path]

    monkeypatch.setattr(gpu_check.qemu, "Guest", Guest)
    monkeypatch.setattr(gpu_check, "ask", ask)
    return made


@pytest.fixture
def check(kit, capsys):
    def run(engine="ptx"):
        kit.write()
        status = gpu_check.main(["--engine", engine, "--kit", str(kit.folder)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_all_is_well(check):
    status, table, _ = check()
    assert status == 0 and "BAD" not in table
    rows = dict(line.strip().split("  ", 1) for line in table.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["device"] == "Interpreter, 1024 MiB" and rows["vector add"].endswith("all exact")
    assert rows["round trip"] == "20.5 us (emulated)"
    assert rows["tiny-f32.gguf, with graphs"] == "8 tokens are the CPU's"
    assert rows["tiny-f32.gguf, with graphs: speed"] == "4 tokens/s (emulated)"
    assert rows["tiny-f32.gguf, without graphs: a token"].startswith("30 launches")
    assert rows["backend operations"] == "30 shapes of 10 operations"
    assert rows["QEMU, tiny-f32.gguf"] == "8 tokens are the CPU's"
    assert rows["QEMU, tiny-f32.gguf: speed"] == "2.5 tokens/s (emulated)"


def wrong_sums(kit):
    kit.client["add"]["wrong"] = 2


def another_engine(kit):
    kit.client["add"]["emulated"] = False


def no_number(kit):
    del kit.client["measure"]["upload_gbs"]


def a_wrong_shape(kit):
    kit.ops += GOOD.replace("OK", "[ADD] NMSE = 1.5 > 0.0000001 FAIL")


def no_shapes(kit):
    kit.ops = UNKNOWN


def another_token(kit):
    kit.gpu["tokens"] = [*TOKENS["tokens"][:-1], 99]


def fewer_tokens(kit):
    kit.gpu["tokens"] = TOKENS["tokens"][:-1]


def another_token_in_qemu(kit):
    kit.guest["tokens"] = [99, *TOKENS["tokens"][1:]]


def no_gpu_in_qemu(kit):
    kit.props = {}


def gpud_ends(kit):
    kit.gpud["lives"] = 0


@pytest.mark.parametrize(
    "change, row",
    [
        (wrong_sums, "vector add"),
        (another_engine, "vector add"),
        (no_number, "measurements"),
        (a_wrong_shape, "backend operations"),
        (no_shapes, "backend operations"),
        (another_token, "tiny-f32.gguf"),
        (fewer_tokens, "tiny-f32.gguf"),
        (another_token_in_qemu, "QEMU, tiny-f32.gguf"),
        (no_gpu_in_qemu, "QEMU, tiny-f32.gguf"),
        (gpud_ends, "gpud"),
    ],
)
def test_a_difference_ends_with_1(kit, check, change, row):
    change(kit)
    status, table, _ = check()
    assert status == 1
    (bad,) = (line for line in table.splitlines() if line.startswith("BAD"))
    assert bad.startswith(f"BAD {row} ")


def test_a_program_that_fails_or_hangs(kit, check, monkeypatch):
    kit.write()
    monkeypatch.setattr(kit, "write", lambda: None)
    write_program(kit.folder / "gpu-ops", "import sys\nsys.exit('no such device')")
    status, table, _ = check()
    assert status == 1 and "status 1: no such device" in table
    monkeypatch.setattr(gpu_check, "SMALL_LIMIT_S", 1)
    write_program(kit.folder / "gpu-client", "import time\ntime.sleep(60)")
    monkeypatch.setattr(
        gpu_check.Check.program, "__kwdefaults__", {"limit_s": 1, "environment": None}
    )
    status, table, _ = check()
    assert status == 1 and "not done after 1 s" in table


def test_no_time_is_left(kit, check, monkeypatch):
    kit.write()
    assert gpu_check.run(kit.folder, "ptx", limit_s=0) == 1


def test_of_q4_only_the_first_tokens_count(kit, check):
    kit.write()
    (kit.folder / "tiny-f32.gguf").rename(kit.folder / "smollm2.gguf")
    for change, status in ((5, 0), (4, 1)):
        tokens = [*TOKENS["tokens"][:change], *[0] * (8 - change)]
        kit.gpu = dict(TOKENS, tokens=tokens)
        kit.guest["tokens"] = tokens
        kit.write()
        (kit.folder / "tiny-f32.gguf").unlink()
        assert gpu_check.run(kit.folder, "ptx") == status


def test_what_is_missing_is_named(kit, check, monkeypatch):
    kit.write()
    monkeypatch.setattr(kit, "write", lambda: None)
    (kit.folder / "gpu-ops").unlink()
    (kit.folder / "tiny-f32.gguf").unlink()
    status, table, said = check()
    assert status == 2 and table == "" and "gpu-ops" in said and "a model" in said
    assert "make gpu-kit" in said


def test_a_kit_that_was_carried_as_an_archive(kit, tmp_path, monkeypatch):
    kit.write()
    there = tmp_path / "there"
    there.mkdir()
    with tarfile.open(there / "kit.tar.gz", "w:gz") as file:
        for path in sorted(kit.folder.glob("*-*")):
            file.add(path, f"kit/{path.name}")
        for name in ("gpud", "cllm.ptxpack"):
            file.add(kit.folder / name, f"kit/{name}")
    for _ in range(2):
        assert gpu_check.run(there / "kit", "ptx") == 0
    # A newer archive is unpacked again, an older one is not.
    (there / "kit" / "gpu-ops").unlink()
    assert gpu_check.run(there / "kit", "ptx") == 2
    later = (there / "kit" / "unpacked").stat().st_mtime + 10
    os.utime(there / "kit.tar.gz", (later, later))
    assert gpu_check.run(there / "kit", "ptx") == 0


def test_gpud_does_not_start(kit, check):
    kit.gpud["dies"] = True
    status, _, said = check()
    assert status == 2 and "no such engine" in said


def test_without_a_card(kit, check, monkeypatch):
    def no_library(name):
        assert name == "libcuda.so.1"
        raise OSError("not found")

    monkeypatch.setattr(gpu_check.ctypes, "CDLL", no_library)
    status, _, said = check("cuda")
    assert status == 2 and "no libcuda.so.1" in said and "--engine ptx" in said


@pytest.mark.parametrize("code, cards, word", [(100, 1, "cuInit"), (0, 0, "no card")])
def test_a_driver_without_a_card(kit, check, monkeypatch, code, cards, word):
    class Library:
        def cuInit(self, flags):
            return code

        def cuDeviceGetCount(self, count):
            count._obj.value = cards
            return 0

    monkeypatch.setattr(gpu_check.ctypes, "CDLL", lambda name: Library())
    status, _, said = check("cuda")
    assert status == 2 and word in said
