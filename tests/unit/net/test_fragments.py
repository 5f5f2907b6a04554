"""Fragments: put together within limits, taken apart where a frame is too small."""

import pytest
from net import ethernet, icmp, ipv4, udp
from net.fragments import Fragments
from net.timers import Timers
from scripted import HOST_IP, HOST_MAC, PEER_IP, PEER_MAC, Peer


@pytest.fixture
def peer():
    return Peer()


def send_fragments(peer, protocol, payload, size, order=None, identification=77):
    pieces = list(range(0, len(payload), size))
    for at in order or pieces:
        part = payload[at : at + size]
        frame = bytearray(34 + len(part))
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
        frame[34:] = part
        more = at + size < len(payload)
        ipv4.emit(frame, 14, protocol, PEER_IP, HOST_IP, len(part), identification, at, more)
        peer.stack.input(memoryview(frame), peer.now)


def echo(payload):
    message = bytearray(8 + len(payload))
    icmp.emit(message, 0, icmp.ECHO_REQUEST, 0, 0x00070001, payload)
    return message


@pytest.mark.parametrize("order", [None, [1480, 0, 2960], [2960, 1480, 0], [0, 0, 2960, 1480]])
def test_large_ping_comes_back_whole(peer, order):
    payload = bytes(range(256)) * 15
    send_fragments(peer, ipv4.ICMP, echo(payload), 1480, order)
    frames = peer.frames()
    assert [len(frame) for frame in frames] == [1514, 1514, 34 + 8 + len(payload) - 2960]
    whole = Fragments(Timers())
    for frame in frames:
        packet = whole.input(ipv4.parse_fragment(frame, 14), 0)
    _, source, _, start, end = ipv4.parse(packet, 14)
    assert source == HOST_IP and icmp.parse(packet, start, end) == (icmp.ECHO_REPLY, 0)
    assert packet[start + 8 : end] == payload
    assert peer.stack._fragments.bytes == 0


def test_large_datagrams_both_ways(peer):
    endpoint = peer.stack.open_udp(7)
    data = bytes(range(250)) * 20
    datagram = bytearray(8) + data
    udp.emit(datagram, 0, PEER_IP, 99, HOST_IP, 7, len(data))
    send_fragments(peer, ipv4.UDP, datagram, 800)
    assert endpoint.receive() == (data, PEER_IP, 99)
    endpoint.send(data, PEER_IP, 99)
    assert len(peer.frames()) == 4


def test_a_missing_piece_is_waited_for_thirty_seconds(peer):
    send_fragments(peer, ipv4.ICMP, echo(bytes(3000)), 1480, [0, 2960])
    assert peer.stack._fragments.bytes > 0
    peer.frames(29999)
    assert peer.stack._fragments.bytes > 0
    peer.frames(2)
    assert peer.stack._fragments.bytes == 0


def test_overlaps_are_given_up(peer):
    message = echo(bytes(4000))
    send_fragments(peer, ipv4.ICMP, message, 1480, [0])
    send_fragments(peer, ipv4.ICMP, message, 800, [800])
    assert peer.stack._fragments.bytes == 0


def test_memory_is_bounded(peer):
    for number in range(1000):
        send_fragments(peer, ipv4.UDP, bytes(60000), 1480, [0, 2960], number & 0xFFFF)
        assert peer.stack._fragments.bytes <= 131072
    assert len(peer.stack._fragments._datagrams) <= 16
    # And a whole one still gets through.
    send_fragments(peer, ipv4.ICMP, echo(bytes(3000)), 1480, None, 5000)
    assert len(peer.frames()) == 3


@pytest.mark.parametrize("size, at, more", [(10, 0, True), (0, 8, True), (100, 65528, False)])
def test_impossible_fragments(peer, size, at, more):
    frame = bytearray(34 + size)
    ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
    ipv4.emit(frame, 14, ipv4.UDP, PEER_IP, HOST_IP, size, 1, at, more)
    peer.stack.input(memoryview(frame), peer.now)
    assert peer.stack._fragments.bytes == 0


def test_fragments_for_others_cost_nothing(peer):
    frame = bytearray(134)
    ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
    ipv4.emit(frame, 14, ipv4.UDP, PEER_IP, HOST_IP + 9, 96, 1, 0, True)
    peer.stack.input(memoryview(frame), peer.now)
    assert peer.stack._fragments.bytes == 0 and peer.stack.dropped == 1
