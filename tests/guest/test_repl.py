"""MicroPython on the serial line, while the server serves: friendly, paste and raw REPL."""

import re

import pytest
import requests


@pytest.fixture
def repl(guest):
    guest.serial.send("\x03")
    guest.serial.expect(">>> ")
    return guest.serial


@pytest.mark.parametrize(
    "line, printed",
    [
        ("1 + 1", "2"),
        ("2**100", str(2**100)),
        ("1 / 3", "0.3333333333333333"),
        ("import struct; struct.unpack('<Q', b'\\xff' * 8)", "(18446744073709551615,)"),
        ("import hashlib; hashlib.sha256(b'abc').digest()[:4]", "b'\\xbax\\x16\\xbf'"),
        ("import re; re.match('(a+)b', 'aaab').group(1)", "'aaa'"),
        ("import json; json.loads('[1, {\"a\": null}]')", "[1, {'a': None}]"),
        ("import io; io.BytesIO(b'xy').read()", "b'xy'"),
        ("import os; os.listdir('/boot')", "['model.gguf', 'config.json']"),
        ("open('/boot/model.gguf', 'rb').read(4)", "b'GGUF'"),
        ("import sys; sys.platform", "'cllm'"),
        ("import time; time.time() > 1700000000", "True"),
        ("len(os.urandom(9)), os.urandom(8) == os.urandom(8)", "(9, False)"),
    ],
)
def test_python(repl, line, printed):
    assert repl.run(line) == printed


def test_errors_are_errors(repl):
    assert "ZeroDivisionError" in repl.run("1 // 0")
    assert "MemoryError" in repl.run("bytearray(1 << 40)")
    assert "OSError" in repl.run("open('/boot/model.gguf', 'w')")
    repl.send("def f(): f()\r\r")
    repl.expect(r"\.\.\. \r\n>>> ")
    assert "maximum recursion depth" in repl.run("f()")


def test_native_and_viper_code_compiled_at_run_time(repl):
    repl.send("\x05")
    repl.expect("=== ")
    repl.send(
        "@micropython.viper\r"
        "def total(p: ptr8, n: int) -> int:\r"
        "    s = 0\r"
        "    for i in range(n):\r"
        "        s += p[i]\r"
        "    return s\r"
        "@micropython.native\r"
        "def double(x):\r"
        "    return x + x\r"
        "\x04"
    )
    repl.expect(">>> ")
    assert repl.run("total(bytes(range(100)), 100), double('ab')") == "(4950, 'abab')"


def test_sleep_is_as_long_as_asked(repl):
    repl.run("import time")
    took = int(repl.run("t = time.ticks_us(); time.sleep_ms(200); print(time.ticks_us() - t)"))
    assert took >= 200_000


def test_ctrl_c_interrupts_a_line_and_the_server_goes_on(guest, repl):
    repl.send("while True: print('spinning')\r\r")
    repl.expect("(?s)\r\nspinning\r\n")
    repl.send("\x03")
    repl.expect("KeyboardInterrupt")
    repl.expect(">>> ")
    assert requests.get(guest.url + "/health", timeout=60).status_code == 200


def test_a_handler_can_be_added_live(guest, repl):
    repl.run("from cllm import app")
    repl.send(
        "\x05@app.get('/live/<name>')\rdef live(request, name): return {'hello': name}\r\x04"
    )
    repl.expect(">>> ")
    answer = requests.get(guest.url + "/live/there", timeout=60)
    assert answer.json() == {"hello": "there"}


def test_raw_repl_runs_code_and_reports_output_and_error(repl):
    repl.send("\x01")
    repl.expect("raw REPL; CTRL-B to exit\r\n>")
    repl.send("print(6 * 7)\nprint(undefined)\x04")
    match = repl.expect(rb"(?s)OK(.*?)\x04(.*?)\x04>")
    assert match.group(1) == b"42\r\n"
    assert b"NameError" in match.group(2)
    repl.send("\x02")
    repl.expect(">>> ")


def test_raw_paste_mode(repl):
    repl.send("\x01")
    repl.expect("raw REPL; CTRL-B to exit\r\n>")
    repl.send("\x05A\x01")
    window = repl.expect(rb"(?s)R\x01(..)\x01").group(1)
    assert int.from_bytes(window, "little") >= 16
    repl.send("print('pasted')\n\x04")
    assert repl.expect(rb"(?s)\x04(.*?)\x04\x04>").group(1) == b"pasted\r\n"
    repl.send("\x02")
    repl.expect(">>> ")


def test_soft_reset_brings_the_server_back(guest, repl):
    repl.run("here_before = 1")
    repl.send("\x04")
    repl.expect("MPY: soft reboot\r\n")
    table = repl.expect(rb"(?s)cllm: booted\r\n(.*?) ms  in all\r\n").group(1).decode()
    assert re.findall(r"ms  (.+?)\r", table)[:3] == ["python", "network card", "server"]
    assert requests.get(guest.url + "/health", timeout=60).status_code == 200
    repl.send("\r")
    repl.expect(">>> ")
    assert "NameError" in repl.run("here_before")


def test_soft_reset_of_the_raw_repl_leaves_a_quiet_machine(boot, tiny_model):
    """Test tools (pyboard, mpremote) expect that main.py does not run after such a reset."""
    guest = boot(model=str(tiny_model))
    serial = guest.serial
    serial.send("\x03\x01")
    serial.expect("raw REPL; CTRL-B to exit\r\n>")
    serial.send("\x04")
    serial.expect("soft reboot\r\n")
    serial.expect("raw REPL; CTRL-B to exit\r\n>")
    serial.send("import sys; print('serve.main' in sys.modules)\x04")
    assert serial.expect(rb"(?s)OK(.*?)\x04(.*?)\x04>").group(1) == b"False\r\n"


def test_exit_ends_qemu_with_status_zero(boot):
    guest = boot()
    guest.serial.sendline("import _x86; _x86.exit(0)")
    assert guest.ended.wait(60)
    assert guest.status() == 0


def test_an_unknown_system_call_is_not_made_in_normal_life(guest):
    assert not re.search(rb"system call \d+ .* is not provided", guest.log())
