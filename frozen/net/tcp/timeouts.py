"""What a connection does when its timer fires: retransmission, probes, giving up.

Functions take the Connection `c`. Clauses without a document are of RFC 9293.
"""

from micropython import const
from net.errors import ETIMEDOUT
from net.tcp.outbound import send_reset, transmit
from net.tcp.states import SYN_RECEIVED, SYN_SENT
from net.tcp.timer import KEEPALIVE, NONE, PERSIST, PROBE, RETRANSMIT
from net.tcp.wire import ACK, FIN, PSH

# Milliseconds.
USER_TIMEOUT = const(120000)  # 3.8.3 (R2): at least 100 s
_SYN_TIMEOUT = const(180000)  # 3.8.3 (R2 of a SYN): at least 3 minutes
_HALF_OPEN_TIMEOUT = const(60000)
ORPHAN_TIMEOUT = const(60000)  # how long a closed socket's connection may wait for its peer

# 3.8.3 (R1): give up only after this many retransmissions. With Karn's backoff, USER_TIMEOUT alone
# could mean two.
_RETRANSMISSIONS = const(3)
# RFC 2923 2.1: after this many timeouts in a row, a large segment may have met a link too small
# for it, and the ICMP error was lost.
_BLACK_HOLE_TIMEOUTS = const(3)


def on_timer(c, kind, now):
    """Do what the timer was set for; it is off when this is called."""
    if kind == RETRANSMIT:
        _on_retransmit(c, now)
    elif kind == PROBE:
        _on_probe(c, now)
    elif kind == PERSIST:
        _on_persist(c, now)
    elif kind == KEEPALIVE:
        _on_keepalive(c, now)
    else:
        # TIME-WAIT is over, or the wait for an orphan's peer.
        c.end(0)


def _has_given_up(c, now, retries=False):
    """End the connection if its peer was silent for too long (3.8.3); return whether it ended.

    Args: retries: more retransmissions have to come first.
    """
    if c.state == SYN_SENT:
        limit = _SYN_TIMEOUT
    elif c.state == SYN_RECEIVED:
        limit = _HALF_OPEN_TIMEOUT
    else:
        limit = c.user_timeout
    if retries or now - c.timer.progress < limit:
        return False
    if c.state > SYN_RECEIVED:
        send_reset(c)
    # RFC 1122 4.2.3.9: what ICMP reported of the way may be the reason.
    c.end(c.soft_error or ETIMEDOUT)
    return True


def _on_retransmit(c, now):
    timer = c.timer
    established = c.state > SYN_RECEIVED
    # A limit that the user set (RFC 5482) holds whatever the number of retransmissions.
    default = established and c.user_timeout == USER_TIMEOUT
    if _has_given_up(c, now, default and timer.timeouts < _RETRANSMISSIONS):
        return
    # RFC 6298 (5.5) and (5.6)
    c.rtt.back_off()
    timer.kind = RETRANSMIT
    timer.at = now + c.rtt.rto
    timer.timeouts += 1
    if established:
        c.congestion.on_timeout(c.snd_max - c.snd_una, c.mss, now)
        if timer.timeouts >= _BLACK_HOLE_TIMEOUTS and not c.large_arrived:
            c.mss = min(c.mss, c.family.TCP_MSS)
            c.congestion.cwnd = c.mss
        c.recovery.restart(c)
        c.recovery.dup_acks = 0
        c.recovery.probe_end = None
    c.snd_nxt = c.snd_una
    if c.window.size == 0 and established:
        # The window was closed over what is in flight: probe, do not resend.
        timer.kind = NONE
        timer.at = None
    c.stack.mark(c)


def _on_probe(c, now):
    timer = c.timer
    timeout = c.recovery.probe_timeout(c)
    if timeout and timer.last_send + timeout > now:
        # RFC 8985 7.2: counted from the newest segment.
        timer.kind = PROBE
        timer.at = timer.last_send + timeout
        return
    if timeout and c.window.size:
        c.recovery.probe(c, now)
    timer.kind = RETRANSMIT
    timer.at = now + c.rtt.rto


def _on_persist(c, now):
    # 3.8.6.1: one byte beyond the window, with backoff. snd_nxt stays: when the window opens, the
    # byte is sent again with the rest.
    orphan_since = c.orphan_since
    if _has_given_up(c, now):
        return
    if orphan_since is not None and now - orphan_since >= ORPHAN_TIMEOUT:
        c.abort()
        return
    c.rtt.back_off()
    length = min(max(c.window.size, 1), c.snd_end - c.snd_una, c.mss)
    if transmit(c, c.snd_una, ACK | (PSH if length else FIN), length):
        c.snd_max = max(c.snd_max, c.snd_una + max(length, 1))
    c.timer.kind = PERSIST
    c.timer.at = now + c.rtt.rto


def _on_keepalive(c, now):
    # 3.8.4: an old number gets an answer from any live peer.
    timer = c.timer
    keepalive = c.keepalive
    idle = now - keepalive.heard
    if idle < keepalive.idle:
        timer.at = keepalive.heard + keepalive.idle
    elif keepalive.probes >= keepalive.limit:
        send_reset(c)
        c.end(ETIMEDOUT)
        return
    else:
        keepalive.probes += 1
        transmit(c, c.snd_max - 1, ACK, 0)
        timer.at = now + keepalive.interval
    timer.kind = KEEPALIVE
