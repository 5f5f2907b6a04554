"""What the machine says of itself: the table of boot phases, and the top of the screen."""
# SPDX-License-Identifier: MIT

import asyncio
import gc
import time

import _x86
import machine
from micropython import const
from serve.scheduling.engine import LOADING, READY
from serve.service import service

# Updates of the screen between two measurements of Python's memory, which walk through the heap.
_HEAP_TURNS = const(10)


def boot_table():
    """Return the lines of the table of boot phases."""
    phases = _x86.boot_phases()
    lines = ["%10.1f ms  %s" % (ms, name) for name, ms in phases]
    return lines + ["%10.1f ms  in all" % sum(ms for _, ms in phases)]


def crash_summary():
    """Return what /health says of the last death since power-on, None if there was none."""
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
    """Note the times of the address and of the loaded model, then print the table of phases."""
    address = not lan.active()  # without a card, none is expected
    model = False
    started = time.ticks_ms()
    while not (address and model):
        if not address and lan.isconnected():
            address = True
            _x86.boot_phase("address")
        # Until serve() has configured it, the host has no path.
        if not model and service.host.path and service.host.state != LOADING:
            model = True
            _x86.boot_phase("model")
        # A machine without a cable stays here, and should not wake often for it.
        hurry = time.ticks_diff(time.ticks_ms(), started) < 10_000
        await asyncio.sleep_ms(10 if hurry else 1000)
    print("cllm: booted\n" + "\n".join(boot_table()))


def status(lan, heap):
    """Return the lines at the top of the screen, below the kernel's.

    Args: heap: bytes of Python's heap in use.
    """
    host, scheduler = service.host, service.scheduler
    up = time.ticks_ms() // 1000
    if lan.isconnected():
        address = "http://" + lan.ipconfig("addr4")[0]
        if address.endswith("//0.0.0.0"):
            address = "http://[%s]" % lan.ipconfig("addr6")[-1][0]
    else:
        address = "no address yet" if lan.active() else "no network card"
        for card in service.unknown_cards:
            address += ", no driver for " + card
    total, free, _ = _x86.memory()
    load = ""
    if scheduler:
        load = "   %d running, %d waiting, %d steps" % (
            len(scheduler.running),
            len(scheduler.queue),
            scheduler.metrics.n_decode,
        )
    if host.state == LOADING:
        what = "loading, %d%%" % (host.progress * 100)
    else:
        what = host.state if host.state == READY else host.reason
    return (
        "%s   up %d:%02d:%02d" % (address, up // 3600, up // 60 % 60, up % 60),
        "model %s: %s%s" % (host.alias, what, load),
        "memory %d of %d MiB free, Python %d KiB" % (free >> 20, total >> 20, heap >> 10),
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
    """Feed the watchdog. If this does not run for `seconds`, the machine reboots."""
    _x86.watchdog(seconds * 1000)
    while seconds:
        _x86.watchdog_feed()
        await asyncio.sleep(seconds / 4)
