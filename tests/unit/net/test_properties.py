"""Properties that hold for any input: round trips of headers, the core against simple models."""

import errno

import pytest
from fuzzing import fix_checksums
from hypothesis import given, settings
from hypothesis import strategies as st
from net import arp, dhcp_message, dns_message, ethernet, icmp, ipv4, ntp, udp
from net.fragments import Fragments
from net.tcp import congestion, cookies
from net.tcp import wire as tcp
from net.tcp.reassembly import blocks_to_report
from net.tcp.sack import Scoreboard
from net.timers import Timers
from netsim import Simulator, Transfer, Wire
from scripted import HOST_IP, PEER_IP, Peer

byte = st.integers(0, 255)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
mac = st.binary(min_size=6, max_size=6)
text = st.binary(max_size=1400)


@given(mac, mac, u16)
def test_ethernet(destination, source, kind):
    frame = bytearray(14)
    ethernet.emit(frame, destination, source, kind)
    assert ethernet.parse(frame) == (destination, source, kind)


@given(st.sampled_from((1, 2)), mac, u32, mac, u32)
def test_arp(operation, mac_1, ip_1, mac_2, ip_2):
    packet = bytearray(28)
    fields = (operation, mac_1, ip_1, mac_2, ip_2)
    arp.emit(packet, 0, *fields)
    assert arp.parse(packet, 0) == fields


@given(byte, u32, u32, text)
def test_ipv4(protocol, source, destination, payload):
    packet = bytearray(20) + payload
    ipv4.emit(packet, 0, protocol, source, destination, len(payload))
    assert ipv4.parse(packet, 0) == (protocol, source, destination, 20, 20 + len(payload))
    assert ipv4.parse_fragment(packet, 0) is None


@given(byte, u32, u32, text, u16, st.integers(0, 8191), st.booleans())
def test_ipv4_fragments(protocol, source, destination, payload, identification, at, more):
    packet = bytearray(20) + payload
    ipv4.emit(packet, 0, protocol, source, destination, len(payload), identification, at * 8, more)
    expected = (protocol, source, destination, identification, at * 8, more, payload)
    if at or more:
        assert ipv4.parse(packet, 0) is None and ipv4.parse_fragment(packet, 0) == expected
    else:
        assert ipv4.parse(packet, 0) is not None


@given(u32)
def test_address_texts(address):
    assert ipv4.address(ipv4.address_text(address)) == address


@given(u32, u32, u16, u16, text)
def test_udp(source, destination, source_port, port, payload):
    datagram = bytearray(8) + payload
    udp.emit(datagram, 0, source, source_port, destination, port, len(payload))
    assert udp.parse(datagram, 0, len(datagram), source, destination) == (
        source_port,
        port,
        8,
        len(datagram),
    )


@given(byte, byte, u32, text)
def test_icmp(kind, code, rest, payload):
    message = bytearray(8 + len(payload))
    icmp.emit(message, 0, kind, code, rest, payload)
    assert icmp.parse(message, 0, len(message)) == (kind, code)
    assert message[8:] == payload


@given(u32, u32, u16, u16, u32, u32, st.integers(0, 255), u16, st.integers(0, 10), text)
def test_tcp(source, destination, source_port, port, seq, ack, flags, window, words, payload):
    header = 20 + 4 * words
    segment = bytearray(header) + payload
    pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, destination)
    tcp.emit(segment, 0, source_port, port, seq, ack, flags, window, header, len(payload), pseudo)
    assert tcp.parse(segment, 0, len(segment), pseudo) == (
        source_port,
        port,
        seq,
        ack,
        flags,
        window,
        header,
    )


@given(u16, st.none() | st.integers(0, 14), st.booleans(), st.none() | st.tuples(u32, u32))
def test_syn_options(mss, shift, sack, stamps):
    options = tcp.emit_syn_options(mss, shift, sack, stamps)
    assert len(options) % 4 == 0 and len(options) <= 40
    expected = (mss, shift, sack, stamps and stamps[0])
    assert tcp.parse_syn_options(options, 0, len(options)) == expected


@given(st.none() | st.tuples(u32, u32), st.lists(st.tuples(u32, u32), min_size=1, max_size=3))
def test_segment_options(stamps, blocks):
    options = bytearray(40)
    length = 0
    if stamps:
        tcp.emit_timestamps(options, 0, *stamps)
        length = 12
    length += tcp.emit_sack(options, length, blocks)
    assert tcp.parse_options(options, 0, length) == (stamps or (None, None)) + (blocks,)


@given(st.binary(max_size=40))
def test_any_bytes_are_options(data):
    tcp.parse_syn_options(data, 0, len(data))
    tcp.parse_options(data, 0, len(data))


label = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)


@given(st.lists(label, min_size=1, max_size=5), st.binary(max_size=200), u16)
def test_dns_answers_of_any_bytes(labels, data, identifier):
    name = dns_message.encode_name(".".join(labels))
    query = dns_message.emit_query(identifier, name)
    dns_message.parse_answer(bytes(query) + data, identifier, name)
    dns_message.parse_answer(data, identifier, name)


@given(st.binary(max_size=400))
def test_dhcp_answers_of_any_bytes(data):
    dhcp_message.parse(data)
    dhcp_message.parse(bytes((2, 1, 6, 0)) + bytes(232) + b"\x63\x82\x53\x63" + data)


@given(st.integers(0, 4 * 10**18))
def test_ntp_timestamps(ns):
    assert abs(ntp.from_timestamp(ntp.to_timestamp(ns), ns + 10**17) - ns) <= 1


@given(st.binary(min_size=16, max_size=16), u32, u16, u32, u16, u32, u16, st.integers(0, 10**12))
def test_cookies(secret, local, port, remote, remote_port, seq, mss, now):
    addresses = (local, port, remote, remote_port)
    cookie = cookies.make(secret, addresses, seq, mss, now)
    assert 0 <= cookie < 1 << 32
    found = cookies.check(secret, addresses, seq, cookie, now + 60000)
    assert found == 64 or 64 < found <= mss


pieces = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=40)


@given(pieces, st.integers(0, 300))
def test_scoreboard_is_a_set_of_numbers(blocks, una):
    board = Scoreboard()
    known = set()
    for start, length in blocks:
        fresh = set(range(start, start + length)) - known if start > 0 else set()
        assert board.update([(start, start + length)], 0, 1000) == len(fresh)
        known |= fresh
    assert {n for start, end in board.ranges for n in range(start, end)} == known
    for (_, end), (start, _) in zip(board.ranges, board.ranges[1:]):
        assert end < start
    for seq in (una, una + 7):
        assert board.has(seq) == (seq in known)
        assert board.sacked_below(seq) == len([n for n in known if n < seq])
        free, _ = board.skip(seq)
        assert free not in known and all(n in known for n in range(seq, free))
    below = board.lost_below(50)
    lost = set(range(below)) - known
    assert board.pipe(0, 1000, below) == 1000 - len(known) - len(lost)
    gone = len([n for n in known if n < una])
    assert board.acknowledge(una) == gone


@given(pieces, st.lists(st.integers(0, 400), max_size=4), st.integers(1, 4))
def test_reported_blocks_are_islands(blocks, recent, limit):
    board = Scoreboard()
    for start, length in blocks:
        board.update([(start, start + length)], 0, 1000)
    report = blocks_to_report(board.ranges, recent, limit)
    assert len(report) == min(limit, len(board.ranges)) == len(set(report))
    assert all(block in board.ranges for block in report)


@given(st.binary(min_size=1, max_size=4000), st.integers(1, 100), st.randoms())
def test_fragments_in_any_order(payload, units, rng):
    size = units * 8
    parts = list(range(0, len(payload), size))
    if len(parts) > 100:
        return
    rng.shuffle(parts)
    fragments = Fragments(Timers())
    whole = None
    for at in parts:
        assert whole is None
        data = payload[at : at + size]
        whole = fragments.input((17, 1, 2, 3, at, at + size < len(payload), data), 0)
    assert whole[34:] == payload and fragments.bytes == 0


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 120)), max_size=25))
@settings(deadline=None)
def test_received_text_is_what_was_sent(parts):
    sent = bytes(range(251)) * 3
    peer = Peer(timestamps=False)
    connection = peer.establish(tcp.emit_syn_options(1460, None, True))
    came = set()
    for at, length in parts:
        peer.send(tcp.ACK, sent[at : at + length], seq=peer.seq + at)
        came |= set(range(at, at + length))
    ready = 0
    while ready in came:
        ready += 1
    assert connection.available() == ready
    assert (connection.receive_bytes(1000) or b"") == sent[:ready]
    ranges = connection.reassembly.ranges if connection.reassembly is not None else ()
    islands = {n for start, end in ranges for n in range(start, end)}
    assert {n - peer.seq for n in islands} == {n for n in came if n > ready}


@given(
    st.integers(1, 1 << 30),
    st.floats(0, 0.2),
    st.floats(0, 0.3),
    st.floats(0, 0.2),
    st.floats(0, 0.1),
    st.integers(0, 60),
    st.sampled_from((4096, 65536)),
    st.booleans(),
    st.booleans(),
    st.sampled_from((congestion.RENO, congestion.WESTWOOD)),
)
@settings(max_examples=40, deadline=None)
def test_every_byte_arrives(
    seed, loss, reorder, duplicate, corrupt, delay, size, sack, timestamps, congestion
):
    sim = Simulator(
        seed,
        Wire(delay, loss, reorder, duplicate, corrupt),
        buffer_size=size,
        sack=sack,
        timestamps=timestamps,
        congestion=congestion,
    )
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 5)
    client = sim.a.tcp.connect(0x0A000002, 80, 0, sim.now)
    if not sim.run(180000, listener.ready):
        # A handshake may fail, where most of its segments are lost; then the client knows.
        assert sim.run(200000, lambda: client.error or listener.ready())
        return
    server = listener.accept()
    transfer = Transfer(client, server, 40000)
    gave_up = []

    def moved():
        try:
            return transfer.pump() or client.error or server.error
        except OSError as error:  # The end of a connection is reported once, here or in `error`.
            gave_up.append(error.args[0])
            return True

    assert sim.run(4000000, moved)
    gave_up += [client.error, server.error]
    # RFC 9293 3.8.3 (R2): where nothing gets through for 120 s, the connection ends.
    assert transfer.received == transfer.total or errno.ETIMEDOUT in gave_up
    client.close(sim.now)
    server.close(sim.now)
    listener.close()
    assert sim.run(400000, lambda: not sim.connections())
    assert sim.a.send_pool.lent == sim.b.receive_pool.lent == 0


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=300)
def test_any_frame_is_taken(data, with_type):
    peer = Peer()
    peer.listen()
    frame = bytearray(data)
    if with_type and len(frame) >= 34:
        frame[12:16] = b"\x08\0\x45\0"
        frame[26:34] = PEER_IP.to_bytes(4, "big") + HOST_IP.to_bytes(4, "big")
        fix_checksums(frame)
    peer.stack.input(memoryview(frame), peer.now)
    peer.poll(10)


@pytest.mark.parametrize("bits", range(33))
def test_netmasks(bits):
    assert ipv4.prefix_length(ipv4.mask(bits)) == bits
