"""What a TCP peer reported to have received out of order (RFC 2018, RFC 6675 sections 3 and 4).

A Scoreboard exists where both ends permit SACK. Its numbers are unwrapped, as the connection's.
It holds what arrived, not what was sent: what lies between the ranges are holes.
"""

from micropython import const

# RFC 6675 2: DupThresh
DUP_THRESH = const(3)
# Ranges kept. A peer that reports more islands is either lying or beyond help; what is left out
# is sent again, nothing worse.
_MAX_RANGES = const(256)


class Scoreboard:
    """Reported ranges above SND.UNA, and what was sent again of the holes between them."""

    def __init__(self):
        # Sorted, disjoint, not adjacent [start, end) pairs.
        self.ranges = []
        # RFC 6675 2, HighRxt: all holes below were sent again in this recovery.
        self.high_rxt = 0
        # RFC 6675 2, RescueRxt
        self.rescue = None
        # What was sent again and is not acknowledged, in the order of sending: (start, end, the
        # SND.MAX of then).
        self.sent_again = []
        # Pieces of which the second copy is lost too, sorted.
        self.lost_again = []
        # A hole filled that had not been sent again: the network reorders.
        self.reordered = False

    def clear(self):
        """Forget all (RFC 2018 8: after a timeout the peer may have reneged)."""
        self.ranges = []
        self.end_recovery()

    def begin_recovery(self, una):
        """Nothing was sent again yet."""
        self.high_rxt = una
        self.rescue = None
        self.sent_again = []
        self.lost_again = []

    def end_recovery(self):
        """Forget what was sent again."""
        self.sent_again = []
        self.lost_again = []

    def update(self, blocks, una, snd_max):
        """Note the blocks of one acknowledgement, (start, end) pairs that need not be valid.

        Returns how many bytes were not known to have arrived.
        """
        new = 0
        highest = self.highest()
        # In the order of numbers: the newest comes first on the wire, and an acknowledgement may
        # have been lost before, which is no reordering.
        for start, end in sorted(blocks):
            # RFC 2883 4 reports duplicates by blocks at or below the acknowledgement, and a block
            # beyond what was sent is somebody's forgery.
            if una < start < end <= snd_max:
                added = self._add(start, end)
                if added:
                    new += added
                    if end <= highest and start >= self.high_rxt:
                        self.reordered = True
        return new

    def _add(self, start, end):
        ranges = self.ranges
        count = len(ranges)
        first = count
        while first and ranges[first - 1][1] >= start:
            first -= 1
        last = first
        known = 0
        while last < count and ranges[last][0] <= end:
            low, high = ranges[last]
            known += min(high, end) - max(low, start)
            start = min(start, low)
            end = max(end, high)
            last += 1
        if first == last:
            if count >= _MAX_RANGES:
                return 0
            ranges.insert(first, (start, end))
            return end - start
        old = 0
        for low, high in ranges[first:last]:
            old += high - low
        if last - first > 1:
            ranges[first:last] = [(start, end)]
        else:
            ranges[first] = (start, end)
        return end - start - old

    def acknowledge(self, una):
        """Forget what lies below SND.UNA; returns how many bytes of ranges that was."""
        ranges = self.ranges
        known = 0
        while ranges and ranges[0][0] <= una:
            if ranges[0][1] > una:
                # The peer has this range but does not acknowledge it: if it reneged, the timer
                # finds out (RFC 2018 8).
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
        """Tell whether IsLost(SND.UNA) of RFC 6675 4 holds."""
        return self.lost_below(mss) > una

    def pipe(self, una, snd_max, lost_below):
        """Return RFC 6675 4, SetPipe(): the bytes that are thought to be in the network."""
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
        """Return (start, end) of at most `mss` bytes to send again, below `below`, or None.

        RFC 6675 4, NextSeg() (1), with `below` from lost_below(); (3) with the highest range.
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

    def has(self, seq):
        """Tell whether the peer reported `seq`."""
        for start, end in self.ranges:
            if start <= seq:
                if seq < end:
                    return True
            else:
                return False
        return False

    def skip(self, seq):
        """Return (number from `seq` on that the peer lacks, where the next range starts or 0)."""
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
        """A piece was sent again."""
        self.sent_again.append((start, end, snd_max))
        if end > self.high_rxt:
            self.high_rxt = end

    def find_lost_again(self, una, mss):
        """Look for second copies that were overtaken; returns whether there are any.

        What was sent later and has arrived proves a copy lost, as RFC 8985 6.2 has it, by the
        order of sending instead of by the time; where the network reorders, three segments must
        have arrived.
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


def blocks_to_report(ranges, recent, limit):
    """Choose the SACK blocks of an acknowledgement (RFC 2018 4).

    Args: ranges: the islands of received data, sorted; recent: numbers in those that segments
    came for last, the newest first; limit: blocks that fit.
    """
    blocks = []
    for seq in recent:
        for island in ranges:
            if island[0] <= seq < island[1]:
                if island not in blocks:
                    blocks.append(island)
                break
    for island in ranges:
        if len(blocks) >= limit:
            break
        if island not in blocks:
            blocks.append(island)
    return blocks[:limit]
