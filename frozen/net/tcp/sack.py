"""What a peer reports to have received out of order (RFC 2018, RFC 6675 sections 3 and 4).

A Scoreboard exists where both ends permit SACK. Its ranges are what arrived, in unwrapped numbers;
what lies between them was lost or is on its way.
"""

from micropython import const
from net.tcp.ranges import Ranges

# RFC 6675 2: DupThresh
DUP_THRESH = const(3)


class Scoreboard(Ranges):
    """Reported ranges above SND.UNA, and what was sent again of the holes between them."""

    # What a peer reports beyond these is sent again, nothing worse.
    LIMIT = 256

    # RFC 6675 2, HighRxt: all holes below were sent again in this recovery.
    high_rxt = 0
    # RFC 6675 2, RescueRxt: None before the rescue retransmission.
    rescue = None
    # Retransmissions without an acknowledgement, in the order of sending: (start, end, SND.MAX
    # when they were sent). A list once a recovery began, as is the next one.
    sent_again = ()
    # Sorted (start, end) pieces whose retransmission is lost too.
    lost_again = ()
    # A hole was filled that had not been sent again: the network reorders.
    reordered = False

    def clear(self):
        """Forget everything: after a timeout the peer may have reneged (RFC 2018 8)."""
        self.ranges = []
        self.end_recovery()

    def begin_recovery(self, una):
        """Start a recovery in which nothing was sent again yet."""
        self.high_rxt = una
        self.rescue = None
        self.sent_again = []
        self.lost_again = []

    def end_recovery(self):
        """Forget what was sent again."""
        self.sent_again = []
        self.lost_again = []

    def update(self, blocks, una, snd_max):
        """Add the blocks of one acknowledgement; return how many bytes they report as new.

        Args: blocks: (start, end) pairs, which need not be valid.
        """
        new = 0
        highest = self.highest()
        # In ascending order: the newest block comes first on the wire, and older ones may be news
        # too if an acknowledgement was lost, which is no reordering.
        for start, end in sorted(blocks):
            # Blocks at or below the acknowledgement report duplicates (RFC 2883 4); blocks beyond
            # what was sent are forged.
            if una < start < end <= snd_max:
                added = self.add(start, end)
                if added:
                    new += added
                    if end <= highest and start >= self.high_rxt:
                        self.reordered = True
        return new

    def acknowledge(self, una):
        """Forget what lies below SND.UNA; return how many reported bytes that was."""
        ranges = self.ranges
        known = 0
        while ranges and ranges[0][0] <= una:
            if ranges[0][1] > una:
                # The peer reported this range but does not acknowledge it. If it reneged, the
                # retransmission timer finds out (RFC 2018 8).
                known += una - ranges[0][0]
                ranges[0] = (una, ranges[0][1])
                break
            known += ranges[0][1] - ranges[0][0]
            del ranges[0]
        return known

    def highest(self):
        """Return the end of the highest range, 0 where there is none."""
        return self.ranges[-1][1] if self.ranges else 0

    def lost_below(self, mss):
        """Return the number below which all holes are lost (RFC 6675 4, IsLost), 0 for none."""
        count = 0
        total = 0
        index = len(self.ranges)
        while index:
            index -= 1
            start, end = self.ranges[index]
            count += 1
            total += end - start
            if count >= DUP_THRESH or total > (DUP_THRESH - 1) * mss:
                return start
        return 0

    def is_first_lost(self, una, mss):
        """Return whether RFC 6675 4's IsLost(SND.UNA) holds."""
        return self.lost_below(mss) > una

    def pipe(self, una, snd_max, lost_below):
        """Return the bytes that are thought to be in the network (RFC 6675 4, SetPipe)."""
        pipe = 0
        at = una
        high_rxt = self.high_rxt
        for start, end in self.ranges:
            if at >= lost_below:
                pipe += start - at
            if at < high_rxt:
                pipe += min(start, high_rxt) - at
            at = end
        pipe += snd_max - at
        if at < high_rxt:
            pipe += high_rxt - at
        for start, end in self.lost_again:
            pipe -= end - start
        return pipe

    def next_hole(self, una, below, mss):
        """Return (start, end) of at most `mss` bytes to send again below `below`, or None.

        With `below` from lost_below() this is RFC 6675 4, NextSeg() (1), with highest() it is (3).
        """
        while self.lost_again:
            start, end = self.lost_again[0]
            start = max(start, una)
            if start >= end or self.has(start):
                del self.lost_again[0]
                continue
            if end - start > mss:
                self.lost_again[0] = (start + mss, end)
                return start, start + mss
            del self.lost_again[0]
            return start, end
        at = max(una, self.high_rxt)
        for start, end in self.ranges:
            if at < start:
                if at >= below:
                    return None
                return at, min(start, at + mss)
            if at < end:
                at = end
        return None

    def skip(self, seq):
        """Return (first number from `seq` that the peer lacks, start of the next range or 0)."""
        for start, end in self.ranges:
            if seq < start:
                return seq, start
            if seq < end:
                seq = end
        return seq, 0

    def sacked_below(self, seq):
        """Return how many bytes below `seq` the peer reported."""
        total = 0
        for start, end in self.ranges:
            if start >= seq:
                break
            total += min(end, seq) - start
        return total

    def note_sent_again(self, start, end, snd_max):
        """Record a retransmission."""
        self.sent_again.append((start, end, snd_max))
        if end > self.high_rxt:
            self.high_rxt = end

    def find_lost_again(self, una, mss):
        """Move retransmissions that are lost to `lost_again`; return whether there are any.

        One is lost when something that was sent later has arrived. That is RFC 8985 6.2 by the
        order of sending instead of by time. Where the network reorders, three segments that were
        sent later must have arrived.
        """
        waiting = self.sent_again
        highest = self.highest() - (DUP_THRESH * mss if self.reordered else 0)
        newest = -1
        for index, (start, end, _) in enumerate(waiting):
            if start < una or self.has(start):
                newest = index
        left = []
        found = False
        for index, (start, end, mark) in enumerate(waiting):
            if end <= una or self.has(start):
                continue
            if highest > mark or (index < newest and not self.reordered):
                self.lost_again.append((max(start, una), end))
                found = True
            else:
                left.append((start, end, mark))
        self.sent_again = left
        if found:
            self.lost_again.sort()
        return found
