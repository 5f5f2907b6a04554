"""Reassembly of fragments (RFC 791 3.2, RFC 1122 3.3.2; RFC 8200 4.5), within bounds.

Datagrams whose fragments overlap are dropped, as RFC 5722 4 requires for IPv6: only attackers send
them, to get past filters (RFC 1858).
"""

from micropython import const
from net import ethernet, family
from net.timers import Timed

# RFC 1122 3.3.2 asks for 60 s or more. With this few datagrams the oldest is evicted earlier, and
# most hosts wait 30 s.
_LIFETIME = const(30000)
_MAX_DATAGRAMS = const(16)
_MAX_BYTES = const(131072)
# Fragments of one datagram: 64 KiB in pieces that the least allowed link makes (RFC 791 3.2).
_MAX_FRAGMENTS = const(128)


class _Datagram:
    def __init__(self, expires):
        self.expires = expires
        # What an error quotes of it: the beginning of its first fragment.
        self.head = None
        # Sorted, disjoint (offset, bytes) pairs.
        self.pieces = []
        self.bytes = 0
        # Length of the whole, None until its last fragment arrived.
        self.length = None

    def add(self, offset, data, more):
        """Keep a fragment; return False if it contradicts the others."""
        end = offset + len(data)
        if more:
            # RFC 791 3.1: all but the last are multiples of eight bytes.
            if len(data) & 7 or not data:
                return False
        elif self.length is not None and self.length != end:
            return False
        else:
            self.length = end
        pieces = self.pieces
        at = len(pieces)
        while at and pieces[at - 1][0] >= offset:
            at -= 1
        if at < len(pieces) and pieces[at] == (offset, data):
            return True  # a duplicate
        if (
            (at and pieces[at - 1][0] + len(pieces[at - 1][1]) > offset)
            or (at < len(pieces) and pieces[at][0] < end)
            or len(pieces) >= _MAX_FRAGMENTS
        ):
            return False
        pieces.insert(at, (offset, data))
        self.bytes += len(data)
        last, tail = pieces[-1]
        return self.length is None or last + len(tail) <= self.length

    def is_whole(self):
        return self.length == self.bytes


class Fragments(Timed):
    """Datagrams of which some fragments came.

    Args: expired: called with the `head` of a datagram that waited too long, if it has one.
    """

    def __init__(self, timers, expired=None):
        self._timers = timers
        self._expired = expired
        # In the order of their first fragments.
        self._datagrams = {}
        self.bytes = 0

    def input(self, packet, now, head=None):
        """Take a fragment, as ipv4.parse_fragment() returned it with its data.

        Args: packet: (protocol, source, destination, identification, offset, more, data);
        head: what an error quotes, of a first fragment.
        Returns a frame (bytearray) with the whole packet at offset 14 once all is there, or None.
        """
        protocol, source, destination, identification, offset, more, data = packet
        ip = family.of(source)
        if offset + len(data) > ip.MOST_PAYLOAD:
            return None
        key = (source, destination, protocol, identification)
        datagram = self._datagrams.get(key)
        if datagram is None:
            if len(self._datagrams) >= _MAX_DATAGRAMS:
                self._drop(next(iter(self._datagrams)))
            datagram = self._datagrams[key] = _Datagram(now + _LIFETIME)
            self._arm()
        if head is not None:
            datagram.head = head
        before = datagram.bytes
        fits = datagram.add(offset, data, more)
        self.bytes += datagram.bytes - before
        if not fits:
            self._drop(key)
            return None
        if datagram.is_whole():
            self._drop(key)
            start = ethernet.HEADER + ip.HEADER
            frame = bytearray(start + datagram.length)
            for offset, data in datagram.pieces:
                at = start + offset
                frame[at : at + len(data)] = data
            ip.emit(frame, ethernet.HEADER, protocol, source, destination, datagram.length)
            return frame
        while self.bytes > _MAX_BYTES:
            self._drop(next(iter(self._datagrams)))
        return None

    def clear(self):
        """Forget all."""
        self._datagrams = {}
        self.bytes = 0
        self._arm()

    def on_deadline(self, now):
        """Called by Timers: the oldest waited too long."""
        for key, datagram in list(self._datagrams.items()):
            if datagram.expires <= now:
                self._drop(key)
                if datagram.head is not None:
                    self._expired(datagram.head)
        self._arm()

    def _drop(self, key):
        self.bytes -= self._datagrams.pop(key).bytes

    def _arm(self):
        times = [datagram.expires for datagram in self._datagrams.values()]
        self._timers.set(self, min(times) if times else None)
