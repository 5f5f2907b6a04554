"""Simple NTP client (RFC 5905 14): asks servers for the time and keeps the clock set.

Wall time is not the stack's time, so the clock is a pair of hooks: `clock()` returns nanoseconds
since 1970, `set_clock(ns)` sets it.
"""

import struct

from micropython import const
from net.timers import Timed

PORT = const(123)

_LENGTH = const(48)
# RFC 5905 6: seconds from the prime epoch, 1900, to 1970; and 7.3: how the first byte begins.
_EPOCH = const(2208988800)
_CLIENT = const(4 << 3 | 3)  # no leap warning, version 4, mode 3
_SERVER_MODE = const(4)
_UNSYNCHRONIZED = const(3)
_SECOND = const(1000000000)

_RETRY = const(2000)
_TRIES = const(4)
# RFC 4330 10: at most one question a minute, fewer without answers. After an answer one an hour: a
# crystal that is 50 ppm off drifts 180 ms in this time.
_FAILED_PAUSE = const(64000)
_LONGEST_PAUSE = const(3600000)
# Machines that boot at the same time must not ask at the same time.
_JITTER = const(1024)


def to_timestamp(ns):
    """Return the 64-bit NTP timestamp of nanoseconds since 1970 (RFC 5905 6); it wraps in 2036."""
    seconds, rest = divmod(ns, _SECOND)
    return ((seconds + _EPOCH) & 0xFFFFFFFF) << 32 | (rest << 32) // _SECOND


def from_timestamp(stamp, near):
    """Return nanoseconds since 1970 of a timestamp, in the era that is nearest to `near` (ns)."""
    seconds = (stamp >> 32) - _EPOCH
    era = ((near // _SECOND - seconds) + (1 << 31)) >> 32
    return (seconds + (era << 32)) * _SECOND + ((stamp & 0xFFFFFFFF) * _SECOND >> 32)


def request(cookie):
    """Return a client's packet. Args: cookie: 64 random bits, sent as the transmit timestamp.

    The server returns them as the origin timestamp. They reveal nothing of our clock
    (draft-ietf-ntp-data-minimization 3).
    """
    packet = bytearray(_LENGTH)
    packet[0] = _CLIENT
    struct.pack_into(">Q", packet, 40, cookie)
    return packet


def parse(data, cookie):
    """Return (receive, transmit) timestamps of a server's answer, or None (RFC 5905 8, 14)."""
    if not _is_answer(data, cookie):
        return None
    received, transmitted = struct.unpack_from(">QQ", data, 32)
    # Stratum 0 is a kiss of death, see parse_kiss(); above 15 is not synchronized.
    if data[0] >> 6 == _UNSYNCHRONIZED or not 1 <= data[1] <= 15 or not transmitted:
        return None
    return received, transmitted


def parse_kiss(data, cookie):
    """Return the code, four bytes, of a server's kiss of death (RFC 5905 7.4), or None."""
    if not _is_answer(data, cookie) or data[1] != 0:
        return None
    return bytes(data[12:16])


def _is_answer(data, cookie):
    # The origin timestamp proves that the sender saw the question.
    if len(data) < _LENGTH or data[0] & 7 != _SERVER_MODE or not 1 <= data[0] >> 3 & 7 <= 4:
        return False
    return struct.unpack_from(">Q", data, 24)[0] == cookie


class Client(Timed):
    """Asks `servers` (addresses as integers) in turn and sets the clock by the answer.

    Args: stack; servers; clock, set_clock: see above. `synchronized` is the clock's time of the
    last answer, None before the first.
    """

    def __init__(self, stack, servers, clock, set_clock):
        self.stack = stack
        self.port = 0
        self.synchronized = None
        self.offset = 0
        # Servers that forbade questions leave the list.
        self._servers = list(servers)
        # {server: (time before which it must not be asked, the pause until then)}, in ms.
        self._rates = {}
        self._clock = clock
        self._set_clock = set_clock
        self._tries = 0
        self._pause = _FAILED_PAUSE
        self._cookie = 0
        self._server = 0
        self._asked = 0

    def start(self, now):
        """Ask now, and periodically from then on."""
        self._tries = 0
        self._ask(now)

    def stop(self):
        """Stop asking."""
        self._close()
        self.stack.timers.set(self, None)

    def on_deadline(self, now):
        """Called by Timers: the next question is due, or there was no answer."""
        if self.port and self._tries >= _TRIES:
            self._give_up(now)
        else:
            self._ask(now)

    def _give_up(self, now):
        """Ask again after a pause that grows: nobody answers."""
        self._close()
        self._tries = 0
        self._rest(now, self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _choose(self, now):
        """Return the next server that may be asked now, or None."""
        count = len(self._servers)
        for step in range(count):
            server = self._servers[(self._tries + step) % count]
            if self._rates.get(server, (0, 0))[0] <= now:
                return server
        return None

    def _ask(self, now):
        stack = self.stack
        self._close()
        server = self._choose(now)
        if server is None:
            self._tries = 0
            if self._servers:
                self._rest(now, min([self._rates[s][0] for s in self._servers]) - now)
            else:
                stack.timers.set(self, None)
            return
        # RFC 9109 3: a random port for each question.
        stack.open_udp(0, self)
        self._cookie = struct.unpack(">Q", stack.random(8))[0]
        self._server = server
        self._tries += 1
        self._asked = self._clock()
        try:
            stack.send_udp(self.port, self._server, PORT, request(self._cookie))
        except OSError:
            # No address yet, or a full link; the next try may succeed.
            pass
        stack.timers.set(self, now + _RETRY)

    def datagram(self, buf, start, end, source, source_port, now):
        """Take a datagram from the stack."""
        if source != self._server or source_port != PORT:
            return
        data = bytes(buf[start:end])
        stamps = parse(data, self._cookie)
        if stamps is None:
            code = parse_kiss(data, self._cookie)
            if code is not None:
                self._take_kiss(code, now)
            return
        arrived = self._clock()
        received, transmitted = [from_timestamp(stamp, arrived) for stamp in stamps]
        # RFC 5905 8: the offset, assuming equal delays both ways.
        self.offset = (received - self._asked + transmitted - arrived) // 2
        self._set_clock(arrived + self.offset)
        self.synchronized = arrived + self.offset
        self._close()
        self._tries = 0
        self._pause = _FAILED_PAUSE
        self._rest(now, _LONGEST_PAUSE)

    def _take_kiss(self, code, now):
        """Obey a kiss of death (RFC 5905 7.4). Other servers are still asked."""
        server = self._server
        if code in (b"DENY", b"RSTR"):
            self._servers = [other for other in self._servers if other != server]
        elif code == b"RATE":
            pause = min(self._rates.get(server, (0, _FAILED_PAUSE // 2))[1] * 2, _LONGEST_PAUSE)
            self._rates[server] = (now + pause, pause)
        else:
            # Other codes count as no answer.
            return
        self._close()
        if self._tries >= _TRIES:
            self._give_up(now)
        else:
            self._rest(now, _RETRY)

    def unreachable(self, remote, _remote_port, _error, now):
        """Take an ICMP error: nobody answers there. The next try comes at once for another server,
        and after the usual pause for one that was asked before.
        """
        if remote == self._server and self._tries < min(_TRIES, len(self._servers)):
            self._ask(now)

    def _rest(self, now, pause):
        jitter = struct.unpack(">H", self.stack.random(2))[0] % _JITTER
        self.stack.timers.set(self, now + pause + jitter)

    def _close(self):
        if self.port:
            self.stack.close_udp(self.port)
            self.port = 0
