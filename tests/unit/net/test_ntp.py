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
