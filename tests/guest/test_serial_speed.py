"""The serial line loses nothing, however fast either side talks."""

import hashlib
import os
import random
import time

import pytest
from cllm import console

# Every byte but CTRL-C (which interrupts) and CTRL-D (which ends what the raw REPL prints).
ALPHABET = bytes(set(range(256)) - {3, 4})
SIZE = 200_000


@pytest.fixture(scope="module")
def line(boot_once):
    """A guest's raw REPL: (run(code), send(bytes), expect(pattern))."""
    guest = boot_once()
    guest.serial.send("\r\x03\x01")
    guest.serial.expect("raw REPL; CTRL-B to exit\r\n>")
    guest.serial.send("\x04")
    guest.serial.expect("soft reboot\r\n")
    guest.serial.expect("raw REPL; CTRL-B to exit\r\n>")
    return guest.serial


def test_what_is_pasted_at_once_arrives(line):
    data = bytes(random.Random(1).choices(ALPHABET, k=SIZE))
    line.send(
        "import sys, hashlib, time\n"
        "h = hashlib.sha256()\n"
        "print('go')\n"
        f"left = {SIZE}\n"
        "while left:\n"
        "    part = sys.stdin.buffer.read(min(left, 1000))\n"
        "    h.update(part)\n"
        "    left -= len(part)\n"
        "    time.sleep_ms(1)\n"
        "print(h.digest().hex())\n\x04"
    )
    line.expect("OKgo\r\n")
    line.send(data)
    digest = line.expect(rb"([0-9a-f]{64})\r\n\x04\x04>").group(1)
    assert digest.decode() == hashlib.sha256(data).hexdigest()


def test_what_is_printed_at_once_arrives(line):
    line.send(f"for i in range({SIZE // 8}): print('%06d' % i)\n\x04")
    printed = line.expect(rb"(?s)OK(.*?)\x04\x04>").group(1)
    assert printed == b"".join(b"%06d\r\n" % i for i in range(SIZE // 8))


def test_a_slow_reader_of_the_pty_gets_it_all(boot):
    guest = boot()
    pty = console.Pty(guest)
    pty.open()
    there = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(there, b"for i in range(5000): print('%06d' % i)\r\r")
        seen = b""
        until = time.monotonic() + 60
        while b"004999\r\n" not in seen and time.monotonic() < until:
            time.sleep(0.02)
            seen += os.read(there, 1000)
        assert b"".join(b"%06d\r\n" % i for i in range(5000)) in seen
    finally:
        guest.stop()
        os.close(there)
        pty.close()
