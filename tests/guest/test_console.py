"""The serial line at full speed, and the screen."""

import hashlib
import random
import re
import time

import pytest
from cllm import VERSION
from support.qemu_monitor import Monitor

N = 150_000


def enter_raw(serial):
    serial.send("\r\x03\x01")
    serial.expect("raw REPL; CTRL-B to exit\r\n>")


def test_no_character_is_lost_on_the_way_in(boot):
    guest = boot()
    serial = guest.serial
    enter_raw(serial)
    serial.send(
        "import sys, hashlib, micropython\n"
        "micropython.kbd_intr(-1)\n"
        f"h, n = hashlib.sha256(), {N}\n"
        "print('go', 'on')\n"
        "while n:\n"
        "    data = sys.stdin.buffer.read(min(n, 500))\n"
        "    h.update(data); n -= len(data)\n"
        "print(''.join('%02x' % c for c in h.digest()))\n\x04"
    )
    serial.expect("go on\r\n")
    data = random.Random(1).randbytes(N)
    serial.send(data)
    shown = serial.expect(r"([0-9a-f]{64})\r\n").group(1).decode()
    assert shown == hashlib.sha256(data).hexdigest()


def test_a_large_paste_runs_whole(boot):
    """Source of more than 100 KiB through the raw REPL, which holds nothing back."""
    guest = boot()
    enter_raw(guest.serial)
    lines = [f"total += {i}  # " + "x" * 60 for i in range(1600)]
    source = "total = 0\n" + "\n".join(lines) + "\nprint('total', total)\n"
    assert len(source) > 100 * 1024
    guest.serial.send(source + "\x04")
    total = sum(range(1600))
    guest.serial.expect(f"total {total}\r\n")


def test_no_character_is_lost_on_the_way_out(boot):
    guest = boot()
    serial = guest.serial
    enter_raw(serial)
    serial.send(
        "import hashlib\n"
        "h = hashlib.sha256()\n"
        "print('be', 'gin')\n"
        "for i in range(1500):\n"
        "    line = ('%06d ' % i) * 14\n"
        "    h.update(line); print(line)\n"
        "print('en' + 'd', ''.join('%02x' % c for c in h.digest()))\n\x04"
    )
    serial.expect("be gin\r\n")
    match = serial.expect(r"end ([0-9a-f]{64})\r\n")
    lines = serial.before.decode().split("\r\n")[:-1]
    assert len(lines) == 1500
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == match.group(1).decode()


def screen(path, tmp_path):
    """Return the guest's screen, read from its memory: 25 lines of text, 2,000 attributes."""
    out = tmp_path / "screen.bin"
    with Monitor(path) as monitor:
        monitor.command("pmemsave", val=0xB8000, size=4000, filename=str(out))
    cells = out.read_bytes()
    rows = [cells[i : i + 160 : 2].decode("latin-1").rstrip() for i in range(0, 4000, 160)]
    return rows, cells[1::2]


def test_the_screen_shows_address_model_memory_and_log(boot, tiny_model, tmp_path):
    guest = boot(model=str(tiny_model), qmp=tmp_path / "monitor")
    guest.serial.expect("in all")
    shown = [
        re.compile(line)
        for line in (
            " cllm on .*",
            r" http://10\.0\.2\.15   up 0:0\d:\d\d$",
            r" model tiny: ready   0 running, 0 waiting, \d+ steps$",
            r" memory \d+ of \d+ MiB free, Python \d+ KiB$",
        )
    ]
    until = time.monotonic() + 60
    rows = [""] * 4
    # It is drawn once a second, and may be looked at in the middle of that.
    while not all(map(re.match, shown, rows)) and time.monotonic() < until:
        rows, _ = screen(tmp_path / "monitor", tmp_path)
    assert [bool(line.match(row)) for line, row in zip(shown, rows)] == [True] * 4, rows[:4]
    assert any("listening on port 80" in row for row in rows[4:]) or any(
        "in all" in row for row in rows[4:]
    )


@pytest.mark.usefixtures("selftest")
def test_the_screen_shows_the_reason_of_a_death(boot, tmp_path):
    guest = boot(on_crash="reboot", qmp=tmp_path / "monitor", wait=False)
    for end in (*["rebooting"] * 3, "halted"):
        guest.serial.expect("in all\r\n")
        guest.serial.sendline("import _x86; _x86.crash('null')")
        guest.serial.expect("cllm: " + end)
    rows, attributes = screen(tmp_path / "monitor", tmp_path)
    assert rows[3].startswith(" halted: died 4 times")
    assert attributes[3 * 80] == 0x4F  # white on red
    assert rows[5].startswith("cllm: fault: page fault, write of address 0")
    assert any("null_write+0x" in row for row in rows)


def test_boot_prints_what_it_spent_its_time_on(boot, tiny_model):
    guest = boot(model=str(tiny_model))
    guest.serial.expect(rf"cllm {re.escape(VERSION)}: multiboot")
    table = guest.serial.expect(rb"(?s)cllm: booted\r\n(.*?) ms  in all").group(1).decode()
    names = re.findall(r"^ *[0-9.]+ ms  (.+?)\r$", table, re.MULTILINE)
    assert names[:4] == ["firmware and loader", "kernel", "clock calibration", "memory"]
    assert names[4:9] == ["cores", "libc", "python", "network card", "server"]
    assert set(names[9:]) == {"address", "model"}


def test_a_missing_system_call_is_named_once(boot):
    guest = boot()
    for _ in range(2):
        guest.serial.run("import os; os.mkdir('/boot/x')")
    assert len(re.findall(rb"linux: system call 83 \(mkdir\) is not provided", guest.log())) == 1
