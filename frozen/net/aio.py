"""asyncio's queue of tasks that wait for streams, without polling of sockets.

Upstream's asks every registered stream in every turn of the loop whether it is ready: for a socket in
Python that is a call through select.poll into ioctl(), a dozen of them for each request of a server
with a listener and two connections. Here a socket in whose connection something happened (see
`touch()` of net.stack) says so itself, and is asked once then. Streams that are not sockets, like
the console, are polled as upstream does, but not for every packet that arrives.

The classes of asyncio stay upstream's: install() puts an IOQueue of this kind into asyncio.core.
"""

import select
from asyncio import core
from time import ticks_diff, ticks_ms

import _x86
from micropython import const
from net import host

# What nobody, a reader, a writer, and both wait for.
_MASKS = (0, select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT)

# While there is much to do, other streams are looked at after so many ms.
_LOOK_AGAIN = const(10)


class IOQueue(core.IOQueue):
    """As asyncio.core.IOQueue; a stream that has `watch(entry, writing)` and `events(mask)` is not
    polled.

    watch() makes `entry` what the socket's core appends to stack.touched when something happens.
    """

    def __init__(self):
        super().__init__()
        # After asyncio.new_event_loop(): what the last loop's tasks waited for wakes nobody in this one.
        last = core._io_queue
        if isinstance(last, IOQueue):
            for entry in last.map.values():
                entry[0] = entry[1] = None
        # How many streams the poller has, and when it looked last.
        self._polled = 0
        self._looked = 0

    def _enqueue(self, s, idx):
        watch = getattr(s, "watch", None)
        if watch is None:
            if id(s) not in self.map:
                self._polled += 1
            super()._enqueue(s, idx)
            # A new one is looked at at once: who reads byte by byte is not to wait for each.
            self._looked = 0
            return
        entry = self.map.get(id(s))
        if entry is None:
            entry = self.map[id(s)] = [None, None, s]
        assert entry[idx] is None
        task = core.cur_task
        entry[idx] = task
        # By which a task is removed from here when it is cancelled.
        task.data = self
        self._await(entry)

    @staticmethod
    def _await(entry):
        reader, writer, s = entry
        # Before the look, so that what happens after it is not missed.
        s.watch(entry, writer is not None)
        if s.events(_MASKS[(reader is not None) + 2 * (writer is not None)]):
            host.stack.touched.append(entry)

    def _dequeue(self, s):
        watch = getattr(s, "watch", None)
        if watch is None:
            self._polled -= 1
            super()._dequeue(s)
        else:
            entry = self.map.pop(id(s))
            entry[0] = entry[1] = None
            watch(None, False)

    def remove(self, task):
        """Forget what a cancelled task waits for, but not, as upstream's does, who waits for the same
        stream's other direction.
        """
        for entry in self.map.values():
            reader, writer, s = entry
            if task is not reader and task is not writer:
                continue
            if reader is None or writer is None:
                self._dequeue(s)
            elif task is reader:
                entry[0] = None
                if not hasattr(s, "watch"):
                    self.poller.modify(s, select.POLLOUT)
            else:
                entry[1] = None
                if not hasattr(s, "watch"):
                    self.poller.modify(s, select.POLLIN)
            return

    def wait_io_event(self, dt):
        """Put tasks whose streams are ready into the queue of those that run.

        Args: dt: ms to wait for one, 0 not to wait, -1 to wait until there is one.
        """
        while True:
            if host.stack.touched:
                self._wake()
            fresh = self._polled and ticks_diff(ticks_ms(), self._looked) < _LOOK_AGAIN
            if self._polled and not fresh:
                self._looked = ticks_ms()
                super().wait_io_event(0)
            if not dt or _due():
                return
            # Returns at once where there was an interrupt since it last returned.
            if fresh:
                _x86.wait(_LOOK_AGAIN if dt < 0 else min(dt, _LOOK_AGAIN))
            else:
                _x86.wait(dt if dt > 0 else None)
            if host.stack.touched:
                self._wake()
            if dt > 0:
                return

    def _wake(self):
        stack = host.stack
        entries = stack.touched
        stack.touched = []
        push = core._task_queue.push
        for entry in entries:
            reader, writer, s = entry
            if reader is None and writer is None:
                continue
            events = s.events(_MASKS[(reader is not None) + 2 * (writer is not None)])
            if reader is not None and events & ~select.POLLOUT:
                push(reader)
                entry[0] = reader = None
            if writer is not None and events & ~select.POLLIN:
                push(writer)
                entry[1] = writer = None
            if reader is None and writer is None:
                del self.map[id(s)]
            else:
                self._await(entry)


def _due():
    # Whether a task is to run now. Those that sleep are in the queue, too, ordered by time.
    task = core._task_queue.peek()
    return task is not None and ticks_diff(task.ph_key, ticks_ms()) <= 0


def install():
    """Have asyncio use this queue from now on; tasks that wait for streams already keep waiting."""
    if isinstance(core._io_queue, IOQueue):
        return
    queue = IOQueue()
    queue.poller = core._io_queue.poller
    queue.map = core._io_queue.map
    queue._polled = len(queue.map)
    core._io_queue = queue
    core.IOQueue = IOQueue
