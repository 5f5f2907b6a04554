"""The machine's one Stack, joined to the clock, the alarm and a network card.

Interrupts and alarms reach Python as callbacks that may run between any two bytecodes, so also
in the middle of a socket call. The stack is therefore entered by one of them at a time: a user's
call stands between enter() and leave(), and a callback that finds the stack entered only notes
that there is work, which leave() then does.
"""

import gc
import time

import _x86
from drivers import lines
from micropython import const
from net.errors import EBUSY
from net.stack import Stack

# The longest sleep of a call that waits, ms: a callback may run after the call last checked and
# before it sleeps.
_LONGEST_WAIT = const(10)
# Batches of received frames before other Python code gets its turn.
_ROUNDS = const(4)

# Twice the largest packet that the driver merges: one is read while the next arrives.
_RECEIVE_BUFFER = const(131072)

# In what a card's interrupt() returns: its link went up or down.
_LINK_CHANGE = const(1 << 2)

stack = Stack(receive_size=_RECEIVE_BUFFER)
_card = None
_on_link = None
_link_changed = False
_entered = False
_again = False
_armed = None
_watcher = None


def attach(card, on_link=None):
    """Use a network card, or none for None.

    Args: card: a link object (see net.stack) with `irq`, `interrupt()`, `link_up()` and
    `receive(handler, segment_handler, now)`, see drivers.e1000; on_link: called with the time
    within the stack's guard when the card's link went up.
    """
    global _card, _on_link
    if _card is not None:
        lines.detach(_card.irq, _on_interrupt)
    _card = card
    _on_link = on_link
    stack.attach(card)
    if card is not None:
        lines.attach(card.irq, _on_interrupt)


def watch(function):
    """Call function() after every round of received frames and timers; None: stop calling.

    It may run between any two bytecodes and must not raise.
    """
    global _watcher
    _watcher = function


def enter():
    """Begin a user's call into the stack. OSError EBUSY: from a callback inside another call."""
    global _entered
    if _entered:
        raise OSError(EBUSY)
    _entered = True


def leave():
    """End a user's call: what it queued is sent, and what arrived meanwhile is taken."""
    global _entered
    try:
        if stack.ready or stack.loopback.frames:
            deadline = stack.poll(time.ticks_ms())
        else:
            deadline = stack.deadline()
        if deadline != _armed:
            _arm(deadline)
    finally:
        _entered = False
    if _again:
        pump()


def leave_unchanged():
    """End a user's call that changed nothing: what arrived meanwhile is taken."""
    global _entered
    _entered = False
    if _again:
        pump()


def pump():
    """Take what the card received, run timers, send."""
    global _entered, _again
    if _entered:
        _again = True
        return
    again = True
    while again:
        _entered = True
        _again = False
        more = False
        try:
            now = time.ticks_ms()
            if _link_changed:
                _look_at_link(now)
            for _ in range(_ROUNDS):
                if _card is not None:
                    more = _card.receive(_input, _input_segment, now)
                deadline = stack.poll(now)
                if not more:
                    break
            if more:
                deadline = now
            if deadline != _armed:
                _arm(deadline)
        except MemoryError:
            # Frames may be lost; TCP sends them again.
            gc.collect()
        finally:
            _entered = False
        # Callbacks that came while the stack was entered set _again; later ones find it free.
        again = _again
    if _watcher is not None:
        _watcher()


def wait(timeout):
    """Sleep until something happened, at most `timeout` ms (None: no limit, but not for ever)."""
    _x86.wait(_LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT))


def _input(frame, now):
    try:
        stack.input(frame, now)
    except MemoryError:
        stack.dropped += 1


def _input_segment(frame, length, now):
    try:
        stack.input_segment(frame, length, now)
    except MemoryError:
        stack.dropped += 1


def _arm(deadline):
    """Set the alarm to `deadline`, None for none."""
    global _armed
    _armed = deadline
    _x86.alarm_at(deadline)


def _on_interrupt(_line):
    global _link_changed
    causes = _card.interrupt()
    if causes and causes & _LINK_CHANGE:
        _link_changed = True
    pump()


def _look_at_link(now):
    # A link that is up may have been down too briefly to be seen: that counts too.
    global _link_changed
    _link_changed = False
    if _card is not None and _card.link_up():
        stack.link_up(now)
        if _on_link is not None:
            _on_link(now)


def _on_alarm(_):
    global _armed
    _armed = None
    pump()


_x86.alarm(_on_alarm)
