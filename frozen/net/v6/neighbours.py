"""The neighbour cache and reachability of neighbours (RFC 4861 7; sections are its)."""

from micropython import const
from net import ethernet
from net.timers import Timed

# 7.3.2: states of an entry.
INCOMPLETE = const(0)
REACHABLE = const(1)
STALE = const(2)
DELAY = const(3)
PROBE = const(4)

# 10, ms.
_DELAY_FIRST_PROBE = const(5000)
_SOLICITATIONS = const(3)  # MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT
RETRANSMIT = const(1000)
REACHABLE_TIME = const(30000)

_HELD_FRAMES = const(4)
# RFC 6583 6, RFC 4861 11: a flood of forged neighbours takes no place of those that are talked to.
_MAX_ENTRIES = const(256)
_MAX_STRANGERS = const(192)
_MAX_INCOMPLETE = const(64)


class Neighbour(Timed):
    """One entry. While unresolved it takes the place of the link and holds the frames.

    `header` is the Ethernet header of packets to it, None where lookup() has to be asked before the
    next packet. `used`: a packet went there.
    """

    def __init__(self, table, ip):
        self._table = table
        self.ip = ip
        self.mac = None
        self.header = None
        self.used = False
        self.is_router = False
        self.state = INCOMPLETE
        self._tries = 0
        self._frame = None
        self._held = []

    def tx_alloc(self):
        self._frame = bytearray(self._table.link.mtu + ethernet.HEADER)
        return self._frame

    def tx_commit(self, length):
        if len(self._held) < _HELD_FRAMES:
            self._held.append((self._frame, length))
        self._frame = None

    def take(self, mac, state, now):
        """Note the hardware address, enter REACHABLE or STALE, and send what waited."""
        self.mac = mac
        self.enter(state, now)
        held, self._held = self._held, []
        link = self._table.link
        for frame, length in held:
            frame[0:6] = mac
            out = link.tx_alloc()
            if out is None:
                break
            out[:length] = memoryview(frame)[:length]
            link.tx_commit(length)

    def enter(self, state, now):
        """Change to REACHABLE, STALE or DELAY."""
        self.state = state
        self._tries = 0
        timers = self._table.timers
        if state == REACHABLE:
            timers.set(self, now + self._table.reachable_time)
        else:
            timers.set(self, now + _DELAY_FIRST_PROBE if state == DELAY else None)
        # In STALE the next packet starts the delay (7.3.3), so lookup() has to see it.
        self.header = None
        if state != STALE:
            self.header = self.mac + self._table.link.mac + b"\x86\xdd"

    def ask(self, now):
        """Send a solicitation and wait for the answer."""
        self._tries += 1
        self._table.solicit(self.ip, self.mac)
        self._table.timers.set(self, now + self._table.retransmit_time)

    def on_deadline(self, now):
        """Called by Timers."""
        if self.state == REACHABLE:
            self.enter(STALE, now)
        elif self.state == DELAY:
            self.state = PROBE
            self.ask(now)
        elif self._tries < _SOLICITATIONS:
            self.ask(now)
        else:
            self._table.unreachable(self)


class Neighbours:
    """The cache of one link.

    Args: link: the link object, see net.stack; timers: a Timers; solicit: function of (address,
    hardware address or None) that sends a solicitation; lost: function of an entry that does not
    answer, after it was removed.
    """

    def __init__(self, link, timers, solicit, lost):
        self.link = link
        self.timers = timers
        self.solicit = solicit
        self._lost = lost
        # What routers advertise (6.3.4), ms.
        self.reachable_time = REACHABLE_TIME
        self.retransmit_time = RETRANSMIT
        self._entries = {}
        # The same, in the order in which they came.
        self._order = []

    def get(self, ip):
        """Return the entry of `ip`, or None."""
        return self._entries.get(ip)

    def lookup(self, ip, now):
        """Return the entry of `ip` for a packet; its `mac` is None while it is being resolved."""
        entry = self._entries.get(ip)
        if entry is None:
            waiting = [entry for entry in self._order if entry.state == INCOMPLETE]
            if len(waiting) >= _MAX_INCOMPLETE:
                self._remove(waiting[0])
            elif len(self._order) >= _MAX_ENTRIES:
                self._remove(self._least_wanted())
            entry = self._add(ip)
            entry.ask(now)
        elif entry.state == STALE:
            entry.enter(DELAY, now)
        entry.used = True
        return entry

    def heard(self, ip, mac, now):
        """Take the hardware address that a neighbour named in a solicitation (7.2.3, 6.2.6)."""
        entry = self._entries.get(ip)
        if entry is None:
            if len(self._order) >= _MAX_STRANGERS:
                strangers = [entry for entry in self._order if not entry.used]
                if not strangers:
                    return
                self._remove(strangers[0])
            entry = self._add(ip)
        elif entry.mac == mac:
            return
        entry.take(mac, STALE, now)

    def advertised(self, ip, mac, flags, now):
        """Take an advertisement (7.2.5). Args: flags: (router, solicited, override).

        Returns whether a router has become none.
        """
        entry = self._entries.get(ip)
        if entry is None:
            return False
        router, solicited, override = flags
        if entry.state == INCOMPLETE:
            if mac is not None:
                entry.is_router = router
                entry.take(mac, REACHABLE if solicited else STALE, now)
            return False
        differs = mac is not None and mac != entry.mac
        if differs and not override:
            if entry.state == REACHABLE:
                entry.enter(STALE, now)
            return False
        if differs or solicited:
            entry.take(mac if differs else entry.mac, REACHABLE if solicited else STALE, now)
        was = entry.is_router
        entry.is_router = router
        return was and not router

    def unreachable(self, entry):
        """Forget an entry that does not answer."""
        self._remove(entry)
        self._lost(entry)

    def clear(self):
        """Forget all entries."""
        for entry in list(self._order):
            self._remove(entry)

    def _add(self, ip):
        entry = self._entries[ip] = Neighbour(self, ip)
        self._order.append(entry)
        return entry

    def _least_wanted(self):
        for entry in self._order:
            if not entry.used or entry.state == INCOMPLETE:
                return entry
        for entry in self._order:
            if entry.state == STALE and not entry.is_router:
                return entry
        for entry in self._order:
            if not entry.is_router:
                return entry
        return self._order[0]

    def _remove(self, entry):
        self.timers.forget(entry)
        # For those who kept the entry.
        entry.mac = entry.header = None
        entry._held = []
        del self._entries[entry.ip]
        self._order.remove(entry)
