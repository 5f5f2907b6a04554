"""TCP rules one by one, by segments written by hand (clauses are of RFC 9293 unless named)."""

import pytest
from net import errors
from net.tcp import wire as tcp
from net.tcp import states as state
from scripted import PEER_IP, Peer

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH


@pytest.fixture
def peer():
    return Peer()


def read(connection, count=100000):
    return connection.receive_bytes(count)


def write(connection, data):
    return connection.send(data, 0, len(data))


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
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
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
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
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
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
    syn = peer.segment()
    peer.port, peer.peer_port = syn.port, 80
    peer.send(SYN | ACK, seq=5000, ack=syn.seq + 9)
    reset = peer.segment()
    assert (reset.flags, reset.seq) == (RST, syn.seq + 9)
    assert connection.state == state.SYN_SENT


def test_active_open_times_out_after_three_minutes(peer):
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
    start = peer.now
    while connection.state != state.CLOSED:
        peer.now = peer.poll()
    assert connection.error == errors.ETIMEDOUT
    assert 180000 <= peer.now - start <= 250000


def test_simultaneous_open(peer):
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
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


def test_broadcasts_and_foreign_addresses_get_nothing(peer):
    peer.listen()
    for addresses in (
        {"destination": 0xFFFFFFFF},
        {"destination": 0x0A0000FF},
        {"destination": 0xE0000001},
        {"destination": 0x0A000009},
        {"source": 0xFFFFFFFF},
        {"source": 0xE0000001},
        {"source": 0x7F000001},
        {"source": 0x0A000001},
        {"source": 0},
    ):
        peer.send(SYN, **addresses)
    assert peer.frames() == []


# -- Acceptability (3.10.7.4, first) ----------------------------------------------------------


@pytest.mark.parametrize(
    "offset, length, taken",
    [
        (0, 10, 10),  # in order
        (-5, 5, 0),  # all old
        (-5, 10, 5),  # partly old
        (-70000, 10, 0),
        (65535, 10, 0),  # beyond the window
        (10, 10, 0),  # a hole before
    ],
)
def test_acceptability(peer, offset, length, taken):
    connection = peer.establish()
    # A number that wraps while the test runs would hide nothing, but be hard to read.
    peer.send(ACK, bytes(range(100, 100 + length)), seq=peer.seq + offset)
    reply = peer.segments(50)
    assert len(reply) == 1 and reply[0].flags == ACK
    assert reply[0].ack == peer.seq + taken
    assert connection.available() == taken


def test_zero_window_takes_acks_and_answers_probes():
    peer = Peer(buffer_size=4096)
    connection = peer.establish()
    write(connection, b"abc")
    peer.segments()
    for at in range(0, 4096, 1024):
        peer.send(ACK | PSH, bytes(1024), seq=peer.seq + at)
    last = peer.segments()[-1]
    assert last.window == 0 and last.ack == peer.seq + 4096
    peer.seq += 4096
    peer.send(ACK, b"p", ack=peer.ack + 3)
    probe = peer.segment()
    assert (probe.window, probe.ack) == (0, peer.seq)
    assert connection.snd_una == connection.snd_max
    # Reading opens the window, and tells.
    assert len(read(connection, 4000)) == 4000
    assert peer.segment().window == 4000


def test_overlapping_pieces_in_any_order(peer):
    connection = peer.establish()
    text = bytes(range(200))
    for start, end in ((50, 80), (100, 150), (70, 120), (180, 200), (10, 20), (0, 12), (140, 185)):
        peer.send(ACK, text[start:end], seq=peer.seq + start)
    assert connection.available() == 20
    peer.send(ACK, text[15:60], seq=peer.seq + 15)
    assert read(connection) == text
    assert peer.segments()[-1].ack == peer.seq + 200


def test_each_out_of_order_segment_is_acknowledged_at_once(peer):
    peer.establish()
    for at in (100, 200, 300):
        peer.send(ACK, bytes(100), seq=peer.seq + at)
        peer.stack.poll(peer.now)
    assert [s.ack for s in peer.segments()] == [peer.seq] * 3
    # RFC 5681 4.2: and so is the one that fills the hole.
    peer.send(ACK, bytes(100))
    assert peer.segment().ack == peer.seq + 400


def test_number_of_islands_is_bounded(peer):
    connection = peer.establish()
    for at in range(1, 400, 2):
        peer.send(ACK, b"x", seq=peer.seq + at)
    assert len(connection.reassembly.ranges) == 32


def test_sequence_numbers_wrap():
    peer = Peer(seq=0xFFFFFFF0)
    peer.stack.tcp.initial_numbers = lambda *_: (0xFFFFFFFE, 0)
    connection = peer.establish()
    assert peer.ack == 0xFFFFFFFF
    peer.send(ACK, b"a" * 10)
    peer.send(ACK, b"c" * 10, seq=(peer.seq + 20) & 0xFFFFFFFF)
    peer.send(ACK, b"b" * 10, seq=(peer.seq + 10) & 0xFFFFFFFF)
    assert read(connection) == b"a" * 10 + b"b" * 10 + b"c" * 10
    assert peer.segments()[-1].ack == (peer.seq + 30) & 0xFFFFFFFF
    write(connection, b"hello")
    assert peer.segment().seq == 0xFFFFFFFF
    peer.send(ACK, seq=(peer.seq + 30) & 0xFFFFFFFF, ack=4)
    assert connection.snd_una == connection.snd_max


# -- RST and SYN in a connection (RFC 5961) ---------------------------------------------------


def test_exact_reset_ends_and_spares_what_was_received(peer):
    connection = peer.establish()
    peer.send(ACK, b"data")
    peer.send(RST, seq=peer.seq + 4)
    assert connection.state == state.CLOSED and not peer.stack.tcp.connections()
    assert read(connection) == b"data"
    with pytest.raises(OSError) as error:
        read(connection)
    assert error.value.args[0] == errors.ECONNRESET
    assert read(connection) == b""
    with pytest.raises(OSError) as error:
        write(connection, b"x")
    assert error.value.args[0] == errors.EPIPE


@pytest.mark.parametrize("flags, offset", [(RST, 1), (RST, 60000), (SYN, 0), (SYN, 5), (SYN, -9)])
def test_guessed_reset_and_syn_are_challenged(peer, flags, offset):
    connection = peer.establish()
    peer.send(flags, seq=peer.seq + offset)
    challenge = peer.segment()
    assert (challenge.flags, challenge.ack) == (ACK, peer.seq)
    # At a bounded rate (RFC 5961 7).
    for _ in range(10):
        peer.send(flags, seq=peer.seq + offset)
    assert len(peer.segments()) <= (10 if offset == -9 else 0)
    assert connection.state == state.ESTABLISHED


def test_reset_outside_the_window_is_passed_over(peer):
    connection = peer.establish()
    peer.send(RST, seq=peer.seq - 1)
    peer.send(RST, seq=peer.seq + 65536)
    assert peer.segments() == [] and connection.state == state.ESTABLISHED


def test_ack_of_what_was_not_sent_is_challenged(peer):
    connection = peer.establish()
    peer.send(ACK, b"data", ack=peer.ack + 1)
    assert peer.segment().ack == peer.seq
    assert connection.available() == 0
    peer.now += 1000
    peer.send(ACK, b"data", ack=peer.ack - 70000)
    assert peer.segment().ack == peer.seq


# -- Acknowledgements -------------------------------------------------------------------------


def test_acknowledgement_is_delayed_and_every_second_is_not(peer):
    peer.establish()
    peer.send(ACK, bytes(100))
    assert peer.segments() == [] and peer.segments(39) == []
    assert peer.segment(1).ack == peer.seq + 100
    peer.send(ACK, bytes(100), seq=peer.seq + 100)
    peer.send(ACK, bytes(100), seq=peer.seq + 200)
    assert peer.segment().ack == peer.seq + 300


def test_data_carries_the_acknowledgement(peer):
    connection = peer.establish()
    peer.send(ACK, b"request")
    write(connection, b"response")
    segment = peer.segment()
    assert (segment.payload, segment.ack) == (b"response", peer.seq + 7)
    peer.send(ACK, seq=peer.seq + 7, ack=peer.ack + 8)
    assert peer.segments(100) == []


def test_no_silly_windows(peer):
    connection = peer.establish()
    for at in range(0, 64240, 1460):
        peer.send(ACK, bytes(1460), seq=peer.seq + at)
    assert peer.segments()[-1].window == 65535 - 64240
    # 3.8.6.2.2: reading a little advertises nothing, reading a segment or two does.
    for _ in range(15):
        read(connection, 100)
    assert peer.segments() == []
    read(connection, 1460)
    assert peer.segment().window > 1460


# -- Sending ----------------------------------------------------------------------------------


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
    connection = peer.stack.tcp.connect(PEER_IP, 80, 0, peer.now)
    syn = peer.segments(1000)[-1]
    peer.port, peer.peer_port = syn.port, 80
    peer.send(SYN | ACK, seq=5000, ack=syn.seq + 1, options=tcp.emit_syn_options(1460, None))
    assert connection.rtt.rto == 3000 and connection.congestion.cwnd == 1460  # RFC 6298 (5.7), RFC 5681 3.1


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


# -- Closing ----------------------------------------------------------------------------------


def test_active_close(peer):
    connection = peer.establish()
    write(connection, b"bye")
    connection.close(peer.now)
    fin = peer.segment()
    assert fin.payload == b"bye" and fin.flags & FIN
    assert connection.state == state.FIN_WAIT_1
    peer.send(ACK, ack=peer.ack + 4)
    assert connection.state == state.FIN_WAIT_2
    peer.send(ACK | FIN, ack=peer.ack + 4)
    assert connection.state == state.TIME_WAIT
    assert peer.segment().ack == peer.seq + 1
    # A repeated FIN is acknowledged and starts the wait anew (3.10.7.4).
    peer.poll(40000)
    peer.send(ACK | FIN, ack=peer.ack + 4)
    assert peer.segment().ack == peer.seq + 1
    peer.poll(59999)
    assert peer.stack.tcp.connections()
    peer.poll(1)
    assert not peer.stack.tcp.connections()


def test_passive_close_and_half_close(peer):
    connection = peer.establish()
    peer.send(ACK | FIN, b"last")
    assert connection.state == state.CLOSE_WAIT
    assert peer.segment().ack == peer.seq + 5
    assert read(connection) == b"last" and read(connection) == b""
    # The other direction is open as long as its user wants.
    peer.seq += 5
    write(connection, b"answer")
    assert peer.segment().payload == b"answer"
    peer.send(ACK, ack=peer.ack + 6)
    connection.close(peer.now)
    assert peer.segment().flags & FIN
    assert connection.state == state.LAST_ACK
    peer.send(ACK, ack=peer.ack + 7)
    assert not peer.stack.tcp.connections()


def test_shutdown_then_read(peer):
    connection = peer.establish()
    connection.shutdown()
    assert peer.segment().flags & FIN
    with pytest.raises(OSError) as error:
        write(connection, b"x")
    assert error.value.args[0] == errors.EPIPE
    peer.send(ACK, ack=peer.ack + 1)
    peer.send(ACK | FIN, b"reply", ack=peer.ack + 1)
    assert read(connection) == b"reply" and read(connection) == b""
    assert connection.state == state.TIME_WAIT


def test_simultaneous_close(peer):
    connection = peer.establish()
    connection.close(peer.now)
    peer.segment()
    peer.send(ACK | FIN)  # does not acknowledge ours
    assert connection.state == state.CLOSING
    assert peer.segment().ack == peer.seq + 1
    peer.send(ACK, seq=peer.seq + 1, ack=peer.ack + 1)
    assert connection.state == state.TIME_WAIT


def test_fin_out_of_order(peer):
    connection = peer.establish()
    peer.send(ACK | FIN, b"world", seq=peer.seq + 5)
    assert connection.state == state.ESTABLISHED
    peer.send(ACK, b"hello")
    assert connection.state == state.CLOSE_WAIT
    assert read(connection) == b"helloworld" and read(connection) == b""
    assert peer.segments()[-1].ack == peer.seq + 11


def test_text_behind_the_fin_is_cut(peer):
    connection = peer.establish()
    peer.send(ACK | FIN, b"end", seq=peer.seq)
    peer.send(ACK, b"more", seq=peer.seq + 4)
    peer.send(ACK, b"end+more", seq=peer.seq)
    assert read(connection) == b"end" and read(connection) == b""


def test_fin_below_text_that_came_before_it_is_not_believed(peer):
    connection = peer.establish()
    peer.send(ACK, b"later", seq=peer.seq + 10)
    peer.send(ACK | FIN, b"", seq=peer.seq + 7)
    peer.send(ACK, bytes(10), seq=peer.seq)
    assert len(read(connection)) == 15 and connection.state == state.ESTABLISHED


def test_lost_fin_is_sent_again(peer):
    connection = peer.establish()
    write(connection, b"data")
    connection.close(peer.now)
    peer.segments()
    again = peer.segment(1000)
    assert again.payload == b"data" and again.flags & FIN
    peer.send(ACK, ack=peer.ack + 4)
    assert peer.segment(2000).flags & FIN


def test_fin_waits_for_the_window(peer):
    connection = peer.establish()
    peer.send(ACK, window=4)
    write(connection, b"data")
    connection.close(peer.now)
    segments = peer.segments(1000)
    assert segments[0].payload == b"data" and not segments[0].flags & FIN
    peer.send(ACK, ack=peer.ack + 4, window=10)
    assert peer.segment().flags & FIN


def test_unread_data_is_reported_by_a_reset_after_the_answer(peer):
    connection = peer.establish()
    peer.send(ACK, b"ignored")
    write(connection, b"answer")
    connection.close(peer.now)
    segments = peer.segments()
    assert not any(s.flags & RST for s in segments) and segments[-1].flags & FIN
    peer.send(ACK, b"more", seq=peer.seq + 7)
    assert not any(s.flags & RST for s in peer.segments(100))
    peer.send(ACK, seq=peer.seq + 11, ack=peer.ack + 7)
    assert peer.segment().flags & RST
    assert not peer.stack.tcp.connections()


def test_data_for_a_closed_socket_is_reset(peer):
    connection = peer.establish()
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK, ack=peer.ack + 1)
    assert connection.state == state.FIN_WAIT_2
    peer.send(ACK, b"hello?", ack=peer.ack + 1)
    assert peer.segment().flags & RST
    assert not peer.stack.tcp.connections()


def test_orphan_in_fin_wait_2_ends(peer):
    connection = peer.establish()
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK, ack=peer.ack + 1)
    peer.frames(60000)
    assert not peer.stack.tcp.connections()


def test_orphan_with_a_closed_window_ends(peer):
    connection = peer.establish()
    peer.send(ACK, window=0)
    write(connection, b"data")
    connection.close(peer.now)
    for _ in range(20):
        if any(not s.flags & RST for s in peer.segments(8000)):
            peer.send(ACK, window=0)
    assert not peer.stack.tcp.connections()
    assert peer.stack.send_pool.lent == 0


def test_abort(peer):
    connection = peer.establish()
    write(connection, b"data")
    connection.abort()
    assert peer.segments()[-1].flags == RST | ACK
    assert not peer.stack.tcp.connections() and peer.stack.send_pool.lent == 0


def test_time_wait_takes_a_new_connection(peer):
    listener = peer.listen()
    connection = peer.establish()
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK | FIN, ack=peer.ack + 1)
    peer.segments()
    old_seq, old_max = peer.seq + 1, connection.snd_max
    # An old SYN is answered with an ACK only.
    peer.send(SYN, seq=old_seq - 100)
    assert peer.segment().flags == ACK
    peer.now += 1000
    peer.send(SYN, seq=old_seq + 100)
    reply = peer.segment()
    assert reply.flags == SYN | ACK
    assert (reply.seq - old_max) & 0xFFFFFFFF < 0x80000000
    peer.send(ACK, seq=old_seq + 101, ack=reply.seq + 1)
    assert listener.accept() is not None


def waiting(peer):
    """A listener, and a connection in TIME-WAIT, whose next number from the peer is peer.seq."""
    listener = peer.listen()
    connection = peer.establish()
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK | FIN, ack=peer.ack + 1)
    peer.segments()
    peer.seq += 1
    assert connection.state == state.TIME_WAIT
    return listener, connection


def test_time_wait_ends_by_an_exact_reset(peer):
    _, connection = waiting(peer)
    peer.send(RST, seq=peer.seq + 1)
    peer.send(RST, seq=peer.seq - 1)
    assert connection.state == state.TIME_WAIT
    peer.send(RST, seq=peer.seq)
    assert connection.state == state.CLOSED and not peer.stack.tcp.time_waits


def test_a_port_is_used_again_at_once_with_lower_numbers(peer):
    # 3.10.7.4, the peer's 3.10.7.3: SYN, our acknowledgement of the old, its reset, SYN again.
    listener, _ = waiting(peer)
    peer.send(SYN, seq=peer.seq - 100000)
    challenge = peer.segment()
    assert challenge.flags == ACK
    peer.send(RST, seq=challenge.ack)
    assert peer.segments() == []
    peer.now += 1000
    peer.send(SYN, seq=peer.seq - 100000)
    reply = peer.segment()
    assert reply.flags == SYN | ACK
    peer.send(ACK, seq=peer.seq - 99999, ack=reply.seq + 1)
    assert listener.accept() is not None


@pytest.mark.parametrize("sent", [0, 10000, 200000])
def test_the_numbers_of_a_new_connection_are_beyond_the_old_one_s(peer, sent):
    # MAY-2: whatever the clock of initial numbers says.
    _, connection = waiting(peer)
    connection.snd_max += sent
    old = connection.snd_max
    peer.send(SYN, seq=peer.seq + 1)
    assert 65536 < (peer.segment().seq - old) & 0xFFFFFFFF < 0x80000000


def test_a_full_listener_leaves_time_wait_alone(peer):
    listener, connection = waiting(peer)
    listener.is_full = lambda: True
    peer.send(SYN, seq=peer.seq + 1000)
    assert connection.state == state.TIME_WAIT


def test_a_listener_of_another_address_leaves_time_wait_alone(peer):
    listener, connection = waiting(peer)
    listener.address = 0x7F000001
    peer.send(SYN, seq=peer.seq + 1000)
    assert connection.state == state.TIME_WAIT


def test_listener_close_resets_what_waits(peer):
    listener = peer.listen()
    peer.send(SYN)
    reply = peer.segment()
    peer.send(ACK, seq=1001, ack=reply.seq + 1)
    assert listener.ready()
    listener.close()
    assert peer.segment().flags & RST
    assert not peer.stack.tcp.connections()
    peer.send(SYN)
    assert peer.segment().flags & RST


def test_buffers_are_bounded_and_come_back():
    peer = Peer(buffer_limit=2)
    connections = []
    for port in range(3):
        peer.peer_port, peer.seq = 50000 + port, 1000
        connections.append(peer.establish())
        peer.send(ACK, b"data")
    assert [c.available() for c in connections] == [4, 4, 0]
    # The third is served as soon as somebody reads, by its peer's retransmission.
    assert read(connections[0]) == b"data"
    peer.send(ACK, b"data")
    assert read(connections[2]) == b"data"
    assert [write(c, b"x") for c in connections] == [1, 1, 0]
    assert not connections[2].can_send()


def test_address_change_ends_connections(peer):
    connection = peer.establish()
    peer.stack.configure(0x0A000063, 0xFFFFFF00, 0, [])
    assert connection.state == state.CLOSED and connection.error == 103
    assert not peer.stack.tcp.connections()


def test_a_lossy_path_is_not_given_up_after_two_long_timeouts(peer):
    # Karn's algorithm keeps the timeout that losses have backed off to, without timestamps: 60 s.
    connection = peer.establish()
    connection.rtt.rto = 60000
    write(connection, b"hello")
    assert peer.segment().payload == b"hello"
    sent, start = 1, peer.now
    while connection.state != state.CLOSED:
        peer.now = peer.poll()
        sent += sum(1 for s in peer.segments() if s.payload)
    assert connection.error == errors.ETIMEDOUT
    # RFC 9293 3.8.3: R2 is more than R1, which is three retransmissions at least.
    assert sent == 4 and peer.now - start == 240000


def test_a_limit_that_the_user_set_holds_for_long_timeouts_too(peer):
    connection = peer.establish()
    connection.rtt.rto, connection.user_timeout = 60000, 100000
    write(connection, b"hello")
    start = peer.now
    while connection.state != state.CLOSED:
        peer.now = peer.poll()
    assert connection.error == errors.ETIMEDOUT and 100000 <= peer.now - start <= 130000
