"""How connections end, and what TIME-WAIT makes room for, by segments written by hand.

Clauses are of RFC 9293 unless named.
"""

import pytest
from net import errors
from net.tcp import states as state
from net.tcp import wire as tcp
from scripted import Peer, host, read, speaks_ipv6, start_ipv6, write

BOTH_FAMILIES = True

SYN, ACK, FIN, RST = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST


@pytest.fixture
def peer():
    return Peer()


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
    listener.address = host(9)
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
    if speaks_ipv6():
        start_ipv6(peer.stack, host(0x63), peer.now)
    else:
        peer.stack.configure(host(0x63), 0xFFFFFF00, 0, [])
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
        deadline = peer.poll()
        if connection.state != state.CLOSED:
            peer.now = deadline
    assert connection.error == errors.ETIMEDOUT and 100000 <= peer.now - start <= 130000
