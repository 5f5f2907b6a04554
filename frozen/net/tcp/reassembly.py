"""Received text that waits for the gap before it to be filled, and what SACK reports of it."""

from net.tcp.ranges import Ranges
from net.tcp.wire import MAX_SACK_BLOCKS


class Reassembly(Ranges):
    """The ranges of text that arrived out of order; a connection without any has no Reassembly.

    The text itself lies in the receive ring at the index of its sequence number (see net.buffers),
    so nothing moves when a gap is filled.
    """

    LIMIT = 32

    # RFC 2018 4: numbers in the ranges that grew last, the newest first.
    recent = ()
    # RFC 2883: a (start, end) that arrived twice and was not reported yet.
    duplicate = None

    def is_empty(self):
        """Return whether nothing is left to wait for or to report."""
        return not self.ranges and self.duplicate is None

    def take_next(self, rcv_nxt):
        """Remove the ranges that continue the text up to `rcv_nxt`; return the new RCV.NXT."""
        ranges = self.ranges
        while ranges and ranges[0][0] <= rcv_nxt:
            rcv_nxt = max(rcv_nxt, ranges.pop(0)[1])
        return rcv_nxt

    def note_recent(self, seq):
        """Remember which range grew last (RFC 2018 4)."""
        self.recent = (seq,) + self.recent[: MAX_SACK_BLOCKS - 1]

    def take_blocks(self, limit):
        """Return at most `limit` SACK blocks; a duplicate is first, and once (RFC 2883 4)."""
        blocks = blocks_to_report(self.ranges, self.recent, limit)
        if self.duplicate is not None:
            blocks.insert(0, self.duplicate)
            self.duplicate = None
        return blocks[:limit]


def blocks_to_report(ranges, recent, limit):
    """Return the SACK blocks of an acknowledgement (RFC 2018 4): recent ranges first.

    Args: ranges: sorted (start, end) pairs of text that arrived out of order; recent: numbers in
    the ranges that grew last, the newest first; limit: blocks that fit.
    """
    blocks = []
    for seq in recent:
        for block in ranges:
            if block[0] <= seq < block[1]:
                if block not in blocks:
                    blocks.append(block)
                break
    for block in ranges:
        if len(blocks) >= limit:
            break
        if block not in blocks:
            blocks.append(block)
    return blocks[:limit]
