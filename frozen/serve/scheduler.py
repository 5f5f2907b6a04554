# Continuous batching: many requests share each decode call of the engine.
#
# A sequence is a list of tokens (its prompt, then what was generated) of which the first
# `computed` are in the engine's KV cache. All that a step does is move `computed` towards
# len(tokens), whether the missing tokens are a prompt or the one just sampled; when none is
# missing, the next is sampled. So a prompt can be cut anywhere, and a sequence whose cache was
# taken away simply computes again.
#
# Policy decides who gets how many tokens of a step and is plain arithmetic; Scheduler owns the
# engine and the loop. A step never awaits, so a sequence can be cancelled between any two steps
# and its cache is free at once.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio
import time

from .detok import Stops, Utf8
from .errors import RequestError, context_error, invalid, unavailable

# Turns of the event loop between steps. A request takes a few (accepted, read, handled, written),
# and with one turn per step each of them would cost the client a whole decode. Idle turns cost
# little.
_TURNS = 8


class Sequence:
    """One request in the scheduler, and the handle its owner holds.

    `async for text, tokens in sequence` gives what was generated since the last item: str, and the
    token ids it came from (text may lag behind them). Raises RequestError if the request failed.
    Then finish_reason is "stop" or "length" and the counts hold. cancel() (or close()) at any
    time.
    """

    def __init__(self, scheduler, prompt, max_tokens, stop, sampler):
        self.tokens = list(prompt)
        self.computed = 0  # tokens in the KV cache
        self.slot = None  # the engine's sequence number
        self.sampler = sampler
        self.n_prompt = len(prompt)
        self.max_tokens = max_tokens  # None: until the context is full
        self.finish_reason = None
        self.n_cached = 0  # prompt tokens that were not computed because another request had them
        self.stops = Stops(stop)
        self.utf8 = Utf8()
        self.t_start = None  # first step, end of the prompt, last token; milliseconds
        self.t_prompt = None
        self.t_last = None
        self._scheduler = scheduler
        self._items = []
        self._error = None
        self._event = asyncio.Event()

    @property
    def n_generated(self):
        """Tokens sampled so far, an end-of-generation token included."""
        return len(self.tokens) - self.n_prompt

    @property
    def stop_word(self):
        """The stop string that ended the generation, or None."""
        return self.stops.found

    @property
    def finished(self):
        """Whether nothing more will come from the engine."""
        return self.finish_reason is not None or self._error is not None

    def timings(self):
        """llama-server's `timings` object."""
        prompt_n = self.n_prompt - self.n_cached
        start = self.t_start or 0
        prompt = (self.t_prompt or start) - start
        predicted = max(0, (self.t_last or 0) - (self.t_prompt or 0))
        n = self.n_generated
        return {
            "cache_n": self.n_cached,
            "prompt_n": prompt_n,
            "prompt_ms": prompt,
            "prompt_per_token_ms": prompt / prompt_n if prompt_n else 0,
            "prompt_per_second": prompt_n * 1000 / prompt if prompt else 0,
            "predicted_n": n,
            "predicted_ms": predicted,
            "predicted_per_token_ms": predicted / n if n else 0,
            "predicted_per_second": n * 1000 / predicted if predicted else 0,
        }

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._items:
            if self._error is not None:
                raise self._error
            if self.finish_reason is not None:
                raise StopAsyncIteration
            self._event.clear()
            await self._event.wait()
        return self._items.pop(0)

    def cancel(self):
        """Ends the request; its slot and cache are free on return. Does nothing if it finished."""
        if not self.finished:
            self._scheduler.drop(self)
            self.finish("cancelled")

    close = cancel

    def emit(self, text, token):
        """Hands the owner a token and the text that can be sent with it."""
        self._items.append((text, (token,)))
        self._event.set()

    def finish(self, reason):
        """Ends the stream."""
        self.finish_reason = reason
        self._event.set()

    def fail(self, error):
        """Ends the stream with a RequestError."""
        self._error = error
        self._event.set()


class Policy:
    """Which sequences run in a step, and how many tokens of each.

    n_batch: tokens per step; n_slots: sequences at a time; n_ctx: cells of the KV cache, which all
    sequences share. Sequences are first come, first served and never overtaken.
    """

    def __init__(self, n_batch, n_slots, n_ctx):
        self.n_batch = n_batch
        self.n_slots = n_slots
        self.n_ctx = n_ctx

    def plan(self, running, waiting):
        """Returns (admit, evict, work): sequences of `waiting` to start, sequences of `running` to
        take the cache from, and [(sequence, number of tokens)]. Both lists are oldest first;
        `work` is made of `running` without `evict`, then `admit`.
        """
        # A running sequence needs one token now: all of those come first, so that a long prompt
        # slows nobody's stream by more than one batch.
        budget = self.n_batch
        cells = self.n_ctx
        for sequence in running:
            cells -= sequence.computed
        kept = list(running)
        evict = []
        admit = []
        # The youngest gives way when the rest could not store a token each. The oldest never does,
        # so it ends, and then the next: every request gets its turn.
        while len(kept) > 1 and cells < len(kept):
            cells += kept[-1].computed
            evict.append(kept.pop())
        if not evict:
            for sequence in waiting:
                # Its whole prompt must fit now, with room for one token of each stream.
                need = len(sequence.tokens) + len(kept) + 1
                promised = sum([len(s.tokens) - s.computed for s in kept])
                if len(kept) >= self.n_slots or (kept and need > cells - promised):
                    break
                admit.append(sequence)
                kept.append(sequence)
        work = []
        for sequence in kept:
            if len(sequence.tokens) - sequence.computed == 1 and budget and cells > 0:
                work.append((sequence, 1))
                budget -= 1
                cells -= 1
        for sequence in kept:
            missing = len(sequence.tokens) - sequence.computed
            if missing > 1:
                count = min(missing, budget, cells)
                if count > 0:
                    work.append((sequence, count))
                    budget -= count
                    cells -= count
        return admit, evict, work


class Scheduler:
    """Runs requests on an engine.

    engine: an _engine.Engine. max_queue: requests that may wait for a slot. clock: milliseconds.
    on_broken: called with a reason when the engine cannot be used any more.
    """

    def __init__(self, engine, max_queue=64, clock=None, on_broken=None):
        self.engine = engine
        self.max_queue = max_queue
        self.policy = Policy(engine.n_batch, engine.n_seq, engine.n_ctx)
        self.running = []  # oldest first
        self.waiting = []
        self.n_steps = 0
        self._clock = clock or time.ticks_ms
        self._on_broken = on_broken
        self._broken = None
        self._free = list(range(engine.n_seq - 1, -1, -1))
        self._work = asyncio.Event()

    def submit(self, prompt, max_tokens=None, stop=(), sampling=None):
        """Queues a request.

        prompt: token ids; max_tokens: int or None; stop: stop strings; sampling: parameters for
        engine.sampler(). Returns a Sequence. Raises RequestError if it can never run or too many
        wait.
        """
        engine = self.engine
        if self._broken:
            raise unavailable(self._broken)
        n = len(prompt)
        if n >= engine.n_ctx:
            raise context_error(n, engine.n_ctx)
        if n and (min(prompt) < 0 or max(prompt) >= engine.n_vocab):
            raise invalid("Field 'prompt': a token is not in the vocabulary")
        if len(self.running) + len(self.waiting) >= engine.n_seq + self.max_queue:
            # Seconds until a slot may be free: a guess by the number of those ahead.
            wait = 1 + len(self.waiting) // engine.n_seq
            raise unavailable("the queue is full", headers={"Retry-After": str(wait)})
        try:
            sampler = engine.sampler(sampling or {})
        except (ValueError, TypeError, RuntimeError) as exc:
            raise invalid(str(exc))
        sequence = Sequence(self, prompt, max_tokens, list(stop), sampler)
        if not n:
            # llama-server answers an empty prompt with an empty text.
            sampler.close()
            sequence.finish("length")
            return sequence
        if sampling and (
            sampling.get("repeat_penalty", 1) != 1
            or sampling.get("presence_penalty", 0)
            or sampling.get("frequency_penalty", 0)
        ):
            for token in prompt:
                sampler.accept(token, True)
        self.waiting.append(sequence)
        self._work.set()
        return sequence

    async def run(self):
        """The step loop; runs until cancelled."""
        while True:
            if not (self.running or self.waiting):
                self._work.clear()
                await self._work.wait()
            self.step()
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def step(self):
        """Decodes one batch and samples. An error ends the request it belongs to, not the loop."""
        if self._broken:
            for sequence in self.running + self.waiting:
                self.drop(sequence)
                sequence.fail(unavailable(self._broken))
            return
        admit, evict, work = self.policy.plan(self.running, self.waiting)
        for sequence in evict:
            self._preempt(sequence)
        for sequence in admit:
            self.waiting.remove(sequence)
            sequence.slot = self._free.pop()
            if sequence.t_start is None:
                sequence.t_start = self._clock()
            self.running.append(sequence)
        if work:
            self.n_steps += 1
            self._decode(work)

    def _preempt(self, sequence):
        # By recomputation: what it generated stays, only its cache is lost.
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.insert(0, sequence)

    def _decode(self, work):
        tokens = []
        positions = []
        slots = []
        outputs = []
        ends = []
        for sequence, count in work:
            start = sequence.computed
            tokens.extend(sequence.tokens[start : start + count])
            positions.extend(range(start, start + count))
            slots.extend([sequence.slot] * count)
            outputs.extend([False] * count)
            last = start + count == len(sequence.tokens)
            outputs[-1] = last
            ends.append(len(tokens) - 1 if last else -1)
        try:
            self.engine.decode(tokens, positions, slots, outputs)
        except (RuntimeError, ValueError, MemoryError) as exc:
            # Nothing was decoded.
            if _is_no_slot(exc) and len(self.running) > 1:
                # The cache holds less than was reckoned: the youngest gives way, as in the policy.
                youngest = self.running[-1]
                self._preempt(youngest)
                work = [item for item in work if item[0] is not youngest]
                if work:
                    self._decode(work)
            elif len(work) > 1:
                # One of them is to blame: find out which.
                for item in work:
                    if not item[0].finished:
                        self._decode([item])
            else:
                self._fail(work[0][0], exc)
            return
        now = self._clock()
        for i in range(len(work)):
            sequence, count = work[i]
            sequence.computed += count
            if ends[i] >= 0:
                try:
                    self._sample(sequence, ends[i], now)
                except (RuntimeError, ValueError, MemoryError) as exc:
                    self._fail(sequence, exc)

    def _sample(self, sequence, index, now):
        if sequence.t_prompt is None:
            sequence.t_prompt = sequence.t_last = now
        if sequence.max_tokens == 0:
            self._finish(sequence, "length")
            return
        token = sequence.sampler.sample(index)
        sequence.tokens.append(token)
        sequence.t_last = now
        engine = self.engine
        if engine.is_eog(token):
            text = sequence.stops.push(sequence.utf8.flush())
            if not sequence.stop_word:
                text += sequence.stops.flush()
            reason = "stop"
        else:
            text = sequence.stops.push(sequence.utf8.push(engine.piece(token)))
            reason = None
            if sequence.stop_word:
                reason = "stop"
            elif (
                sequence.n_generated == sequence.max_tokens
                or sequence.computed + 1 >= engine.n_ctx
            ):
                reason = "length"
                text += sequence.stops.flush() + sequence.utf8.flush()
        sequence.emit(text, token)
        if reason:
            self._finish(sequence, reason)

    def _finish(self, sequence, reason):
        self.drop(sequence)
        sequence.finish(reason)

    def _fail(self, sequence, exc):
        self.drop(sequence)
        if _is_no_slot(exc):
            message = "Context size has been exceeded."
        else:
            message = str(exc) or "out of memory"
        print("cllm: a request failed: " + message)
        sequence.fail(RequestError(500, "server_error", message))

    def drop(self, sequence):
        """Takes a sequence out, wherever it is; called once for each."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        sequence.sampler.close()

    def _release(self, sequence):
        try:
            self.engine.seq_rm(sequence.slot, -1, -1)
        except RuntimeError as exc:
            # All of a sequence can always be removed, unless the engine itself is gone.
            if not self._broken:
                self._broken = "the engine failed: %s" % exc
                if self._on_broken:
                    self._on_broken(self._broken)
        self._free.append(sequence.slot)
        sequence.slot = None
        sequence.computed = 0


def _is_no_slot(exc):
    # By name: the class is in the engine's module, which a test does not have.
    return type(exc).__name__ == "NoSlot"
