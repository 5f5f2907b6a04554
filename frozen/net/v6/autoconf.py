"""Addresses, routers, prefixes and name servers of the link, and when each ends.

Sections are of RFC 4862 (addresses) where they name no other document.
"""

import hashlib
import struct

from micropython import const
from net import ipv6
from net.timers import Timed
from net.v6 import discovery_message as message
from net.v6.neighbours import REACHABLE_TIME, RETRANSMIT

# States of an address (5).
TENTATIVE = const(0)
ASSIGNED = const(1)
DUPLICATE = const(2)

LINK_LOCAL_PREFIX = b"\xfe\x80" + bytes(14)
_IDENTIFIER_BITS = const(64)

# How many there are at most: floods of advertisements are the reason (RFC 6104 2).
_MOST_ADDRESSES = const(16)
_MOST_PREFIXES = const(16)
_MOST_ROUTERS = const(8)
_MOST_SERVERS = const(4)

_TWO_HOURS = const(7_200_000)
# Solicitations of routers: RFC 7559 2, RFC 4861 10; ms.
_FIRST_SOLICITATION = const(4000)
_LAST_SOLICITATION = const(3_600_000)
# RFC 7217 6: how often another identifier is tried.
_RETRIES = const(3)
# RFC 4861 6.2.1: bounds of what routers may say, ms.
_LONGEST_REACHABLE = const(3_600_000)
_LEAST_RETRANSMIT = const(100)
_LONGEST_RETRANSMIT = const(60_000)


def identifier(prefix, mac, secret, count):
    """Return the 64 bits of a stable address in a prefix (RFC 7217 5).

    Args: count: of duplicates found so far. Without a secret, who knows the hardware address can
    compute it, as with the identifiers that are made of it directly.
    """
    while True:
        digest = hashlib.sha256(prefix[:8] + mac + bytes((count & 255,)) + secret).digest()
        # RFC 5453: neither the routers' anycast address nor the reserved range.
        if digest[:8] != bytes(8) and digest[:4] != b"\xfd\xff\xff\xff":
            return digest[:8]
        count += 1


def _until(seconds, now):
    """Return when a lifetime ends in ms, None for never."""
    return None if seconds == message.INFINITE else now + seconds * 1000


def seconds_left(until, now):
    """Return what is left of a lifetime in seconds, None for infinite."""
    return None if until is None else max(0, until - now) // 1000


class Address(Timed):
    """One address of the interface. preferred, valid: when these lifetimes end in ms, or None.

    made: by this host out of a prefix, so that another one can follow a duplicate.
    """

    def __init__(self, autoconf, value, bits, preferred=None, valid=None, made=False):
        self._autoconf = autoconf
        self.value = value
        self.bits = bits
        self.preferred = preferred
        self.valid = valid
        self.made = made
        self.count = 0  # of duplicates before it
        self.state = TENTATIVE

    def is_deprecated(self, now):
        """Return whether new connections should have another source (5.5.4)."""
        return self.preferred is not None and self.preferred <= now

    def on_deadline(self, now):
        """Called by Timers: nobody else has the address (5.4)."""
        self._autoconf.assigned(self, now)


class _Router:
    def __init__(self, address):
        self.address = address
        self.until = 0
        self.preference = 0
        self.is_lost = False


class _Ends(Timed):
    """The earliest end of anything."""

    def __init__(self, autoconf):
        self._autoconf = autoconf

    def on_deadline(self, now):
        """Called by Timers."""
        self._autoconf.expire(now)


class Autoconf(Timed):
    """What an interface knows of its link. Its own deadline is the next solicitation.

    Args: interface: net.v6.interface.Interface.
    """

    def __init__(self, interface):
        self._interface = interface
        self._stack = interface.stack
        self._ends = _Ends(self)
        self._interval = 0
        self.secret = b""
        # Make addresses of prefixes, and use the servers that routers name.
        self.enabled = True
        # (address, bits) and the router, set by hand; None for neither.
        self._static = None
        self._gateway = None
        self.static_servers = []
        self._forget()

    def _forget(self):
        self.addresses = []
        self._routers = []
        # {(prefix, bits): until} of what is on the link.
        self._prefixes = {}
        # [[server, until]]
        self._servers = []
        self.managed = self.other = False

    # -- The interface ----------------------------------------------------------------------

    def configure(self, address, bits, gateway, servers):
        """Use an address set by hand; None for addresses of prefixes. start() follows."""
        self.enabled = address is None
        self._static = (address, bits) if address else None
        self._gateway = gateway
        self.static_servers = servers

    def start(self, now):
        """Give the interface a link-local address (5.3), and look for routers."""
        self.stop()
        self._make(LINK_LOCAL_PREFIX, None, None, now)
        if self._static:
            value, bits = self._static
            self._add(Address(self, value, bits), now)
        self._interval = 0
        if self.enabled or not self._gateway:
            self._stack.timers.set(self, now)

    def stop(self):
        """Forget everything; connections end."""
        for address in list(self.addresses):
            self._drop(address)
        self._stack.timers.set(self, None)
        self._stack.timers.set(self._ends, None)
        self._forget()

    def link_up(self, now):
        """The cable may lead elsewhere: look for routers.

        Addresses stay in use, so that a short break ends no connection, and are announced.
        """
        self._interface.announce_own()
        self._interval = 0
        if self.enabled or not self._gateway:
            self._stack.timers.set(self, now)

    def paused(self, ms, now):
        """Take a pause of the machine, which its time leaves out, off all lifetimes."""
        for address in self.addresses:
            if address.valid is not None:
                address.valid -= ms
            if address.preferred is not None:
                address.preferred -= ms
        for router in self._routers:
            router.until -= ms
        for key, until in list(self._prefixes.items()):
            if until is not None:
                self._prefixes[key] = until - ms
        for server in self._servers:
            if server[1] is not None:
                server[1] -= ms
        self.expire(now)

    def on_deadline(self, now):
        """Called by Timers: solicit routers, less and less often (RFC 7559 2)."""
        self._interface.solicit_routers()
        # RFC 7559 2.1: a tenth more or less.
        self._interval = min(self._interval * 2 or _FIRST_SOLICITATION, _LAST_SOLICITATION)
        tenth = self._interval // 10
        self._stack.timers.set(self, now + self._interval - tenth + self._random(2 * tenth))

    def _random(self, limit):
        return struct.unpack(">H", self._stack.random(2))[0] * limit // 65536

    # -- Addresses --------------------------------------------------------------------------

    def find(self, value):
        """Return the Address of `value`, or None."""
        for address in self.addresses:
            if address.value == value:
                return address
        return None

    def _make(self, prefix, preferred, valid, now, count=0):
        own = identifier(prefix, self._interface.link.mac, self.secret, count)
        address = Address(self, prefix[:8] + own, _IDENTIFIER_BITS, preferred, valid, True)
        address.count = count
        self._add(address, now)

    def _add(self, address, now):
        self.addresses.append(address)
        interface = self._interface
        # 5.4.2: the group first.
        interface.groups.join(ipv6.solicited_node(address.value), now)
        interface.solicit_own(address.value)
        self._stack.timers.set(address, now + interface.neighbours.retransmit_time)

    def assigned(self, address, now):
        """Use an address that nobody else has."""
        address.state = ASSIGNED
        self._interface.changed(now)
        self._arm()

    def duplicate(self, address, now):
        """Another host has the address, or looks for it too: do not use it (5.4.5)."""
        if address.state != TENTATIVE:
            return
        if address.made and address.count < _RETRIES:
            self._drop(address)
            prefix = address.value[:8] + bytes(8)
            self._make(prefix, address.preferred, address.valid, now, address.count + 1)
        else:
            address.state = DUPLICATE
            self._stack.timers.set(address, None)

    def _drop(self, address):
        self.addresses.remove(address)
        self._stack.timers.forget(address)
        group = ipv6.solicited_node(address.value)
        if not [a for a in self.addresses if ipv6.solicited_node(a.value) == group]:
            self._interface.groups.leave(group, self._stack.now)
        if address.state == ASSIGNED:
            self._interface.lost(address.value)

    # -- Routers ----------------------------------------------------------------------------

    def take(self, router, said, now):
        """Take a RouterAdvertisement from `router` (RFC 4861 6.3.4, 5.5.3, RFC 8106)."""
        interface = self._interface
        self.managed, self.other = said.managed, said.other
        neighbours = interface.neighbours
        if 0 < said.reachable_ms <= _LONGEST_REACHABLE:
            # RFC 4861 6.3.2: between half and one and a half of it.
            neighbours.reachable_time = said.reachable_ms // 2 + self._random(said.reachable_ms)
        else:
            neighbours.reachable_time = REACHABLE_TIME
        neighbours.retransmit_time = RETRANSMIT
        if _LEAST_RETRANSMIT <= said.retransmit_ms <= _LONGEST_RETRANSMIT:
            neighbours.retransmit_time = said.retransmit_ms
        if said.mtu is not None and ipv6.LEAST_MTU <= said.mtu <= interface.link.mtu:
            interface.mtu = said.mtu
        self._take_router(router, said, now)
        if said.mac is not None:
            neighbours.heard(router, said.mac, now)
            entry = neighbours.get(router)
            if entry is not None:
                entry.is_router = said.lifetime > 0
        for prefix, bits, on_link, autonomous, valid, preferred in said.prefixes:
            if on_link:
                self._take_prefix((prefix, bits), valid, now)
            if autonomous and self.enabled and bits == _IDENTIFIER_BITS:
                self._take_address(prefix, valid, preferred, now)
        for server, lifetime in said.servers if self.enabled else ():
            self._take_server(server, lifetime, now)
        if said.lifetime:
            # RFC 7559 2.1: until a default router is known.
            self._stack.timers.set(self, None)
        self._interface.forget_ways()
        self._arm()

    def _take_router(self, address, said, now):
        found = [router for router in self._routers if router.address == address]
        if not said.lifetime:
            for router in found:
                self._routers.remove(router)
            return
        if found:
            router = found[0]
        elif len(self._routers) < _MOST_ROUTERS:
            router = _Router(address)
            self._routers.append(router)
        else:
            return
        router.until = now + said.lifetime * 1000
        router.preference = said.preference
        router.is_lost = False

    def _take_prefix(self, key, valid, now):
        if not valid:
            self._prefixes.pop(key, None)
        elif key in self._prefixes or len(self._prefixes) < _MOST_PREFIXES:
            self._prefixes[key] = _until(valid, now)

    def _take_address(self, prefix, valid, preferred, now):
        mine = [a for a in self.addresses if a.made and a.value[:8] == prefix[:8]]
        if not mine:
            # 5.5.3 (d)
            if valid and len(self.addresses) < _MOST_ADDRESSES:
                self._make(prefix, _until(preferred, now), _until(valid, now), now)
            return
        address = mine[0]
        address.preferred = _until(preferred, now)
        until = _until(valid, now)
        left = None if address.valid is None else address.valid - now
        # 5.5.3 (e): what is not authenticated does not cut a lifetime below two hours.
        if until is None or until - now > _TWO_HOURS or (left is not None and until - now > left):
            address.valid = until
        elif left is None or left > _TWO_HOURS:
            address.valid = now + _TWO_HOURS

    def _take_server(self, server, lifetime, now):
        found = [known for known in self._servers if known[0] == server]
        if not lifetime:
            for known in found:
                self._servers.remove(known)
        elif found:
            found[0][1] = _until(lifetime, now)
        elif len(self._servers) < _MOST_SERVERS and (
            ipv6.is_host(server) or ipv6.is_link_local(server)
        ):
            self._servers.append([server, _until(lifetime, now)])

    def servers(self):
        """Return the addresses of DNS servers."""
        return self.static_servers + [server for server, _ in self._servers]

    def is_on_link(self, destination):
        """Return whether a neighbour can have an address (RFC 4861 5.2)."""
        if ipv6.is_link_local(destination):
            return True
        if self._static and ipv6.common_prefix(self._static[0], destination) >= self._static[1]:
            return True
        for prefix, bits in self._prefixes:
            if ipv6.common_prefix(prefix, destination) >= bits:
                return True
        return False

    def gateway(self):
        """Return the address of the router to use (RFC 4861 6.3.6, RFC 4191 3.2), or None."""
        if self._gateway:
            return self._gateway
        best = None
        for router in self._routers:
            if best is None or (not router.is_lost, router.preference) > (
                not best.is_lost,
                best.preference,
            ):
                best = router
        return best.address if best else None

    def lost_router(self, address, now):
        """A router does not answer: use another first, and look for more."""
        for router in self._routers:
            if router.address == address:
                router.is_lost = True
                # In turn, where all are lost (RFC 4861 6.3.6).
                self._routers.remove(router)
                self._routers.append(router)
                if self.deadline is None:
                    self._interval = 0
                    self._stack.timers.set(self, now)
                break

    def not_a_router(self, address):
        """A neighbour says that it is none any more (RFC 4861 7.2.5)."""
        self._routers = [router for router in self._routers if router.address != address]
        self._interface.forget_ways()

    # -- Ends -------------------------------------------------------------------------------

    def expire(self, now):
        """Forget what has ended."""
        for address in list(self.addresses):
            if address.valid is not None and address.valid <= now:
                self._drop(address)
        self._routers = [router for router in self._routers if router.until > now]
        for key, until in list(self._prefixes.items()):
            if until is not None and until <= now:
                del self._prefixes[key]
        self._servers = [known for known in self._servers if known[1] is None or known[1] > now]
        active = self._interface.is_active() and (self.enabled or not self._gateway)
        if active and not self._routers and self.deadline is None:
            self._interval = 0
            self._stack.timers.set(self, now)
        self._interface.forget_ways()
        self._arm()

    def _arm(self):
        ends = [address.valid for address in self.addresses]
        ends += [router.until for router in self._routers]
        ends += list(self._prefixes.values()) + [until for _, until in self._servers]
        ends = [until for until in ends if until is not None]
        self._stack.timers.set(self._ends, min(ends) if ends else None)
