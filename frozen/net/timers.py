"""Deadlines of everything in the stack, in one heap.

An owner has one deadline at a time, in `owner.deadline` (milliseconds, None: none), and a method
`on_deadline(now)`. Moving a deadline later, as every acknowledgement does to a retransmission
timer, costs nothing: the owner's place in the heap is kept and looked at again when it is due.
"""

import heapq

from micropython import const

# Entries that stand for nothing any more are swept out when they are so many, and half of all.
_SWEEP = const(64)


class Timed:
    """Base of the owners of deadlines."""

    def __init__(self):
        self.deadline = None
        # The time of this owner's valid heap entry; entries with another time are stale.
        self.heap_time = None

    def on_deadline(self, now):
        """Do what was due, set the next `deadline` by Timers.set()."""
        raise NotImplementedError


class Timers:
    """The heap. Entries are (time, serial, owner); the serial keeps owners from comparison."""

    def __init__(self):
        self._heap = []
        self._serial = 0
        self._stale = 0

    def set(self, owner, deadline):
        """Give `owner` the deadline `deadline`, or none for None."""
        owner.deadline = deadline
        if deadline is not None and (owner.heap_time is None or deadline < owner.heap_time):
            if owner.heap_time is not None:
                self._note_stale()
            owner.heap_time = deadline
            self._serial += 1
            heapq.heappush(self._heap, (deadline, self._serial, owner))

    def forget(self, owner):
        """Let go of an owner that will have no deadline any more."""
        owner.deadline = None
        if owner.heap_time is not None:
            owner.heap_time = None
            self._note_stale()

    def _note_stale(self):
        self._stale += 1
        heap = self._heap
        if self._stale > _SWEEP and self._stale * 2 > len(heap):
            heap[:] = [entry for entry in heap if entry[2].heap_time == entry[0]]
            heapq.heapify(heap)
            self._stale = 0

    def run(self, now):
        """Call the owners that are due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            time, _, owner = heapq.heappop(heap)
            if owner.heap_time != time:
                if self._stale:
                    self._stale -= 1
                continue
            owner.heap_time = None
            deadline = owner.deadline
            if deadline is None:
                continue
            if deadline > now:
                self.set(owner, deadline)
            else:
                owner.deadline = None
                owner.on_deadline(now)

    def next(self):
        """Return the time of the next look, or None. It may be earlier than any deadline."""
        return self._heap[0][0] if self._heap else None
