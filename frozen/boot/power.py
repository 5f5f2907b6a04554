"""The power button, so that the server ends what runs before the machine goes off."""
# SPDX-License-Identifier: MIT

import asyncio
import select
import time

import machine
from micropython import const
from net import host
from net.tcp.states import FIN_WAIT_2, TIME_WAIT

# Presses within this many ms are one press that bounced or was sent twice.
_ONE_PRESS = const(1000)
# Time for the last answers to reach their clients.
_SEND_MS = const(2000)
_LOOK_MS = const(20)


class PowerButton:
    """The power button as something to await. A second press switches off at once."""

    def __init__(self):
        self._entry = None
        self._pressed = None
        machine.power_button(self._press)

    def _press(self, _count):
        # Runs between two bytecodes, as the network's callbacks do.
        now = time.ticks_ms()
        if self._pressed is not None and time.ticks_diff(now, self._pressed) > _ONE_PRESS:
            machine.power_off()
        if self._pressed is None:
            self._pressed = now
        if self._entry is not None:
            host.stack.touched.append(self._entry)

    # net.aio calls these two, as a stream's.

    def watch(self, entry, _writing):
        self._entry = entry

    def events(self, mask):
        return mask & select.POLLIN if self._pressed is not None else 0

    async def pressed(self):
        """Wait for a press."""
        # In MicroPython, a coroutine is a generator.
        yield asyncio.core._io_queue.queue_read(self)


async def sent():
    """Wait until connections have delivered what they sent, _SEND_MS at most."""
    for _ in range(_SEND_MS // _LOOK_MS):
        if all([c.state in (FIN_WAIT_2, TIME_WAIT) for c in host.stack.tcp.connections()]):
            break
        await asyncio.sleep_ms(_LOOK_MS)
