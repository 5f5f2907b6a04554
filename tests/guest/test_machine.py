"""The machine, os and time modules of a booted image."""

import re
import time

import pytest
from cllm import TOP, VERSION


@pytest.fixture(scope="module")
def repl(boot_once):
    """The REPL of a guest of its own, which these tests may set the clock of."""
    guest = boot_once()
    guest.serial.send("\r\x03")
    guest.serial.expect(">>> ")
    for module in ("machine", "os", "time"):
        guest.serial.run("import " + module)
    return guest.serial


def test_ports(repl):
    # The console's UART: its scratch register holds what is written, its line status is readable.
    assert repl.run("machine.outb(0x3FF, 0x5A); machine.inb(0x3FF) == 0x5A") == "True"
    repl.run("machine.outl(0xCF8, 0x80000000)")  # PCI configuration address: bus 0, device 0
    assert (
        repl.run("hex(machine.inw(0xCFC)), machine.inl(0xCFC) & 0xFFFF == machine.inw(0xCFC)")
        == "('0x8086', True)"
    )
    for port in (-1, 65536):
        assert "ValueError" in repl.run(f"machine.inb({port})")


def test_the_clock_is_the_hosts_and_can_be_set(repl):
    assert abs(int(repl.run("time.time()")) - time.time()) < 60
    repl.run("rtc = machine.RTC()")
    repl.run("saved = rtc.datetime()")
    repl.run("rtc.datetime((2032, 2, 29, 0, 23, 59, 58, 0))")
    assert repl.run("rtc.datetime()[:4], time.gmtime()[:3]") == "((2032, 2, 29, 6), (2032, 2, 29))"
    # The CMOS clock holds it too (BCD on a PC): it is read from there after a reset.
    repl.run("cmos = lambda r: machine.outb(0x70, r) or hex(machine.inb(0x71))")
    assert repl.run("cmos(9), cmos(8), cmos(7), cmos(6)") in (
        "('0x32', '0x2', '0x29', '0x1')",
        "('0x32', '0x3', '0x1', '0x2')",
    )
    for wrong in ((2031, 2, 29, 0, 0, 0, 0, 0), (2031, 1, 1, 0, 24, 0, 0, 0), (1999,) + (1,) * 7):
        assert "ValueError" in repl.run(f"rtc.datetime({wrong})")
    repl.run("rtc.datetime(saved)")
    assert abs(int(repl.run("time.time()")) - time.time()) < 60


def test_a_timer_fires_until_it_is_ended(repl):
    repl.run("fired = []")
    repl.run("t = machine.Timer(period=10, callback=fired.append)")
    repl.run("time.sleep_ms(200)")
    repl.run("t.deinit()")
    assert (
        repl.run("n = len(fired); time.sleep_ms(100); print(n > 2, n == len(fired))")
        == "True True"
    )


def test_timers_end_with_a_soft_reset(repl):
    repl.run("t = machine.Timer(period=1, callback=lambda t: print('late'))")
    repl.send("\x04")
    repl.expect("MPY: soft reboot\r\n")
    repl.booted()
    assert "late" not in repl.run("import machine, os, time; time.sleep_ms(50)")


def test_os(repl):
    release = rf"release='{re.escape(VERSION)}'"
    said = repl.run("os.uname()")
    assert re.search(rf"sysname='cllm'.*{release}.*machine='cllm with x86-64'", said)
    assert repl.run("len(os.urandom(9)), os.urandom(8) != os.urandom(8)") == "(9, True)"
    assert "ValueError" in repl.run("os.urandom(-1)")


def test_every_module_of_ours_is_documented(repl):
    listed = repl.run("help('modules')").replace("Plus any modules on the filesystem", "").split()
    assert {"machine", "pci", "unittest", "socket", "network", "ramdisk"} <= set(listed)
    text = (TOP / "docs" / "modules.md").read_text()
    upstreams = set(
        "__main__ _asyncio array asyncio binascii builtins cmath collections deflate errno "
        "framebuf gc hashlib heapq io json marshal math micropython platform random re select "
        "struct sys uasyncio uctypes websocket".split()
    )
    ours = {name.split("/")[0] for name in listed} - upstreams - {"_boot", "main"}
    assert not [name for name in sorted(ours) if not re.search(rf"\b{name}\b", text)]
