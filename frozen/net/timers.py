"""Deadlines of everything in the stack, in one heap.

An owner has one deadline at a time, in `owner.deadline` (milliseconds, None: none), and a method
`on_deadline(now)`. Moving a deadline later, as every acknowledgement does to a retransmission
timer, costs nothing: the owner's entry in the heap stays and is checked again when it is due.
"""

import heapq

from micropython import const

# Entries without an owner are removed when there are more than this and more than half.
_SWEEP = const(64)


class Timed:
    """Base of the owners of deadlines."""

    deadline = None
    # This owner's entry in the heap.
    heap_entry = None

    def on_deadline(self, now):
        """Act on the deadline; Timers.set() sets the next one."""
        raise NotImplementedError


class Timers:
    """The heap. Entries are [time, serial, owner or None]; serials keep owners from comparison."""

    def __init__(self):
        # Public, so that the earliest time, heap[0][0], can be read without a call.
        self.heap = []
        self._serial = 0
        self._stale = 0

    def set(self, owner, deadline):
        """Give `owner` the deadline `deadline`, or none for None."""
        owner.deadline = deadline
        entry = owner.heap_entry
        if deadline is not None and (entry is None or deadline < entry[0]):
            if entry is not None:
                self._drop(entry)
            self._serial += 1
            owner.heap_entry = entry = [deadline, self._serial, owner]
            heapq.heappush(self.heap, entry)

    def forget(self, owner):
        """Forget an owner that will have no more deadlines."""
        owner.deadline = None
        if owner.heap_entry is not None:
            self._drop(owner.heap_entry)
            owner.heap_entry = None

    def _drop(self, entry):
        entry[2] = None
        self._stale += 1
        heap = self.heap
        if self._stale > _SWEEP and self._stale * 2 > len(heap):
            heap[:] = [entry for entry in heap if entry[2] is not None]
            heapq.heapify(heap)
            self._stale = 0

    def run(self, now):
        """Call the owners that are due."""
        heap = self.heap
        while heap and heap[0][0] <= now:
            owner = heapq.heappop(heap)[2]
            if owner is None:
                self._stale -= 1
                continue
            owner.heap_entry = None
            deadline = owner.deadline
            if deadline is None:
                continue
            if deadline > now:
                self.set(owner, deadline)
            else:
                owner.deadline = None
                owner.on_deadline(now)

    def next(self):
        """Return the earliest time in the heap, or None; it may precede every deadline."""
        return self.heap[0][0] if self.heap else None
