"""SACK, timestamps, tail loss probes and cookies, segment by segment, packetdrill's way."""

import struct

import pytest
from net import errors, icmp, ipv4, ipv6
from net.tcp import congestion, cookies
from net.tcp import states as state
from net.tcp import wire as tcp
from net.tcp.reassembly import blocks_to_report
from net.tcp.sack import Scoreboard
from net.v6 import icmp as icmp6
from scripted import Peer, host, speaks_ipv6

BOTH_FAMILIES = True

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH
MSS = 1460
SACK_OK = tcp.emit_syn_options(MSS, None, True)


def stamped(value, echo):
    options = bytearray(12)
    tcp.emit_timestamps(options, 0, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)
    return bytes(options)


def sack(*blocks):
    options = bytearray(4 + 8 * len(blocks))
    tcp.emit_sack(options, 0, blocks)
    return bytes(options)


@pytest.fixture
def peer():
    return Peer(timestamps=False, congestion=congestion.RENO)


def write(connection, count):
    return connection.send(bytes(count), 0, count)


def fill(peer, count=10):
    """A connection with SACK and `count` segments in flight, and the first one's number."""
    connection = peer.establish(SACK_OK)
    connection.nodelay = True
    write(connection, count * MSS)
    assert [len(s.payload) for s in peer.segments()] == [MSS] * count
    return connection, peer.ack


# -- The scoreboard ---------------------------------------------------------------------------


def test_scoreboard_merges_and_counts():
    board = Scoreboard()
    assert board.update([(300, 400)], 0, 1000) == 100
    assert board.update([(100, 200), (300, 400)], 0, 1000) == 100
    assert board.update([(150, 350)], 0, 1000) == 100
    assert board.ranges == [(100, 400)]
    assert board.update([(400, 500), (50, 100)], 0, 1000) == 150
    assert board.ranges == [(50, 500)]
    # Old, empty, turned round, beyond what was sent.
    assert board.update([(0, 40), (60, 60), (90, 80), (900, 1001)], 45, 1000) == 0
    assert board.acknowledge(500) == 450 and board.ranges == []


def test_scoreboard_is_bounded():
    board = Scoreboard()
    for at in range(1, 4000, 2):
        board.update([(at, at + 1)], 0, 10000)
    assert len(board.ranges) == 256


def test_is_lost_by_bytes_and_by_islands():
    # RFC 6675 4: three discontiguous pieces above, or more than two segments' bytes.
    board = Scoreboard()
    board.update([(200, 210), (220, 230)], 0, 1000)
    assert not board.is_first_lost(0, 100)
    board.update([(240, 250)], 0, 1000)
    assert board.is_first_lost(0, 100) and board.lost_below(100) == 200
    board = Scoreboard()
    board.update([(100, 300)], 0, 1000)
    assert not board.is_first_lost(0, 100)
    board.update([(100, 301)], 0, 1000)
    assert board.is_first_lost(0, 100)


def test_pipe_and_next_hole():
    board = Scoreboard()
    board.begin_recovery(0)
    board.update([(100, 200), (300, 400), (500, 600)], 0, 1000)
    below = board.lost_below(100)
    assert below == 100
    # One lost hole of 100; the holes at 200 and 400, and 600 to 1000, are in the network.
    assert board.pipe(0, 1000, below) == 600
    assert board.next_hole(0, below, 60) == (0, 60)
    board.note_sent_again(0, 60, 1000)
    assert board.pipe(0, 1000, below) == 660
    assert board.next_hole(0, below, 60) == (60, 100)
    board.note_sent_again(60, 100, 1000)
    assert board.next_hole(0, below, 60) is None
    assert board.next_hole(0, board.highest(), 60) == (200, 260)


def test_blocks_name_the_newest_first():
    ranges = [(10, 20), (30, 40), (50, 60), (70, 80), (90, 99)]
    assert blocks_to_report(ranges, [55, 12, 57], 3) == [(50, 60), (10, 20), (30, 40)]
    assert blocks_to_report(ranges, [35, 200], 4) == [(30, 40), (10, 20), (50, 60), (70, 80)]


# -- Negotiation ------------------------------------------------------------------------------


@pytest.mark.parametrize("sack_ok", [True, False])
@pytest.mark.parametrize("stamp", [None, (7, 0)])
@pytest.mark.parametrize("shift", [None, 5])
def test_options_are_answered_as_offered(sack_ok, stamp, shift):
    peer = Peer()
    peer.listen()
    peer.send(SYN, options=tcp.emit_syn_options(1400, shift, sack_ok, stamp))
    mss, our_shift, our_sack, our_stamp = peer.segment().options
    assert (mss, our_sack) == (1460, sack_ok)
    assert (our_shift is None) == (shift is None)
    assert (our_stamp is None) == (stamp is None)


# -- Sending SACK (RFC 2018, RFC 2883) --------------------------------------------------------


def test_islands_are_reported_newest_first(peer):
    peer.establish(SACK_OK)
    base = peer.seq
    reports = []
    for at in (100, 300, 500, 310):
        peer.send(ACK, bytes(10), seq=base + at)
        reports.append([(a - base, b - base) for a, b in peer.segment().options[2]])
    assert reports == [
        [(100, 110)],
        [(300, 310), (100, 110)],
        [(500, 510), (300, 310), (100, 110)],
        [(300, 320), (500, 510), (100, 110)],
    ]
    peer.send(ACK, bytes(100))
    assert [s.options[2] for s in peer.segments()][-1][0] == (base + 300, base + 320)


def test_no_sack_without_permission(peer):
    peer.establish()
    peer.send(ACK, bytes(10), seq=peer.seq + 100)
    assert peer.segment().options[2] == ()


def test_duplicates_are_reported_once(peer):
    connection = peer.establish(SACK_OK)
    peer.send(ACK, bytes(100))
    peer.segments(50)
    peer.send(ACK, bytes(100))
    first = peer.segment()
    assert first.options[2] == [(peer.seq, peer.seq + 100)] and first.ack == peer.seq + 100
    # RFC 2883 4.1.2: a duplicate within an island, and the island behind it.
    peer.send(ACK, bytes(50), seq=peer.seq + 200)
    peer.segments()
    peer.send(ACK, bytes(10), seq=peer.seq + 210)
    blocks = [(a - peer.seq, b - peer.seq) for a, b in peer.segment().options[2]]
    assert blocks == [(210, 220), (200, 250)]
    assert connection.available() == 100


# -- Recovery with SACK (RFC 6675) ------------------------------------------------------------


def test_only_the_hole_is_sent_again(peer):
    connection, una = fill(peer)
    sent = []
    for count in range(2, 10):
        peer.send(ACK, ack=una, options=sack((una + MSS, una + count * MSS)))
        sent += [(s.seq - una) // MSS for s in peer.segments()]
    # And once the end of what may be lost, when nothing else is left (RFC 6675 4, NextSeg() (4)).
    assert sent == [0, 9]
    peer.send(ACK, ack=una + 10 * MSS)
    assert not connection.recovery.active and peer.segments() == []
    assert connection.congestion.cwnd == connection.congestion.ssthresh == 5 * MSS


def test_several_holes_in_one_round_trip(peer):
    connection, una = fill(peer)
    holes = (0, 3, 6)
    blocks = []
    sent = []
    for number in range(10):
        if number not in holes:
            blocks = [(una + number * MSS, una + (number + 1) * MSS)] + blocks[:2]
            peer.send(ACK, ack=una, options=sack(*blocks))
            sent += [(s.seq - una) // MSS for s in peer.segments()]
    assert sent == list(holes)


def test_new_data_goes_on_in_recovery(peer):
    connection, una = fill(peer)
    write(connection, 20 * MSS)
    sent = []
    for count in range(2, 11):
        peer.send(ACK, ack=una, options=sack((una + MSS, una + count * MSS)))
        sent += [(s.seq - una) // MSS for s in peer.segments()]
    # Two by limited transmit (RFC 3042), the hole, and what half of the window lets out.
    assert sent[:3] == [10, 11, 0] and sent[3:] == list(range(12, 12 + len(sent) - 3))
    assert 2 <= len(sent) - 3 <= 5


def test_three_duplicates_without_new_sack_do_nothing(peer):
    # RFC 6675 2: only what tells something new is a duplicate acknowledgement.
    connection, una = fill(peer)
    for _ in range(5):
        peer.send(ACK, ack=una)
    assert peer.segments() == [] and not connection.recovery.active


def test_lost_retransmission_is_found_without_a_timeout(peer):
    connection, una = fill(peer)
    write(connection, 20 * MSS)
    for count in range(2, 11):
        peer.send(ACK, ack=una, options=sack((una + MSS, una + count * MSS)))
    peer.segments()
    # What was sent after the second copy arrives; the copy did not.
    edge = connection.snd_max
    peer.send(ACK, ack=una, options=sack((una + MSS, edge)))
    assert [s.seq for s in peer.segments()].count(una) == 1


def test_timeout_skips_what_is_reported_afterwards(peer):
    connection, una = fill(peer)
    for _ in peer.segments(connection.rtt.rto):
        pass
    peer.segments(2000)
    assert connection.congestion.cwnd == MSS
    peer.send(ACK, ack=una + MSS, options=sack((una + 2 * MSS, una + 9 * MSS)))
    sent = [(s.seq - una) // MSS for s in peer.segments()]
    assert sent == [1, 9]


def test_sack_of_what_was_not_sent_is_passed_over(peer):
    connection, una = fill(peer)
    forged = [(una + 20 * MSS, una + 30 * MSS), (una - 5000, una - 1000), (una + 9, una + 3)]
    for _ in range(5):
        peer.send(ACK, ack=una, options=sack(*forged))
    assert connection.recovery.board.ranges == [] and peer.segments() == []


# -- Tail loss probes (RFC 8985 7) ------------------------------------------------------------


def test_lost_tail_is_probed_long_before_the_timeout(peer):
    connection, una = fill(peer)
    peer.now += 100
    peer.send(ACK, ack=una + 2 * MSS)
    peer.segments()
    # Two round trips after the last segment; srtt is 1/8 of 100 ms here.
    connection.rtt.srtt8 = 800
    peer.now += 1
    peer.send(ACK, ack=una + 3 * MSS)
    probe = peer.segments(connection.rtt.srtt8 // 4 + 2)
    assert [(s.seq - una) // MSS for s in probe] == [9]
    peer.send(ACK, ack=una + 3 * MSS, options=sack((una + 9 * MSS, una + 10 * MSS)))
    assert peer.segments(500) == []  # one probe only; the timer has the rest
    assert [(s.seq - una) // MSS for s in peer.segments(1000)][0] == 3


# -- Timestamps (RFC 7323) --------------------------------------------------------------------


def with_timestamps(value=1000):
    peer = Peer(congestion=congestion.RENO)
    listener = peer.listen()
    peer.send(SYN, options=tcp.emit_syn_options(MSS, None, True, (value, 0)))
    reply = peer.segment()
    assert reply.options[3] is not None
    peer.seq += 1
    peer.ack = (reply.seq + 1) & 0xFFFFFFFF
    peer.clock = reply.options[3]
    peer.send(ACK, options=stamped(value, reply.options[3]))
    return peer, listener.accept()


def test_every_segment_echoes_the_peers_clock():
    peer, connection = with_timestamps(1000)
    peer.poll(30)
    peer.send(ACK, b"x", options=stamped(1030, peer.clock))
    ack = peer.segment(50)
    assert ack.options[1] == 1030 and (ack.options[0] - peer.clock) & 0xFFFFFFFF == 70
    write(connection, 3000)
    first = peer.segments()[0]
    # RFC 6691 3.1: the option comes out of the segment.
    assert len(first.payload) == MSS - 12 and first.options[1] == 1030


def test_old_duplicates_are_kept_out():
    # RFC 7323 5: numbers that would fit, from a time before.
    peer, connection = with_timestamps(1000)
    peer.send(ACK, b"old!", options=stamped(999, peer.clock))
    assert connection.available() == 0
    assert peer.segment().ack == peer.seq
    peer.send(ACK, b"new!", options=stamped(1001, peer.clock))
    assert connection.available() == 4


def test_timestamps_wrap():
    peer, connection = with_timestamps(0xFFFFFFF0)
    peer.send(ACK, b"a", options=stamped(5, peer.clock))
    assert connection.available() == 1
    peer.send(ACK, b"b", seq=peer.seq + 1, options=stamped(0xFFFFFFF8, peer.clock))
    assert connection.available() == 1


def test_an_idle_connection_forgets_the_peers_clock():
    # RFC 7323 5.5: after 24 days the peer's clock may have gone half way round.
    peer, connection = with_timestamps(1000)
    peer.now += 25 * 24 * 3600 * 1000
    peer.send(ACK, b"x", options=stamped(500, peer.clock))
    assert connection.available() == 1


def test_segments_without_the_option_are_passed_over_but_resets_are_not():
    peer, connection = with_timestamps()
    peer.send(ACK, b"x")
    assert connection.available() == 0
    peer.send(RST)
    assert connection.state == state.CLOSED


def test_last_ack_sent_bounds_the_clock():
    # RFC 7323 5.3, R3: a segment behind a hole does not set TS.Recent.
    peer, _ = with_timestamps(1000)
    peer.send(ACK, b"late", seq=peer.seq + 10, options=stamped(2000, peer.clock))
    assert peer.segment().options[1] == 1000


def test_retransmissions_are_measured_by_the_echo():
    peer, connection = with_timestamps()
    write(connection, 100)
    sent = peer.segment()
    again = peer.segments(1300)[-1]
    assert again.payload and again.seq == sent.seq
    peer.now += 200
    connection.rtt.srtt8 = None
    peer.send(ACK, ack=peer.ack + 100, options=stamped(1001, again.options[0]))
    assert 200 <= connection.rtt.srtt8 // 8 <= 320


def test_time_wait_is_taken_by_a_later_timestamp():
    # RFC 6191 2: a lower number, but a later time.
    peer, connection = with_timestamps(1000)
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK | FIN, ack=peer.ack + 1, options=stamped(1010, peer.clock))
    peer.segments()
    assert connection.state == state.TIME_WAIT
    low = peer.seq - 500
    peer.send(SYN, seq=low, options=tcp.emit_syn_options(MSS, None, True, (900, 0)))
    assert peer.segment().flags == ACK
    peer.poll(1000)
    peer.send(SYN, seq=low, options=tcp.emit_syn_options(MSS, None, True, (1011, 0)))
    assert peer.segment().flags == SYN | ACK


def test_time_wait_without_timestamps_is_taken_by_a_syn_with():
    # RFC 6191 2
    peer = Peer()
    connection = peer.establish(tcp.emit_syn_options(MSS, None))
    connection.close(peer.now)
    peer.segments()
    peer.send(ACK | FIN, ack=peer.ack + 1)
    peer.segments()
    peer.poll(1000)
    peer.send(SYN, seq=peer.seq - 500, options=tcp.emit_syn_options(MSS, None, True, (900, 0)))
    assert peer.segment().flags == SYN | ACK


def test_segments_without_the_timestamps_that_were_agreed_are_passed_over():
    # RFC 7323 3.2: silently, but for a reset, and no connection ends by it.
    peer, connection = with_timestamps(1000)
    peer.send(ACK | tcp.PSH, b"text")
    peer.send(ACK | FIN, b"text")
    assert connection.available() == 0 and peer.segments(1000) == []
    assert connection.state == state.ESTABLISHED
    peer.send(tcp.RST)
    assert connection.state == state.CLOSED
    # In the handshake too.
    peer = Peer()
    listener = peer.listen()
    peer.send(SYN, options=tcp.emit_syn_options(MSS, None, True, (1000, 0)))
    reply = peer.segment()
    peer.seq, peer.ack = peer.seq + 1, reply.seq + 1
    peer.send(ACK)
    assert peer.segments() == [] and not listener.ready()
    peer.send(ACK, options=stamped(1001, reply.options[3]))
    assert listener.ready()


# -- SYN cookies (RFC 4987 3.6) ---------------------------------------------------------------


def flood(peer, count=200):
    for number in range(count):
        peer.send(SYN, source=host(0x64), seq=number)
        peer.peer_port += 1
    peer.frames()


@pytest.mark.parametrize(
    "shift, sack_ok, stamp", [(7, True, 1), (None, True, 1), (2, False, None)]
)
def test_clients_get_in_during_a_flood(shift, sack_ok, stamp):
    peer = Peer()
    listener = peer.listen()
    peer.learn(host(0x64), b"\x02\0\0\0\0\x64")
    flood(peer)
    assert len(peer.stack.tcp.connections()) == 128
    options = tcp.emit_syn_options(1400, shift, sack_ok, None if stamp is None else (stamp, 0))
    peer.send(SYN, options=options)
    reply = peer.segment()
    assert reply.flags == SYN | ACK and len(peer.stack.tcp.connections()) == 128
    assert (reply.options[3] is None) == (stamp is None)
    peer.seq += 1
    peer.ack = (reply.seq + 1) & 0xFFFFFFFF
    echo = b"" if stamp is None else stamped(2, reply.options[3])
    peer.send(ACK, b"GET", options=echo)
    connection = listener.accept()
    assert connection.receive_bytes(9) == b"GET"
    assert (connection.recovery.board is not None) == (sack_ok and stamp is not None)
    assert connection.window.shift == ((shift or 0) if stamp is not None else 0)
    assert connection.mss == 1400 - (12 if stamp is not None else 0)


def test_forged_cookies_are_reset():
    peer = Peer()
    listener = peer.listen()
    flood(peer)
    peer.learn(peer.remote, b"\x02\0\0\0\0\x02")
    peer.frames()
    for guess in range(50):
        peer.send(ACK, seq=5, ack=guess * 7919)
    assert all(s.flags == RST for s in peer.segments()) and not listener.ready()


def test_cookies_grow_old_and_are_the_peers_own():
    secret = bytes(16)
    addresses = (host(1), 80, host(2), 4000)
    cookie = cookies.make(secret, addresses, 77, 1459, 10000)
    assert cookies.check(secret, addresses, 77, cookie, 10000 + 60000) == 1440
    assert cookies.check(secret, addresses, 77, cookie, 10000 + 140000) is None
    assert cookies.check(secret, addresses, 78, cookie, 10000) is None
    assert cookies.check(secret, (host(1), 80, host(2), 4001), 77, cookie, 10000) is None
    assert cookies.check(bytes(15) + b"x", addresses, 77, cookie, 10000) is None


def test_no_cookie_is_taken_in_peace(peer):
    peer.listen()
    cookie = cookies.make(
        peer.stack.tcp._secret, (host(1), 80, host(2), peer.peer_port), peer.seq, MSS, peer.now
    )
    peer.send(ACK, seq=peer.seq + 1, ack=(cookie + 1) & 0xFFFFFFFF)
    assert peer.segment().flags == RST


# -- What the network says --------------------------------------------------------------------


def icmp_error(peer, kind, code, segment, mtu=0, shift=0):
    """An ICMP error about a segment that the stack sent, with IPv4's numbers or IPv6's own."""
    if speaks_ipv6():
        kind, code = {(3, 4): (2, 0), (3, 3): (1, 4), (3, 1): (1, 3)}[kind, code]
        quoted = bytearray(60)
        ipv6.emit(quoted, 0, ipv6.TCP, peer.local, peer.remote, 20)
        struct.pack_into(">HHI", quoted, 40, segment.port, segment.peer_port, segment.seq + shift)
        message = bytearray(68)
        icmp6.emit(message, 0, kind, code, mtu, bytes(quoted), peer.remote, peer.local)
        peer.ip(ipv6.ICMP, message)
        return
    quoted = bytearray(28)
    ipv4.emit(quoted, 0, ipv4.TCP, peer.local, peer.remote, 20)
    struct.pack_into(">HHI", quoted, 20, segment.port, segment.peer_port, segment.seq + shift)
    message = bytearray(36)
    icmp.emit(message, 0, kind, code, mtu, bytes(quoted))
    peer.ip(ipv4.ICMP, message)


def test_path_mtu_is_taken_and_remembered(peer):
    connection = peer.establish(SACK_OK)
    connection.nodelay = True
    write(connection, 3000)
    first = peer.segments()[0]
    mtu = 1280
    icmp_error(peer, 3, 4, first, mtu=mtu, shift=100000)
    assert connection.mss == MSS  # not about anything in flight: RFC 5927 4.1
    icmp_error(peer, 3, 4, first, mtu=mtu)
    mss = mtu - 20 - peer.family.HEADER
    assert [len(s.payload) for s in peer.segments()] == [mss, mss, 3000 - 2 * mss]
    peer.peer_port, peer.seq = 5000, 1
    peer.send(SYN)
    assert peer.segment().options[0] == mss


def test_absurd_path_mtu_is_raised(peer):
    connection = peer.establish(SACK_OK)
    write(connection, 3000)
    icmp_error(peer, 3, 4, peer.segments()[0], mtu=68)
    assert connection.mss >= 500


def test_black_hole_makes_segments_small(peer):
    connection = peer.establish(SACK_OK)
    write(connection, 3000)
    peer.segments()
    sizes = [len(s.payload) for s in peer.segments(9000)]
    # A probe of the tail, two timeouts, and the third.
    assert sizes == [MSS, MSS, MSS, peer.family.TCP_MSS]


def test_port_unreachable_ends_a_connect_but_no_connection(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    icmp_error(peer, 3, 3, peer.segment())
    assert connection.state == state.CLOSED and connection.error == errors.ECONNREFUSED
    other = peer.establish(SACK_OK)
    write(other, 100)
    icmp_error(peer, 3, 3, peer.segment())
    assert other.state == state.ESTABLISHED and other.soft_error == errors.ECONNREFUSED


def test_host_unreachable_is_the_reason_of_a_timeout(peer):
    connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
    icmp_error(peer, 3, 1, peer.segment())
    assert connection.state == state.SYN_SENT
    while connection.state != state.CLOSED:
        peer.now = peer.poll()
    assert connection.error == errors.EHOSTUNREACH


def test_user_timeout(peer):
    # RFC 5482 by the local side, and RFC 9293 3.8.3.
    connection = peer.establish(SACK_OK)
    connection.user_timeout = 5000
    write(connection, 10)
    start = peer.now
    while True:
        deadline = peer.poll()
        if connection.state == state.CLOSED:
            break
        peer.now = deadline
    assert connection.error == errors.ETIMEDOUT and 5000 <= peer.now - start <= 8000


def test_keepalive_as_set(peer):
    connection = peer.establish(SACK_OK)
    connection.set_keepalive(True, peer.now, {"idle": 10000, "interval": 1000, "limit": 2})
    assert peer.segments(9999) == [] and len(peer.segments(1)) == 1
    assert len(peer.segments(1000)) == 1
    assert peer.segments(1000)[0].flags & RST and connection.error == errors.ETIMEDOUT
