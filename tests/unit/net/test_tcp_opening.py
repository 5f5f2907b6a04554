"""Handshakes, and segments that belong to no connection, by segments written by hand.

Clauses are of RFC 9293 unless named.
"""

import pytest
from net import errors, ipv6
from net.tcp import states as state
from net.tcp import wire as tcp
from scripted import Peer, host, speaks_ipv6, write

BOTH_FAMILIES = True

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH


@pytest.fixture
def peer():
    return Peer()


# -- Opening --------------------------------------------------------------------------------


def test_passive_open_offers_mss_and_scale_only_if_asked(peer):
    peer.listen()
    peer.send(SYN, options=tcp.emit_syn_options(1400, 7))
    assert peer.segment().options == (1460, 1, False, None)
    peer.peer_port += 1
    peer.send(SYN, options=tcp.emit_syn_options(1400, None))
    assert peer.segment().options == (1460, None, False, None)


def test_send_mss_is_the_lesser(peer):
    connection = peer.establish(tcp.emit_syn_options(700, None))
    connection.nodelay = True
    write(connection, bytes(2000))
    assert [len(s.payload) for s in peer.segments()] == [700, 700, 600]


def test_absurd_mss_is_raised(peer):
    connection = peer.establish(tcp.emit_syn_options(1, None))
    connection.nodelay = True
    write(connection, bytes(100))
    assert [len(s.payload) for s in peer.segments()] == [64, 36]


def test_window_scale_is_applied_both_ways(peer):
    connection = peer.establish(tcp.emit_syn_options(1460, 4))
    peer.send(ACK, window=100)
    assert connection.window.size == 1600
    peer.send(ACK | PSH, b"x")
    assert peer.segment(50).window == 32768 - 1


def test_lost_syn_ack_is_repeated_with_backoff(peer):
    peer.listen()
    peer.send(SYN)
    times = []
    start = peer.now
    while peer.stack.tcp.connections():
        deadline = peer.poll()
        if peer.link.frames:
            times.append(peer.now - start)
            peer.link.frames.clear()
        peer.now = deadline or peer.now
    assert times == [0, 1000, 3000, 7000, 15000, 31000]


def test_repeated_syn_gets_the_syn_ack_again(peer):
    peer.listen()
    peer.send(SYN)
    first = peer.segment()
    peer.send(SYN)
    again = peer.segment()
    assert (again.flags, again.seq, again.ack) == (first.flags, first.seq, first.ack)
    assert again.options == first.options
    assert len(peer.stack.tcp.connections()) == 1


def test_syn_received_wants_an_acceptable_ack(peer):
    peer.listen()
    peer.send(SYN)
    reply = peer.segment()
    peer.send(ACK, seq=1001, ack=reply.seq)
    reset = peer.segment()
    assert (reset.flags, reset.seq) == (RST, reply.seq)


def test_reset_in_syn_received_frees_the_place(peer):
    listener = peer.listen()
    peer.send(SYN)
    peer.segment()
    peer.send(RST, seq=1001)
    assert not peer.stack.tcp.connections() and not listener.ready()


def test_active_open(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    syn = peer.segment()
    assert (syn.flags, syn.options[:3]) == (SYN, (1460, 1, True)) and syn.options[3] is not None
    assert syn.port >= 49152
    peer.port, peer.peer_port = syn.port, 80
    peer.ack = syn.seq + 1
    peer.send(SYN | ACK, seq=5000, options=tcp.emit_syn_options(1460, 2), window=1000)
    assert connection.state == state.ESTABLISHED
    assert connection.window.size == 1000  # RFC 7323 2.2: a SYN's window is not scaled
    ack = peer.segment()
    assert (ack.flags, ack.seq, ack.ack) == (ACK, syn.seq + 1, 5001)


def test_active_open_refused(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    syn = peer.segment()
    peer.port, peer.peer_port = syn.port, 80
    peer.send(RST, seq=0)  # no ACK: not acceptable, 3.10.7.3
    peer.send(RST | ACK, seq=0, ack=syn.seq + 7)
    assert connection.state == state.SYN_SENT
    peer.send(RST | ACK, seq=0, ack=syn.seq + 1)
    assert connection.state == state.CLOSED
    with pytest.raises(OSError) as error:
        connection.receive_bytes(1)
    assert error.value.args[0] == errors.ECONNREFUSED
    assert not peer.stack.tcp.connections()


def test_active_open_wrong_ack_is_reset(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    syn = peer.segment()
    peer.port, peer.peer_port = syn.port, 80
    peer.send(SYN | ACK, seq=5000, ack=syn.seq + 9)
    reset = peer.segment()
    assert (reset.flags, reset.seq) == (RST, syn.seq + 9)
    assert connection.state == state.SYN_SENT


def test_active_open_times_out_after_three_minutes(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    start = peer.now
    while connection.state != state.CLOSED:
        deadline = peer.poll()
        if connection.state != state.CLOSED:
            peer.now = deadline
    assert connection.error == errors.ETIMEDOUT
    assert 180000 <= peer.now - start <= 250000


def test_simultaneous_open(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    syn = peer.segment()
    peer.port, peer.peer_port = syn.port, 80
    peer.send(SYN, seq=5000, options=tcp.emit_syn_options(1460, None))
    reply = peer.segment()
    assert (reply.flags, reply.seq, reply.ack) == (SYN | ACK, syn.seq, 5001)
    peer.send(SYN | ACK, seq=5000, ack=syn.seq + 1)
    peer.send(ACK, seq=5001, ack=syn.seq + 1)
    assert connection.state == state.ESTABLISHED


def test_initial_sequence_numbers_differ_and_follow_the_clock(peer):
    numbers = set()
    peer.listen()
    for port in range(40000, 40010):
        peer.peer_port = port
        peer.send(SYN)
        numbers.add(peer.segment().seq)
    assert len(numbers) == 10
    # RFC 6528 3: the same four numbers again, later: the clock's difference.
    peer.send(RST, seq=1001)
    before = peer.stack.tcp.initial_numbers(1, 2, 3, 4)
    peer.poll(8)
    after = peer.stack.tcp.initial_numbers(1, 2, 3, 4)
    assert (after[0] - before[0]) & 0xFFFFFFFF == 2000 and after[1] == before[1]


def test_backlog_is_bounded(peer):
    listener = peer.listen()
    for port in range(1024, 1024 + 1000):
        peer.peer_port = port
        peer.send(SYN)
    assert len(peer.stack.tcp.connections()) == 128
    # The newest got a cookie (RFC 4987 3.6), so a client that goes on gets in.
    reply = [s for s in peer.segments() if s.peer_port == peer.peer_port][-1]
    peer.seq, peer.ack = 1001, (reply.seq + 1) & 0xFFFFFFFF
    peer.send(ACK)
    assert listener.accept() is not None


def test_accept_queue_is_bounded(peer):
    peer.listen()
    for port in range(1024, 1200):
        peer.peer_port, peer.seq = port, 1000
        peer.send(SYN)
        for segment in peer.segments():
            peer.ack = (segment.seq + 1) & 0xFFFFFFFF
            peer.seq = 1001
            peer.send(ACK)
    assert len(peer.stack.tcp.connections()) == 64


# -- Unknown connections (3.10.7.1) -----------------------------------------------------------


def test_closed_port_resets(peer):
    peer.send(SYN, seq=7)
    reset = peer.segment()
    assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, 0, 8)
    peer.send(ACK | FIN, b"xyz", seq=7, ack=99)
    reset = peer.segment()
    assert (reset.flags, reset.seq) == (RST, 99)
    peer.send(FIN, b"xyz", seq=7)
    reset = peer.segment()
    assert (reset.flags, reset.ack) == (RST | ACK, 11)
    peer.send(RST, seq=7)
    peer.send(RST | ACK, seq=7, ack=9)
    assert peer.segments() == []


_NOBODY = (
    {"destination": 0xFFFFFFFF},
    {"destination": 0x0A0000FF},
    {"destination": 0xE0000001},
    {"destination": 0x0A000009},
    {"source": 0xFFFFFFFF},
    {"source": 0xE0000001},
    {"source": 0x7F000001},
    {"source": 0x0A000001},
    {"source": 0},
)


def test_broadcasts_and_foreign_addresses_get_nothing(peer):
    peer.listen()
    if speaks_ipv6():
        cases = [{"destination": ipv6.address(text)} for text in ("ff02::1", "::1", "::")]
        cases += [{"source": ipv6.address(text)} for text in ("ff02::1", "::1", "::")]
        cases += [{"destination": host(9)}, {"source": host(1)}]
        cases += [{"source": ipv6.mapped(0x0A000002)}]
    else:
        cases = _NOBODY
    for addresses in cases:
        peer.send(SYN, **addresses)
    assert peer.frames() == []
