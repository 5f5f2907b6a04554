"""A set of sequence numbers as ranges: what arrived out of order, at this end or at the peer's."""


class Ranges:
    """At most LIMIT ranges. `ranges` holds sorted, disjoint, not adjacent [start, end) pairs."""

    LIMIT = 0

    def __init__(self):
        self.ranges = []

    def add(self, start, end):
        """Add [start, end); return how many numbers were new, 0 where LIMIT leaves no room."""
        ranges = self.ranges
        count = len(ranges)
        # ranges[first:last] touch the new one. Most new ones are near the highest.
        first = count
        while first and ranges[first - 1][1] >= start:
            first -= 1
        last = first
        known = 0
        while last < count and ranges[last][0] <= end:
            low, high = ranges[last]
            known += high - low
            start = min(start, low)
            end = max(end, high)
            last += 1
        if first == last:
            if count >= self.LIMIT:
                return 0
            ranges.insert(first, (start, end))
        elif last - first == 1:
            ranges[first] = (start, end)
        else:
            ranges[first:last] = [(start, end)]
        return end - start - known

    def has(self, seq):
        """Return whether a range holds `seq`."""
        for start, end in self.ranges:
            if start <= seq:
                if seq < end:
                    return True
            else:
                return False
        return False
