"""Multicast membership of a host, and its reports to routers by IGMP version 3, 2 or 1.

Source: RFC 3376; sections are its. Groups are joined for all sources alone.
"""

import struct

from micropython import const
from net import ethernet, igmp
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
    """What a Stack has joined: `joined` has addresses, 224.0.0.1 apart, which all hosts are in."""

    def __init__(self, stack):
        self.joined = set()
        self._stack = stack
        # {group: (record type, reports left)} of changes, and groups that a query asks about.
        self._changes = {}
        self._asked = set()
        # The version of the routers, and when an older one is forgotten.
        self._version = 3
        self._older_until = 0

    def join(self, group, now):
        """Become a member. ValueError: no multicast address, or too many groups."""
        if group >> 28 != 14 or len(self.joined) >= _MOST:
            raise ValueError("not a group to join")
        if group not in self.joined:
            self.joined.add(group)
            self.filter()
            self._change(group, igmp.TO_EXCLUDE, now)

    def leave(self, group, now):
        """End a membership."""
        if group in self.joined:
            self.joined.remove(group)
            self._asked.discard(group)
            self.filter()
            self._change(group, igmp.TO_INCLUDE, now)

    def filter(self):
        """Set the link's filter to the groups that are joined."""
        link = self._stack.link
        if link is not None and hasattr(link, "set_multicast"):
            groups = {igmp.ALL_SYSTEMS} | self.joined if self.joined else ()
            link.set_multicast([ethernet.multicast(group) for group in groups])

    def announce(self, now):
        """Report all groups: the link, or this host's address on it, is new."""
        for group in self.joined:
            self._change(group, igmp.TO_EXCLUDE, now)

    def input(self, frame, start, end, now):
        """Take a message of IGMP; only queries matter to a host."""
        query = igmp.parse_query(frame, start, end)
        if query is None or not self.joined:
            return
        version, delay, group = query
        # 7.2.1
        if version < 3:
            self._version = min(version, self._version) if now < self._older_until else version
            self._older_until = now + _OLDER_VERSION
        asked = self.joined if not group else self.joined & {group}
        if asked:
            self._asked |= asked
            self._within(min(delay, _LONGEST_DELAY), now)

    def on_deadline(self, now):
        """Called by Timers: send what is due."""
        stack = self._stack
        if not stack.address:  # announce() follows when there is one
            self._changes = {}
            self._asked = set()
            return
        if now >= self._older_until:
            self._version = 3
        records = [(igmp.IS_EXCLUDE, group) for group in self._asked if group not in self._changes]
        records += [(kind, group) for group, (kind, _) in self._changes.items()]
        if not self._send(records):
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

    def _send(self, records):
        stack = self._stack
        if self._version == 3:
            frame = stack.begin(igmp.ALL_V3_ROUTERS)
            if frame is None:
                return False
            stack.commit(igmp.emit_report(frame, stack.address, records))
            return True
        for kind, group in records:
            destination, message = group, igmp.REPORT_V2 if self._version == 2 else igmp.REPORT_V1
            if kind == igmp.TO_INCLUDE:
                if self._version == 1:
                    continue  # RFC 1112 has no message for this
                destination, message = igmp.ALL_ROUTERS, igmp.LEAVE_V2
            frame = stack.begin(destination)
            if frame is None:
                return False
            stack.commit(igmp.emit(frame, stack.address, destination, message, group))
        return True
