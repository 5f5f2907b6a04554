"""Keeps wall time and leases right where the machine stands still for a while.

A hypervisor stops a machine in one of two ways. If the TSC runs on (SIGSTOP, a host that sleeps),
the kernel leaves the pause out of ticks_ms(), and wall time is right. If the TSC stands still, too
(QEMU's `stop`, a migration), only the CMOS clock shows the pause, so it is read every 10 s. In
both cases the network verifies its lease, which ran on.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

import _x86
from httpd.router import print_exception
from micropython import const

_LOOK_S = const(10)  # a look takes some 50 accesses to slow ports
_APART_NS = const(2000000000)
_SECOND = const(1000000000)
# Hosts that are short of memory or processors pause machines often and shortly; no lease ends by
# that.
_TOLD_MS = const(3000)
# The wait for the CMOS clock, which shows whole seconds, to go on to the next.
_EDGE_MS = const(10)
_EDGE_TRIES = const(150)


class WallClock:
    """Args: on_pause: called after a pause, with its milliseconds, 3000 or more."""

    def __init__(self, on_pause):
        self._on_pause = on_pause
        self._paused = _x86.paused()
        self._missed = 0  # part of _paused that on_pause() does not know yet

    async def run(self):
        """Look for pauses until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(1)
            turn += 1
            try:
                await self.look(turn % _LOOK_S == 0)
            except Exception as exc:  # such as no memory: the next look may succeed
                print_exception(exc)

    async def look(self, cmos):
        """Look for a pause that the kernel saw; with `cmos`, also for one that it cannot see."""
        paused = _x86.paused()
        missed = paused - self._paused
        self._paused = paused
        if not missed and not cmos:
            return
        ahead = self._ahead()
        # The clock goes back only if the kernel saw a gap: the TSC jumped, and there was no pause.
        if ahead >= _APART_NS or (missed and ahead <= -_APART_NS - _SECOND):
            step = await self._step()
            if step:
                print("cllm: the clock was %d s behind" % ((step + _SECOND // 2) // _SECOND))
                missed += step // 1000000
        self._missed += missed
        if self._missed >= _TOLD_MS:
            missed, self._missed = self._missed, 0
            self._on_pause(missed)

    @staticmethod
    def _ahead():
        # The least number of ns that the CMOS clock is ahead; it may be a second more.
        seconds = _x86.cmos_time()
        return 0 if seconds is None else seconds * _SECOND - time.time_ns()

    async def _step(self):
        # Sets the clock when the CMOS clock's next second begins. Returns by how many ns, 0 if
        # that clock stands still.
        before = _x86.cmos_time()
        for _ in range(_EDGE_TRIES):
            await asyncio.sleep(_EDGE_MS / 1000)
            seconds = _x86.cmos_time()
            if seconds != before:
                break
        if before is None or seconds != before + 1:
            return 0
        step = seconds * _SECOND - time.time_ns()
        _x86.step_time(seconds * _SECOND)
        return step
