"""Neighbour discovery, addresses without configuration, routers, listeners' groups of IPv6."""

import struct

import pytest
import scripted
from net import ethernet, ipv6
from net.stack import Stack
from net.v6 import discovery_message as discovery
from net.v6 import icmp
from net.v6.autoconf import identifier
from scripted import HOST_MAC, PEER_MAC, Link, Peer

A = ipv6.address
ROUTER = A("fe80::fe")
ROUTER_MAC = b"\x02\0\0\0\0\xfe"
OTHER_MAC = b"\x02\0\0\0\0\x99"
PREFIX = A("2001:db8:0:1::")
HOUR = 3600


class Machine:
    """A stack with IPv6 on a link that a test plays."""

    def __init__(self, start=True, seed=0, **how):
        self.link = Link()
        self.link.groups = []
        self.link.set_multicast = lambda groups: setattr(self.link, "groups", list(groups))
        self.stack = Stack(self.link, lambda count: bytes((seed,)) * count)
        self.six = self.stack.six
        self.now = 10000
        if start:
            self.six.start(self.now, **how)

    def run(self, ms=0):
        """Let time pass; return what was sent: [(when, kind, source, destination, bytes)]."""
        end = self.now + ms
        found = []
        while True:
            deadline = self.stack.poll(self.now)
            found += [(self.now,) + self._read(frame) for frame in self.link.frames]
            self.link.frames = []
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
        self.now = end
        self.stack.poll(end)
        return found

    @staticmethod
    def _read(frame):
        protocol, source, destination, start, end, hops = ipv6.parse(frame, 14)
        if protocol == ipv6.UDP:
            return protocol, source, destination, bytes(frame[start:end])
        if protocol == ipv6.HOP_BY_HOP:
            # RFC 2711: Router Alert for MLD, and padding.
            assert frame[start : start + 8] == b"\x3a\0\5\2\0\0\1\0" and hops == 1
            start += 8
        elif 133 <= frame[start] <= 136:
            assert hops == 255
        assert icmp.parse(frame, start, end, source, destination) is not None
        if destination[0] == 0xFF:
            assert frame[:6] == b"\x33\x33" + destination[12:]
        return frame[start], source, destination, bytes(frame[start:end])

    def send(self, message, source, destination, mac=ROUTER_MAC, hops=255):
        message = bytearray(message)
        message[2:4] = b"\0\0"
        icmp.finish(message, 0, len(message), source, destination)
        frame = bytearray(54 + len(message))
        ethernet.emit(frame, HOST_MAC, mac, ethernet.TYPE_IPV6)
        frame[54:] = message
        ipv6.emit(frame, 14, ipv6.ICMP, source, destination, len(message), hops)
        self.stack.input(memoryview(frame), self.now)

    def advertise(
        self, lifetime=1800, prefixes=(), source=ROUTER, more=b"", mac=ROUTER_MAC, flags=0
    ):
        """Be a router. prefixes: [(prefix, valid, preferred)]."""
        message = struct.pack(">BBHBBHII", 134, 0, 0, 64, flags, lifetime, 0, 0)
        message += b"\1\1" + mac
        for prefix, valid, preferred in prefixes:
            message += struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, valid, preferred, 0, prefix)
        self.send(message + more, source, ipv6.ALL_NODES, mac)

    def solicit(self, target, source=ROUTER, mac=ROUTER_MAC, destination=None):
        message = bytes((135, 0)) + bytes(6) + target
        if mac:
            message += b"\1\1" + mac
        self.send(message, source, destination or ipv6.solicited_node(target), mac or OTHER_MAC)

    def answer(self, target, mac, flags, destination=None):
        message = bytes((136, 0, 0, 0, flags)) + bytes(3) + target
        if mac:
            message += b"\2\1" + mac
        self.send(message, target, destination or self.link_local, mac or OTHER_MAC)

    @property
    def link_local(self):
        return self.six.link_local

    def globals(self):
        return [value for value in self.six.own if not ipv6.is_link_local(value)]


@pytest.fixture
def machine():
    machine = Machine()
    machine.run(1500)
    return machine


# -- Addresses (RFC 4862) ---------------------------------------------------------------------


def test_a_link_local_address_is_tried_and_then_used():
    machine = Machine()
    sent = machine.run(999)
    own = A("fe80::")[:8] + identifier(A("fe80::"), HOST_MAC, b"", 0)
    kinds = [(kind, source, destination) for _, kind, source, destination, _ in sent]
    # 5.4.2; RFC 4861 4.1; RFC 3590 4: all from the unspecified address.
    assert (135, ipv6.ANY, ipv6.solicited_node(own)) in kinds
    assert (133, ipv6.ANY, ipv6.ALL_ROUTERS) in kinds
    assert (143, ipv6.ANY, A("ff02::16")) in kinds
    (solicitation,) = [data for _, kind, _, _, data in sent if kind == 135]
    assert solicitation[8:] == own  # and no option
    assert not machine.six.own and machine.six.described(machine.now)[0][:2] == (own, 0x09)
    machine.run(1)
    assert machine.link_local == own and machine.six.described(machine.now)[0] == (
        own,
        0x30,
        None,
        None,
    )
    assert set(machine.link.groups) == {
        b"\x33\x33\0\0\0\1",
        ipv6.hardware_group(ipv6.solicited_node(own)),
    }


def test_identifiers_are_stable_and_differ(machine):
    # RFC 7217 5
    same = identifier(PREFIX, HOST_MAC, b"", 0)
    assert same == identifier(PREFIX, HOST_MAC, b"", 0) and len(same) == 8
    others = {
        identifier(A("2001:db8:0:2::"), HOST_MAC, b"", 0),
        identifier(PREFIX, PEER_MAC, b"", 0),
        identifier(PREFIX, HOST_MAC, b"secret", 0),
        identifier(PREFIX, HOST_MAC, b"", 1),
    }
    assert len(others) == 4 and same not in others


@pytest.mark.parametrize("how", ["solicitation", "advertisement"])
def test_a_duplicate_gets_another_identifier(how):
    # RFC 4862 5.4.3, 5.4.4; RFC 7217 6
    machine = Machine()
    machine.run(100)
    tried = []
    for _ in range(4):
        value = machine.six.autoconf.addresses[0].value
        tried.append(value)
        if how == "solicitation":
            machine.solicit(value, ipv6.ANY, None)
        else:
            machine.answer(value, OTHER_MAC, 0x20, ipv6.ALL_NODES)
        machine.run(100)
    assert len(set(tried)) == 4
    assert machine.six.described(machine.now) == [(tried[-1], 0x40, None, None)]
    machine.run(5000)
    assert not machine.six.own


def test_our_own_solicitation_is_no_duplicate():
    machine = Machine()
    machine.run(100)
    value = machine.six.autoconf.addresses[0].value
    message = bytes((135, 0)) + bytes(6) + value
    machine.send(message, ipv6.ANY, ipv6.solicited_node(value), HOST_MAC)
    machine.run(1000)
    assert machine.link_local == value


def test_an_address_of_a_prefix(machine):
    machine.advertise(prefixes=[(PREFIX, 2 * HOUR, HOUR)])
    assert not machine.globals()
    machine.run(1000)
    (own,) = machine.globals()
    assert own[:8] == PREFIX[:8] and own[8:] == identifier(PREFIX, HOST_MAC, b"", 0)
    address = machine.six.autoconf.find(own)
    assert not address.is_deprecated(machine.now)
    # 5.5.4: deprecated, then gone, with what talks by it.
    listener = machine.stack.tcp.listen(0, machine.stack.tcp.bind(80), 5)
    machine.run(HOUR * 1000)
    assert address.is_deprecated(machine.now) and own in machine.six.own
    assert machine.six.described(machine.now)[-1][1] == 0x10
    client = machine.stack.tcp.connect(own, 80, 0, machine.now)
    machine.run(100)
    assert listener.ready()
    machine.run(HOUR * 1000)
    assert not machine.globals() and client.error == 103


def test_another_prefix_makes_another_address_and_no_more_than_a_few(machine):
    for number in range(40):
        prefix = A("2001:db8:%x::" % number)
        machine.advertise(prefixes=[(prefix, 2 * HOUR, HOUR)])
    machine.run(2000)
    assert len(machine.six.autoconf.addresses) == 16
    assert len(machine.six.autoconf._prefixes) == 16


@pytest.mark.parametrize(
    "said, left, after",
    [
        (3 * HOUR, HOUR, 3 * HOUR),  # 5.5.3 (e) 1: more than two hours
        (HOUR, HOUR // 2, HOUR),  # or more than what is left
        (60, HOUR, HOUR),  # 2: two hours or less are left, and they stay
        (60, 5 * HOUR, 2 * HOUR),  # 3: two hours
        (0, 5 * HOUR, 2 * HOUR),
        (0xFFFFFFFF, HOUR, None),
    ],
)
def test_the_two_hour_rule(machine, said, left, after):
    machine.advertise(prefixes=[(PREFIX, left, left)])
    machine.run(1000)
    (own,) = machine.globals()
    address = machine.six.autoconf.find(own)
    address.valid = machine.now + left * 1000
    machine.advertise(prefixes=[(PREFIX, said, min(said, 30))])
    assert address.valid == (None if after is None else machine.now + after * 1000)
    # The preferred lifetime follows at once.
    assert address.preferred == machine.now + min(said, 30) * 1000


def test_pauses_count_as_time(machine):
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    machine.six.autoconf.paused(2 * HOUR * 1000, machine.now)
    machine.run(0)
    assert not machine.globals() and machine.six.autoconf.gateway() is None
    assert machine.link_local


def test_static_address():
    machine = Machine(
        address=A("2001:db8::5"), bits=48, gateway=ROUTER, servers=[A("2001:db8::53")]
    )
    sent = machine.run(1000)
    assert A("2001:db8::5") in machine.six.own
    assert 133 not in [kind for _, kind, _, _, _ in sent]
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    assert machine.globals() == [A("2001:db8::5")]
    assert machine.six.autoconf.is_on_link(A("2001:db8:0:ffff::1"))
    assert machine.six.autoconf.gateway() == ROUTER
    assert machine.stack.name_servers() == [A("2001:db8::53")]


def test_off_is_silent():
    machine = Machine(False)
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    assert machine.run(10000) == [] and not machine.six.autoconf.addresses
    machine.six.start(machine.now)
    machine.run(2000)
    machine.six.stop()
    machine.run(1000)
    machine.solicit(A("fe80::")[:8] + identifier(A("fe80::"), HOST_MAC, b"", 0))
    assert machine.run(10000) == [] and machine.link.groups == []


def test_another_link_begins_anew(machine):
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    machine.stack.attach(machine.link)
    assert not machine.six.own
    machine.run(1000)
    assert machine.link_local and not machine.globals()
    machine.stack.attach(None)
    assert not machine.six.own
    assert machine.six.way(ROUTER)[0] is machine.stack.discard


# -- Routers ----------------------------------------------------------------------------------


def test_routers_are_solicited_less_and_less_often():
    # RFC 7559 2, without the tenth by chance
    machine = Machine(seed=128)
    sent = machine.run(400_000)
    times = [when - 10000 for when, kind, _, _, _ in sent if kind == 133]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert times[0] == 0 and len(times) >= 6
    for number, gap in enumerate(gaps):
        assert abs(gap - 4000 * 2**number) <= 400 * 2**number + 10
    # The later ones come from the link-local address, with the hardware address.
    last = [data for _, kind, source, _, data in sent if kind == 133 and source != ipv6.ANY][-1]
    assert last[8:] == b"\1\1" + HOST_MAC
    machine.advertise()
    assert [kind for _, kind, _, _, _ in machine.run(1_000_000)].count(133) == 0


def test_what_is_not_from_a_router_of_the_link(machine):
    # RFC 4861 6.1.2
    good = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    machine.send(good, ROUTER, ipv6.ALL_NODES, hops=254)
    machine.send(good, A("2001:db8::fe"), ipv6.ALL_NODES)
    machine.send(good[:1] + b"\1" + good[2:], ROUTER, ipv6.ALL_NODES)
    machine.send(good + b"\1\0" + bytes(6), ROUTER, ipv6.ALL_NODES)
    assert machine.six.autoconf.gateway() is None
    # RFC 6980 5: not in fragments, even whole ones.
    message = bytearray(good)
    icmp.finish(message, 0, 16, ROUTER, ipv6.ALL_NODES)
    frame = bytearray(62) + message
    frame[54:62] = struct.pack(">BBHI", 58, 0, 0, 1)
    ethernet.emit(frame, HOST_MAC, ROUTER_MAC, ethernet.TYPE_IPV6)
    ipv6.emit(frame, 14, 44, ROUTER, ipv6.ALL_NODES, 24, 255)
    machine.stack.input(memoryview(frame), machine.now)
    assert machine.six.autoconf.gateway() is None
    machine.send(good, ROUTER, ipv6.ALL_NODES)
    assert machine.six.autoconf.gateway() == ROUTER


def test_redirects_are_not_followed(machine):
    machine.advertise()
    machine.six.find_source(A("2001:db8:9::1"))
    message = bytes((137, 0)) + bytes(6) + A("fe80::bad") + A("2001:db8:9::1")
    machine.send(message, ROUTER, machine.link_local)
    assert machine.six._next_hop(A("2001:db8:9::1")) == ROUTER


def test_the_best_router_is_used_and_a_lost_one_is_not(machine):
    other = A("fe80::aa")
    machine.advertise()
    machine.advertise(source=other, mac=OTHER_MAC, flags=0x08)  # high preference
    assert machine.six.autoconf.gateway() == other
    machine.stack.send_udp(5000, A("ff02::99"), 6, b"x")
    machine.run()
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    machine.stack.send_udp(5000, A("2001:db8:9::1"), 6, b"x")
    machine.run()
    # RFC 4861 7.3.3: five seconds, three probes of a second.
    probes = [d for _, kind, _, d, _ in machine.run(8000) if kind == 135]
    assert probes == [other] * 3
    assert machine.six.autoconf.gateway() == ROUTER
    machine.advertise(source=other, mac=OTHER_MAC, flags=0x08)
    assert machine.six.autoconf.gateway() == other
    machine.advertise(0, source=other, mac=OTHER_MAC)
    assert machine.six.autoconf.gateway() == ROUTER
    # 7.2.5: a router that says that it is none any more.
    machine.stack.send_udp(5000, A("2001:db8:9::1"), 6, b"x")
    machine.answer(ROUTER, ROUTER_MAC, 0x60)
    assert machine.six.autoconf.gateway() is None


def test_routers_end(machine):
    machine.advertise(60, more=struct.pack(">BBHI16s", 25, 3, 0, 30, A("2001:db8::53")))
    assert machine.stack.name_servers() == [A("2001:db8::53")]
    machine.run(30_000)
    assert machine.stack.name_servers() == []
    machine.run(30_000)
    assert machine.six.autoconf.gateway() is None
    for number in range(30):
        machine.advertise(source=A("fe80::%x" % (number + 1)))
    assert len(machine.six.autoconf._routers) == 8


def test_servers_are_few_and_can_be_taken_back(machine):
    def servers(lifetime, *numbers):
        data = struct.pack(">BBHI", 25, 1 + 2 * len(numbers), 0, lifetime)
        return data + b"".join([A("2001:db8::%x" % number) for number in numbers])

    machine.advertise(more=servers(600, 1, 2, 3, 4, 5, 6))
    assert machine.stack.name_servers() == [A("2001:db8::%x" % n) for n in (1, 2, 3, 4)]
    machine.advertise(more=servers(0, 2))
    assert machine.stack.name_servers() == [A("2001:db8::%x" % n) for n in (1, 3, 4)]


@pytest.mark.parametrize("mtu, used", [(1400, 1400), (1279, 1500), (9000, 1500), (1280, 1280)])
def test_mtu_of_the_link(machine, mtu, used):
    machine.advertise(more=struct.pack(">BBHI", 5, 1, 0, mtu), prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    peer = PREFIX[:15] + b"\7"
    assert machine.stack.path_mtu(peer, machine.link) == used
    connection = machine.stack.tcp.connect(peer, 80, 0, machine.now)
    assert connection.local_mss == used - 60


# -- Neighbours (RFC 4861 7) ------------------------------------------------------------------


def ask(machine, target):
    machine.stack.send_udp(5000, target, 6, b"x")
    frames, machine.link.frames = machine.link.frames, []
    return frames


def test_a_neighbour_is_asked_for_three_times(machine):
    target = A("fe80::77")
    machine.stack.send_udp(5000, target, 6, b"x")
    sent = machine.run(10_000)
    assert [when - machine.now + 10_000 for when, kind, _, _, _ in sent if kind == 135] == [
        0,
        1000,
        2000,
    ]
    assert sent[0][3] == ipv6.solicited_node(target) and sent[0][4][24:] == b"\1\1" + HOST_MAC
    assert machine.six.neighbours.get(target) is None


def test_packets_wait_for_the_address(machine):
    target = A("fe80::77")
    for number in range(6):
        machine.stack.send_udp(5000, target, 6, b"%d" % number)
    machine.link.frames.clear()
    machine.answer(target, OTHER_MAC, 0x60)
    assert [bytes(frame[62:]) for frame in machine.link.frames] == [b"0", b"1", b"2", b"3"]
    assert all(frame[:6] == OTHER_MAC for frame in machine.link.frames)


def test_reachability(machine):
    # 7.3.2
    target = A("fe80::77")
    machine.advertise(9000)  # so that none is solicited
    machine.stack.send_udp(5000, target, 6, b"x")
    machine.answer(target, OTHER_MAC, 0x60)
    entry = machine.six.neighbours.get(target)
    machine.link.frames.clear()
    assert [k for _, k, _, _, _ in machine.run(29_000)] == [] and entry.header
    # STALE until something is sent, then five seconds for a sign, then probes to the neighbour.
    machine.run(3_600_000)
    assert entry.header is None
    assert ask(machine, target)[0][:6] == OTHER_MAC and entry.header
    machine.run(4_900)
    (probe,) = machine.run(200)
    assert (probe[1], probe[3]) == (135, target)
    machine.answer(target, None, 0x40)
    assert machine.run(25_000) == [] and entry.header
    # A solicitation of a neighbour at another place.
    machine.solicit(machine.link_local, target, ROUTER_MAC)
    machine.link.frames.clear()
    assert ask(machine, target)[0][:6] == ROUTER_MAC


@pytest.mark.parametrize(
    "flags, mac, header",
    [
        (0x60, OTHER_MAC, ROUTER_MAC),
        (0x20, OTHER_MAC, ROUTER_MAC),
        (0x40, OTHER_MAC, OTHER_MAC),  # without the override flag, the old one stays
        (0x00, OTHER_MAC, OTHER_MAC),
    ],
)
def test_another_hardware_address(machine, flags, mac, header):
    # 7.2.5
    target = A("fe80::77")
    machine.stack.send_udp(5000, target, 6, b"x")
    machine.answer(target, mac, 0x60)
    machine.answer(target, ROUTER_MAC, flags)
    machine.link.frames.clear()
    assert ask(machine, target)[0][:6] == header


def test_unasked_advertisements_are_not_learned(machine):
    machine.answer(A("fe80::77"), OTHER_MAC, 0x60)
    assert machine.six.neighbours.get(A("fe80::77")) is None


def test_solicitations_are_answered(machine):
    own = machine.link_local
    machine.solicit(own)
    ((_, kind, source, destination, data),) = machine.run()
    assert (kind, source, destination) == (136, own, ROUTER)
    assert data[4] == 0x60 and data[8:24] == own and data[24:] == b"\2\1" + HOST_MAC
    # 7.2.4: who tries the address is told by way of all.
    machine.solicit(own, ipv6.ANY, None)
    ((_, kind, source, destination, data),) = machine.run()
    assert (kind, source, destination, data[4]) == (136, own, ipv6.ALL_NODES, 0x20)


def test_solicitations_that_are_not_valid(machine):
    own = machine.link_local
    message = bytes((135, 0)) + bytes(6) + own
    machine.send(message, ROUTER, ipv6.solicited_node(own), hops=64)
    machine.send(message[:1] + b"\1" + message[2:], ROUTER, own)
    machine.send(message[:23], ROUTER, own)
    machine.solicit(A("ff02::1"))
    machine.solicit(A("fe80::1234"))
    # 7.1.1: without an address, only to the group, and without an option.
    machine.solicit(own, ipv6.ANY, OTHER_MAC)
    machine.solicit(own, ipv6.ANY, None, own)
    # From nobody on the link.
    machine.solicit(own, A("2001:db8:77::1"), OTHER_MAC)
    machine.solicit(own, A("::1"), OTHER_MAC)
    assert machine.run() == []


def test_a_flood_of_neighbours_takes_no_place_of_those_in_use(machine):
    # RFC 4861 11.1, RFC 6583
    machine.advertise()
    machine.advertise(prefixes=[(PREFIX, HOUR, HOUR)])
    machine.run(1000)
    friend = A("fe80::77")
    machine.stack.send_udp(5000, friend, 6, b"x")
    machine.answer(friend, OTHER_MAC, 0x60)
    machine.stack.send_udp(5000, A("2001:db8:9::1"), 6, b"x")
    machine.answer(ROUTER, ROUTER_MAC, 0xE0)
    for number in range(5000):
        machine.solicit(
            machine.link_local, A("fe80::1:%x" % number), b"\2\1\0\0" + struct.pack(">H", number)
        )
    # Echoes from forged neighbours have answers, and none of these is answered for.
    for number in range(2000):
        source = PREFIX[:14] + struct.pack(">H", number)
        message = bytes((128, 0)) + bytes(6)
        machine.send(message, source, machine.globals()[0], hops=64)
    table = machine.six.neighbours
    assert len(table._order) <= 256
    assert table.get(friend).header and table.get(ROUTER).header
    machine.link.frames.clear()
    assert ask(machine, friend)[0][:6] == OTHER_MAC
    # And new ones find a place.
    fresh = A("fe80::88")
    machine.stack.send_udp(5000, fresh, 6, b"y")
    machine.answer(fresh, PEER_MAC, 0x60)
    assert machine.link.frames[-1][:6] == PEER_MAC


# -- Listeners' groups (RFC 3810) -------------------------------------------------------------


def query(machine, group=ipv6.ANY, version=2, delay=0, hops=1, source=ROUTER):
    body = struct.pack(">BBHHH16s", 130, 0, 0, delay, 0, group)
    if version == 2:
        body += bytes(4)
    machine.send(body, source, group if group != ipv6.ANY else ipv6.ALL_NODES, hops=hops)


def reported(sent):
    found = []
    for _, kind, _, destination, data in sent:
        if kind == 143:
            assert destination == A("ff02::16")
            for at in range(8, len(data), 20):
                found.append((data[at], data[at + 4 : at + 20]))
        elif kind in (131, 132):
            found.append((kind, data[8:24]))
    return found


def test_groups_are_reported(machine):
    group = A("ff02::fb")
    machine.run(10_000)
    machine.six.groups.join(group, machine.now)
    assert ipv6.hardware_group(group) in machine.link.groups
    assert reported(machine.run(10_000)) == [(4, group)] * 2
    own = ipv6.solicited_node(machine.link_local)
    query(machine)
    assert sorted(reported(machine.run(1000))) == sorted([(2, group), (2, own)])
    query(machine, group)
    assert reported(machine.run(1000)) == [(2, group)]
    query(machine, A("ff02::99"))
    # 5.1.14, 6.2: from routers of this link.
    query(machine, hops=2)
    query(machine, source=A("2001:db8::fe"))
    assert reported(machine.run(1000)) == []
    machine.six.groups.leave(group, machine.now)
    assert reported(machine.run(10_000)) == [(3, group)] * 2


def test_older_routers_get_their_own_reports(machine):
    # RFC 3810 8.2.1
    group = A("ff02::fb")
    machine.run(10_000)
    query(machine, version=1)
    machine.run(1000)
    machine.six.groups.join(group, machine.now)
    assert set(reported(machine.run(10_000))) == {(131, group)}
    machine.six.groups.leave(group, machine.now)
    assert set(reported(machine.run(10_000))) == {(132, group)}
    machine.run(260_000)
    machine.six.groups.join(group, machine.now)
    assert set(reported(machine.run(10_000))) == {(4, group)}


def test_nothing_is_left_of_scripted():
    # The fixture of other files speaks both; this one does not change it.
    assert not scripted.speaks_ipv6() and Peer().family is not ipv6
    assert discovery.HOPS == 255
