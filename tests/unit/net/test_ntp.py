"""The NTP client against a server played by hand."""

import struct

import pytest
from net import ntp
from scripted import PEER_IP, Peer

SECOND = 1000000000
Y2026 = 1790000000 * SECOND


class Clock:
    def __init__(self, ns):
        self.ns = ns

    def read(self):
        return self.ns

    def set(self, ns):
        self.ns = ns


@pytest.fixture
def peer():
    return Peer()


def question(peer):
    frame = [f for f in peer.frames() if f[23] == 17][-1]
    port = frame[34] << 8 | frame[35]
    assert frame[36:38] == b"\0\x7b" and frame[42] == 0x23 and len(frame) == 42 + 48
    return port, frame[82:90]


def answer(peer, port, cookie, time, stratum=2, first=0x24, source_port=123):
    packet = bytearray(48)
    packet[0], packet[1] = first, stratum
    packet[24:32] = cookie
    struct.pack_into(">QQ", packet, 32, ntp.to_timestamp(time), ntp.to_timestamp(time))
    peer.datagram(source_port, port, packet)


def test_timestamps_round_trip_in_both_eras():
    for seconds in (0, 1790000000, 2085978495, 2085978496, 2500000000):
        for rest in (0, 1, 500000000, 999999999):
            ns = seconds * SECOND + rest
            assert abs(ntp.from_timestamp(ntp.to_timestamp(ns), ns + 10**18) - ns) <= 1
    assert ntp.to_timestamp(0) >> 32 == 2208988800  # RFC 5905, figure 4


def test_the_clock_is_set_and_kept(peer):
    clock = Clock(Y2026)
    client = ntp.Client(peer.stack, [PEER_IP], clock.read, clock.set)
    client.start(peer.now)
    port, cookie = question(peer)
    clock.ns += 20000000  # the way there and back takes 20 ms
    answer(peer, port, cookie, Y2026 + 5 * SECOND)
    assert abs(clock.ns - (Y2026 + 5 * SECOND + 10000000)) < 1000
    assert client.synchronized and not peer.stack._udp
    assert [f for f in peer.frames(3500000) if f[23] == 17] == []
    assert [f for f in peer.frames(102000) if f[23] == 17]


@pytest.mark.parametrize(
    "change",
    [{"stratum": 0}, {"stratum": 16}, {"first": 0xE4}, {"first": 0x23}, {"source_port": 124}],
)
def test_wrong_answers_are_not_believed(peer, change):
    clock = Clock(Y2026)
    ntp.Client(peer.stack, [PEER_IP], clock.read, clock.set).start(peer.now)
    port, cookie = question(peer)
    answer(peer, port, cookie, Y2026 + SECOND, **change)
    answer(peer, port, bytes(8), Y2026 + SECOND)
    assert clock.ns == Y2026


def test_silence_is_met_with_patience(peer):
    clock = Clock(Y2026)
    client = ntp.Client(peer.stack, [PEER_IP, PEER_IP + 1], clock.read, clock.set)
    client.start(peer.now)
    asked = 0
    for _ in range(600):
        asked += len([f for f in peer.frames(1000) if f[12:14] == b"\x08\0" and f[23] == 17])
    assert 8 <= asked <= 20
    client.stop()
    assert not peer.stack._udp and clock.ns == Y2026


def kiss(peer, port, cookie, code, **change):
    packet = bytearray(48)
    packet[0], packet[1] = change.get("first", 0xE4), change.get("stratum", 0)
    packet[12:16] = code
    packet[24:32] = cookie
    peer.datagram(123, port, packet, source=change.get("source", PEER_IP))


def refused(peer, code, duration, servers=(PEER_IP,), refusing=(PEER_IP,), step=100):
    """Return (time, server) of the questions in `duration` ms; `refusing` servers answer `code`."""
    clock = Clock(Y2026)
    client = ntp.Client(peer.stack, list(servers), clock.read, clock.set)
    client.start(peer.now)
    start = peer.now
    found = []
    while peer.now < start + duration:
        for frame in peer.frames():
            if frame[12:14] == b"\x08\0" and frame[36:38] == b"\0\x7b":
                server = struct.unpack_from(">I", frame, 30)[0]
                found.append((peer.now - start, server))
                if server in refusing:
                    port = frame[34] << 8 | frame[35]
                    kiss(peer, port, frame[82:90], code, source=server)
        peer.now += step
    client.stop()
    assert clock.ns == Y2026 and not peer.stack._udp
    return found


@pytest.mark.parametrize("code", [b"DENY", b"RSTR"])
def test_a_server_that_forbids_questions_gets_none(peer, code):
    # RFC 5905 7.4
    assert [time for time, _ in refused(peer, code, 100000)] == [0]


def test_a_server_that_is_asked_too_often_is_asked_less(peer):
    # RFC 5905 7.4: with each such answer less.
    times = [time for time, _ in refused(peer, b"RATE", 40000000, step=1000)]
    gaps = [(later - earlier) // 1000 for earlier, later in zip(times, times[1:])]
    assert len(gaps) >= 9
    for gap, pause in zip(gaps, (64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600)):
        assert pause <= gap <= pause + 3


@pytest.mark.parametrize("code, least", [(b"DENY", 10**9), (b"RATE", 64000)])
def test_other_servers_are_asked_instead(peer, code, least):
    other = PEER_IP + 1
    peer.learn(other, b"\2\0\0\0\0\3")
    peer.link.frames.clear()
    found = refused(peer, code, 130000, (PEER_IP, other))
    refusing = [time for time, server in found if server == PEER_IP]
    assert [server for _, server in found[:2]] == [PEER_IP, other]
    assert len(found) - len(refusing) >= 3
    assert all(b - a >= least for a, b in zip(refusing, refusing[1:]))
    # No more often than without an answer.
    assert all(b[0] - a[0] >= 2000 for a, b in zip(found, found[1:]))


@pytest.mark.parametrize(
    "code, change",
    [
        (b"DENY", {"cookie": bytes(8)}),  # nobody who saw the question sent this
        (b"DENY", {"first": 0xE3}),
        (b"DENY", {"stratum": 1}),
        (b"INIT", {}),  # not a word on how often to ask
        (b"\0\0\0\0", {}),
    ],
)
def test_what_is_no_refusal_ends_nothing(peer, code, change):
    change = dict(change)
    clock = Clock(Y2026)
    client = ntp.Client(peer.stack, [PEER_IP], clock.read, clock.set)
    client.start(peer.now)
    port, cookie = question(peer)
    kiss(peer, port, change.pop("cookie", cookie), code, **change)
    assert [f for f in peer.frames(1999) if f[23] == 17] == []
    port, cookie = question_within(peer, 10)
    answer(peer, port, cookie, Y2026 + SECOND)
    assert clock.ns != Y2026


def question_within(peer, forward):
    frame = [f for f in peer.frames(forward) if f[23] == 17][-1]
    return frame[34] << 8 | frame[35], frame[82:90]


def test_unreachable_servers_are_not_asked_at_the_wire_s_speed(peer):
    clock = Clock(Y2026)
    client = ntp.Client(peer.stack, [PEER_IP, PEER_IP + 1], clock.read, clock.set)
    asked = []
    client.stack.send_udp = lambda port, remote, *rest: asked.append((peer.now, remote))
    client.start(peer.now)
    start = peer.now
    for _ in range(120000):
        if asked and asked[-1][0] == peer.now:
            client.unreachable(asked[-1][1], 123, 111, peer.now)
        peer.now += 1
        peer.stack.poll(peer.now)
    times = [time - start for time, _ in asked]
    assert len(times) <= 8
    assert all(c - a >= 1999 for a, c in zip(times, times[2:]))
