"""Every death ends in a report with the reason, a reboot, and a system that remembers it."""

import re

import pytest
import requests

# kind of _x86.crash(): the reason, and functions that the backtrace names.
DEATHS = {
    "null": (r"fault: page fault, write of address 0 \(not mapped\)", "null_write"),
    "text": (r"fault: page fault, write of address [0-9a-f]+ \(protected\)", "text_write"),
    "data": (r"fault: page fault, execution of address [0-9a-f]+ \(protected\)", "data_execute"),
    "stack": (r"fault: stack overflow: page fault, write of address [0-9a-f]+ ", "recurse"),
    "divide": (r"fault: divide error \(vector 0, ", "divide"),
    "double": (r"fault: double fault \(vector 8, error 0\)", "double_fault"),
    "panic": (r"panic: asked for", "give_up"),
    "abort": (r"panic: abort\(\): ", "abort"),
}
# The same of _engine.crash().
CPP_DEATHS = {
    "assert": (
        r"panic: abort\(\): native/engine/crash.cpp:\d+: GGML_ASSERT\(answer == 42\) failed",
        "death::fail_assertion",
    ),
    "throw": (
        r"panic: abort\(\): libc\+\+abi: terminating due to uncaught exception of type "
        r"std::runtime_error: thrown on purpose",
        "death::throw_uncaught",
    ),
}
REPORT = (
    rb"(?s)cllm: (%s[^\r\n]*)\r\n(rax .*?)backtrace:\r\n(.*?)last lines of the log:\r\n"
    rb"(.*?)cllm: (?:rebooting|exiting|halted)"
)


def report(serial, reason, timeout=60):
    """Return the next report on the serial line as texts: (reason, registers, backtrace, log)."""
    return [part.decode() for part in serial.expect(REPORT % reason.encode(), timeout).groups()]


def paste(serial, source):
    """Run some lines at the prompt, in paste mode."""
    serial.send("\r\x05")
    serial.expect("=== ")
    serial.send(source.replace("\n", "\r") + "\x04")


def last_crash(serial):
    """Return machine.last_crash() without the log, in which Serial.run() would find a prompt."""
    serial.run("import machine; c = machine.last_crash()")
    assert serial.run("print(len(c.pop('log')) > 3, len(c['registers']))") == "True 6"
    return eval(serial.run("print(c)"))


@pytest.mark.usefixtures("selftest")
@pytest.mark.parametrize(
    "module, kind, reason, function",
    [
        *(("_x86", kind, *what) for kind, what in DEATHS.items()),
        *(("_engine", kind, *what) for kind, what in CPP_DEATHS.items()),
    ],
)
def test_a_death_is_reported_and_the_machine_comes_back(boot, module, kind, reason, function):
    guest = boot(on_crash="reboot")
    serial = guest.serial
    serial.run("print('said', 'before')")
    serial.sendline(f"import {module}; {module}.crash('{kind}')")
    said, registers, backtrace, log = report(serial, reason)
    assert re.search(r"rip 0*[1-9a-f]", registers)
    assert f" {function}+0x" in backtrace
    assert "\npython <stdin>:1 in <module>\r\n" in backtrace
    assert re.search(r"\npython main.py:\d+ in repl\r\n", backtrace)
    assert backtrace.rstrip().splitlines()[-1].endswith(" _start+0x15")
    assert "| said before\r\n" in log
    serial.expect(r"crash: the last run died after \d+ s: " + reason)
    serial.booted()
    crash = last_crash(serial)
    assert crash["reason"] == said
    assert (crash["count"], crash["boots"]) == (1, 1)
    assert 0 < crash["uptime"] < 120
    assert crash["python"][0] == "<stdin>:1 in <module>"
    assert any(f" {function}+0x" in line for line in crash["backtrace"])
    # It serves again; without a model, that is 503.
    assert requests.get(guest.url + "/health", timeout=60).status_code == 503


@pytest.mark.usefixtures("selftest")
def test_a_death_on_another_core_ends_the_machine(boot):
    guest = boot(on_crash="reboot", smp=3)
    guest.serial.sendline("import _x86; _x86.crash('null', 2)")
    _, registers, backtrace, _ = report(guest.serial, DEATHS["null"][0])
    assert " processor 2\r\n" in registers
    assert " null_write+0x" in backtrace and " die_elsewhere+0x" in backtrace
    guest.serial.expect("crash: the last run died after ")
    guest.serial.booted()
    # The function in which Python was waiting.
    assert last_crash(guest.serial)["python"][0] == "<stdin>:1 in <module>"
    assert guest.serial.run("import _x86; _x86.cpu_count()") == "3"


@pytest.mark.parametrize("smp", [1, 2])
def test_a_death_of_the_thread_that_computes_tells_the_line_of_python(boot, tiny_model, smp):
    guest = boot(model=str(tiny_model), on_crash="reboot", smp=smp)
    guest.serial.send("\r")
    guest.serial.expect(">>> ")
    guest.serial.sendline(
        "import _engine; _engine.crash('assert', _engine.Engine('/boot/model.gguf'))"
    )
    _, _, backtrace, _ = report(guest.serial, CPP_DEATHS["assert"][0])
    died, waited = backtrace.split("the main thread meanwhile:\r\n")
    assert " death::fail_assertion+0x" in died and "python" not in died
    assert " engine_crash_py+0x" in waited and "\npython <stdin>:1 in <module>\r\n" in waited
    guest.serial.expect("crash: the last run died after ")
    guest.serial.expect("is ready")


APP = """\
import _x86
from cllm import app

@app.get("/die")
def die(request):
    _x86.crash("null")

@app.get("/hang")
def hang(request):
    while True:
        pass
"""


@pytest.mark.usefixtures("selftest")
def test_health_tells_of_the_death_of_a_handler(boot, tiny_model, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    guest = boot(model=str(tiny_model), app=str(tmp_path / "app.py"), on_crash="reboot")
    assert "last_crash" not in requests.get(guest.url + "/health", timeout=60).json()
    with pytest.raises(requests.RequestException):
        requests.get(guest.url + "/die", timeout=60)
    report(guest.serial, "fault: ")
    guest.serial.expect("is ready")
    told = requests.get(guest.url + "/health", timeout=60).json()
    assert told["status"] == "ok"
    assert told["last_crash"]["reason"].startswith("fault: page fault, write of address 0 ")
    assert told["last_crash"]["python"] == "/boot/app.py:6 in die"
    assert told["last_crash"]["count"] == 1
    # A reset on request is no death, and keeps the record of the last one.
    guest.serial.sendline("import machine; print(machine.reset_cause()); machine.reset()")
    guest.serial.expect(r"\r\n3\r\n")  # WDT_RESET
    guest.serial.expect("is ready")
    told = requests.get(guest.url + "/health", timeout=60).json()
    assert (told["last_crash"]["count"], told["last_crash"]["boots_ago"]) == (1, 2)


def test_a_hung_loop_is_ended_by_its_watchdog(boot, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    guest = boot(config_json={"watchdog": 4}, app=str(tmp_path / "app.py"), on_crash="reboot")
    # Code at the prompt may take any time.
    paste(
        guest.serial,
        "import time; t = time.ticks_add(time.ticks_ms(), 7000)\n"
        "while time.ticks_diff(t, time.ticks_ms()) > 0: pass\n"
        "print('still ' + 'here')",
    )
    guest.serial.expect("still here")
    with pytest.raises(requests.RequestException):
        requests.get(guest.url + "/hang", timeout=60)
    said, _, backtrace, _ = report(guest.serial, "watchdog: the event loop was not heard of for ")
    assert re.search(r"python /boot/app.py:1[01] in hang\r\n", backtrace)
    guest.serial.expect("listening on port 80")


@pytest.mark.usefixtures("selftest")
def test_machine_wdt_bites_when_it_is_not_fed(boot):
    guest = boot(on_crash="reboot")
    guest.serial.run("import machine, time, _x86; w = machine.WDT(timeout=3000)")
    for _ in range(3):
        guest.serial.run("w.feed(); time.sleep(1.5)")
    guest.serial.sendline("w.feed(); _x86.crash('hang')")
    _, _, backtrace, _ = report(guest.serial, "watchdog: machine.WDT was not heard of for ")
    assert " hang+0x" in backtrace and "python <stdin>:1 in <module>" in backtrace


@pytest.mark.usefixtures("selftest")
def test_a_machine_that_keeps_dying_stays_down(boot):
    guest = boot(on_crash="reboot", wait=False)
    for end in (*["rebooting"] * 3, "halted: died 4 times in a row within 60 s of booting"):
        guest.serial.expect("in all\r\n")
        guest.serial.sendline("import _x86; _x86.crash('null')")
        guest.serial.expect("cllm: " + end)
    assert guest.status() is None


def test_cllm_run_ends_with_the_reason_by_default(boot):
    guest = boot()
    guest.serial.sendline("import machine; machine.mem32[0]")
    assert guest.ended.wait(60)
    assert guest.reason() == "the guest died: fault: page fault, read of address 0 (not mapped)"
    assert guest.status() == 3 << 1 | 1


@pytest.mark.parametrize("address", ["0x1001000", "0x1000000"])
def test_code_and_headers_are_read_only(boot, address):
    guest = boot()
    guest.serial.sendline(f"import machine; machine.mem32[{address}] = 1")
    guest.serial.expect(f"write of address {int(address, 16):x} \\(protected\\)")


@pytest.mark.usefixtures("selftest")
def test_a_backtrace_goes_on_above_code_without_frame_pointers(boot):
    """Code that MicroPython emits at run time has no names."""
    guest = boot()
    paste(
        guest.serial,
        "import _x86, micropython\n"
        "@micropython.native\n"
        "def f(g): return g() + 1\n"
        "f(lambda: _x86.crash('divide'))\n",
    )
    _, _, backtrace, _ = report(guest.serial, "fault: divide error")
    assert "python <stdin>:4 in <lambda>" in backtrace
    assert "(guessed)" in backtrace
    assert " main+0x" in backtrace


def test_running_out_of_python_heap_is_a_memory_error(guest):
    serial = guest.serial
    serial.send("\r")
    serial.expect(">>> ")
    paste(
        serial,
        "hoard = []\n"
        "try:\n"
        "  while True: hoard.append(bytearray(1 << 20))\n"
        "except MemoryError: print('out of ' + 'memory')\n",
    )
    serial.expect("out of memory")
    serial.expect(">>> ")
    serial.run("del hoard; import gc; gc.collect()")
    assert serial.run("len(bytearray(8 << 20)) >> 20") == "8"
    assert requests.get(guest.url + "/health", timeout=60).status_code == 200
