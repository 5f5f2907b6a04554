"""What is done with the engine between two steps, beside the batches of sequences."""
# SPDX-License-Identifier: MIT

import asyncio
import gc

from _engine import Lost

from .errors import RequestError, from_engine, invalid, left, unavailable

_NO_MEMORY = (
    "there is not enough memory for this embedding now: try again later, or give the machine more "
    "(--memory)"
)


class Job:
    """Something to do with the engine between two steps. gone: as in Options.

    work(scheduler): a coroutine function that does it, or a part of it; then it is called again.
    """

    def __init__(self, gone=None):
        self.gone = gone
        self.result = None
        self.error = None
        self.done = asyncio.Event()

    def finish(self, result):
        """End the job with what Scheduler.do() returns."""
        self.result = result
        self.done.set()

    def fail(self, error):
        """End the job with a RequestError."""
        self.error = error
        self.done.set()


class Call(Job):
    """A plain function of the engine: call(scheduler) returns the result."""

    def __init__(self, call):
        Job.__init__(self)
        self._call = call

    async def work(self, scheduler):
        try:
            self.finish(self._call(scheduler))
        except Lost as exc:
            scheduler.lose(str(exc))
        except RequestError as exc:
            self.fail(exc)
        except (RuntimeError, ValueError, MemoryError) as exc:
            self.fail(from_engine(exc))
        scheduler.forget(self)


class Embedding(Job):
    """A text whose embedding is computed, one piece a step."""

    def __init__(self, tokens, normalize, gone):
        Job.__init__(self, gone)
        self.tokens = tokens
        self.normalize = normalize
        self.done_n = 0
        self.swept = False  # whether Python's heap was collected to get memory for it

    async def work(self, scheduler):
        engine = scheduler.engine
        n = len(self.tokens)
        size = min(n - self.done_n, scheduler.policy.budget(0)) if engine.generates else n
        part = self.tokens[self.done_n : self.done_n + size]
        scheduler.waiting = (self.gone,)
        try:
            vector = await scheduler.compute(
                engine.start_embed, part, not self.done_n, self.done_n + size == n, self.normalize
            )
        except ValueError as exc:
            self.fail(invalid(str(exc)))
        except Lost as exc:
            scheduler.lose(str(exc))
        except MemoryError:
            if self.done_n or self.swept:
                self.fail(unavailable(_NO_MEMORY, headers={"Retry-After": "5"}))
            else:
                # Memory of requests that have ended may still await a collection.
                self.swept = True
                gc.collect()
        except RuntimeError as exc:
            if self.gone is not None and self.gone():
                self.fail(left())  # look() has stopped it
            else:
                # llama.cpp's words mean nothing to a client: print them.
                print("cllm: an embedding failed: %s" % exc)
                self.fail(
                    RequestError(500, "server_error", "the model failed to compute an embedding")
                )
        else:
            self.done_n += size
            if vector is not None:
                self.finish(vector)
        scheduler.waiting = ()
        if self.done.is_set():
            scheduler.forget(self)
