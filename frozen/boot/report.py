# What the machine says of itself: the table of boot phases, and the top of the screen.
import asyncio
import gc
import time

import _x86
import machine
from micropython import const
from serve.scheduling.engine import LOADING, READY
from serve.service import service

# How often the screen's figure of Python's memory is taken, in updates of the screen: it is a walk
# through all of the heap.
_HEAP_TURNS = const(10)


def boot_table():
    """Return the lines that say how long each phase of booting took."""
    phases = _x86.boot_phases()
    lines = ["%10.1f ms  %s" % (ms, name) for name, ms in phases]
    return lines + ["%10.1f ms  in all" % sum(ms for _, ms in phases)]


def crash_summary():
    """Return what /health says of the last death since power-on, None without one."""
    crash = machine.last_crash()
    if crash is None:
        return None
    return {
        "reason": crash["reason"],
        "python": crash["python"][0] if crash["python"] else None,
        "uptime_s": crash["uptime"],
        "time": crash["time"],
        "count": crash["count"],
        "boots_ago": crash["boots"],
    }


async def boot_phases(lan):
    """Note when there is an address and when the model is loaded, then print the table."""
    address = not lan.active()  # without a card there will be none
    model = False
    started = time.ticks_ms()
    while not (address and model):
        if not address and lan.isconnected():
            address = True
            _x86.boot_phase("address")
        # Before serve() has read the configuration, the host is one without a path.
        if not model and service.host.path and service.host.state != LOADING:
            model = True
            _x86.boot_phase("model")
        # A machine without a cable stays here: it is not to wake for that all the time.
        hurry = time.ticks_diff(time.ticks_ms(), started) < 10_000
        await asyncio.sleep_ms(10 if hurry else 1000)
    print("cllm: booted\n" + "\n".join(boot_table()))


def status(lan, heap):
    """Return the lines for the top of the screen, below the kernel's own.

    Args: heap: bytes that Python uses.
    """
    host, scheduler = service.host, service.scheduler
    up = time.ticks_ms() // 1000
    if lan.isconnected():
        address = "http://" + lan.ipconfig("addr4")[0]
    else:
        address = "no address yet" if lan.active() else "no network card"
    total, free, _ = _x86.memory()
    load = ""
    if scheduler:
        load = "   %d running, %d waiting, %d steps" % (
            len(scheduler.running), len(scheduler.queue), scheduler.metrics.n_decode)
    if host.state == LOADING:
        what = "loading, %d%%" % (host.progress * 100)
    else:
        what = host.state if host.state == READY else host.reason
    return (
        "%s   up %d:%02d:%02d" % (address, up // 3600, up // 60 % 60, up % 60),
        "model %s: %s%s" % (host.alias, what, load),
        "memory %d of %d MiB free, Python %d KiB" % (
            free >> 20, total >> 20, heap >> 10),
    )


async def screen(lan):
    """Keep the top of the screen up to date."""
    shown = [None] * 3
    turn = heap = 0
    while True:
        if turn % _HEAP_TURNS == 0:
            heap = gc.mem_alloc()
        turn += 1
        for i, text in enumerate(status(lan, heap)):
            if text != shown[i]:
                shown[i] = text
                _x86.status(1 + i, text)
        await asyncio.sleep(1)


async def watchdog(seconds):
    """Promise to run every so often; the machine reboots when this does not."""
    _x86.watchdog(seconds * 1000)
    while seconds:
        _x86.watchdog_feed()
        await asyncio.sleep(seconds / 4)
