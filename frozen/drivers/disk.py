"""What all disks have in common: commands in slots, waited for by polling or by interrupt.

docs/drivers.md says what a driver adds. File systems read and write by polling, through a bounce
buffer. A model is read straight into the memory where it stays, several commands at a time.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

import uctypes
from drivers import dma, lines
from micropython import const

# Operations.
READ = const(0)
WRITE = const(1)
FLUSH = const(2)
_WORDS = ("read", "write", "flush")

_EIO = const(5)
_EBUSY = const(16)
_EINVAL = const(22)
_EROFS = const(30)
_ETIMEDOUT = const(110)

_BOUNCE = const(65536)  # bytes, of whole sectors of any size in use
# A command that takes longer has failed, and so has the disk: ms. Disks that spin up take 10 s.
_PATIENCE = const(30_000)
# A reader that waits for an interrupt looks again after this long: some machine may lose one.
_LOOK_S = 0.02


class Disk:
    """A disk with `depth` commands at a time. A driver's class is derived from it.

    Args: name: for messages, such as "nvme0"; key: the device's, for dma.block(); irq: its line.

    sector: bytes of one; sectors: how many; readonly; serial: a text, may be empty; largest:
    bytes of one command at most, whole pages. A driver sets them, and calls ready() when its
    device runs.
    """

    sector = 512
    sectors = 0
    readonly = False
    serial = ""
    depth = 8
    largest = 1 << 20

    def __init__(self, name, key, irq):
        self.name = name
        self.key = key
        self.irq = irq
        self.dead = None  # why no command is tried any more
        self._free = []  # slots without a command
        self._done = {}  # {slot of a command that has ended: what went wrong, None for nothing}
        self._busy = False
        self._readers = 0
        self._flag = None

    # --- What a driver writes.

    def _start(self, slot, operation, lba, address, size):
        """Begin a command in a free slot: `size` bytes, contiguous at a physical address."""
        raise NotImplementedError

    def _reap(self):
        """Put the commands that have ended into self._done."""
        raise NotImplementedError

    def _interrupts(self, wanted):
        """Let the device interrupt when a command ends, or not. False ends an interrupt, too."""
        raise NotImplementedError

    def stop(self):
        """Reset the device, so that it writes no memory and raises no interrupt."""
        raise NotImplementedError

    # --- What a driver calls.

    def ready(self):
        """Commands can be started."""
        self._free = list(range(self.depth))
        self._bounce = dma.block(self.key, self.name + " bounce", _BOUNCE)
        self._bounce_at = uctypes.addressof(self._bounce)
        self._interrupts(False)

    # --- What users call.

    def read(self, lba, view):
        """Fill a buffer of whole sectors from sector `lba` on. OSError as all of these."""
        self._check(lba, len(view))
        view = memoryview(view)
        for at in range(0, len(view), _BOUNCE):
            part = view[at : at + _BOUNCE]
            size = len(part)
            self._command(READ, lba + at // self.sector, self._bounce_at, size)
            part[:] = self._bounce[:size]

    def write(self, lba, view):
        """Write a buffer of whole sectors from sector `lba` on. flush() makes it last."""
        if self.readonly:
            raise OSError(_EROFS, self.name + " is read-only")
        self._check(lba, len(view))
        view = memoryview(view)
        for at in range(0, len(view), _BOUNCE):
            part = view[at : at + _BOUNCE]
            size = len(part)
            target = self._bounce[:size]
            target[:] = part
            self._command(WRITE, lba + at // self.sector, self._bounce_at, size)

    def flush(self):
        """Return when everything that was written will outlive a loss of power."""
        if not self.readonly:
            self._command(FLUSH, 0, 0, 0)

    async def read_physical(self, lba, address, size, progress=None):
        """Read `size` bytes from sector `lba` on to a physical address, and let others run.

        progress(bytes): called now and then. All commands have ended when it returns or raises.
        """
        self._check(lba, size)
        reader = _Reader(self, lba, address, size)
        self._attach()
        try:
            while reader.more():
                if not self._look(reader):
                    await self._wait(reader)
                elif progress:
                    progress(reader.finished)
        finally:
            self._detach()
            self._drain(reader)
        if reader.error:
            raise OSError(_EIO, reader.error)

    # --- The rest.

    def _check(self, lba, size):
        if size % self.sector or lba < 0 or lba + size // self.sector > self.sectors:
            raise OSError(_EINVAL, self.name + ": no whole sectors of the disk")

    def _command(self, operation, lba, address, size):
        # A callback may run between two bytecodes of another call.
        if self._busy:
            raise OSError(_EBUSY, self.name + " is in use")
        self._busy = True
        try:
            slot = self._poll(None)
            self._begin(slot, operation, lba, address, size)
            self._poll(slot)
            error = self._end(slot)
        finally:
            self._busy = False
        if error:
            raise OSError(_EIO, self._text(operation, lba, error))

    def _text(self, operation, lba, error):
        where = "" if operation == FLUSH else " at sector %d" % lba
        return "%s: %s%s: %s" % (self.name, _WORDS[operation], where, error)

    def _poll(self, slot):
        # Wait until the slot's command has ended; None: until any slot is free, which is taken.
        start = time.ticks_ms()
        while not self.dead:
            if slot is None:
                if self._free:
                    return self._free.pop()
            elif slot in self._done:
                return slot
            self._reap()
            if time.ticks_diff(time.ticks_ms(), start) > _PATIENCE:
                self.give_up("no answer in %d s" % (_PATIENCE // 1000))
        raise OSError(_ETIMEDOUT, "%s: %s" % (self.name, self.dead))

    def _begin(self, slot, operation, lba, address, size):
        if self.dead:
            raise OSError(_ETIMEDOUT, "%s: %s" % (self.name, self.dead))
        self._start(slot, operation, lba, address, size)

    def _end(self, slot):
        self._free.append(slot)
        return self._done.pop(slot)

    def give_up(self, why):
        """Stop the device for good: a command that it still has must write to no memory."""
        self.dead = why
        try:
            self.stop()
        except OSError as exc:
            print("cllm: %s: %s" % (self.name, exc))

    def _look(self, reader):
        # Return whether commands of the reader ended.
        self._busy = True
        try:
            reader.start()
            self._reap()
            return reader.take()
        finally:
            self._busy = False

    def _drain(self, reader):
        while reader.slots and not self.dead:
            self._poll(next(iter(reader.slots)))
            reader.take()

    def _attach(self):
        self._readers += 1
        if self._readers == 1:
            self._flag = asyncio.ThreadSafeFlag()
            lines.attach(self.irq, self._on_interrupt)

    def _detach(self):
        self._readers -= 1
        if not self._readers:
            lines.detach(self.irq, self._on_interrupt)
            self._interrupts(False)

    def _on_interrupt(self, line):
        # Touches no ring: it may run in the middle of anything here.
        self._interrupts(False)
        self._flag.set()

    async def _wait(self, reader):
        if time.ticks_diff(time.ticks_ms(), reader.since) > _PATIENCE:
            self.give_up("no answer in %d s" % (_PATIENCE // 1000))
        if self.dead:
            raise OSError(_ETIMEDOUT, "%s: %s" % (self.name, self.dead))
        self._interrupts(True)
        # What ended before that raises no interrupt on all devices.
        self._reap()
        if not self._done:
            try:
                await asyncio.wait_for(self._flag.wait(), _LOOK_S)
            except asyncio.TimeoutError:
                pass
        self._interrupts(False)


class _Reader:
    """A long read in pieces: which of them are under way."""

    def __init__(self, disk, lba, address, size):
        self.disk = disk
        self.lba = lba
        self.address = address
        self.size = size
        self.started = 0
        self.finished = 0
        self.error = None
        self.slots = {}  # {slot: (its first byte, bytes)}
        self.since = time.ticks_ms()  # when a piece ended last

    def more(self):
        return self.slots or (self.started < self.size and not self.error)

    def start(self):
        """Begin commands, but leave a slot to those who poll."""
        disk = self.disk
        while self.started < self.size and len(disk._free) > 1 and not self.error:
            size = min(disk.largest, self.size - self.started)
            slot = disk._free.pop()
            self.slots[slot] = self.started, size
            disk._begin(
                slot,
                READ,
                self.lba + self.started // disk.sector,
                self.address + self.started,
                size,
            )
            self.started += size

    def take(self):
        """Take what has ended; return whether anything had."""
        disk = self.disk
        ended = [slot for slot in self.slots if slot in disk._done]
        for slot in ended:
            at, size = self.slots.pop(slot)
            error = disk._end(slot)
            self.finished += size
            if error and not self.error:
                self.error = disk._text(READ, self.lba + at // disk.sector, error)
        if ended:
            self.since = time.ticks_ms()
        return bool(ended)


class Part:
    """A part of a disk as MicroPython's block device, with the extended interface.

    Args: disk: a Disk; first, count: its sectors; name: a text; kind: the type's GUID, of a
    partition; block: bytes of one block, whole sectors.
    """

    def __init__(self, disk, first, count, name="", kind=None, block=None):
        self.disk = disk
        self.first = first
        self.count = count
        self.name = name
        self.kind = kind
        self.block = block or disk.sector

    @property
    def size(self):
        """Bytes."""
        return self.count * self.disk.sector

    def _lba(self, block, offset, size):
        sector = self.disk.sector
        at = block * self.block + offset
        if at < 0 or at % sector or size % sector or at + size > self.size:
            raise OSError(_EINVAL, self.disk.name + ": no whole sectors of the partition")
        return self.first + at // sector

    def readblocks(self, block, buf, offset=0):
        self.disk.read(self._lba(block, offset, len(buf)), buf)

    def writeblocks(self, block, buf, offset=0):
        self.disk.write(self._lba(block, offset, len(buf)), buf)

    def ioctl(self, op, arg):
        if op == 3:  # sync
            self.disk.flush()
        elif op == 4:  # blocks
            return self.size // self.block
        elif op == 5:  # bytes of a block
            return self.block
        return 0  # init, deinit, erase
