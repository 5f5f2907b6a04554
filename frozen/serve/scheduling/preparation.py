"""What a request needs of llama.cpp before it can run: its template rendered, its schema and
grammar converted, its texts tokenized.

Each is a job of the engine, on a thread beside the event loop. All jobs of a request share one
budget of processor time. The engine does one job at a time, and Turns decides whose is next, so a
client with many costly requests delays others by one job only.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

from .errors import from_engine, invalid

# A text of at most this many bytes is tokenized in place, which costs less than a job.
_SHORT = 512


class Turns:
    """Gives one turn at a time, the next one to the client that has had the least lately."""

    _MOST = 1024  # clients to remember

    def __init__(self):
        self._busy = False
        self._waiting = []  # [client, Event]
        self._spent = {}  # client: milliseconds

    @property
    def busy(self):
        """Whether anybody has a turn or waits for one."""
        return self._busy

    async def take(self, client):
        """Wait for the turn of `client` (any key of a dict); give() must follow."""
        if not self._busy:
            self._busy = True
            return
        entry = [client, asyncio.Event()]
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._next()
            raise

    def give(self, client, ms):
        """End the turn of `client`, which took `ms` milliseconds."""
        if len(self._spent) >= self._MOST:
            self._spent = {}
        self._spent[client] = self._spent.get(client, 0) + ms
        self._next()

    def _next(self):
        if not self._waiting:
            # Spent time counts only among clients that compete.
            self._busy = False
            self._spent = {}
            return
        best = self._waiting[0]
        for entry in self._waiting:
            if self._spent.get(entry[0], 0) < self._spent.get(best[0], 0):
                best = entry
        self._waiting.remove(best)
        best[1].set()


class Preparation:
    """Runs the jobs of one request.

    engine: an _engine.Engine. ended: coroutine function; ended(job) returns when the job has
    ended. None: finish() waits. ms: milliseconds of processor time for all of them, 0 for no
    limit. turns: Turns that all clients share; client: the request's key there.
    """

    def __init__(self, engine, ended=None, ms=0, turns=None, client=None):
        self.engine = engine
        self.scheduler = None  # the engine's
        self._ended = ended
        self._turns = turns or Turns()
        self._client = client
        self._limit = ms
        self._left = ms

    async def tokenize(self, text, add_special=True, parse_special=True):
        """Return the token ids of `text`. RequestError if it cannot be tokenized."""
        if len(text) <= _SHORT:
            try:
                return self.engine.tokenize(text, add_special, parse_special)
            except (ValueError, RuntimeError, MemoryError) as exc:
                raise from_engine(exc, 400)
        return await self._run(self.engine.start_tokenize, text, add_special, parse_special)

    async def chat(self, request):
        """Return the engine's conversation of `request` (JSON text). RequestError if there is
        none.
        """
        return await self._run(self.engine.start_chat, request)

    async def sampler(self, params, chat=None):
        """Return a sampler. params: dict; chat: a conversation that constrains it. RequestError if
        the parameters make no sampler.
        """
        return await self._run(self.engine.start_sampler, params, chat)

    async def _run(self, start, *arguments):
        if self._limit and self._left <= 0:
            raise invalid("The request takes more than %d ms to process" % self._limit)
        await self._turns.take(self._client)
        job = None
        began = time.ticks_us()
        try:
            job = start(*arguments, self._left)
            if self._ended is not None:
                await self._ended(job)
            if self._limit:
                self._left -= job.ms()
            return job.finish()
        except (ValueError, TypeError, RuntimeError, MemoryError) as exc:
            raise from_engine(exc, 400)
        finally:
            if job is not None:
                job.close()  # stops it if the client has left
            self._turns.give(self._client, (time.ticks_us() - began) / 1000)
