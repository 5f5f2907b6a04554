"""IPv6 of a Stack: packets that arrive and leave, ICMPv6, neighbour discovery.

TCP's and UDP's code is the one that serves IPv4: see net.family.
"""

import struct

from micropython import const
from net import ethernet, ipv6
from net.errors import ECONNREFUSED, EHOSTUNREACH
from net.fragments import Fragments
from net.groups import Groups
from net.v6 import discovery_message as discovery
from net.v6 import extensions, icmp, mld, selection
from net.v6.autoconf import ASSIGNED, DUPLICATE, TENTATIVE, Autoconf, seconds_left
from net.v6.neighbours import Neighbours

_IP = const(14)  # where the IP header starts in a frame
_PAYLOAD = const(54)
# RFC 4443 2.4 (f): errors, and answers to pings of a group, 100 a second.
_ERROR_INTERVAL = const(10)
# RFC 4443 2.4 (c): an error is no longer than the least MTU.
_MOST_QUOTED = const(1232)
_MOST_WAYS = const(64)


class Interface:
    """The IPv6 side of a Stack; idle until start()."""

    def __init__(self, stack):
        self.stack = stack
        self.link = None
        self.mtu = 0
        self.neighbours = None
        self.groups = Groups(stack, mld)
        self.autoconf = Autoconf(self)
        # Addresses that nobody else has, and the link-local one of them or None.
        self.own = set()
        self.link_local = None
        # Whether start() was called, and not stop().
        self._wanted = False
        self._error_at = 0
        self._fragments = Fragments(stack.timers, self._expired)
        # Neighbours that packets to a destination go to (RFC 4861 5.1).
        self._ways = {}

    # -- The interface ----------------------------------------------------------------------

    def start(self, now, address=None, bits=64, gateway=None, servers=()):
        """Begin, or begin anew with an address set by hand (bytes); None: with routers' prefixes.

        Args: gateway: the router, None for those that advertise themselves; servers: of DNS.
        """
        self._halt()
        self._wanted = True
        self.autoconf.configure(address, bits, gateway, list(servers))
        if self.stack.link is not None:
            self._begin(now)

    def stop(self):
        """Use no IPv6; connections end."""
        self._wanted = False
        self._halt()
        self.autoconf.configure(None, 0, None, [])

    def attach(self, now):
        """The stack has another link, or none."""
        self._halt()
        if self._wanted and self.stack.link is not None:
            self._begin(now)

    def _begin(self, now):
        stack = self.stack
        self.link = stack.link
        self.mtu = self.link.mtu
        self.neighbours = Neighbours(self.link, stack.timers, self._solicit, self._lost_neighbour)
        stack.filter()
        self.groups.announce(now)
        self.autoconf.start(now)

    def _halt(self):
        if self.link is not None:
            self.autoconf.stop()
            self.neighbours.clear()
            self._fragments.clear()
            self.link = None
            self.forget_ways()
            self.stack.filter()

    def is_active(self):
        """Return whether packets can leave."""
        return self.link is not None

    def link_up(self, now):
        """Forget what was learned of the network: the cable may lead to another one."""
        if self.link is not None:
            self.neighbours.clear()
            self.groups.announce(now)
            self.autoconf.link_up(now)

    def changed(self, now):
        """There is another address that nobody else has."""
        assigned = [a for a in self.autoconf.addresses if a.state == ASSIGNED]
        self.own = {address.value for address in assigned}
        local = [value for value in self.own if ipv6.is_link_local(value)]
        self.link_local = local[0] if local else None
        self.forget_ways()
        if self.stack.responder:
            self.stack.responder.changed(now)

    def lost(self, value):
        """An address is no longer this host's."""
        self.own.discard(value)
        self.stack.end_connections(value)
        self.changed(self.stack.now)

    def described(self, now):
        """Return [(address, state, seconds preferred, seconds valid)]; None: without end.

        States are lwIP's, as MicroPython documents them for ipconfig("addr6").
        """
        found = []
        for address in self.autoconf.addresses:
            if address.state == TENTATIVE:
                state = 0x09
            elif address.state == DUPLICATE:
                state = 0x40
            else:
                state = 0x10 if address.is_deprecated(now) else 0x30
            found.append(
                (
                    address.value,
                    state,
                    seconds_left(address.preferred, now),
                    seconds_left(address.valid, now),
                )
            )
        return found

    def has_global(self):
        """Return whether other links can be talked to."""
        for value in self.own:
            if not ipv6.is_link_local(value):
                return True
        return False

    def is_local(self, address):
        """Return whether `address` is this host's own."""
        return address in self.own or address == ipv6.LOOPBACK

    def find_source(self, destination):
        """Return the local address that talks to `destination`, None where no way leads."""
        if self.is_local(destination):
            return destination
        if self.link is None or (
            not ipv6.is_multicast(destination) and self._next_hop(destination) is None
        ):
            return None
        now = self.stack.now
        candidates = [
            (address.value, address.is_deprecated(now))
            for address in self.autoconf.addresses
            if address.state == ASSIGNED
        ]
        return selection.source(candidates, destination)

    def is_deprecated(self, value):
        """Return whether an own address should not be used for something new."""
        address = self.autoconf.find(value)
        return address is not None and address.is_deprecated(self.stack.now)

    def _next_hop(self, destination):
        if self.autoconf.is_on_link(destination):
            return destination
        return self.autoconf.gateway()

    def forget_ways(self):
        """Ask again where packets go: something that decides it has changed."""
        self._ways = {}
        self.stack.forget_route()

    def way(self, destination):
        """Return (link object, hardware address) for a packet to `destination`."""
        stack = self.stack
        neighbour = self._ways.get(destination)
        if neighbour is not None and neighbour.header is not None:
            neighbour.used = True
            stack.keep_route(destination, neighbour)
            return self.link, neighbour.mac
        if self.is_local(destination):
            return stack.loopback, stack.loopback.mac
        link = self.link
        if link is None:
            return stack.discard, stack.discard.mac
        if ipv6.is_multicast(destination):
            return link, ipv6.hardware_group(destination)
        hop = self._next_hop(destination)
        if hop is None:
            return stack.discard, stack.discard.mac
        neighbour = self.neighbours.lookup(hop, stack.now)
        if neighbour.mac is None:
            return neighbour, ethernet.BROADCAST
        if len(self._ways) >= _MOST_WAYS:
            self._ways = {}
        self._ways[destination] = neighbour
        stack.keep_route(destination, neighbour)
        return link, neighbour.mac

    # -- Packets that arrive ----------------------------------------------------------------

    def input(self, frame, loop, whole=False):
        """Take a frame with an IPv6 packet.

        Args: loop: it comes from this host; whole: it was put together of fragments.
        """
        header = ipv6.parse(frame, _IP)
        if header is None or (self.link is None and not loop):
            self.stack.dropped += 1
            return
        protocol, source, destination, start, end, hops = header
        if not loop and (
            # RFC 4291 2.5.2, 2.5.3, 2.7: what no packet on a wire comes from or goes to.
            (not ipv6.is_host(source) and source != ipv6.ANY)
            or not (ipv6.is_host(destination) or ipv6.is_multicast(destination))
            or source in self.own
        ):
            self.stack.dropped += 1
            return
        if not self._is_for_us(destination):
            return
        packet = (frame, source, destination, end, hops)
        pointer = _IP + 6
        fragmented = whole
        while True:
            protocol, start, pointer, code = extensions.skip(frame, start, end, protocol, pointer)
            if code is not None:
                self._problem(packet, code, pointer)
                return
            if protocol != ipv6.FRAGMENT:
                break
            if end - start < ipv6.FRAGMENT_HEADER or fragmented:
                self.stack.dropped += 1
                return
            fragmented = True
            if struct.unpack_from(">H", frame, start + 2)[0] & 0xFFF9:
                self._fragment(packet, start)
                return
            # RFC 6946 4: a packet of one fragment is whole.
            pointer = start
            protocol = frame[start]
            start += ipv6.FRAGMENT_HEADER
        self._deliver(packet, protocol, start, pointer, fragmented)

    def _is_for_us(self, destination):
        if ipv6.is_multicast(destination):
            return destination == ipv6.ALL_NODES or destination in self.groups.joined
        # Duplicates of addresses on trial are found by messages to groups (RFC 4862 5.4).
        return self.is_local(destination)

    def _deliver(self, packet, protocol, start, pointer, fragmented):
        frame, source, destination, end, hops = packet
        stack = self.stack
        alone = not frame[0] & 1 and not ipv6.is_multicast(destination)
        if protocol == ipv6.ICMP:
            message = icmp.parse(frame, start, end, source, destination)
            if message is None:
                stack.dropped += 1
            elif message[0] in (
                discovery.SOLICITATION,
                discovery.ADVERTISEMENT,
                discovery.ROUTER_ADVERTISEMENT,
            ):
                # RFC 4861 6.1.2, 7.1; RFC 6980 5: and no fragments.
                if hops == discovery.HOPS and not message[1] and not fragmented:
                    self._discover(message[0], packet, start)
                else:
                    stack.dropped += 1
            elif source != ipv6.ANY:
                self._message(message, packet, start)
        elif source == ipv6.ANY:
            # RFC 4291 2.5.2: nobody to talk to.
            stack.dropped += 1
        elif protocol == ipv6.UDP:
            taken = stack.input_udp(frame, start, end, source, destination)
            if taken is False and alone:
                self._error(packet, icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0)
        elif protocol == ipv6.TCP:
            # RFC 9293 MUST-57
            if not alone or not stack.tcp.input_packet(frame, start, end, source, destination):
                stack.dropped += 1
        elif protocol != ipv6.NOTHING:
            self._problem(packet, icmp.UNKNOWN_HEADER, pointer)

    def input_segment(self, destination, peer):
        """Return whether a TCP segment is from a host and to this one.

        Args: peer: its source, and two bytes more.
        """
        source = peer[:16]
        return destination in self.own and source not in self.own and ipv6.is_host(source)

    def _fragment(self, packet, start):
        frame, source, destination, end, _ = packet
        field, identification = struct.unpack_from(">HI", frame, start + 2)
        at, more = field & 0xFFF8, bool(field & 1)
        data = bytes(frame[start + ipv6.FRAGMENT_HEADER : end])
        if ipv6.is_multicast(destination) or frame[0] & 1 or not ipv6.is_host(source):
            # No memory is spent on what has many receivers, or no sender.
            self.stack.dropped += 1
            return
        # RFC 8200 4.5
        if more and len(data) & 7:
            self._problem(packet, icmp.BAD_FIELD, _IP + 4)
            return
        if at + len(data) > 65535:
            self._problem(packet, icmp.BAD_FIELD, start + 2)
            return
        head = None
        if not at:
            protocol, first, _, code = extensions.skip(data, 0, len(data), frame[start], 0)
            # RFC 7112 5: the first one has all headers.
            if code is not None or (protocol != ipv6.NOTHING and len(data) - first < 8):
                self.stack.dropped += 1
                return
            head = bytes(frame[: min(end, _IP + _MOST_QUOTED)])
        fragment = (frame[start], source, destination, identification, at, more, data)
        whole = self._fragments.input(fragment, self.stack.now, head)
        if whole is not None:
            self.input(memoryview(whole), False, True)

    def _expired(self, head):
        # RFC 8200 4.5: the first fragment came, and others did not.
        source, destination = struct.unpack_from(">16s16s", head, _IP + 8)
        if destination in self.own:
            packet = (head, source, destination, len(head), 0)
            self._error(packet, icmp.TIME_EXCEEDED, icmp.REASSEMBLY, 0)

    # -- ICMPv6 -----------------------------------------------------------------------------

    def _message(self, message, packet, start):
        frame, source, destination, end, hops = packet
        kind = message[0]
        if message == (icmp.ECHO_REQUEST, 0):
            self._echo(packet, start)
        elif kind in (icmp.UNREACHABLE, icmp.TOO_BIG, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM):
            quoted = icmp.parse_error(frame, start, end)
            if quoted is not None and not ipv6.is_multicast(destination):
                self._take_error(message, quoted)
        elif kind == mld.QUERY:
            # RFC 3810 5.1.14: from a router of this link.
            if hops == 1 and ipv6.is_link_local(source):
                self.groups.input(frame, start, end, self.stack.now)

    def _echo(self, packet, start):
        frame, source, destination, end, _ = packet
        local = destination
        if ipv6.is_multicast(destination) or frame[0] & 1:
            # RFC 4443 4.2: so one finds the hosts of a link; not a flood of answers.
            if not self._may_report() or not ipv6.is_link_local(source):
                return
            local = self.find_source(source)
            if local is None:
                return
        rest = struct.unpack_from(">I", frame, start + 4)[0]
        reply = bytearray(end - start)
        payload = frame[start + icmp.HEADER : end]
        icmp.emit(reply, 0, icmp.ECHO_REPLY, 0, rest, payload, local, source)
        self.send(ipv6.ICMP, local, source, reply)

    def _take_error(self, message, quoted):
        mtu, protocol, local, remote, port, remote_port, seq = quoted
        if not self.is_local(local):
            return
        kind, code = message
        # RFC 4443 2.4, RFC 1122 4.2.3.9: which messages say that the peer itself refuses.
        hard = (kind, code) in (
            (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE),
            (icmp.PARAMETER_PROBLEM, icmp.UNKNOWN_HEADER),
        )
        if kind == icmp.TOO_BIG:
            # RFC 8201 4: no path has less; such a message is an attack.
            self.stack.too_big(local, protocol, port, remote, remote_port, seq, mtu)
        else:
            error = ECONNREFUSED if hard else EHOSTUNREACH
            self.stack.reported(local, protocol, port, remote, remote_port, seq, error, hard)

    def _may_report(self):
        now = self.stack.now
        if now < self._error_at:
            return False
        self._error_at = now + _ERROR_INTERVAL
        return True

    def _problem(self, packet, code, pointer):
        frame, _, destination, _, _ = packet
        group = ipv6.is_multicast(destination) or bool(frame[0] & 1)
        if code == extensions.UNKNOWN_OPTION_ALONE:
            if not group:
                self._error(packet, icmp.PARAMETER_PROBLEM, icmp.UNKNOWN_OPTION, pointer - _IP)
        elif code != extensions.DISCARD and (not group or code == icmp.UNKNOWN_OPTION):
            self._error(packet, icmp.PARAMETER_PROBLEM, code, pointer - _IP)
        self.stack.dropped += 1

    def _error(self, packet, kind, code, rest):
        """Report an error about a packet, unless RFC 4443 2.4 (e) forbids it."""
        frame, source, destination, end, _ = packet
        if not ipv6.is_host(source) or not self._may_report():
            return
        protocol, start = extensions.upper(frame, _PAYLOAD, end, frame[_IP + 6])
        if protocol == ipv6.ICMP and start < end and icmp.is_error(frame[start]):
            return
        local = destination if destination in self.own else self.find_source(source)
        if local is None:
            return
        quote = frame[_IP : min(end, _IP + _MOST_QUOTED)]
        message = bytearray(icmp.HEADER + len(quote))
        icmp.emit(message, 0, kind, code, rest, quote, local, source)
        self.send(ipv6.ICMP, local, source, message)

    # -- Neighbour discovery ----------------------------------------------------------------

    def _discover(self, kind, packet, start):
        frame, source, destination, end, _ = packet
        if self.link is None:
            return
        now = self.stack.now
        if kind == discovery.ROUTER_ADVERTISEMENT:
            said = discovery.parse_router_advertisement(frame, start, end)
            # RFC 4861 6.1.2
            if said is None or not ipv6.is_link_local(source):
                self.stack.dropped += 1
            else:
                self.autoconf.take(source, said, now)
            return
        parsed = discovery.parse_neighbour(frame, start, end)
        if parsed is None:
            self.stack.dropped += 1
            return
        flags, target, mac = parsed
        if mac == self.link.mac:
            return
        address = self.autoconf.find(target)
        if kind == discovery.SOLICITATION:
            self._solicited(address, packet, mac)
        elif address is not None:
            # RFC 4862 5.4.4
            self.autoconf.duplicate(address, now)
        elif not (flags & discovery.SOLICITED and ipv6.is_multicast(destination)):
            bits = [bool(flags & bit) for bit in (0x80, 0x40, 0x20)]
            if self.neighbours.advertised(target, mac, bits, now):
                self.autoconf.not_a_router(target)

    def _solicited(self, address, packet, mac):
        frame, source, destination, _, _ = packet
        if address is None:
            return
        now = self.stack.now
        if source == ipv6.ANY:
            # RFC 4861 7.1.1: who has no address asks the group, and names none.
            if mac is not None or destination != ipv6.solicited_node(address.value):
                self.stack.dropped += 1
            elif bytes(frame[6:12]) == self.link.mac:
                pass  # our own, come back
            elif address.state == TENTATIVE:
                # RFC 4862 5.4.3: the other one wants it too.
                self.autoconf.duplicate(address, now)
            elif address.state == ASSIGNED:
                self._advertise(address.value, ipv6.ALL_NODES, False, None)
        elif address.state == ASSIGNED and self.autoconf.is_on_link(source):
            if mac is not None:
                self.neighbours.heard(source, mac, now)
            # An answer to `mac` needs no place in the cache.
            self._advertise(address.value, source, True, mac)

    def _advertise(self, own, destination, solicited, mac):
        """Say that an address is ours (RFC 4861 7.2.4).

        Args: mac: where the answer goes, None for who has the destination.
        """
        flags = discovery.OVERRIDE | (discovery.SOLICITED if solicited else 0)
        frame = self._frame(destination, mac)
        if frame is not None:
            length = discovery.emit_advertisement(
                frame, _PAYLOAD, own, destination, own, flags, self.link.mac
            )
            self._commit(frame, own, destination, length)

    def _solicit(self, target, mac):
        """Ask for the hardware address of a neighbour, or, at one, whether it is there."""
        destination = target if mac is not None else ipv6.solicited_node(target)
        own = [a.value for a in self.autoconf.addresses if a.state == ASSIGNED]
        source = selection.source([(value, False) for value in own], target)
        frame = self._frame(destination, mac) if source is not None else None
        if frame is not None:
            length = discovery.emit_solicitation(
                frame, _PAYLOAD, source, destination, target, self.link.mac
            )
            self._commit(frame, source, destination, length)

    def announce_own(self):
        """Tell the link which addresses are ours (RFC 4861 7.2.6)."""
        for value in self.own:
            self._advertise(value, ipv6.ALL_NODES, False, None)

    def solicit_own(self, value):
        """Ask whether another host has an address (RFC 4862 5.4.2)."""
        destination = ipv6.solicited_node(value)
        frame = self._frame(destination, None)
        if frame is not None:
            length = discovery.emit_solicitation(
                frame, _PAYLOAD, ipv6.ANY, destination, value, None
            )
            self._commit(frame, ipv6.ANY, destination, length)

    def solicit_routers(self):
        """Ask routers to advertise themselves (RFC 4861 6.3.7)."""
        source = self.link_local or ipv6.ANY
        frame = self._frame(ipv6.ALL_ROUTERS, None)
        if frame is not None:
            mac = self.link.mac if self.link_local else None
            length = discovery.emit_router_solicitation(
                frame, _PAYLOAD, source, ipv6.ALL_ROUTERS, mac
            )
            self._commit(frame, source, ipv6.ALL_ROUTERS, length)

    def _frame(self, destination, mac):
        # Messages that make the cache do not ask it, where the hardware address is known.
        if mac is None:
            return self.stack.begin(destination)
        return self.stack.begin_at(self.link, mac, ethernet.TYPE_IPV6)

    def _commit(self, frame, source, destination, length):
        ipv6.emit(frame, _IP, ipv6.ICMP, source, destination, length, discovery.HOPS)
        self.stack.commit(_PAYLOAD + length)

    def _lost_neighbour(self, entry):
        self.forget_ways()
        self.autoconf.lost_router(entry.ip, self.stack.now)

    # -- Packets that leave -----------------------------------------------------------------

    def send(self, protocol, source, destination, payload, ttl=ipv6.TTL):
        """Send a packet, in fragments where it is larger than the path's MTU (RFC 8200 4.5).

        Returns whether the link took all of it.
        """
        stack = self.stack
        link = stack.loopback if self.is_local(destination) else self.link
        room = (stack.path_mtu(destination, link) if link else ipv6.LEAST_MTU) - ipv6.HEADER
        total = len(payload)
        identification = 0
        fragmented = total > room
        if fragmented:
            room = (room - ipv6.FRAGMENT_HEADER) & ~7
            identification = struct.unpack(">I", stack.random(4))[0]
        at = 0
        while True:
            count = min(total - at, room)
            out = stack.begin(destination)
            if out is None:
                return False
            start = _PAYLOAD
            if fragmented:
                ipv6.emit_fragment_header(
                    out, start, protocol, at, at + count < total, identification
                )
                start += ipv6.FRAGMENT_HEADER
            out[start : start + count] = payload[at : at + count]
            following = ipv6.FRAGMENT if fragmented else protocol
            length = start + count - _PAYLOAD
            ipv6.emit(out, _IP, following, source, destination, length, ttl)
            stack.commit(start + count)
            at += count
            if at >= total:
                return True
