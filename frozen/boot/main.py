"""The running system: network up, server on, REPL on the serial line, all in one asyncio loop.

The REPL is a task of the loop that is fed character by character, so handlers can be changed while
requests are served. CTRL-C at its prompt clears the line; it never stops the server. CTRL-D, or a
tool that asks for a soft reset, ends the loop. An exception here leads to the plain REPL.
"""
# SPDX-License-Identifier: MIT

import asyncio
import errno
import micropython
import sys

import _x86
import drivers
import network

# Ask for an address before the other imports: both take a moment.
unknown_cards = drivers.unknown_cards()
for card in unknown_cards:
    print("cllm: no driver for the network card " + card)
lan = network.LAN(0)
try:
    lan.active(True)
except OSError as exc:
    if exc.errno != errno.ENODEV:
        raise
    # The model can still be used from the REPL.
    print("cllm: no network card of a kind that is known, going on without")
_x86.boot_phase("network card")

import machine
import remote
import report
from httpd.router import print_exception
from net import host
from power import PowerButton, sent
from serve.main import serve
from serve.service import service
from serve.settings import read_settings
from wallclock import WallClock

_x86.boot_phase("server")


async def repl():
    micropython.kbd_intr(-1)  # CTRL-C is a character of the REPL until a line runs
    _x86.repl_start()
    console = asyncio.StreamReader(sys.stdin.buffer)
    while True:
        chars = await console.read(1)
        # A line may call asyncio.run(), which runs the server's tasks, too, and then forgets which
        # task is the current one.
        task = asyncio.core.cur_task
        for c in chars:
            try:
                if _x86.repl_char(c):
                    sys.exit()
            except Exception as exc:  # no memory: the line or paste is lost, the server goes on
                print_exception(exc)
                _x86.repl_start()
        asyncio.core.cur_task = task


async def computed(engine):
    # Waits until the engine has computed. In MicroPython, a coroutine is a generator.
    yield asyncio.core._io_queue.queue_read(engine)


async def run(settings):
    button = PowerButton()
    try:
        service.discard = remote.discard
        await serve(settings, computed, asked=button.pressed, find=remote.find_model)
    finally:
        machine.power_button(None)
        network.withdraw()
    await sent()
    print("cllm: off")
    machine.power_off()


def tls_context():
    import ssl  # only where TLS is asked for

    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


async def main():
    settings = read_settings(make_context=tls_context)
    service.last_crash = report.crash_summary()
    service.unknown_cards = unknown_cards
    host.watch(service.look)
    if settings.card:
        try:
            network.use_card(settings.card)
        except OSError as exc:
            print("cllm: network.card: no card %s (%s)" % (settings.card, exc))
    if settings.address:
        lan.ipconfig(dhcp4=False, addr4=settings.address, gw4=settings.gateway)
    network.use_ipv6(settings.ipv6)
    service.network = network.describe
    if settings.hostname:
        network.hostname(settings.hostname)
    if settings.dns:
        network.name_servers(settings.dns)
    if settings.ntp:
        network.time_servers(settings.ntp)
    if settings.mdns:
        network.advertise(settings.port)
    # An error in these is printed, and nothing else stops.
    asyncio.create_task(report.boot_phases(lan))
    asyncio.create_task(report.screen(lan))
    asyncio.create_task(WallClock(network.paused).run())
    await asyncio.gather(run(settings), repl(), report.watchdog(settings.watchdog))


asyncio.run(main())
