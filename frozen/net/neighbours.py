"""The ARP table: hardware addresses of the hosts on the link (RFC 826, RFC 1122 2.3.2)."""

from micropython import const
from net import arp, ethernet
from net.timers import Timed

# RFC 1122 2.3.2.1: one request per second and address, and old entries are checked again.
_RETRY = const(1000)
_TRIES = const(3)
_LIFETIME = const(60000)

# RFC 5227 1.1: ANNOUNCE_NUM is 2, ANNOUNCE_INTERVAL and DEFEND_INTERVAL.
_ANNOUNCE_INTERVAL = const(2000)
_DEFEND_INTERVAL = const(10000)

# RFC 1122 2.3.2.2: packets kept for an address that is not resolved yet.
_HELD_FRAMES = const(4)
_MAX_ENTRIES = const(256)


class _Neighbour(Timed):
    """One entry. While unresolved it takes the place of the link and holds the frames."""

    def __init__(self, table, ip):
        self._table = table
        self.ip = ip
        self.mac = None
        # The Ethernet header of IPv4 packets to it, once its address is known.
        self.header = None
        self.used = True
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

    def resolve(self, mac, now):
        """Note the hardware address and send what waited for it."""
        self.mac = mac
        self.header = bytes(mac) + self._table.link.mac + b"\x08\x00"
        self._tries = 0
        self._table.timers.set(self, now + _LIFETIME)
        held, self._held = self._held, []
        link = self._table.link
        for frame, length in held:
            frame[0:6] = mac
            out = link.tx_alloc()
            if out is None:
                break
            out[:length] = memoryview(frame)[:length]
            link.tx_commit(length)

    def ask(self, now):
        """Send a request and wait for the answer."""
        self._tries += 1
        self._table.request(self.ip)
        self._table.timers.set(self, now + _RETRY)

    def on_deadline(self, now):
        """Called by Timers: no answer came, or the entry is old."""
        if self._tries >= _TRIES or (self._tries == 0 and not self.used):
            self._table.remove(self)
            return
        self.used = False
        self.ask(now)


class _Announcement(Timed):
    """The second announcement of our address."""

    def __init__(self, table):
        self._table = table

    def on_deadline(self, now):
        """Called by Timers."""
        self._table.request_own()


class Neighbours:
    """The table of one link.

    Args: link: the link object, see net.stack; timers: a Timers; interface: whose `address` is our
    own, 0 for none, and whose is_host(address) is true for an address that a host can have.
    """

    def __init__(self, link, timers, interface):
        self.link = link
        self.timers = timers
        self._interface = interface
        self._entries = {}
        self._announcement = _Announcement(self)
        self._defend_at = 0

    def lookup(self, ip, now):
        """Return the entry of `ip`; its `mac` is None while it is being resolved."""
        entry = self._entries.get(ip)
        if entry is None:
            entry = self._add(ip)
            entry.ask(now)
        entry.used = True
        return entry

    def input(self, packet, now):
        """Take an ARP packet, as arp.parse() returned it (RFC 826, "Packet Reception")."""
        operation, mac, ip, _, target = packet
        own = self._interface.address
        # No neighbour has a group address (RFC 1812 3.3.2), zero or ours.
        if own == 0 or mac[0] & 1 or mac == self.link.mac or not any(mac):
            return
        if ip == own:
            if now >= self._defend_at:
                # RFC 5227 2.4 (b): another host uses our address; defend it once.
                self._defend_at = now + _DEFEND_INTERVAL
                self.request_own()
            return
        if ip == 0:
            # RFC 5227 2.1.1: a probe by a host without an address. Answer that this one is taken;
            # there is no sender to remember.
            if operation == arp.REQUEST and target == own:
                self._send(mac, arp.REPLY, mac, ip)
            return
        if not self._interface.is_host(ip):
            # RFC 1122 3.2.1.3: an entry would make us broadcast.
            return
        entry = self._entries.get(ip)
        if entry is None and target == own:
            entry = self._add(ip)
        if entry is not None:
            entry.resolve(mac, now)
        if operation == arp.REQUEST and target == own:
            self._send(mac, arp.REPLY, mac, ip)

    def request(self, ip):
        """Ask the link for the hardware address of `ip`."""
        self._send(ethernet.BROADCAST, arp.REQUEST, bytes(6), ip)

    def announce(self, now):
        """Announce our own address, twice (RFC 5227 2.3)."""
        self.request_own()
        self.timers.set(self._announcement, now + _ANNOUNCE_INTERVAL)

    def request_own(self):
        """Announce our own address by asking for it (RFC 5227 3)."""
        if self._interface.address:
            self.request(self._interface.address)

    def remove(self, entry):
        """Forget one entry, and the frames that it holds."""
        self.timers.forget(entry)
        # For those who kept the entry.
        entry.mac = entry.header = None
        if self._entries.get(entry.ip) is entry:
            del self._entries[entry.ip]

    def clear(self):
        """Forget all entries and cancel announcements."""
        self.timers.set(self._announcement, None)
        for entry in list(self._entries.values()):
            self.remove(entry)

    def _add(self, ip):
        if len(self._entries) >= _MAX_ENTRIES:
            self.remove(next(iter(self._entries.values())))
        entry = self._entries[ip] = _Neighbour(self, ip)
        return entry

    def _send(self, destination, operation, target_mac, target_ip):
        link = self.link
        frame = link.tx_alloc()
        if frame is None:
            return
        ethernet.emit(frame, destination, link.mac, ethernet.TYPE_ARP)
        own = self._interface.address
        arp.emit(frame, ethernet.HEADER, operation, link.mac, own, target_mac, target_ip)
        link.tx_commit(ethernet.HEADER + arp.LENGTH)
