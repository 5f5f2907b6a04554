"""The `cllm run` command with the real image: what `make run` promises."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from cllm import TOP, qemu, reclaim
from cllm.build import IMAGE

CLLM = TOP / ".venv" / "bin" / "cllm"


def run(*arguments, command="run"):
    port = qemu.free_port()
    process = subprocess.Popen(
        [CLLM, command, "--port", str(port), "--accel", "tcg", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    return process, f"http://127.0.0.1:{port}"


def line_with(process, pattern):
    for line in process.stdout:
        if re.match(pattern, line):
            return line.strip()
    raise AssertionError(f"cllm ended with {process.wait()} before it printed {pattern}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ready_then_a_clean_end(tiny_model, number):
    process, url = run("--model", str(tiny_model))
    with process:
        try:
            assert line_with(process, "ready ") == f"ready {url}"
            with urllib.request.urlopen(url + "/v1/models", timeout=120) as answer:
                assert json.load(answer)["data"][0]["id"] == "tiny"
        finally:
            process.send_signal(number)
        assert process.wait(30) == 0


def test_without_a_model_it_serves_and_says_why():
    process, url = run()
    with process:
        try:
            line = line_with(process, "serving ")
            assert line.startswith(f"serving {url} without a model: ")
        finally:
            process.terminate()
        assert process.wait(30) == 0


def file_mib(pid):
    """MiB of files in the process's memory; proc_pid_status(5)."""
    return int(re.search(r"RssFile:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10


def test_the_file_of_repacked_weights_leaves_memory(private_smollm2):
    process, _ = run("--model", str(private_smollm2), "--kernels", "tcg")
    with process:
        try:
            line_with(process, "ready ")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            guest = int(children.split()[0])
            # QEMU's own code and libraries take 25.
            few = (private_smollm2.stat().st_size >> 20) // 2
            until = time.monotonic() + 10
            while not (gone := file_mib(guest) < few) and time.monotonic() < until:
                time.sleep(0.05)
            if not gone and not reclaim.drop(guest, private_smollm2):
                pytest.skip("the kernel refuses process_madvise(2)")
            assert gone
        finally:
            process.terminate()
        assert process.wait(30) == 0


def test_the_image_is_small():
    assert os.path.getsize(IMAGE) < 6 << 20


@pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")
def test_the_printed_gdb_command_debugs_the_image():
    process, _ = run(command="debug")
    try:
        gdb = shlex.split(line_with(process, "gdb "))
        # Past the hardware breakpoint that the command ends with: kernel, then MicroPython.
        gdb += [
            "-batch",
            "-ex",
            "backtrace",
            "-ex",
            "break mp_init",
            "-ex",
            "continue",
            "-ex",
            "backtrace",
            "-ex",
            "print n_boot_phases > 0",
            "-ex",
            "kill",
        ]
        session = subprocess.run(
            gdb, cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
    finally:
        process.kill()
        process.wait()
    assert re.search(r"#0 +kernel_start \(.*\) at .*start\.c:\d+", session.stdout), session
    assert re.search(r"#0 +mp_init \(\) at .*runtime\.c:\d+", session.stdout), session
    assert re.search(r"#[12] .*main \(.*\) at .*main\.c:\d+", session.stdout), session
    assert "$1 = 1" in session.stdout
