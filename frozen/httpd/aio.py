"""What a handler returned, and how to take items from it. This file hides how the coroutines of
the two Pythons differ.

CPython has three types: coroutines, generators and async generators. MicroPython 1.25 has one: an
`async def` with `yield` compiles to a generator whose `await`s and `yield`s both come out of
send(). Their values differ: everything that asyncio suspends on yields None, which is no data. So
on MicroPython a None is passed up to the event loop, and anything else is the handler's next
item. For the same reason a streaming handler must never yield None: the loop would not wake it
again.
"""
# SPDX-License-Identifier: MIT

import sys

_MICROPYTHON = sys.implementation.name == "micropython"

END = object()  # what Source.next() returns at the end


def step(gen):
    """Run a MicroPython generator to its next item, passing its awaits up to the event loop.

    Await the result; on MicroPython, any generator can be awaited. Return (False, item) or, when
    `gen` has ended, (True, its return value).
    """
    try:
        item = gen.send(None)
        while item is None:
            try:
                yield
            except BaseException as exc:  # the loop cancels this task: tell the inner one
                item = gen.throw(exc)
            else:
                item = gen.send(None)
    except StopIteration as exc:
        return True, exc.value
    return False, item


class Eager:
    """Runs a coroutine until it waits for the first time, and then calls `waits()`.

    done: the coroutine ended without waiting, and `value` is what it returned. Otherwise await
    this object at once, for the rest.
    """

    def __init__(self, coroutine, waits):
        self._coroutine = coroutine
        self.done = False
        try:
            self.value = coroutine.send(None)
        except StopIteration as exc:
            self.done = True
            self.value = exc.value
        else:
            waits()

    def __await__(self):
        return self.__iter__()

    def __iter__(self):
        send = self._coroutine.send
        item = self.value
        try:
            while True:
                try:
                    value = yield item
                except BaseException as exc:  # the loop cancels this task: tell the inner one
                    item = self._coroutine.throw(exc)
                else:
                    item = send(value)
        except StopIteration as exc:
            return exc.value


class Source:
    """The items of a generator, an async generator, or an object with __anext__."""

    def __init__(self, items, first=END):
        self._items = items
        self._first = first
        if hasattr(items, "__aiter__"):
            self._items = items.__aiter__()
            self._next = self._next_async
        elif _MICROPYTHON and hasattr(items, "send"):
            self._next = self._next_step
        elif hasattr(items, "__iter__") or hasattr(items, "__next__"):
            self._items = iter(items)
            self._next = self._next_plain
        else:
            raise TypeError("cannot stream from %s" % type(items).__name__)

    async def next(self):
        """Return the next item, or END."""
        if self._first is not END:
            item = self._first
            self._first = END
            return item
        return await self._next()

    async def _next_async(self):
        try:
            return await self._items.__anext__()
        except StopAsyncIteration:
            return END

    async def _next_step(self):
        done, item = await step(self._items)
        return END if done else item

    async def _next_plain(self):
        try:
            return next(self._items)
        except StopIteration:
            return END

    async def close(self):
        """End the stream now: `finally` blocks run, and it produces nothing more."""
        if hasattr(self._items, "aclose"):
            await self._items.aclose()
        elif hasattr(self._items, "close"):
            self._items.close()


async def settle(result):
    """Await a handler's `result` until it is a plain value. A stream becomes a Source."""
    while True:
        if hasattr(result, "__anext__") or hasattr(result, "__aiter__"):
            return Source(result)
        if not _MICROPYTHON and hasattr(result, "__await__"):
            result = await result
        elif not hasattr(result, "send"):
            return result
        elif _MICROPYTHON:
            done, item = await step(result)
            if not done:
                return Source(result, item)
            result = item
        else:
            return Source(result)
