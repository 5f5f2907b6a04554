"""What the models of disk controllers share: a store, and a helper for what drivers await."""

import asyncio
import time

import uctypes
from drivers import dma

if not hasattr(asyncio, "ThreadSafeFlag"):

    class ThreadSafeFlag(asyncio.Event):
        """MicroPython's: one waiter, whom set() wakes once."""

        async def wait(self):
            await super().wait()
            self.clear()

    asyncio.ThreadSafeFlag = ThreadSafeFlag


class Store:
    """Sectors with contents that say where they are; `bad` ones cannot be read or written."""

    def __init__(self, sectors, sector=512):
        self.sector, self.sectors = sector, sectors
        self.data = bytearray(sectors * sector)
        for n in range(sectors):
            self.data[n * sector : n * sector + 4] = n.to_bytes(4, "little")
        self.bad = set()
        self.flushes = 0

    def is_bad(self, lba, size):
        return any(lba <= n < lba + size // self.sector for n in self.bad)

    def read(self, lba, address, size):
        at = lba * self.sector
        uctypes.bytearray_at(address, size)[:] = self.data[at : at + size]

    def write(self, lba, address, size):
        at = lba * self.sector
        self.data[at : at + size] = bytes(uctypes.bytearray_at(address, size))


def memory(size):
    """A buffer on a page boundary, and its address."""
    view = dma.block(0xFFFF, "test %d" % size, size)
    view[:] = bytes(size)
    return view, uctypes.addressof(view)


def forget():
    getattr(dma, "_memory", {}).clear()


def run(coroutine):
    return asyncio.run(coroutine)


def reads(disk, store, lba, size, progress=None):
    """Read by interrupt and compare."""
    view, address = memory(size)
    run(disk.read_physical(lba, address, size, progress))
    assert bytes(view) == bytes(store.data[lba * store.sector : lba * store.sector + size])


def check_polled(disk, store):
    """What file systems do: reads and writes of all sizes, flushes, bounds."""
    sector = store.sector
    view = bytearray(3 * sector)
    disk.read(5, view)
    assert bytes(view) == bytes(store.data[5 * sector : 8 * sector])
    long = bytearray(40 * 4096)
    disk.read(1, long)
    assert bytes(long) == bytes(store.data[sector : sector + len(long)])
    disk.write(7, b"\xa5" * (20 * 4096))
    assert bytes(store.data[7 * sector : 7 * sector + 20 * 4096]) == b"\xa5" * (20 * 4096)
    assert bytes(store.data[6 * sector : 6 * sector + 4]) == (6).to_bytes(4, "little")
    before = store.flushes
    disk.flush()
    assert store.flushes == before + 1
    for lba, size in ((store.sectors, sector), (store.sectors - 1, 2 * sector), (-1, sector)):
        try:
            disk.read(lba, bytearray(size))
        except OSError as exc:
            assert exc.errno == 22
        else:
            raise AssertionError("outside of the disk")
    for call in (disk.read, disk.write):
        try:
            call(0, bytearray(100))
        except OSError as exc:
            assert exc.errno == 22
        else:
            raise AssertionError("no whole sectors")


def check_errors(disk, store):
    """A bad sector costs the commands that touch it, and no other."""
    store.bad.add(9)
    sector = store.sector
    for call, word in ((disk.read, "read"), (disk.write, "write")):
        try:
            call(9, bytearray(sector))
        except OSError as exc:
            assert exc.errno == 5 and disk.name in str(exc) and word in str(exc)
            assert "sector 9" in str(exc)
        else:
            raise AssertionError("a bad sector")
        view = bytearray(sector)
        disk.read(10, view)
        assert view[:4] == (10).to_bytes(4, "little")
    view, address = memory(8 * disk.largest)
    try:
        run(disk.read_physical(0, address, 4 * disk.largest))
    except OSError as exc:
        assert exc.errno == 5 and "sector" in str(exc)
    else:
        raise AssertionError("a bad sector")
    assert len(disk._free) == disk.depth
    store.bad.clear()
    reads(disk, store, 0, 4 * disk.largest)


def check_silence(disk, monkeypatch, stopped):
    """A device that does not answer is given up, and never asked again."""
    now = [0]

    def ticks():
        now[0] += 500
        return now[0]

    monkeypatch.setattr(time, "ticks_ms", ticks)
    for _ in range(2):
        try:
            disk.read(0, bytearray(disk.sector))
        except OSError as exc:
            assert exc.errno == 110 and "no answer" in str(exc)
        else:
            raise AssertionError("no answer came")
    assert stopped() and now[0] < 90_000
