"""Programs that ended the machine (tests/crashes): it answers them with exceptions and goes on."""

from pathlib import Path

import pytest
import requests

SCRIPTS = sorted((Path(__file__).parents[1] / "crashes").glob("*.py"))
# The port has its own modtime.c, sets and dictionaries, so these programs matter in the guest, too.
TIMES = """\
import time
def error(function):
    try:
        return function()
    except OverflowError:
        return "OverflowError"
assert time.mktime((1969, 12, 31, 23, 59, 59, 0, 0)) == -1
assert time.localtime(-1) == (1969, 12, 31, 23, 59, 59, 2, 365)
for t in (0, 951782400, 951868799, 1e9, -2208988800, -62135596800, 253402300799, 4107542400):
    assert time.mktime(time.localtime(int(t))) == t, t
assert time.mktime((2000, 14, 0, 25, -1, 3600, 0, 0)) == 980992740
assert time.mktime((2024, 1, 1 << 30, 0, 0, 0, 0, 0)) == 92772997574400
for t in (1 << 62, -(1 << 62), 253402300800, -62135596801):
    assert error(lambda: time.localtime(t)) == "OverflowError"
for t in ((1 << 40, 1, 1), (2000, 1 << 60, 1), (2000, 1, -(1 << 60)), (0, 1, 1)):
    assert error(lambda: time.mktime(t + (0, 0, 0, 0, 0))) == "OverflowError"
print("crashes: ok")
"""
CHAIN = """\
import gc, time
x = 1
for i in range(30000): x = (lambda y: lambda: y)(x)
gc.collect(); t = time.ticks_ms(); gc.collect(); t = time.ticks_diff(time.ticks_ms(), t)
x = None
assert t < 2000, t
print("crashes: ok")
"""


def paste(guest, text, timeout):
    """Run a program at the prompt; return its output."""
    serial = guest.serial
    serial.send("\r\x05")
    serial.expect("=== ")
    for at in range(0, len(text), 400):
        serial.send(text[at : at + 400].replace("\n", "\r"))
    serial.send("\x04")
    serial.expect(rb"\ncrashes: ok\r\n>>> |\r\n\w*Error[^\r]*\r\n>>> ", timeout)
    return serial.before


@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS] + ["times", "chain"])
def test_the_machine_goes_on(guest, name):
    texts = {"times": TIMES, "chain": CHAIN, **{path.stem: path.read_text() for path in SCRIPTS}}
    paste(guest, texts[name], 300)
    assert guest.serial.run("1 + 1") == "2"
    assert requests.get(guest.url + "/health", timeout=60).status_code == 200
