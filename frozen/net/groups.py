"""Multicast membership of a host, and its reports to routers by IGMP 3, 2 and 1 or by MLD 2 and 1.

Source: RFC 3376, which RFC 3810 follows; sections are its. Groups are joined for all sources alone.
"""

import struct

from micropython import const
from net.timers import Timed

# 8.1, 8.11: how often a change is reported, and within which time, ms.
_ROBUSTNESS = const(2)
_UNSOLICITED = const(1000)
# 8.12: the robustness variable times the query interval, and ten seconds, ms.
_OLDER_VERSION = const(260_000)
# A longer delay of answers than any router asks for, ms.
_LONGEST_DELAY = const(25_000)
_MOST = const(64)


class Groups(Timed):
    """What a Stack has joined: `joined` has addresses but the one that all hosts are in.

    Args: messages: the protocol, net.igmp or net.v6.mld.
    """

    def __init__(self, stack, messages):
        self.joined = set()
        self._messages = messages
        self._stack = stack
        # {group: (record type, reports left)} of changes, and groups that a query asks about.
        self._changes = {}
        self._asked = set()
        # The version of the routers, and when an older one is forgotten.
        self._version = messages.NEWEST
        self._older_until = 0

    def join(self, group, now):
        """Become a member. ValueError: no multicast address, or too many groups."""
        if not self._messages.is_group(group) or len(self.joined) >= _MOST:
            raise ValueError("not a group to join")
        if group not in self.joined:
            self.joined.add(group)
            self._stack.filter()
            self._change(group, self._messages.TO_EXCLUDE, now)

    def leave(self, group, now):
        """End a membership."""
        if group in self.joined:
            self.joined.remove(group)
            self._asked.discard(group)
            self._stack.filter()
            self._change(group, self._messages.TO_INCLUDE, now)

    def announce(self, now):
        """Report all groups: the link, or this host's address on it, is new."""
        for group in self.joined:
            self._change(group, self._messages.TO_EXCLUDE, now)

    def input(self, frame, start, end, now):
        """Take a message; only queries matter to a host."""
        query = self._messages.parse_query(frame, start, end)
        if query is None or not self.joined:
            return
        version, delay, group = query
        # 7.2.1
        if version < self._messages.NEWEST:
            self._version = min(version, self._version) if now < self._older_until else version
            self._older_until = now + _OLDER_VERSION
        asked = self.joined if not group else self.joined & {group}
        if asked:
            self._asked |= asked
            self._within(min(delay, _LONGEST_DELAY), now)

    def on_deadline(self, now):
        """Called by Timers: send what is due."""
        stack = self._stack
        messages = self._messages
        if not messages.is_ready(stack):  # announce() follows when there is one
            self._changes = {}
            self._asked = set()
            return
        if now >= self._older_until:
            self._version = messages.NEWEST
        records = [
            (messages.IS_EXCLUDE, group) for group in self._asked if group not in self._changes
        ]
        records += [(kind, group) for group, (kind, _) in self._changes.items()]
        if not messages.report(stack, self._version, records):
            stack.timers.set(self, now + 1)  # the link is full
            return
        self._asked = set()
        self._changes = {
            group: (kind, left - 1) for group, (kind, left) in self._changes.items() if left > 1
        }
        if self._changes:
            self._within(_UNSOLICITED, now)

    def _change(self, group, kind, now):
        # 5.1: reported at once, and again within a second.
        self._changes[group] = (kind, _ROBUSTNESS)
        self._stack.timers.set(self, now)

    def _within(self, delay, now):
        """Have on_deadline() called at a random time within `delay` ms, or earlier if it is due."""
        stack = self._stack
        at = now + struct.unpack(">H", stack.random(2))[0] * delay // 65536
        if self.deadline is None or at < self.deadline:
            stack.timers.set(self, at)
