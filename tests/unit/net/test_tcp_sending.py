"""When a connection sends what, and again, by segments written by hand.

Clauses are of RFC 9293 unless named.
"""

import pytest
from net import errors
from net.tcp import states as state
from net.tcp import wire as tcp
from scripted import Peer, write

BOTH_FAMILIES = True

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH


@pytest.fixture
def peer():
    return Peer()


def test_nagle_and_nodelay(peer):
    connection = peer.establish()
    write(connection, b"one")
    assert peer.segment().payload == b"one"
    write(connection, b"two")
    write(connection, b"three")
    assert peer.segments() == []
    peer.send(ACK, ack=peer.ack + 3)
    assert peer.segment().payload == b"twothree"
    connection.nodelay = True
    write(connection, b"four")
    assert peer.segment().payload == b"four"


def test_nagle_holds_back_neither_whole_segments_nor_the_end(peer):
    # 3.7.4
    connection = peer.establish()
    write(connection, b"one")
    peer.segments()
    write(connection, bytes(1460 + 100))
    assert len(peer.segment().payload) == 1460
    connection.close(peer.now)
    last = peer.segment()
    assert len(last.payload) == 100 and last.flags & FIN


def test_slow_start_counts_bytes_however_they_are_acknowledged(peer):
    # RFC 5681 3.1, RFC 3465 2.2
    connection = peer.establish()
    write(connection, bytes(60000))
    assert len(peer.segments()) == 10
    for count in (1, 2, 4, 3):
        peer.ack += count * 1460
        peer.send(ACK)
        assert len(peer.segments()) == 2 * count


def test_a_window_update_lets_out_what_waits_for_it(peer):
    connection = peer.establish()
    peer.send(ACK, window=2920)
    write(connection, bytes(60000))
    assert len(peer.segments()) == 2
    # No acknowledgement of anything new, so no growth of the congestion window either.
    window = connection.congestion.cwnd
    peer.send(ACK, window=65535)
    assert len(peer.segments()) == 8 and connection.congestion.cwnd == window


def test_initial_window_is_ten_segments(peer):
    connection = peer.establish()
    write(connection, bytes(60000))
    assert [len(s.payload) for s in peer.segments()] == [1460] * 10
    # Slow start: two more for each acknowledged pair.
    peer.send(ACK, ack=peer.ack + 2920)
    assert len(peer.segments()) == 4


def test_idle_connection_starts_anew(peer):
    connection = peer.establish()
    write(connection, bytes(60000))
    while peer.segments():
        peer.send(ACK, ack=connection.snd_max)
    assert connection.congestion.cwnd > 15 * 1460
    peer.poll(10000)
    write(connection, bytes(60000))
    assert len(peer.segments()) == 10


def test_peers_window_is_respected(peer):
    connection = peer.establish()
    peer.send(ACK, window=3000)
    write(connection, bytes(10000))
    assert [len(s.payload) for s in peer.segments()] == [1460, 1460]
    peer.send(ACK, ack=peer.ack + 2920, window=500)
    # 3.8.6.2.1: less than half of the largest window and not a whole segment waits.
    assert peer.segments() == []
    assert [len(s.payload) for s in peer.segments(1000)] == [500]


def test_retransmission_backs_off_and_gives_up(peer):
    connection = peer.establish()
    write(connection, b"data")
    start = peer.now
    times = []
    while connection.state != state.CLOSED:
        deadline = peer.poll()
        for segment in peer.segments():
            times.append((peer.now - start, segment.payload, segment.flags & RST))
        peer.now = max(peer.now, deadline or peer.now)
    assert [t for t, _, reset in times if not reset] == [0, 1000, 3000, 7000, 15000, 31000, 63000]
    assert times[-1][2] and times[-1][0] == 123000
    assert connection.error == errors.ETIMEDOUT
    assert all(payload == b"data" for _, payload, reset in times if not reset)


def test_round_trip_time_sets_the_timer(peer):
    connection = peer.establish()
    # The handshake took no time here: RFC 6298 (2.2) with R = 0, then (2.3) with R = 2000.
    write(connection, b"data")
    peer.segments()
    peer.now += 900
    peer.send(ACK, ack=peer.ack + 4)
    assert (connection.rtt.srtt8 // 8, connection.rtt.rttvar4 // 4) == (112, 225)
    assert connection.rtt.rto == 112 + 900
    # Karn: what is sent twice is not measured; the timer stays backed off (5.5).
    write(connection, b"more")
    peer.segments(1012)
    assert connection.rtt.rto == 2024
    peer.send(ACK, ack=peer.ack + 8)
    assert connection.rtt.srtt8 // 8 == 112 and connection.rtt.rto == 2024


def test_lost_syn_widens_the_timer_and_narrows_the_window(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    syn = peer.segments(1000)[-1]
    peer.port, peer.peer_port = syn.port, 80
    peer.send(SYN | ACK, seq=5000, ack=syn.seq + 1, options=tcp.emit_syn_options(1460, None))
    # RFC 6298 (5.7), RFC 5681 3.1
    assert connection.rtt.rto == 3000 and connection.congestion.cwnd == 1460


def _fill(peer, connection, count=20):
    """Grow the window, then leave `count` segments in flight; returns the first's number."""
    while connection.congestion.cwnd < 2 * count * 1460:
        write(connection, bytes(20 * 1460))
        while peer.segments():
            peer.send(ACK, ack=connection.snd_max)
    write(connection, bytes(count * 1460))
    assert len(peer.segments()) == count
    return connection.snd_una


def test_fast_retransmit_and_recovery(peer):
    connection = peer.establish()
    una = _fill(peer, connection)
    write(connection, bytes(10 * 1460))
    peer.segments()
    for _ in range(2):
        peer.send(ACK, ack=una)
    in_flight = connection.snd_max - una
    peer.send(ACK, ack=una)
    again = peer.segments()
    assert again[0].seq == una & 0xFFFFFFFF and len(again[0].payload) == 1460
    assert connection.congestion.ssthresh == in_flight // 2
    # A partial acknowledgement brings the next hole at once (RFC 6582 3.2).
    peer.send(ACK, ack=una + 1460)
    assert peer.segments()[0].seq == una + 1460 & 0xFFFFFFFF
    # The full one ends it.
    peer.send(ACK, ack=connection.snd_max)
    assert connection.congestion.cwnd <= connection.congestion.ssthresh


def test_limited_transmit(peer):
    connection = peer.establish()
    write(connection, bytes(60000))
    una = connection.snd_una
    assert len(peer.segments()) == 10
    peer.send(ACK, ack=una)
    assert len(peer.segments()) == 1
    peer.send(ACK, ack=una)
    assert len(peer.segments()) == 1


def test_timeout_restarts_from_one_segment(peer):
    connection = peer.establish()
    una = _fill(peer, connection)
    segment = peer.segment(connection.rtt.rto)
    assert segment.seq == una & 0xFFFFFFFF and connection.congestion.cwnd == 1460
    assert connection.congestion.ssthresh == 10 * 1460
    # What the peer had anyway is not sent again.
    peer.send(ACK, ack=una + 10 * 1460)
    assert peer.segments()[0].seq == una + 10 * 1460 & 0xFFFFFFFF


def test_zero_window_probes(peer):
    connection = peer.establish()
    peer.send(ACK, window=0)
    write(connection, b"hello")
    times = []
    for _ in range(100000):
        for segment in peer.segments(10):
            times.append(peer.now)
            assert segment.payload == b"h"
            peer.send(ACK, window=0)
        if len(times) == 10:
            break
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert gaps == [2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000, 60000]
    # 3.8.6.1: while the peer answers, the connection stays, and goes on when it may.
    peer.send(ACK, window=1000)
    assert peer.segment().payload == b"hello"
    peer.send(ACK, ack=peer.ack + 5)
    assert connection.snd_una == connection.snd_max and connection.rtt.rto == 1000


def test_zero_window_probe_unanswered_gives_up(peer):
    connection = peer.establish()
    peer.send(ACK, window=0)
    write(connection, b"hello")
    start = peer.now
    while connection.state != state.CLOSED:
        peer.now = peer.poll()
    assert connection.error == errors.ETIMEDOUT and peer.now - start >= 120000


def test_window_that_closes_over_data_in_flight(peer):
    connection = peer.establish()
    write(connection, bytes(2920))
    peer.segments()
    peer.send(ACK, ack=peer.ack + 1460, window=0)
    probes = peer.segments(10000)
    assert probes and all(len(s.payload) == 1 for s in probes)
    peer.send(ACK, ack=peer.ack + 1460, window=10000)
    assert sum(len(s.payload) for s in peer.segments()) == 1460


def test_full_link_loses_nothing(peer):
    connection = peer.establish()
    peer.link.full = True
    connection.nodelay = True
    write(connection, bytes(5000))
    assert peer.poll() == peer.now + 1
    assert peer.segments() == []
    peer.link.full = False
    assert sum(len(s.payload) for s in peer.segments(1)) == 5000


def test_push_marks_the_end(peer):
    connection = peer.establish()
    connection.nodelay = True
    write(connection, bytes(3000))
    assert [bool(s.flags & PSH) for s in peer.segments()] == [False, False, True]


def test_keepalive(peer):
    connection = peer.establish()
    connection.set_keepalive(True, peer.now)
    assert peer.segments(7199999) == []
    probe = peer.segment(1)
    assert (probe.seq, probe.payload) == (peer.ack - 1, b"")
    peer.send(ACK)
    assert len(peer.segments(7200000)) == 1
    assert len(peer.segments(10 * 75000)) == 9
    assert connection.state == state.CLOSED and connection.error == errors.ETIMEDOUT
