"""IGMP, versions 1 to 3: what a host reports, and when."""

import struct

import pytest
from net import igmp, ipv4
from scripted import Peer

GROUP = 0xE00000FB
ROUTER = 0x0A0000FE


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Host(Peer):
    """A stack whose random numbers are those of `number`, out of 65536."""

    def __init__(self, number=0):
        super().__init__()
        self.stack.random = lambda n: struct.pack(">H", number) * (n // 2)
        self.link.groups = None
        self.link.set_multicast = lambda addresses: setattr(self.link, "groups", list(addresses))

    def reports(self):
        """Return [(destination, message)] of the packets of IGMP sent since, checked."""
        found = []
        for frame in self.frames():
            if frame[12:14] != b"\x08\0" or frame[23] != igmp.PROTOCOL:
                continue
            assert frame[14] == 0x46 and frame[22] == 1 and frame[34:38] == b"\x94\x04\0\0"
            assert checksum(frame[14:38]) == checksum(frame[38:]) == 0xFFFF
            destination = struct.unpack_from(">I", frame, 30)[0]
            assert frame[:6] == b"\x01\0\x5e" + bytes([frame[31] & 0x7F]) + frame[32:34]
            found.append((destination, bytes(frame[38:])))
        return found

    def settle(self):
        """Let what a change causes pass."""
        self.frames(10_000)

    def query(self, body, to=igmp.ALL_SYSTEMS):
        body = bytearray(body)
        struct.pack_into(">H", body, 2, ~checksum(bytes(body)) & 0xFFFF)
        frame = bytearray(34) + body
        frame[0:6] = b"\x01\0\x5e\0\0\x01"
        frame[12:14] = b"\x08\0"
        ipv4.emit(frame, 14, igmp.PROTOCOL, ROUTER, to, len(body))
        self.stack.input(memoryview(frame), self.now)


def report(kind, *groups):
    records = b"".join(struct.pack(">BBHI", kind, 0, 0, group) for group in groups)
    body = struct.pack(">BBHHH", 0x22, 0, 0, 0, len(groups)) + records
    return igmp.ALL_V3_ROUTERS, body[:2] + struct.pack(">H", ~checksum(body) & 0xFFFF) + body[4:]


def version_2(kind, to, group):
    body = struct.pack(">BBHI", kind, 0, 0, group)
    return to, body[:2] + struct.pack(">H", ~checksum(body) & 0xFFFF) + body[4:]


def general(code, sources=b"\0\0\0\0"):
    return struct.pack(">BBHI", igmp.QUERY, code, 0, 0) + sources


def test_a_change_is_reported_twice():
    host = Host(number=32768)
    host.stack.groups.join(GROUP, host.now)
    host.stack.groups.join(GROUP, host.now)
    assert host.reports() == [report(igmp.TO_EXCLUDE, GROUP)]
    host.now += 499
    assert host.reports() == []
    host.now += 1
    assert host.reports() == [report(igmp.TO_EXCLUDE, GROUP)]
    host.now += 100_000
    assert host.reports() == []
    assert set(host.link.groups) == {b"\x01\0\x5e\0\0\x01", b"\x01\0\x5e\0\0\xfb"}
    host.stack.groups.leave(GROUP, host.now)
    assert host.reports() == [report(igmp.TO_INCLUDE, GROUP)] and host.link.groups == []


@pytest.mark.parametrize("code, delay", [(100, 10_000), (0x80, 12_800), (0xFF, 25_000)])
def test_a_query_is_answered_within_its_time(code, delay):
    host = Host(number=32768)
    host.stack.groups.join(GROUP, host.now)
    host.settle()
    host.query(general(code))
    host.now += delay // 2 - 1
    assert host.reports() == []
    host.now += 1
    assert host.reports() == [report(igmp.IS_EXCLUDE, GROUP)]


def test_a_query_for_another_group_is_not():
    host = Host()
    host.stack.groups.join(GROUP, host.now)
    host.settle()
    host.query(struct.pack(">BBHII", igmp.QUERY, 10, 0, GROUP + 1, 0), GROUP + 1)
    host.now += 10_000
    assert host.reports() == []
    host.query(struct.pack(">BBHII", igmp.QUERY, 10, 0, GROUP, 0), GROUP)
    assert host.reports() == [report(igmp.IS_EXCLUDE, GROUP)]


def test_older_routers():
    host = Host(number=32768)
    host.stack.groups.join(GROUP, host.now)
    host.settle()

    def answers():
        host.now += 5000
        return host.reports()

    host.query(general(100, b""))
    assert answers() == [version_2(igmp.REPORT_V2, GROUP, GROUP)]
    host.query(general(0, b""))
    assert answers() == [version_2(igmp.REPORT_V1, GROUP, GROUP)]
    host.stack.groups.leave(GROUP, host.now)
    assert host.reports() == []  # version 1 has no word for it
    host.now += 260_000
    host.stack.groups.join(GROUP, host.now)
    assert host.reports() == [report(igmp.TO_EXCLUDE, GROUP)]
    host.settle()
    host.query(general(100, b""))
    host.stack.groups.leave(GROUP, host.now)
    assert host.reports() == [version_2(igmp.LEAVE_V2, igmp.ALL_ROUTERS, GROUP)]


@pytest.mark.parametrize("length", [4, 6, 10])
def test_what_is_no_query(length):
    host = Host()
    host.stack.groups.join(GROUP, host.now)
    host.settle()
    host.query(general(100)[:length])
    host.query(b"\x16" + general(100)[1:])
    host.now += 20_000
    assert host.reports() == []


def test_datagrams_to_groups():
    host = Host()
    endpoint = host.stack.open_udp(5000)
    frame = bytearray(46)
    frame[0:6], frame[12:14] = b"\x01\0\x5e\0\0\xfb", b"\x08\0"
    struct.pack_into(">HHHH4s", frame, 34, 5000, 5000, 12, 0, b"data")
    ipv4.emit(frame, 14, ipv4.UDP, ROUTER, GROUP, 12)
    host.stack.input(memoryview(frame), host.now)
    assert endpoint.receive() is None
    host.stack.groups.join(GROUP, host.now)
    host.stack.input(memoryview(frame), host.now)
    assert endpoint.receive() == (b"data", ROUTER, 5000)
    # A closed port answers no group (RFC 1122 3.2.2).
    host.stack.close_udp(5000)
    host.settle()
    host.stack.input(memoryview(frame), host.now)
    assert host.frames() == []
    endpoint = host.stack.open_udp(5001)
    assert endpoint.send(b"to all", GROUP, 5353) == 6
    sent = host.frames()[-1]
    assert sent[:6] == b"\x01\0\x5e\0\0\xfb" and sent[30:34] == b"\xe0\0\0\xfb"


def test_no_address_no_report():
    host = Host(number=32768)
    host.stack.groups.join(GROUP, host.now)
    host.stack.configure(0, 0, 0, [])
    assert host.reports() == []
    host.stack.configure(0x0A000001, 0xFFFFFF00, 0, [])
    assert host.reports() == [report(igmp.TO_EXCLUDE, GROUP)]


def test_what_is_no_group():
    host = Host()
    with pytest.raises(ValueError):
        host.stack.groups.join(0x0A000001, 0)
    for number in range(64):
        host.stack.groups.join(0xE1000000 + number, 0)
    with pytest.raises(ValueError):
        host.stack.groups.join(GROUP, 0)
