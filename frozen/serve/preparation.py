# What a request needs of llama.cpp before it can run: its template rendered, its schema and grammar
# converted, its texts tokenized. Each is a job of the engine, on a thread beside the event loop, and
# all of one request's have one budget of processor time.
# MIT license; Copyright (c) 2026 cllm contributors

from .errors import from_engine, invalid

# A text of no more bytes is tokenized in place: that takes less than handing it over.
_SHORT = 512


class Preparation:
    """Runs the jobs of one request.

    engine: an _engine.Engine. ended: coroutine function; ended(job) returns when the job has ended.
    None: finish() waits. ms: processor time for all of them, in milliseconds; 0: no limit.
    """

    def __init__(self, engine, ended=None, ms=0):
        self.engine = engine
        self._ended = ended
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
        """Return the engine's conversation of `request` (JSON text). RequestError if it has none."""
        return await self._run(self.engine.start_chat, request)

    async def sampler(self, params, chat=None):
        """Return a sampler. params: dict; chat: a conversation that constrains it. RequestError if
        the parameters make no sampler.
        """
        return await self._run(self.engine.start_sampler, params, chat)

    async def _run(self, start, *arguments):
        if self._limit and self._left <= 0:
            raise invalid("The request takes more than %d ms to process" % self._limit)
        try:
            job = start(*arguments, self._left)
        except (ValueError, TypeError, RuntimeError, MemoryError) as exc:
            raise from_engine(exc, 400)
        try:
            if self._ended is not None:
                await self._ended(job)
            result = job.finish()
            self._left -= job.ms()
            return result
        except (ValueError, RuntimeError, MemoryError) as exc:
            raise from_engine(exc, 400)
        finally:
            job.close()  # stops it if the client has left
