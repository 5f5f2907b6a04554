"""What a connection takes of what arrives, by segments written by hand.

Clauses are of RFC 9293 unless named.
"""

import pytest
from net import errors
from net.tcp import states as state
from net.tcp import wire as tcp
from scripted import Peer, read, write

BOTH_FAMILIES = True

SYN, ACK, RST, PSH = tcp.SYN, tcp.ACK, tcp.RST, tcp.PSH


@pytest.fixture
def peer():
    return Peer()


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
