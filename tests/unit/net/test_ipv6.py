"""IPv6 packets that arrive and leave: ICMPv6, extension headers, fragments, path MTU."""

import struct

import pytest
import scripted
from net import icmp as icmp4
from net import ipv6, udp
from net.v6 import icmp
from scripted import PEER_MAC, Peer

A = ipv6.address


@pytest.fixture
def peer():
    scripted.use(6)
    try:
        yield Peer()
    finally:
        scripted.use(4)


def messages(frames):
    """Return [(type, code, rest, payload, source, destination)] of ICMPv6, checked."""
    found = []
    for frame in frames:
        protocol, source, destination, start, end, _ = ipv6.parse(frame, 14)
        assert protocol == ipv6.ICMP
        kind, code = icmp.parse(frame, start, end, source, destination)
        rest = struct.unpack_from(">I", frame, start + 4)[0]
        found.append((kind, code, rest, bytes(frame[start + 8 : end]), source, destination))
    return found


def extended(peer, first, headers, payload, source=None, destination=None, hops=64):
    """Send a packet whose payload has extension headers in front; first: the first one's kind."""
    peer.ip(first, headers + payload, source, destination, hops)


def udp_to(peer, port, payload, source=None, destination=None):
    buf = bytearray(8 + len(payload))
    buf[8:] = payload
    udp.emit(buf, 0, source or peer.remote, 999, destination or peer.local, port, len(payload))
    return bytes(buf)


def fragment(protocol, at, more, identification=7):
    return struct.pack(">BBHI", protocol, 0, at | more, identification)


# -- Echo -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 7, 1472 - 20, 5000])
def test_ping(peer, size):
    payload = bytes([number & 255 for number in range(size)])
    if size > 1452:
        message = bytearray(8 + size)
        icmp.emit(message, 0, 128, 0, 0x00010002, payload, peer.remote, peer.local)
        for at in range(0, len(message), 1400):
            part = bytes(message[at : at + 1400])
            more = at + 1400 < len(message)
            extended(peer, 44, fragment(58, at, more), part)
    else:
        peer.echo(payload)
    frames = peer.frames()
    if size <= 1452:
        assert messages(frames) == [(129, 0, 0x10002, payload, peer.local, peer.remote)]
        return
    whole = bytearray()
    for frame in frames:
        protocol, source, destination, start, end, _ = ipv6.parse(frame, 14)
        assert protocol == ipv6.FRAGMENT and frame[start] == ipv6.ICMP and end <= 14 + 1520
        at, number = struct.unpack_from(">HI", frame, start + 2)
        assert at & 0xFFF8 == len(whole) and number == 0x5A5A5A5A
        assert bool(at & 1) == (frame is not frames[-1])
        whole += frame[start + 8 : end]
    assert icmp.parse(whole, 0, len(whole), peer.local, peer.remote) == (129, 0)
    assert whole[8:] == payload


def test_ping_of_all_nodes_finds_us_on_the_link_only(peer):
    neighbour = A("fe80::2")
    peer.learn(neighbour, PEER_MAC)
    peer.link.frames.clear()
    peer.echo(b"anybody", source=neighbour, destination=ipv6.ALL_NODES)
    (reply,) = messages(peer.frames())
    assert reply[4] == peer.stack.six.link_local and reply[5] == neighbour
    peer.now += 1000
    peer.echo(b"anybody", destination=ipv6.ALL_NODES)
    assert peer.frames() == []


def test_pings_of_nobody(peer):
    for source in ("::", "::1", "ff02::1", "::ffff:1.2.3.4"):
        peer.echo(b"x", source=A(source))
    peer.echo(b"x", source=peer.local)
    peer.echo(b"x", destination=A("2001:db8::99"))
    peer.echo(b"x", destination=A("ff02::99"))
    assert peer.frames() == []


# -- Errors -----------------------------------------------------------------------------------


def test_unknown_next_header(peer):
    peer.ip(99, bytes(20))
    ((kind, code, pointer, quote, source, destination),) = messages(peer.frames())
    assert (kind, code, pointer) == (4, 1, 6)
    assert quote[:8] == struct.pack(">IHBB", 0x60000000, 20, 99, 64) and len(quote) == 60
    assert (source, destination) == (peer.local, peer.remote)


def test_unknown_header_behind_others(peer):
    extended(peer, 60, bytes((99, 0, 1, 4)) + bytes(4), bytes(8))
    ((kind, code, pointer, _, _, _),) = messages(peer.frames())
    assert (kind, code, pointer) == (4, 1, 40)


@pytest.mark.parametrize(
    "option, group, answered",
    [
        (0x3E, False, False),
        (0x7E, False, False),
        (0xBE, False, True),
        (0xFE, False, True),
        (0xBE, True, True),
        (0xFE, True, False),
    ],
)
def test_unknown_options(peer, option, group, answered):
    endpoint = peer.stack.open_udp(7)
    options = bytes((ipv6.UDP, 0, option, 4)) + bytes(4)
    destination = ipv6.ALL_NODES if group else peer.local
    data = udp_to(peer, 7, b"x", None, destination)
    extended(peer, 60, options, data, None, destination)
    answers = messages(peer.frames())
    assert [answer[:3] for answer in answers] == ([(4, 2, 42)] if answered else [])
    # An option with the bits 00 is passed over.
    assert endpoint.ready() == (option >> 6 == 0)


def test_errors_are_rare_and_never_about_errors_or_nobody(peer):
    for _ in range(50):
        peer.ip(99, bytes(8))
    assert len(messages(peer.frames())) == 1
    peer.now += 1000
    # RFC 4443 2.4 (e)
    error = bytearray(60)
    icmp.emit(error, 0, 1, 4, 0, bytes(52), peer.remote, peer.local)
    extended(peer, 60, bytes((58, 0, 0xBE, 0, 1, 2, 0, 0)), bytes(error))
    peer.ip(99, bytes(8), destination=ipv6.ALL_NODES)
    peer.ip(99, bytes(8), source=ipv6.ANY)
    peer.ip(59, bytes(8))  # no next header
    assert peer.frames() == []


def test_long_packets_are_quoted_in_part(peer):
    peer.ip(99, bytes(1400))
    (frame,) = peer.frames()
    assert len(frame) == 14 + ipv6.LEAST_MTU


def test_a_datagram_needs_a_checksum(peer):
    endpoint = peer.stack.open_udp(7)
    data = bytearray(udp_to(peer, 7, b"x"))
    data[6:8] = b"\0\0"
    peer.ip(ipv6.UDP, data)
    assert not endpoint.ready() and peer.frames() == []


# -- Fragments --------------------------------------------------------------------------------


def send_parts(peer, parts, protocol=ipv6.UDP, identification=7, **addresses):
    for at, more, data in parts:
        extended(peer, 44, fragment(protocol, at, more, identification), data, **addresses)


def test_fragments_in_any_order(peer):
    endpoint = peer.stack.open_udp(7)
    payload = bytes(range(256)) * 16
    data = udp_to(peer, 7, payload)
    parts = [(at, at + 1024 < len(data), data[at : at + 1024]) for at in range(0, len(data), 1024)]
    parts.reverse()
    send_parts(peer, parts + parts[:1])
    assert endpoint.receive() == (payload, peer.remote, 999)
    assert endpoint.receive() is None


def test_a_packet_of_one_fragment_is_whole(peer):
    # RFC 6946
    endpoint = peer.stack.open_udp(7)
    data = udp_to(peer, 7, b"whole")
    send_parts(peer, [(0, False, data)])
    assert endpoint.receive()[0] == b"whole" and not peer.stack.six._fragments._datagrams


def test_overlaps_end_a_datagram(peer):
    # RFC 5722 4
    endpoint = peer.stack.open_udp(7)
    data = udp_to(peer, 7, bytes(56))
    send_parts(peer, [(0, True, data[:32]), (24, True, data[24:48]), (32, False, data[32:])])
    assert not endpoint.ready()


def test_fragments_with_wrong_lengths(peer):
    # RFC 8200 4.5
    send_parts(peer, [(0, True, bytes(15))])
    assert [m[:3] for m in messages(peer.frames())] == [(4, 0, 4)]
    peer.now += 100
    send_parts(peer, [(65528, False, bytes(16))])
    assert [m[:3] for m in messages(peer.frames())] == [(4, 0, 42)]
    peer.now += 100
    # RFC 7112 5: the first one has all headers.
    send_parts(peer, [(0, True, bytes((ipv6.UDP, 1)) + bytes(6))], 60)
    send_parts(peer, [(0, True, b"")])
    assert peer.frames() == [] and not peer.stack.six._fragments._datagrams


def test_a_fragment_in_a_fragment_is_nothing(peer):
    endpoint = peer.stack.open_udp(7)
    inner = fragment(ipv6.UDP, 0, False) + udp_to(peer, 7, bytes(16))
    send_parts(peer, [(0, True, inner[:16]), (16, False, inner[16:])], ipv6.FRAGMENT)
    assert not endpoint.ready()


def test_a_datagram_that_stays_in_pieces_is_reported(peer):
    data = udp_to(peer, 7, bytes(56))
    send_parts(peer, [(0, True, data[:32])])
    send_parts(peer, [(32, False, data[32:])], identification=8)
    (message,) = messages(peer.frames(70000))
    assert message[:3] == (3, 1, 0) and message[3][48:] == data[:32]
    assert peer.stack.six._fragments.bytes == 0


def test_fragments_to_groups_take_no_memory(peer):
    send_parts(peer, [(0, True, bytes(32))], destination=ipv6.ALL_NODES)
    send_parts(peer, [(0, True, bytes(32))], source=ipv6.ANY)
    send_parts(peer, [(0, True, bytes(32))], destination=A("2001:db8::77"))
    assert peer.stack.six._fragments.bytes == 0


def test_fragments_are_bounded(peer):
    for number in range(300):
        send_parts(peer, [(0, True, bytes(1400))], identification=number)
    assert peer.stack.six._fragments.bytes <= 16 * 1400


# -- Path MTU ---------------------------------------------------------------------------------


def too_big(peer, frame, mtu):
    quote = bytes(frame[14 : 14 + 1200])
    message = bytearray(8 + len(quote))
    icmp.emit(message, 0, 2, 0, mtu, quote, peer.remote, peer.local)
    peer.ip(ipv6.ICMP, message)


def test_path_mtu_of_datagrams(peer):
    peer.stack.open_udp(5000)
    peer.stack.send_udp(5000, peer.remote, 7, bytes(1400))
    (frame,) = peer.frames()
    # RFC 8201 4: less than every link takes is not believed; nor is what was never sent.
    too_big(peer, frame, 1279)
    forged = bytearray(frame)
    forged[54:56] = b"\x11\x11"
    too_big(peer, forged, 1300)
    peer.stack.send_udp(5000, peer.remote, 7, bytes(1400))
    assert len(peer.frames()) == 1
    too_big(peer, frame, 1300)
    peer.stack.send_udp(5000, peer.remote, 7, bytes(1400))
    assert [len(f) - 14 <= 1300 for f in peer.frames()] == [True, True]
    # RFC 8201 5.3: it is forgotten after ten minutes.
    peer.now += 600_001
    peer.poll()
    peer.stack.send_udp(5000, peer.remote, 7, bytes(1400))
    assert len(peer.frames()) == 1


def test_path_mtu_of_pings(peer):
    peer.echo(bytes(1400))
    (frame,) = peer.frames()
    too_big(peer, frame, 1280)
    peer.echo(bytes(1400))
    assert len(peer.frames()) == 2


# -- Sockets' view ----------------------------------------------------------------------------


def test_a_port_of_one_family_hears_no_other(peer):
    from net import ipv4

    only4 = peer.stack.open_udp(7, None, 0, ipv4)
    both = peer.stack.open_udp(8)
    peer.datagram(1, 7, b"x")
    peer.datagram(1, 8, b"x")
    assert not only4.ready() and both.ready()
    assert messages(peer.frames())[0][:2] == (1, 4)
    peer.stack.tcp.listen(0, peer.stack.tcp.bind(80), 5, ipv4)
    peer.send(2)
    assert peer.segment().flags & 4


def test_no_way_without_a_router(peer):
    peer.stack.six.start(peer.now, peer.local, 64, None)
    peer.frames(3000)
    with pytest.raises(OSError) as error:
        peer.stack.tcp.connect(A("2001:db8:9::1"), 80, 0, peer.now)
    assert error.value.args[0] == 101
    peer.stack.six.stop()
    with pytest.raises(OSError):
        peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    peer.echo(b"x")
    assert peer.frames() == [] and icmp4.HEADER == icmp.HEADER


def test_segments_that_the_link_merged(peer):
    connection = peer.establish()
    buf = bytearray(54 + 20 + 5)
    buf[74:] = b"hello"
    from net import ethernet
    from net.tcp import wire as tcp

    ethernet.emit(buf, peer.link.mac, PEER_MAC, ethernet.TYPE_IPV6)
    pseudo = ipv6.pseudo_header_sum(ipv6.TCP, peer.remote, peer.local)
    tcp.emit(buf, 54, 40000, 80, peer.seq, peer.ack, tcp.ACK, 1000, 20, 5, pseudo)
    ipv6.emit(buf, 14, ipv6.TCP, peer.remote, peer.local, 25)
    peer.stack.input_segment(buf, len(buf), peer.now)
    assert connection.receive_bytes(9) == b"hello"
    # Not from a stranger, not to another host.
    dropped = peer.stack.dropped
    other = bytearray(buf)
    other[53] = 99
    peer.stack.input_segment(other, len(other), peer.now)
    own = bytearray(buf)
    own[22:38] = peer.local
    peer.stack.input_segment(own, len(own), peer.now)
    assert peer.stack.dropped == dropped + 2
