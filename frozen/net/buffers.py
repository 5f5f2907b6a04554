"""Byte rings of TCP connections, lent from a bounded pool.

A ring is a bytearray whose size is a power of two: the byte with sequence number `s` lives at
index `s & (size - 1)`, so a ring needs no head and no tail, and out-of-order data goes straight
to its place. A connection holds rings only while it holds data, so idle ones cost none.
"""

import _netbuf


class Pool:
    """Lends byte rings of one size.

    Args: size: bytes per ring, a power of two; limit: rings lent at a time; on_room: called when
    one comes back after all were lent, or None.
    """

    # Free rings kept for reuse. The garbage collector takes the others: it scans what is kept.
    _KEEP = 4

    def __init__(self, size, limit, on_room=None):
        if size & (size - 1) or size < 4096:
            raise ValueError("ring size must be a power of two from 4096")
        self.size = size
        self.lent = 0
        self._limit = limit
        self._on_room = on_room
        self._free = []

    def available(self):
        """Return whether take() would lend a ring."""
        return self.lent < self._limit

    def window_shift(self):
        """Return the least window scale by which a whole ring can be advertised (RFC 7323 2.3)."""
        shift = 0
        while self.size >> shift > 0xFFFF:
            shift += 1
        return shift

    def take(self):
        """Return a ring of undefined content, or None where no more may be lent."""
        if self.lent >= self._limit:
            return None
        try:
            ring = self._free.pop() if self._free else bytearray(self.size)
        except MemoryError:
            return None
        self.lent += 1
        return ring

    def give(self, ring):
        """Take a ring back; the borrower forgets it."""
        self.lent -= 1
        if len(self._free) < self._KEEP:
            self._free.append(ring)
        if self.lent == self._limit - 1 and self._on_room is not None:
            self._on_room()


def write(ring, seq, source, offset, count):
    """Copy source[offset:offset + count] to sequence number `seq`."""
    size = len(ring)
    at = seq & (size - 1)
    first = size - at
    if count <= first:
        _netbuf.copy(ring, at, source, offset, count)
    else:
        _netbuf.copy(ring, at, source, offset, first)
        _netbuf.copy(ring, 0, source, offset + first, count - first)


def read(ring, seq, target, offset, count):
    """Copy `count` bytes from sequence number `seq` on to target[offset:]."""
    size = len(ring)
    at = seq & (size - 1)
    first = size - at
    if count <= first:
        _netbuf.copy(target, offset, ring, at, count)
    else:
        _netbuf.copy(target, offset, ring, at, first)
        _netbuf.copy(target, offset + first, ring, 0, count - first)


def read_bytes(ring, seq, count):
    """Return `count` bytes from sequence number `seq` on."""
    size = len(ring)
    at = seq & (size - 1)
    if at + count <= size:
        return bytes(memoryview(ring)[at : at + count])
    return bytes(memoryview(ring)[at:]) + bytes(memoryview(ring)[: at + count - size])


def find(ring, seq, count, byte):
    """Return how many of `count` bytes from `seq` on come before the first `byte`, or -1.

    Args: byte: bytes of length 1.
    """
    size = len(ring)
    at = seq & (size - 1)
    first = size - at
    found = ring.find(byte, at, at + min(count, first))
    if found >= 0:
        return found - at
    if count > first:
        found = ring.find(byte, 0, count - first)
        if found >= 0:
            return found + first
    return -1
