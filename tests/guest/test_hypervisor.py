"""What a hypervisor does to a machine: stops it, presses its power button, sends an NMI."""

import contextlib
import os
import re
import signal
import socket
import threading
import time

import pytest
import requests
from cllm import qemu
from support.qemu_monitor import Monitor

APP = """\
import asyncio, time
from cllm import app

@app.get("/count/<int:n>")
async def count(request, n):
    for i in range(n):
        yield "%d\\n" % i
        await asyncio.sleep(0.1)

@app.get("/hang")
def hang(request):
    while True:
        pass
"""


@pytest.fixture
def monitored(boot, tmp_path):
    """boot() of a guest with APP's routes, and command(name): a command of QEMU's monitor."""
    (tmp_path / "app.py").write_text(APP)

    def start(**options):
        path = tmp_path / "monitor"
        guest = boot(app=str(tmp_path / "app.py"), qmp=path, **options)

        def command(name):
            with Monitor(path) as monitor:
                monitor.command(name)

        guest.command = command
        guest.serial.send("\r")
        guest.serial.expect(">>> ")
        return guest

    return start


@contextlib.contextmanager
def stopped(guest, seconds):
    os.kill(guest.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
        yield
    finally:
        os.kill(guest.pid, signal.SIGCONT)


@pytest.mark.usefixtures("selftest")
@pytest.mark.parametrize("smp", [1, 2])
def test_a_pause_is_no_time_in_which_somebody_hung(boot, smp):
    config = {"watchdog": 3, "limits": {"head_s": 3, "idle_s": 3}}
    guest = boot(config_json=config, smp=smp)
    serial = guest.serial
    serial.send("\r")
    serial.expect(">>> ")
    serial.run("import machine, time, _x86; fired = []; w = machine.WDT(timeout=1500)")
    serial.run("feeder = machine.Timer(period=300, callback=lambda t: w.feed())")
    serial.run("timer = machine.Timer(period=1, callback=lambda t: fired.append(0))")
    serial.run("a, n = time.ticks_ms(), len(fired)")
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", guest.port), 60) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        time.sleep(0.5)
        with stopped(guest, 7):
            pass
        client.sendall(b"\r\n")
        assert client.recv(12) in (b"HTTP/1.1 503", b"HTTP/1.1 200")
    gone, more = eval(serial.run("time.ticks_ms() - a, len(fired) - n"))
    missed = (time.monotonic() - began) * 1000 - gone
    assert 6000 < missed < 8500
    assert abs(int(serial.run("_x86.paused()")) - 7000) < 1500
    assert more < gone + 300  # a timer does not make up for the pause
    assert abs(int(serial.run("time.time()")) - time.time()) < 3
    time.sleep(4)
    assert not guest.ended.is_set()
    # A hang is found after a pause as before it, whatever interrupts meanwhile.
    serial.run("timer.deinit()")
    serial.sendline("import _x86; feeder.deinit(); _x86.crash('hang')")
    serial.expect("hang")
    with stopped(guest, 3):
        pass
    flood = time.monotonic() + 5
    while time.monotonic() < flood and not guest.ended.is_set():
        serial.send("x" * 200)
        time.sleep(0.02)
    assert guest.ended.wait(30)
    assert "watchdog: machine.WDT was not heard of for " in guest.reason()


def test_the_clock_catches_up_with_a_machine_that_was_stopped(monitored):
    guest = monitored()
    serial = guest.serial
    serial.run("import machine, time")

    def pause():
        guest.command("stop")
        time.sleep(6)
        guest.command("cont")
        assert re.search(rb"[5-8] s behind", serial.expect(rb"the clock was [^\r]*", 60).group())

    def ahead():
        return int(serial.run("time.time()")) - time.time()

    assert abs(ahead()) < 3
    pause()
    assert abs(ahead()) < 2
    # A clock that a program has set keeps its offset, and catches up, too.
    for hours in (1, -1):
        serial.run(
            f"machine.RTC().datetime(time.gmtime(time.time() + {hours * 3600})[:3] + (0,)"
            f" + time.gmtime(time.time() + {hours * 3600})[3:6] + (0,))"
        )
    time.sleep(12)
    assert abs(ahead()) < 4
    serial.run("machine.RTC().datetime((2031, 5, 4, 0, 3, 2, 1, 0))")
    pause()
    assert serial.run("time.gmtime()[:4]") == "(2031, 5, 4, 3)"
    assert requests.get(guest.url + "/health", timeout=60).status_code == 503


def test_the_power_button_lets_requests_end(monitored):
    guest = monitored()
    said = []

    def read():
        answer = requests.get(guest.url + "/count/40", timeout=60)
        said.append((answer.status_code, answer.text.split()[-1]))

    kept = requests.Session()
    assert kept.get(guest.url + "/count/1", timeout=60).text == "0\n"
    client = threading.Thread(target=read)
    client.start()
    time.sleep(1)
    guest.command("system_powerdown")
    guest.serial.expect("asked to end, for what still runs there are 30 s")
    client.join(60)
    assert said == [(200, "39")]
    assert guest.ended.wait(30)
    assert guest.status() == 0 and guest.reason() == "the guest powered off or was reset"


def test_the_power_button_waits_so_long_and_no_longer(monitored):
    guest = monitored(config_json={"limits": {"drain_s": 2}})
    with requests.get(guest.url + "/count/10000", stream=True, timeout=60) as answer:
        answer.raw.read(2)
        guest.command("system_powerdown")
        assert guest.ended.wait(20) and guest.status() == 0


def test_the_power_button_twice_does_not_wait(monitored):
    guest = monitored()
    with requests.get(guest.url + "/count/10000", stream=True, timeout=60) as answer:
        answer.raw.read(2)
        guest.command("system_powerdown")
        guest.serial.expect("asked to end")
        time.sleep(2)
        assert not guest.ended.is_set()
        guest.command("system_powerdown")
        assert guest.ended.wait(10) and guest.status() == 0


@pytest.mark.usefixtures("selftest")
def test_the_power_button_of_a_machine_that_hangs(monitored):
    guest = monitored()
    guest.serial.sendline("import _x86; _x86.crash('hang')")
    guest.serial.expect("hang")
    time.sleep(1)
    guest.command("system_powerdown")
    time.sleep(4)
    assert not guest.ended.is_set()
    guest.command("system_powerdown")
    assert guest.ended.wait(10) and guest.status() == 0
    assert b"power: nobody heard of the button" in guest.log()


def test_a_script_may_have_the_power_button(monitored):
    guest = monitored()
    serial = guest.serial
    serial.run("import machine; machine.power_button(lambda n: print('pressed', n))")
    # A driver may share the button's interrupt line for a while.
    serial.run("import _x86; _x86.irq(9, print); _x86.irq(9, None)")
    for _ in range(2):
        guest.command("system_powerdown")
        serial.expect("pressed 1\r\n")
    assert "TypeError" in serial.run("machine.power_button(1)")
    # Without a handler the button switches off at once.
    serial.run("machine.power_button(None)")
    guest.command("system_powerdown")
    assert guest.ended.wait(10) and guest.status() == 0


@pytest.mark.parametrize("smp", [1, 2])
def test_an_nmi_shows_what_runs_and_all_goes_on(monitored, smp):
    guest = monitored(smp=smp)
    serial = guest.serial
    serial.sendline("import time; t = time.ticks_ms() + 5000\rwhile time.ticks_ms() < t: pass\r\r")
    serial.expect(r"while [^\n]*\r\n")
    time.sleep(1)
    for _ in range(3):
        guest.command("inject-nmi")
        said = serial.expect(r"cllm: NMI, going on: ([^\r]*)\r\n").group(1)
        where = rb"processor 0 at [0-9a-f]{16} \w+\+0x[0-9a-f]+, python <stdin>:1 in <module>"
        assert re.fullmatch(where, said)
    serial.expect(">>> ")
    assert serial.run("1 + 1") == "2"
    assert requests.get(guest.url + "/health", timeout=60).status_code == 503


def test_an_nmi_is_a_death_where_that_is_asked_for(monitored, monkeypatch):
    arguments = qemu.Guest.boot_arguments
    monkeypatch.setattr(
        qemu.Guest,
        "boot_arguments",
        lambda guest: [
            word + " nmi=crash" if "crash=exit" in word else word for word in arguments(guest)
        ],
    )
    guest = monitored()
    guest.command("inject-nmi")
    assert guest.ended.wait(30)
    assert guest.reason().startswith("the guest died: fault: NMI ")
