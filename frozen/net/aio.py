"""asyncio's queue of tasks that wait for streams, without polling of sockets.

Upstream's queue polls every registered stream in every turn of the loop. For a socket in Python
that is a call through select.poll into ioctl(), a dozen for each request of a server with a
listener and two connections. Here a socket reports when something happened to its connection (see
`touch()` of net.stack), and is asked once then. Streams that are not sockets, like the console,
are polled as upstream does, but not for every packet that arrives.

The classes of asyncio stay upstream's: install() puts an IOQueue of this kind into asyncio.core.
"""

import select
from asyncio import core
from time import ticks_diff, ticks_ms

import _x86
from micropython import const
from net import host

# Events that are awaited by nobody, a reader, a writer, and both.
_MASKS = (0, select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT)

# Under load, other streams are polled once in this many ms.
_LOOK_AGAIN = const(10)


class IOQueue(core.IOQueue):
    """As asyncio.core.IOQueue; a stream that has `watch(entry, writing)` and `events(mask)` is not
    polled.

    watch() makes `entry` what the socket's core appends to stack.touched when something happens.
    """

    def __init__(self):
        super().__init__()
        # After asyncio.new_event_loop(): events of the last loop's tasks wake nobody in this one.
        last = core._io_queue
        if isinstance(last, IOQueue):
            for entry in last.map.values():
                entry[0] = entry[1] = None
        self.turn = 0  # of the loop, for what may happen once in each (see tls)
        # Number of streams that are polled, and when they were polled last.
        self._polled = 0
        self._looked = 0

    def _enqueue(self, s, idx):
        watch = getattr(s, "watch", None)
        if watch is None:
            if id(s) not in self.map:
                self._polled += 1
            super()._enqueue(s, idx)
            # A new stream is polled at once, so that reading byte by byte does not wait each time.
            self._looked = 0
            return
        entry = self.map.get(id(s))
        if entry is None:
            entry = self.map[id(s)] = [None, None, s]
        assert entry[idx] is None
        task = core.cur_task
        entry[idx] = task
        # Through which asyncio removes a cancelled task from here.
        task.data = self
        self._await(entry)

    @staticmethod
    def _await(entry):
        reader, writer, s = entry
        # Before events(), so that nothing after it is missed.
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
        """Forget a cancelled task, but keep a task that waits for the stream's other direction.

        Upstream's queue forgets both.
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
        self.turn = self.turn + 1 & 0xFFFFFFF
        while True:
            if host.stack.touched:
                self._wake()
            fresh = self._polled and ticks_diff(ticks_ms(), self._looked) < _LOOK_AGAIN
            if self._polled and not fresh:
                self._looked = ticks_ms()
                super().wait_io_event(0)
            if not dt or _due():
                return
            # wait() returns at once after an interrupt since its last return.
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
    # Return whether a task is due. Sleeping tasks are in the queue too, ordered by time.
    task = core._task_queue.peek()
    return task is not None and ticks_diff(task.ph_key, ticks_ms()) <= 0


def install():
    """Make asyncio use this queue; tasks that wait for streams already keep waiting."""
    if isinstance(core._io_queue, IOQueue):
        return
    queue = IOQueue()
    queue.poller = core._io_queue.poller
    queue.map = core._io_queue.map
    queue._polled = len(queue.map)
    core._io_queue = queue
    core.IOQueue = IOQueue
