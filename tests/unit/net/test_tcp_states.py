"""Every event in every state of RFC 9293 3.3.2, with sequence numbers that wrap or do not.

The rows are the clauses of 3.10; the pictures of 3.3.2 (figure 5) and 3.5 to 3.6 follow from them.
"""

import pytest
from net import errors
from net.tcp import states as state
from net.tcp import wire as tcp
from scripted import Peer

BOTH_FAMILIES = True

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH
MASK = 0xFFFFFFFF

NAMES = (
    "CLOSED",
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSE_WAIT",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
)
SYNCHRONIZED = NAMES[3:]
# The peer's number at first, and ours: with the second pair each crosses zero within a few
# segments.
ORIGINS = ((1000, 7000000), (0xFFFFFFFE, 0xFFFFFFFE))


def name_of(connection):
    return next(name for name in NAMES if getattr(state, name) == connection.state)


class Situation:
    """A connection in a state.

    peer.seq is the next number that the stack expects, peer.ack the next that it would send. Where
    it has sent a FIN, peer.ack is the FIN's number, and peer.ack + 1 acknowledges it.
    """

    def __init__(self, name, origin):
        self.peer = peer = Peer(seq=origin[0])
        peer.stack.tcp.initial_numbers = lambda *_: (origin[1], 0)
        if name == "SYN_SENT":
            self.connection = peer.stack.tcp.connect(peer.remote, 80, 0, peer.now)
            syn = peer.segment()
            peer.port, peer.peer_port, peer.ack = syn.port, 80, (syn.seq + 1) & MASK
            return
        if name == "SYN_RECEIVED":
            self.listener = peer.listen()
            peer.send(SYN, options=tcp.emit_syn_options(1460, None))
            peer.seq += 1
            peer.ack = (peer.segment().seq + 1) & MASK
            (self.connection,) = peer.stack.tcp.connections()
            return
        self.connection = connection = peer.establish()
        peer.seq &= MASK
        if name in ("CLOSE_WAIT", "LAST_ACK"):
            self._fin()
        if name not in ("ESTABLISHED", "CLOSE_WAIT"):
            connection.shutdown()
            assert peer.segment().flags & FIN
        if name in ("FIN_WAIT_2", "TIME_WAIT"):
            peer.ack = (peer.ack + 1) & MASK
            peer.send(ACK)
        if name in ("CLOSING", "TIME_WAIT"):
            self._fin()
        assert name_of(connection) == name and peer.frames() == []

    def _fin(self):
        peer = self.peer
        peer.send(ACK | FIN)
        peer.seq = (peer.seq + 1) & MASK
        assert peer.segment().ack == peer.seq

    def send(self, flags, payload=b"", shift=0, ack=0):
        """Send a segment; shift and ack: how far its numbers are from the expected ones."""
        peer = self.peer
        if not flags & ACK:
            peer.send(flags, payload, seq=(peer.seq + shift) & MASK)
            return
        peer.send(flags, payload, seq=(peer.seq + shift) & MASK, ack=(peer.ack + ack) & MASK)

    def answers(self):
        """What the stack sends at once or after the delay of an acknowledgement."""
        return self.peer.segments(50)


def each(table):
    return [
        (name, origin) + tuple(row if isinstance(row, tuple) else (row,))
        for name, row in table.items()
        for origin in ORIGINS
    ]


# -- What the peer sends ------------------------------------------------------------------------

FIN_LEADS_TO = {
    "SYN_RECEIVED": "CLOSE_WAIT",
    "ESTABLISHED": "CLOSE_WAIT",
    "FIN_WAIT_1": "CLOSING",
    "FIN_WAIT_2": "TIME_WAIT",
}


@pytest.mark.parametrize("name, origin, after", each(FIN_LEADS_TO))
def test_fin(name, origin, after):
    # 3.10.7.4, eighth
    at = Situation(name, origin)
    at.send(ACK | FIN)
    assert name_of(at.connection) == after
    assert at.answers()[-1].ack == (at.peer.seq + 1) & MASK
    assert at.connection.at_end()


REPEATED = {name: name for name in ("CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT")}


@pytest.mark.parametrize("name, origin, after", each(REPEATED))
def test_repeated_fin_is_acknowledged_again(name, origin, after):
    at = Situation(name, origin)
    at.send(ACK | FIN, shift=-1)
    assert name_of(at.connection) == after and at.answers()[-1].ack == at.peer.seq


ACK_OF_FIN_LEADS_TO = {"FIN_WAIT_1": "FIN_WAIT_2", "CLOSING": "TIME_WAIT", "LAST_ACK": "CLOSED"}


@pytest.mark.parametrize("name, origin, after", each(ACK_OF_FIN_LEADS_TO))
def test_acknowledgement_of_the_fin(name, origin, after):
    # 3.10.7.4, fifth
    at = Situation(name, origin)
    at.send(ACK, ack=1)
    assert name_of(at.connection) == after and at.answers() == []
    assert bool(at.peer.stack.tcp.connections()) == (after != "CLOSED")


@pytest.mark.parametrize("origin", ORIGINS)
def test_fin_with_the_acknowledgement_of_ours(origin):
    at = Situation("FIN_WAIT_1", origin)
    at.send(ACK | FIN, ack=1)
    assert name_of(at.connection) == "TIME_WAIT" and len(at.answers()) == 1


@pytest.mark.parametrize("name, origin, after", each({name: name for name in SYNCHRONIZED}))
def test_acknowledgement_of_nothing_new(name, origin, after):
    at = Situation(name, origin)
    at.send(ACK)
    assert name_of(at.connection) == after and at.answers() == []


@pytest.mark.parametrize("name, origin, after", each({name: name for name in SYNCHRONIZED}))
def test_acknowledgement_of_what_was_not_sent(name, origin, after):
    # 3.10.7.4, fifth; RFC 5961 5.2
    at = Situation(name, origin)
    at.send(ACK, b"text", ack=1000)
    assert name_of(at.connection) == after and at.connection.available() == 0
    assert [s.flags for s in at.answers()] == [ACK]


RESET = {name: ("CLOSED", []) for name in NAMES[2:]}


@pytest.mark.parametrize("name, origin, after, sent", each(RESET))
def test_exact_reset(name, origin, after, sent):
    # 3.10.7.4, second; RFC 5961 3.2
    at = Situation(name, origin)
    at.send(RST)
    assert name_of(at.connection) == after and at.answers() == sent
    assert bool(at.peer.stack.tcp.connections()) == (after != "CLOSED")


@pytest.mark.parametrize("flags, shift", [(RST, 1), (RST, 30000), (SYN, 0), (SYN, 700)])
@pytest.mark.parametrize("name, origin, after", each({name: name for name in SYNCHRONIZED[:-1]}))
def test_guessed_reset_or_syn_is_challenged(name, origin, after, flags, shift):
    # RFC 5961 3.2, 4.2
    at = Situation(name, origin)
    at.send(flags, shift=shift)
    assert name_of(at.connection) == after
    assert [(s.flags, s.ack) for s in at.answers()] == [(ACK, at.peer.seq)]


@pytest.mark.parametrize("name, origin, after", each({name: name for name in SYNCHRONIZED}))
def test_reset_outside_the_window(name, origin, after):
    at = Situation(name, origin)
    at.send(RST, shift=-1)
    at.send(RST, shift=100000)
    assert name_of(at.connection) == after and at.answers() == []


@pytest.mark.parametrize("shift", [-300, 100000])
@pytest.mark.parametrize("name, origin, after", each({name: name for name in SYNCHRONIZED}))
def test_unacceptable_text_is_answered(name, origin, after, shift):
    # 3.10.7.4, first
    at = Situation(name, origin)
    at.send(ACK, bytes(100), shift=shift)
    assert name_of(at.connection) == after and at.connection.available() == 0
    assert [(s.flags, s.ack) for s in at.answers()] == [(ACK, at.peer.seq)]


TEXT = {
    "SYN_RECEIVED": 4,
    "ESTABLISHED": 4,
    "FIN_WAIT_1": 4,
    "FIN_WAIT_2": 4,
    "CLOSE_WAIT": 0,
    "CLOSING": 0,
    "LAST_ACK": 0,
    "TIME_WAIT": 0,
}


@pytest.mark.parametrize("name, origin, taken", each(TEXT))
def test_text(name, origin, taken):
    # 3.10.7.4, seventh: behind a FIN there is none.
    at = Situation(name, origin)
    at.send(ACK | PSH, b"text")
    assert at.connection.available() == taken
    assert at.connection.receive_bytes(9) == b"text"[:taken]
    if name != "SYN_RECEIVED":
        assert name_of(at.connection) == name


@pytest.mark.parametrize("origin", ORIGINS)
def test_segment_without_ack_is_dropped(origin):
    at = Situation("ESTABLISHED", origin)
    at.send(PSH, b"text")
    at.send(FIN)
    assert name_of(at.connection) == "ESTABLISHED" and at.answers() == []
    assert at.connection.available() == 0


@pytest.mark.parametrize("origin", ORIGINS)
def test_handshake_of_the_passive_side(origin):
    at = Situation("SYN_RECEIVED", origin)
    assert not at.listener.ready()
    at.send(ACK)
    assert name_of(at.connection) == "ESTABLISHED" and at.listener.accept() is at.connection
    at = Situation("SYN_RECEIVED", origin)
    at.send(ACK, ack=1)
    assert name_of(at.connection) == "SYN_RECEIVED"
    (reset,) = at.answers()
    assert (reset.flags, reset.seq) == (RST, (at.peer.ack + 1) & MASK)


@pytest.mark.parametrize("origin", ORIGINS)
def test_handshake_of_the_active_side(origin):
    # 3.10.7.3
    at = Situation("SYN_SENT", origin)
    at.send(SYN | ACK)
    (reply,) = at.answers()
    assert name_of(at.connection) == "ESTABLISHED"
    assert (reply.flags, reply.ack) == (ACK, (at.peer.seq + 1) & MASK)
    at = Situation("SYN_SENT", origin)
    at.send(SYN)
    (reply,) = at.answers()
    assert name_of(at.connection) == "SYN_RECEIVED" and reply.flags == SYN | ACK
    at.peer.seq += 1
    at.send(ACK)
    assert name_of(at.connection) == "ESTABLISHED"


@pytest.mark.parametrize(
    "flags, ack, after, reset",
    [
        (ACK, 0, "SYN_SENT", False),  # acceptable, but no SYN: dropped
        (ACK, 5, "SYN_SENT", True),
        (SYN | ACK, -1, "SYN_SENT", True),  # ISS itself is not acknowledged
        (RST, 0, "SYN_SENT", False),
        (RST | ACK, 5, "SYN_SENT", False),
        (RST | ACK, 0, "CLOSED", False),
        (FIN, 0, "SYN_SENT", False),
    ],
)
@pytest.mark.parametrize("origin", ORIGINS)
def test_what_comes_before_the_answer_to_a_syn(origin, flags, ack, after, reset):
    at = Situation("SYN_SENT", origin)
    at.send(flags, ack=ack)
    assert name_of(at.connection) == after
    assert [s.flags for s in at.answers()] == ([RST] if reset else [])


# -- What the user calls ------------------------------------------------------------------------

SHUTDOWN = {name: (name, False) for name in NAMES[1:]}
SHUTDOWN["ESTABLISHED"] = ("FIN_WAIT_1", True)
SHUTDOWN["CLOSE_WAIT"] = ("LAST_ACK", True)


@pytest.mark.parametrize("name, origin, after, sends", each(SHUTDOWN))
def test_shutdown(name, origin, after, sends):
    # 3.10.4
    at = Situation(name, origin)
    at.connection.shutdown()
    sent = at.answers()
    assert name_of(at.connection) == after
    assert [s.flags & ~PSH for s in sent] == ([FIN | ACK] if sends else [])


CLOSE = {name: (row[0], FIN | ACK if row[1] else None) for name, row in SHUTDOWN.items()}
CLOSE["SYN_SENT"] = ("CLOSED", None)
CLOSE["SYN_RECEIVED"] = ("CLOSED", RST | ACK)


@pytest.mark.parametrize("name, origin, after, flags", each(CLOSE))
def test_close(name, origin, after, flags):
    at = Situation(name, origin)
    at.connection.close(at.peer.now)
    assert [s.flags & ~PSH for s in at.answers()] == ([] if flags is None else [flags])
    assert name_of(at.connection) == after


ABORT = {name: name not in ("SYN_SENT", "TIME_WAIT") for name in NAMES[1:]}


@pytest.mark.parametrize("name, origin, tells", each(ABORT))
def test_abort_in_each_state(name, origin, tells):
    # 3.10.5
    at = Situation(name, origin)
    at.connection.abort()
    assert [s.flags for s in at.answers()] == ([RST | ACK] if tells else [])
    assert name_of(at.connection) == "CLOSED" and not at.peer.stack.tcp.connections()


SEND = {name: name in ("ESTABLISHED", "CLOSE_WAIT") for name in SYNCHRONIZED}


@pytest.mark.parametrize("name, origin, may", each(SEND))
def test_send(name, origin, may):
    # 3.10.2
    at = Situation(name, origin)
    if may:
        assert at.connection.send(b"text", 0, 4) == 4
        assert at.answers()[0].payload == b"text"
        return
    with pytest.raises(OSError) as error:
        at.connection.send(b"text", 0, 4)
    assert error.value.args[0] == errors.EPIPE and at.answers() == []


# -- Time ---------------------------------------------------------------------------------------

# The segment that is repeated until it is acknowledged.
REPEATS = {
    "SYN_SENT": SYN,
    "SYN_RECEIVED": SYN | ACK,
    "FIN_WAIT_1": FIN | ACK,
    "CLOSING": FIN | ACK,
    "LAST_ACK": FIN | ACK,
}


@pytest.mark.parametrize("name, origin, flags", each(REPEATS))
def test_what_is_not_acknowledged_is_repeated(name, origin, flags):
    at = Situation(name, origin)
    assert [s.flags & ~PSH for s in at.peer.segments(3500)] == [flags] * 2
    assert name_of(at.connection) == name


@pytest.mark.parametrize("origin", ORIGINS)
def test_time_wait_ends(origin):
    at = Situation("TIME_WAIT", origin)
    assert at.peer.segments(59000) == [] and name_of(at.connection) == "TIME_WAIT"
    assert at.peer.segments(1001) == [] and name_of(at.connection) == "CLOSED"


# -- LISTEN and CLOSED ----------------------------------------------------------------------------


@pytest.mark.parametrize("flags, answer", [(RST, []), (RST | ACK, []), (ACK, [RST]), (FIN, [])])
def test_listen(flags, answer):
    # 3.10.7.2
    peer = Peer()
    peer.listen()
    peer.send(flags, ack=77 if flags & ACK else None)
    segments = peer.segments()
    assert [s.flags for s in segments] == answer and not peer.stack.tcp.connections()
    assert all(s.seq == 77 for s in segments)


def test_a_connection_has_few_fields_of_its_own():
    """What travels together is in types of its own; there were 87 fields."""
    connection = Peer().establish()
    own = [name for name in dir(type(connection)) if name[0] != "_"]
    own = [name for name in own if not callable(getattr(connection, name))]
    assert len(set(own) | set(connection.__dict__)) <= 48
