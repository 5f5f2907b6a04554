"""The power button, for whoever ends what runs before the machine goes off."""

import asyncio
import select
import time

import machine
from micropython import const
from net import host
from net.tcp.states import FIN_WAIT_2, TIME_WAIT

# Presses this close together, in ms, are one that bounced or was sent twice.
_ONE_PRESS = const(1000)
# For what was answered to reach its clients.
_SEND_MS = const(2000)
_LOOK_MS = const(20)


class PowerButton:
    """Presses of the power button as something to await. A second one switches off at once."""

    def __init__(self):
        self._entry = None
        self._pressed = None
        machine.power_button(self._press)

    def _press(self, _count):
        # Runs between any two bytecodes, as the network's callbacks do.
        now = time.ticks_ms()
        if self._pressed is not None and time.ticks_diff(now, self._pressed) > _ONE_PRESS:
            machine.power_off()
        if self._pressed is None:
            self._pressed = now
        if self._entry is not None:
            host.stack.touched.append(self._entry)

    # What net.aio asks of a stream.

    def watch(self, entry, _writing):
        self._entry = entry

    def events(self, mask):
        return mask & select.POLLIN if self._pressed is not None else 0

    async def pressed(self):
        """Return once the button was pressed."""
        # A coroutine is a generator in MicroPython.
        yield asyncio.core._io_queue.queue_read(self)


async def sent():
    """Return once what connections sent has arrived, or nobody takes it."""
    for _ in range(_SEND_MS // _LOOK_MS):
        if all([c.state in (FIN_WAIT_2, TIME_WAIT) for c in host.stack.tcp.connections()]):
            break
        await asyncio.sleep_ms(_LOOK_MS)
