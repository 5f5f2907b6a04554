"""ARP, ICMP echo, UDP and the demultiplexer, and nonsense thrown at all of them."""

import random

import pytest
from net import arp, ethernet, icmp, ipv4
from net.tcp import wire as tcp
from scripted import HOST_IP, HOST_MAC, PEER_IP, PEER_MAC, Peer


@pytest.fixture
def peer():
    return Peer()


def arp_packets(frames):
    found = []
    for frame in frames:
        destination, _, kind = ethernet.parse(frame)
        assert kind == ethernet.TYPE_ARP
        found.append((destination,) + arp.parse(frame, 14))
    return found


def send_arp(peer, operation, mac, ip, target_ip, target_mac=bytes(6)):
    frame = bytearray(42)
    ethernet.emit(frame, ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
    arp.emit(frame, 14, operation, mac, ip, target_mac, target_ip)
    peer.stack.input(memoryview(frame), peer.now)


# -- ARP --------------------------------------------------------------------------------------


def test_arp_request_is_answered(peer):
    send_arp(peer, arp.REQUEST, PEER_MAC, PEER_IP, HOST_IP)
    assert arp_packets(peer.link.frames) == [
        (PEER_MAC, arp.REPLY, HOST_MAC, HOST_IP, PEER_MAC, PEER_IP)
    ]


def test_arp_for_others_is_not(peer):
    send_arp(peer, arp.REQUEST, PEER_MAC, PEER_IP, HOST_IP + 7)
    send_arp(peer, arp.REQUEST, b"\xff" * 6, PEER_IP, HOST_IP)
    assert peer.link.frames == []


def test_packets_wait_for_the_address(peer):
    other, mac = HOST_IP + 8, b"\2\0\0\0\0\x99"
    for number in range(6):
        peer.stack.send_udp(5000, other, 6000, b"%d" % number)
    (request,) = arp_packets(peer.link.frames)
    assert request == (ethernet.BROADCAST, arp.REQUEST, HOST_MAC, HOST_IP, bytes(6), other)
    peer.link.frames.clear()
    send_arp(peer, arp.REPLY, mac, other, HOST_IP, HOST_MAC)
    # RFC 1122 2.3.2.2: some are kept, none for ever.
    assert [frame[42:] for frame in peer.link.frames] == [b"0", b"1", b"2", b"3"]
    assert all(frame[:6] == mac for frame in peer.link.frames)


def test_address_is_announced_twice_and_defended(peer):
    # RFC 5227 2.3 and 2.4 (b)
    stack = peer.stack
    stack.configure(HOST_IP + 5, 0xFFFFFF00, 0, [])
    times = []
    for _ in range(5000):
        stack.poll(peer.now)
        times += [peer.now - 10000 for p in arp_packets(peer.link.frames) if p[3] == HOST_IP + 5]
        peer.link.frames.clear()
        peer.now += 1
    assert len(times) == 2 and times[1] - times[0] in range(1999, 2002)
    for _ in range(5):
        send_arp(peer, arp.REQUEST, PEER_MAC, HOST_IP + 5, HOST_IP + 5)
    assert len(arp_packets(peer.link.frames)) == 1


def test_arp_asks_three_times_once_a_second(peer):
    peer.poll(5000)  # past the announcements
    peer.link.frames.clear()
    peer.stack.send_udp(5000, HOST_IP + 8, 6000, b"x")
    asked = []
    for now in range(peer.now, peer.now + 10000):
        peer.stack.poll(now)
        asked += [now - peer.now for _ in arp_packets(peer.link.frames)]
        peer.link.frames.clear()
    assert asked == [0, 1000, 2000]
    assert HOST_IP + 8 not in peer.stack.neighbours._entries


def test_old_entries_are_checked_and_moved_hosts_found(peer):
    peer.stack.send_udp(5000, PEER_IP, 6000, b"x")
    peer.link.frames.clear()
    peer.poll(60000)
    new_mac = b"\2\0\0\0\0\x77"
    send_arp(peer, arp.REPLY, new_mac, PEER_IP, HOST_IP, HOST_MAC)
    peer.link.frames.clear()
    peer.stack.send_udp(5000, PEER_IP, 6000, b"x")
    assert peer.link.frames[0][:6] == new_mac


def test_unasked_replies_are_not_learned(peer):
    send_arp(peer, arp.REPLY, PEER_MAC, HOST_IP + 9, HOST_IP + 10)
    assert HOST_IP + 9 not in peer.stack.neighbours._entries


def test_arp_table_is_bounded(peer):
    for host in range(2000):
        send_arp(peer, arp.REQUEST, PEER_MAC, 0x0A010000 + host, HOST_IP)
    assert len(peer.stack.neighbours._entries) == 256


def test_gateway_is_used_for_other_networks(peer):
    peer.learn(ipv4.address("10.0.0.254"), b"\2\0\0\0\0\xfe")
    peer.link.frames.clear()
    peer.stack.send_udp(5000, ipv4.address("192.0.2.1"), 6000, b"x")
    assert peer.link.frames[0][:6] == b"\2\0\0\0\0\xfe"
    peer.stack.configure(HOST_IP, ipv4.mask(24), 0, [])
    with pytest.raises(OSError) as error:
        peer.stack.send_udp(5000, ipv4.address("192.0.2.1"), 6000, b"x")
    assert error.value.args[0] == 101


# -- ICMP -------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"abcdefg", bytes(range(256)) * 5 + bytes(192)])
def test_ping(peer, payload):
    peer.echo(payload)
    (frame,) = peer.frames()
    assert frame[:6] == PEER_MAC
    protocol, source, destination, start, end = ipv4.parse(frame, 14)
    assert (protocol, source, destination) == (ipv4.ICMP, HOST_IP, PEER_IP)
    assert icmp.parse(frame, start, end) == (icmp.ECHO_REPLY, 0)
    assert frame[start + 4 : end] == b"\0\1\0\2" + payload


def test_ping_to_all_is_not_answered(peer):
    peer.echo(b"x", destination=0xFFFFFFFF)
    peer.echo(b"x", destination=0x0A0000FF)
    peer.echo(b"x", source=0xFFFFFFFF)
    assert peer.frames() == []


def test_loopback_addresses_stay_inside_without_an_address_too():
    peer = Peer()
    peer.stack.configure(0, 0, 0, [])
    endpoint = peer.stack.open_udp(7, None, ipv4.LOOPBACK)
    everybody = peer.stack.open_udp(8)
    peer.datagram(1234, 7, b"x", destination=ipv4.LOOPBACK)
    peer.datagram(1234, 8, b"x", destination=ipv4.LOOPBACK + 1)
    assert not endpoint.ready() and not everybody.ready()


# -- Sources and frames that nobody may answer ------------------------------------------------

NO_HOSTS = [
    "10.0.0.255",
    "10.0.0.0",
    "10.0.0.1",
    "255.255.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "0.0.0.0",
    "0.0.0.7",
    "127.0.0.1",
]


def segment_frame(flags, source, destination=HOST_IP, ethernet_destination=HOST_MAC, port=80):
    frame = bytearray(54)
    ethernet.emit(frame, ethernet_destination, PEER_MAC, ethernet.TYPE_IPV4)
    pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, destination)
    tcp.emit(frame, 34, 40000, port, 1000, 77, flags, 1000, 20, 0, pseudo)
    ipv4.emit(frame, 14, ipv4.TCP, source, destination, 20)
    return frame


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_comes_from_no_host_gets_no_answer(peer, text):
    # RFC 1122 3.2.1.3, RFC 9293 3.9.2.3
    source = ipv4.address(text)
    peer.listen()
    endpoint = peer.stack.open_udp(7)
    for flags in (tcp.SYN, tcp.ACK, tcp.SYN | tcp.ACK, tcp.FIN, 0):
        for port in (80, 81):
            frame = segment_frame(flags, source, port=port)
            peer.stack.input(memoryview(frame), peer.now)
    peer.echo(b"hello", source=source)
    peer.datagram(5000, 9, b"x", source=source)
    peer.datagram(5000, 7, b"x", source=source)
    if text not in ("0.0.0.0", "10.0.0.1"):
        # A probe, and a conflict.
        send_arp(peer, arp.REQUEST, PEER_MAC, source, HOST_IP)
    peer.ip(ipv4.UDP, bytes(8), source)
    frame = bytearray(34 + 16)
    ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
    ipv4.emit(frame, 14, ipv4.UDP, source, HOST_IP, 16, 5, 0, True)
    peer.stack.input(memoryview(frame), peer.now)
    assert peer.link.frames == [] and peer.frames(10000) == []
    assert not endpoint.ready() and not peer.stack.tcp.connections()
    assert not peer.stack._fragments.bytes and source not in peer.stack.neighbours._entries


@pytest.mark.parametrize("text", ["10.0.0.255", "10.0.0.0"])
def test_merged_segments_of_no_host_get_no_answer(peer, text):
    peer.listen()
    frame = segment_frame(tcp.ACK, ipv4.address(text))
    peer.stack.input_segment(frame, len(frame), peer.now)
    # Not even a question of where it is.
    assert peer.link.frames == []
    # Of a host they do.
    frame = segment_frame(tcp.ACK, PEER_IP)
    peer.stack.input_segment(frame, len(frame), peer.now)
    assert len(peer.frames()) == 1


def test_the_ends_of_small_subnets_are_hosts(peer):
    # RFC 3021 2.1
    peer.stack.configure(HOST_IP, ipv4.mask(31), 0, [])
    other = HOST_IP ^ 1
    peer.learn(other, PEER_MAC)
    peer.link.frames.clear()
    peer.echo(b"x", source=other)
    (frame,) = [f for f in peer.frames() if f[12:14] == b"\x08\0"]
    assert frame[:6] == PEER_MAC


def test_no_connection_to_a_broadcast_address(peer):
    for text in ("10.0.0.255", "10.0.0.0", "255.255.255.255", "224.0.0.1"):
        with pytest.raises(OSError) as error:
            peer.stack.tcp.connect(ipv4.address(text), 80, 0, peer.now)
        assert error.value.args[0] == 101
    assert not peer.stack.tcp.connections() and peer.frames() == []


@pytest.mark.parametrize("to", [ethernet.BROADCAST, b"\x01\0\x5e\0\0\1"])
def test_frames_to_a_group_with_our_address_ask_nobody(peer, to):
    # RFC 1122 3.3.6
    peer.listen()
    for flags in (tcp.SYN, tcp.ACK):
        peer.stack.input(memoryview(segment_frame(flags, PEER_IP, HOST_IP, to)), peer.now)
    real = peer.stack.input

    def to_group(frame, now):
        frame = bytearray(frame)
        frame[0:6] = to
        real(memoryview(frame), now)

    peer.stack.input = to_group
    peer.echo(b"x")
    peer.datagram(5, 9, b"x")
    # In fragments, too.
    syn = segment_frame(tcp.SYN, PEER_IP)[34:]
    for at in (0, 8):
        data = syn[:8] if at == 0 else syn[8:]
        frame = bytearray(34) + data
        ethernet.emit(frame, to, PEER_MAC, ethernet.TYPE_IPV4)
        ipv4.emit(frame, 14, ipv4.TCP, PEER_IP, HOST_IP, len(data), 7, at, at == 0)
        real(memoryview(frame), peer.now)
    assert peer.frames(5000) == []


# -- ARP probes -------------------------------------------------------------------------------


def test_probes_for_our_address_are_answered_and_not_remembered(peer):
    # RFC 5227 2.1.1: by this the next host finds that the address is taken.
    mac = b"\2\0\0\0\0\x77"
    send_arp(peer, arp.REQUEST, mac, 0, HOST_IP)
    assert arp_packets(peer.link.frames) == [(mac, arp.REPLY, HOST_MAC, HOST_IP, mac, 0)]
    peer.link.frames.clear()
    assert 0 not in peer.stack.neighbours._entries
    send_arp(peer, arp.REQUEST, mac, 0, HOST_IP + 1)
    send_arp(peer, arp.REPLY, mac, 0, HOST_IP)
    for none in (bytes(6), ethernet.BROADCAST, b"\1\0\0\0\0\1", HOST_MAC):
        send_arp(peer, arp.REQUEST, none, 0, HOST_IP)
        send_arp(peer, arp.REQUEST, none, HOST_IP + 9, HOST_IP)
    peer.stack.configure(0, 0, 0, [])
    send_arp(peer, arp.REQUEST, mac, 0, 0)
    assert peer.link.frames == [] and not peer.stack.neighbours._entries


# -- Priority tags ----------------------------------------------------------------------------


def tagged(frame, *tags):
    kind = b"\x81\0"
    inner = b"".join([kind + bytes((tag >> 8, tag & 0xFF)) for tag in tags])
    return bytearray(bytes(frame[:12]) + inner + bytes(frame[12:]))


def arp_frame():
    frame = bytearray(42)
    ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_ARP)
    arp.emit(frame, 14, arp.REQUEST, PEER_MAC, PEER_IP, bytes(6), HOST_IP)
    return frame


@pytest.mark.parametrize("priority", range(8))
@pytest.mark.parametrize("drop", [0, 0x1000])
def test_frames_with_a_priority_are_frames(peer, priority, drop):
    # IEEE 802.1Q 6.9 and 9.6: priority, drop eligible, and the null VLAN
    tag = priority << 13 | drop
    peer.listen()
    peer.stack.input(memoryview(tagged(arp_frame(), tag)), peer.now)
    peer.stack.input(memoryview(tagged(segment_frame(tcp.SYN, PEER_IP), tag)), peer.now)
    peer.stack.input(
        memoryview(tagged(segment_frame(tcp.ACK, PEER_IP, port=81), tag, 0)), peer.now
    )
    service = tagged(arp_frame(), tag)
    service[12:14] = b"\x88\xa8"
    peer.stack.input(memoryview(service), peer.now)
    peer.poll(0)
    kinds = [frame[12:14] for frame in peer.link.frames]
    assert len(kinds) == 2 and peer.link.frames[0][12:14] == b"\x08\0"


@pytest.mark.parametrize("tags", [(5,), (0xFFF,), (0xE001,), (0, 5), (5, 0), (0, 0, 0)])
def test_frames_of_a_vlan_are_somebody_else_s(peer, tags):
    peer.listen()
    for frame in (arp_frame(), segment_frame(tcp.SYN, PEER_IP), segment_frame(tcp.ACK, PEER_IP)):
        peer.stack.input(memoryview(tagged(frame, *tags)), peer.now)
    assert peer.link.frames == [] and peer.frames() == []


def test_tags_that_are_cut_short(peer):
    for tags in ((0,), (0, 0), (0, 0, 0)):
        frame = tagged(arp_frame(), *tags)
        for length in range(len(frame)):
            peer.stack.input(memoryview(frame[:length]), peer.now)
    assert peer.link.frames == []


# -- Nonsense ---------------------------------------------------------------------------------


def _seeds():
    """Frames of every kind, valid, in a conversation that has every kind of state."""
    peer = Peer()
    recorded = []
    take = peer.stack.input

    def record(frame, now):
        recorded.append(bytes(frame))
        take(frame, now)

    peer.stack.input = record
    peer.learn(PEER_IP, PEER_MAC)
    connection = peer.establish(tcp.emit_syn_options(1460, 7))
    peer.send(tcp.ACK | tcp.PSH, b"GET / HTTP/1.1\r\n\r\n")
    peer.send(tcp.ACK, bytes(500), seq=peer.seq + 1000)
    peer.send(tcp.ACK | tcp.FIN, b"x", seq=peer.seq + 1500)
    peer.send(tcp.RST, seq=peer.seq + 5)
    peer.send(tcp.ACK, ack=connection.snd_max)
    peer.echo(b"ping")
    peer.datagram(53, 50000, b"datagram")
    peer.datagram(67, 68, bytes(300))
    return recorded


def _mutate(rng, frame):
    frame = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        kind = rng.randrange(5)
        at = rng.randrange(len(frame)) if frame else 0
        if kind == 0 and frame:
            frame[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and frame:
            frame[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            frame = frame[:at]
        elif kind == 3:
            frame += bytes(rng.randrange(40))
        elif frame:
            other = rng.randrange(len(frame))
            frame[at : at + 4] = frame[other : other + 4]
    return frame


def _repair(frame):
    """Make the checksums right again, so that the mutation gets past them."""
    if len(frame) < 34 or frame[12:14] != b"\x08\0":
        return
    header = (frame[14] & 15) << 2
    if header < 20 or 14 + header > len(frame):
        return
    from _netbuf import checksum

    frame[24:26] = b"\0\0"
    frame[24:26] = (~checksum(frame, 14, header) & 0xFFFF).to_bytes(2, "big")
    total = frame[16] << 8 | frame[17]
    start, end = 14 + header, min(14 + total, len(frame))
    at = {ipv4.TCP: 16, ipv4.UDP: 6, ipv4.ICMP: 2}.get(frame[23])
    if at is None or start + at + 2 > end:
        return
    frame[start + at : start + at + 2] = b"\0\0"
    pseudo = 0
    if frame[23] != ipv4.ICMP:
        source, destination = (int.from_bytes(frame[i : i + 4], "big") for i in (26, 30))
        pseudo = ipv4.pseudo_header_sum(frame[23], source, destination) + end - start
    value = ~checksum(frame, start, end - start, pseudo) & 0xFFFF
    frame[start + at : start + at + 2] = value.to_bytes(2, "big")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_frames_never_raise_and_leave_no_trace(seed):
    rng = random.Random(seed)
    seeds = _seeds()
    peer = Peer()
    listener = peer.listen()
    peer.stack.open_udp(50000)
    accepted = []
    for number in range(2500):
        frame = bytearray(rng.choice(seeds))
        if rng.random() < 0.9:
            frame = _mutate(rng, frame)
        if rng.random() < 0.8:
            _repair(frame)
        peer.stack.input(memoryview(frame), peer.now)
        peer.poll(rng.choice((0, 0, 1, 50, 3000)))
        peer.link.frames.clear()
        while listener.ready():
            accepted.append(listener.accept())
        if accepted and number % 7 == 0:
            connection = accepted[rng.randrange(len(accepted))]
            try:
                connection.receive_bytes(100)
                connection.send(b"answer", 0, 6)
            except OSError:
                accepted.remove(connection)
    for connection in accepted:
        connection.close(peer.now)
    listener.close()
    peer.stack.tcp.release(listener.port)
    peer.frames(400000)
    assert not peer.stack.tcp.connections()
    assert peer.stack.send_pool.lent == 0 and peer.stack.receive_pool.lent == 0
    # And it works as before.
    peer.seq = 77
    peer.establish()


def test_random_bytes_never_raise(peer):
    rng = random.Random(99)
    peer.listen()
    for _ in range(3000):
        frame = rng.randbytes(rng.randrange(100))
        if rng.random() < 0.7:
            frame = HOST_MAC + PEER_MAC + rng.choice((b"\x08\0", b"\x08\x06")) + frame
        peer.stack.input(memoryview(frame), peer.now)
    peer.poll()
