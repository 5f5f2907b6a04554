"""Continuous batching: all running requests share each decode call of the engine.

A sequence is a list of tokens: its prompt, then what was generated. The first `computed` of them
are in the engine's KV cache. A step moves `computed` towards len(tokens), whether the missing
tokens are a prompt or the one just sampled; when none is missing, it samples the next (as vLLM v1:
there is no phase for prompts). So a prompt can be cut anywhere, and a sequence that lost its cells
computes them again.

* Policy decides how many tokens of a step each sequence gets.
* FairQueue decides who starts next.
* PrefixCache knows which cells hold which tokens.
* Scheduler owns the engine and the loop.

The engine computes a batch on a thread of its own. Meanwhile the asyncio loop goes on: requests
arrive, text is sent, Sampling chooses tokens that follow a grammar. None of this may touch the
engine's cache. A sequence that is cancelled then is dropped at once, and its cells are freed when
the batch has ended. Before each step the scheduler drops requests whose client has left. When all
clients of a batch have left, look() stops the engine in the middle of it.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

from _engine import Aborted, Lost, NoSlot
from httpd.jsonio import integers

from .beginning import Beginning
from .bounds import Bounds
from .constraints import Stuck, chosen, constrains, penalizes
from .detok import text_of
from .errors import RequestError, context_error, from_engine, invalid, left, too_many, unavailable
from .jobs import Embedding
from .metrics import Metrics
from .policy import FairQueue, Policy
from .prefix_cache import PrefixCache
from .sampling import Sampling
from .sequence import Options, Sequence
from .speculate import ModelDraft, NgramDraft

# An owner without news for this long is woken to send a sign of life: clients and proxies close
# silent connections.
_SILENCE_MS = 25000

_FEW = 64  # candidates among which the probability of a token is looked for first


def _ticks():
    return time.ticks_us() / 1000


class Work:
    """One sequence's part of a step: `count` of its missing tokens, then `draft` to verify."""

    def __init__(self, sequence, count, draft=()):
        self.sequence = sequence
        self.count = count
        self.draft = draft
        self.right = 0  # tokens of the draft that were chosen
        self.others = 0  # sequences in the same step
        self.index = 0  # in the batch: the first entry with logits
        self.last = False  # whether the step computes the last missing token
        self.task = None  # of Sampling


class Scheduler:
    """Runs requests on an engine.

    engine: an _engine.Engine. bounds: Bounds. clock(): the time in ms. on_broken(reason): called
    when the engine cannot be used any more. draft_engine: a small model's engine for drafts, or
    None. ended: coroutine function, or None where the engine computes and samples in the calling
    thread. ended(engine) returns when the batch of start() is computed, ended(sampler) when the
    token of its start() is chosen.
    """

    def __init__(
        self, engine, bounds=None, clock=_ticks, on_broken=None, draft_engine=None, ended=None
    ):
        self.engine = engine
        self.bounds = bounds or Bounds()
        self.policy = Policy(engine.n_batch, self.bounds.slots, self.bounds.step_ms)
        self.queue = FairQueue()
        self.cache = PrefixCache(engine, self.bounds.slots, self.bounds.kept_cells)
        self.metrics = Metrics()
        self.running = []  # oldest first
        self.last_step = None  # when the last successful step ended, by the clock
        self.beginning = None  # a Beginning that is still to be computed
        self.drafter = None
        if self.bounds.speculate and engine.divisible:
            if draft_engine:
                self.drafter = ModelDraft(self.policy, draft_engine, clock)
            else:
                self.drafter = NgramDraft(self.policy)
        self.clock = clock
        self._on_broken = on_broken
        self._broken = None
        self._ended = ended
        self._computing = False
        self._lora = ()  # scales of the engine's adapters
        self._leaving = []  # cells to free when the batch has ended
        self.waiting = ()  # Options.gone of the requests in the batch, for look()
        self._work = asyncio.Event()
        self._sampling = Sampling(self, ended, self._work)
        self._jobs = []
        self._number = 0

    @property
    def busy(self):
        """Whether there is anything to do."""
        return bool(self.running or self.queue.items or self._jobs)

    @property
    def idles(self):
        """Whether there is nothing to compute until a token has been chosen."""
        return not (self._jobs or self.queue.items or any([not s.sampling for s in self.running]))

    def begin(self, tokens):
        """Compute and keep the beginning of every conversation. Call this once."""
        if self.cache.shares and tokens and len(tokens) <= self.cache.keep:
            self.beginning = Beginning(self, tokens)
            self._work.set()

    def submit(self, prompt, sampling=None, options=None, chat=None, after=None, sampler=None):
        """Queue a request; return its Sequence.

        prompt: token ids. sampling, chat: arguments of engine.sampler(). options: Options. after:
        a Sequence with the same prompt, whose cells this one shares. sampler: a Sampler already
        made from sampling and chat; the request closes it. RequestError: the request can never
        run, or the queue is full.
        """
        options = options or Options()
        try:
            self.check(prompt, options)
            sampler = sampler or self.engine.sampler(sampling or {}, chat)
        except RequestError:
            if sampler:
                sampler.close()
            raise
        except (ValueError, TypeError, RuntimeError) as exc:
            raise from_engine(exc, 400)
        sequence = Sequence(self, prompt, sampler, options, after)
        if not prompt:
            # llama-server answers an empty prompt with an empty text.
            sampler.close()
            sequence.finish("length")
            return sequence
        sequence.constrained = constrains(sampling or {}, chat)
        if sampling and penalizes(sampling):
            try:
                for token in prompt:
                    sampler.accept(token, True)
            except (ValueError, RuntimeError) as exc:
                sampler.close()
                raise from_engine(exc)
        self._number += 1
        sequence.number = self._number
        sequence.t_submit = sequence.t_news = self.clock()
        self.queue.enter(options.client)
        self.queue.push(sequence)
        self._work.set()
        return sequence

    def check(self, prompt, options):
        """Raise the RequestError that submit() would raise, except the sampler's."""
        engine = self.engine
        bounds = self.bounds
        if self._broken:
            raise unavailable(self._broken)
        n = len(prompt)
        if n >= engine.n_ctx:
            raise context_error(n, engine.n_ctx)
        if not integers(prompt, 0, engine.n_vocab - 1):
            raise invalid("Prompt contains invalid tokens")
        waiting = len(self.queue)
        if len(self.running) + waiting >= bounds.slots + bounds.queue:
            # Seconds until a slot may be free: a guess by the number of those ahead.
            wait = 1 + waiting // bounds.slots
            raise unavailable("the queue is full", headers={"Retry-After": str(wait)})
        if bounds.per_client and self.queue.count(options.client) >= bounds.per_client:
            raise too_many("you have %d requests already" % bounds.per_client)

    async def embed(self, tokens, normalize=2, gone=None):
        """Return the embedding of a text, a list of float. gone: as in Options. RequestError: the
        text is too long, the queue is full, or the engine failed.
        """
        return await self.do(Embedding(tokens, normalize, gone))

    async def do(self, job):
        """Return the result of a Job, which is worked at between two steps. RequestError: the
        queue is full, or the job's own.
        """
        if self._broken:
            raise unavailable(self._broken)
        if len(self._jobs) >= self.bounds.queue:
            raise unavailable("the queue is full", headers={"Retry-After": "1"})
        self._jobs.append(job)
        self._work.set()
        try:
            await job.done.wait()
        finally:
            if job in self._jobs:
                self._jobs.remove(job)
        if job.error:
            raise job.error
        return job.result

    def forget(self, job):
        """Take a Job that has ended out of the queue."""
        if job in self._jobs:
            self._jobs.remove(job)

    async def run(self):
        """Run steps until cancelled."""
        try:
            while True:
                if not (self.busy or self.beginning):
                    self._work.clear()
                    await self._work.wait()
                began = self.clock()
                if self.beginning and not await self.beginning.step():
                    self.beginning = None
                await self.step()
                await asyncio.sleep(0)
                self.metrics.step_ms += self.clock() - began
        finally:
            for sequence in self.running + self.queue.items:
                self._sampling.stop(sequence)

    def look(self):
        """Stop the engine if all clients of its batch have left; may be called during a decode."""
        waiting = self.waiting
        if not waiting:
            return
        for gone in waiting:
            if gone is None or not gone():
                return
        self.waiting = ()
        self.engine.abort()

    async def step(self):
        """Decode one batch and sample. An error ends the request that caused it, not the loop."""
        if self._broken:
            self.end(self._broken)
            return
        self.expel()
        self._admit(self.clock())
        work = self._plan()
        if work:
            await self._decode(work)
        if self._jobs:
            await self._jobs[0].work(self)
        elif not work and any([s.sampling for s in self.running + self.queue.items]):
            await self._sampling.pause()

    # Which sequences run.

    def _admit(self, now):
        while True:
            sequence = self.queue.next(now)
            if sequence is None or self.beginning and self.beginning.delays(sequence.tokens):
                return
            if len(self.running) >= self.bounds.slots and not self._displace(sequence):
                return
            tokens = sequence.tokens
            share = sequence.options.cache
            known = self.cache.find(tokens, sequence.options.salt)[1] if share else 0
            if not self.policy.fits(len(tokens) - known, self.cache.available, self.running):
                return
            self.queue.remove(sequence)
            sequence.holder = self.cache.start(tokens, sequence.options.salt, share)
            sequence.holder.slot = self._slot(sequence.options.slot)
            if sequence.t_start is None:
                sequence.t_start = now
                sequence.n_cached = sequence.computed
                self.metrics.cached_tokens += sequence.computed
                self.metrics.queue.observe(now - sequence.t_submit)
                sequence.report(now)
            self.running.append(sequence)

    def _slot(self, wanted):
        # The wanted slot's number, or the lowest one that is free.
        taken = [sequence.holder.slot for sequence in self.running]
        free = [i for i in range(self.bounds.slots) if i not in taken]
        return wanted if wanted in free else free[0]

    def _displace(self, sequence):
        # Free a slot for a request that is more urgent than one that runs.
        victim = self.policy.victim(self.running) or self.running[0]
        if sequence.options.priority >= victim.options.priority:
            return False
        self._requeue(victim)
        self.metrics.displaced += 1
        return True

    def _preempt(self):
        # Cells have run out: requeue the sequence that the policy names.
        victim = self.policy.victim(self.running)
        self._requeue(victim)
        self.metrics.preemptions += 1
        return victim

    def _requeue(self, sequence):
        # Its tokens stay; cells that it loses are computed again.
        self.running.remove(sequence)
        self._release(sequence)
        self.queue.push(sequence)

    def expel(self):
        """End the requests whose client has left or whose time is up."""
        self._dismiss()
        self._expire(self.clock())

    def _dismiss(self):
        # End the requests whose client has left.
        for sequence in self.running + self.queue.items:
            gone = sequence.options.gone
            if gone is not None and gone():
                self.drop(sequence)
                self.metrics.finish("abort")
                sequence.fail(left())
        for job in list(self._jobs):
            if job.gone is not None and job.gone():
                self._jobs.remove(job)
                job.fail(left())

    def _expire(self, now):
        bounds = self.bounds
        for sequence in list(self.queue.items):
            if _is_over(sequence.t_submit, bounds.request_s * 1000, now):
                self._cut(sequence)
            elif sequence.t_start is None and _is_over(
                sequence.t_submit, bounds.queue_s * 1000, now
            ):
                self.drop(sequence)
                self.metrics.finish("timeout")
                sequence.fail(unavailable("the request waited too long for a slot"))
        for sequence in self.running + self.queue.items:
            sequence.nudge(now, _SILENCE_MS)
        for sequence in list(self.running):
            if _is_over(sequence.t_submit, bounds.request_s * 1000, now) or _is_over(
                sequence.t_prompt, sequence.options.t_max_predict_ms, now
            ):
                self._cut(sequence)

    def _cut(self, sequence):
        # Its time is up: the text so far is the answer.
        text = sequence.stops.flush()
        if text:
            sequence.emit(text, None, None)
        self._finish(sequence, "length", "limit")

    # Tokens for each sequence of a step.

    def _plan(self):
        # The next token of each sequence needs a cell.
        cache = self.cache
        while len(self.running) > 1 and cache.available < len(self.running):
            self._preempt()
        lora = self._adapters()
        decoding = [s for s in self.running if s.missing == 1 and s.options.lora == lora]
        prompts = [s for s in self.running if s.missing > 1 and s.options.lora == lora]
        budget = self.policy.budget(len(decoding))
        if prompts:
            # Streams may fill the batch but for one token, so that prompts always advance.
            decoding = decoding[: self.policy.n_batch - 1]
        work = [Work(s, 1) for s in decoding]
        room = cache.available - len(work) - len([s for s in self.running if s.sampling])
        shares = self.policy.share(min(budget - len(work), room), [s.missing for s in prompts])
        for i in range(len(prompts)):
            if shares[i]:
                work.append(Work(prompts[i], shares[i]))
                room -= shares[i]
        if self.drafter and not prompts and not self.queue.items and len(work) <= 2:
            for item in work:
                most = min(room, self.policy.n_batch - len(work)) // len(work)
                self._draft(item, most, len(work) - 1)
        return work

    def _adapters(self):
        # The LoRA adapters of the next batch: all of its sequences have the same, in turns.
        found = []
        for sequence in self.running:
            if sequence.missing and sequence.options.lora not in found:
                found.append(sequence.options.lora)
        if not found:
            return self._lora
        at = found.index(self._lora) + 1 if self._lora in found else 0
        return found[at % len(found)]

    def _draft(self, item, room, others):
        sequence = item.sequence
        options = sequence.options
        room = min(room, self.engine.n_ctx - len(sequence.tokens) - 1)
        if options.max_tokens is not None:
            room = min(room, options.max_tokens - sequence.n_generated - 1)
        if options.n_draft is not None:
            room = min(room, options.n_draft)
        if room > 0:
            item.draft = self.drafter.draft(sequence, room, others)

    # The engine.

    async def _decode(self, work):
        tokens = []
        positions = []
        slots = []
        outputs = []
        for item in work:
            sequence = item.sequence
            start = sequence.computed
            end = start + item.count
            part = sequence.tokens[start:end]
            part.extend(item.draft)
            n = len(part)
            item.index = len(tokens) + item.count - 1
            item.last = end == len(sequence.tokens)
            tokens.extend(part)
            positions.extend(range(start, start + n))
            slots.extend([sequence.holder.seq] * n)
            outputs.extend([False] * (item.count - 1))
            outputs.extend([item.last] * (n - item.count + 1))
        began = self.clock()
        self.waiting = [item.sequence.options.gone for item in work]
        try:
            lora = work[0].sequence.options.lora
            if lora != self._lora:
                self.engine.lora_set(list(range(len(lora))), list(lora))
                self._lora = lora
            self.cache.make_room(len(tokens))
            await self.compute(self.engine.start, tokens, positions, slots, outputs)
        except (RuntimeError, ValueError, MemoryError) as exc:
            self.waiting = ()
            await self._recover([item for item in work if not item.sequence.finished], exc)
            return
        self.waiting = ()
        now = self.clock()
        self._account(work, len(tokens), now - began)
        self.last_step = now
        # First start the samplers that have threads: this thread samples the rest meanwhile.
        for beside in (True, False):
            for item in work:
                sequence = item.sequence
                if sequence.finished or self._samples_beside(sequence) != beside:
                    continue  # finished: cancelled meanwhile
                item.others = len(work) - 1
                try:
                    self._advance(item, now)
                except (RuntimeError, ValueError, MemoryError) as exc:
                    self.fail(sequence, exc)
        began = self.clock()
        await self._sampling.settle(self.policy.patience())
        self.metrics.engine_ms += self.clock() - began

    def _samples_beside(self, sequence):
        return self._ended is not None and sequence.sampler.constrained

    async def compute(self, start, *batch):
        """Return what engine.finish() returns for start(*batch), or raise its error."""
        engine = self.engine
        start(*batch)
        if self._ended is None:
            return engine.finish()
        self._computing = True
        ended = False
        try:
            await self._ended(engine)
            ended = True
        finally:
            if not ended:
                engine.abort()  # the server stops
            try:
                result = engine.finish()
            except (RuntimeError, ValueError, MemoryError):
                if ended:
                    raise
            finally:
                self._computing = False
                leaving = self._leaving
                self._leaving = []
                for holder, keep in leaving:
                    self._free(holder, keep)
        return result

    async def _recover(self, work, exc):
        # A batch failed, and nothing was decoded: make room, or find whose fault it is.
        if isinstance(exc, Lost):
            return self.lose(str(exc))
        if not work:
            return
        if isinstance(exc, Aborted):
            self.metrics.stopped += 1
            self._dismiss()
            return
        if isinstance(exc, NoSlot) and self.cache.idle:
            self.cache.flush()
        elif isinstance(exc, NoSlot) and len(self.running) > 1:
            # The cache has less room than the plan assumed.
            victim = self._preempt()
            work = [item for item in work if item.sequence is not victim]
        elif len(work) > 1:
            # One of them causes the error: decode each alone.
            for item in work:
                if not item.sequence.finished:
                    await self._decode([item])
            return
        else:
            self.fail(work[0].sequence, exc)
            return
        if work:
            await self._decode(work)

    def _account(self, work, n, ms):
        metrics = self.metrics
        metrics.engine_ms += ms
        metrics.n_decode += 1
        metrics.n_busy += len(work)
        prompt = 0
        for item in work:
            self.queue.charge(item.sequence.options.client, item.count)
            metrics.n_tokens_max = max(metrics.n_tokens_max, len(item.sequence.tokens))
            if item.sequence.t_prompt is None:
                prompt += item.count
        self.policy.observe(n, prompt, ms)
        metrics.prompt_tokens += prompt
        metrics.prompt_ms += ms * prompt / n
        metrics.predicted_ms += ms * (n - prompt) / n

    def _advance(self, item, now):
        # Note the computed tokens; sample the next one, and more while the draft was right.
        sequence = item.sequence
        start = sequence.computed
        self.cache.extend(sequence.holder, sequence.tokens[start : start + item.count])
        if sequence.t_prompt is None:
            sequence.report(now)
        if not item.last:
            return
        if sequence.t_prompt is None:
            sequence.t_prompt = now
            if sequence.options.max_tokens == 0:
                self._finish(sequence, "length", "limit")
                return
        if sequence.ends_thought:
            sequence.ends_thought = False
            sequence.sampler.end_thought()
        if self._samples_beside(sequence):
            self._sampling.start(item)
            return
        more = True
        while more:
            began = self.clock()
            index = item.index + item.right
            token = chosen(sequence, sequence.sampler.sample, index)
            self.metrics.engine_ms += self.clock() - began
            more = self._take(item, token, index, now)

    def take(self, item):
        """Take the token that Sampling chose. Return whether there is another one to choose."""
        token = chosen(item.sequence, item.sequence.sampler.finish)
        return self._take(item, token, None, self.clock())

    def _take(self, item, token, index, now):
        # Return whether the draft guessed this token: then the batch has the next one's logits.
        sequence = item.sequence
        right = item.right
        self._accept(sequence, index, token, now)
        if not sequence.finished and right < len(item.draft) and token == item.draft[right]:
            item.right += 1
            self.cache.extend(sequence.holder, [token])
            return True
        self._judge(item)
        return False

    def cut_draft(self, item):
        """Discard the part of an item's draft that is not verified yet."""
        try:
            self._judge(item)
        except RuntimeError as exc:
            self.fail(item.sequence, exc)

    def _judge(self, item):
        # Count how much of the draft was right, and remove the rest's cells.
        sequence = item.sequence
        drafted = len(item.draft)
        right = item.right
        if not drafted:
            return
        item.draft = ()
        self.metrics.draft(drafted, right)
        sequence.n_drafted += drafted
        sequence.n_accepted += right
        if sequence.finished:
            return
        self.drafter.learn(sequence, drafted, right, item.others)
        if right < drafted:
            self.engine.seq_rm(sequence.holder.seq, sequence.computed, -1)

    def _accept(self, sequence, index, token, now):
        # index: the token's entry in the last batch, None where the sampler has the logits.
        metrics = self.metrics
        probs = self._probs(sequence, index, token)
        sequence.tokens.append(token)
        metrics.predicted_tokens += 1
        if sequence.t_last is None:
            metrics.first_token.observe(now - sequence.t_submit)
        else:
            metrics.inter_token.observe(now - sequence.t_last)
        sequence.t_last = now
        text, reason, kind = self._text_of(sequence, token)
        sequence.emit(text, token, probs)
        if reason:
            self._finish(sequence, reason, kind)

    def _probs(self, sequence, index, token):
        n = sequence.options.n_probs
        if n is None:
            return None
        if not sequence.options.post_probs:
            if index is None:
                return sequence.sampler.logprobs(token, n)
            return self.engine.logprobs(index, token, n)
        # Candidates come likeliest first, and the sampled one is seldom far behind. Fetching the
        # whole vocabulary for each token would delay all other requests.
        count = max(n, _FEW)
        while True:
            pairs = sequence.sampler.probs(count)
            for pair in pairs:
                if pair[0] == token:
                    return pair[1], [pair for pair in pairs[:n] if pair[1] > 0]
            if len(pairs) < count:
                return 0.0, [pair for pair in pairs[:n] if pair[1] > 0]
            count *= 16

    def _text_of(self, sequence, token):
        # Return (text that can be sent, finish reason or None, kind of stop). A character that is
        # incomplete at the end is dropped.
        engine = self.engine
        stops = sequence.stops
        if engine.is_eog(token):
            return stops.flush(), "stop", "eos"
        piece = engine.piece(token, token in sequence.options.shown)
        text = sequence.utf8.push(piece)
        n = sequence.n_generated
        if n > sequence.options.min_tokens:
            if stops.words and not piece:
                # A control token has no text, but its name may be one of the stop strings.
                text = stops.push(text) + stops.hide(text_of(engine.piece(token, True)))
            else:
                text = stops.push(text)
            if stops.found:
                return text, "stop", "word"
        full = len(sequence.tokens) >= engine.n_ctx
        if n == sequence.options.max_tokens or full:
            return text + stops.flush(), "length", "limit"
        return text, None, "none"

    # The end of a request.

    def _finish(self, sequence, reason, kind):
        self.metrics.finish(reason)
        if sequence.t_last is not None:
            self.metrics.e2e.observe(sequence.t_last - sequence.t_submit)
        self.drop(sequence)
        sequence.finish(reason, kind)

    def fail(self, sequence, exc):
        """End a request with an error, unless it has ended."""
        if sequence.finished:
            return
        if isinstance(exc, Lost):
            return self.lose(str(exc))
        self.drop(sequence)
        self.metrics.finish("error")
        if isinstance(exc, NoSlot):
            exc = RuntimeError("Context size has been exceeded.")
        error = from_engine(exc, 400 if isinstance(exc, Stuck) else 500)
        if error.status != 400:
            print("cllm: a request failed: " + error.message)
        sequence.fail(error)

    def lose(self, reason):
        """Use the engine no more. All that asks for it, now or later, gets a 503 with `reason`."""
        if not self._broken:
            self._broken = reason
            self._work.set()
            if self._on_broken:
                self._on_broken(reason)

    def end(self, reason):
        """End all requests, and those to come, with a 503 for `reason`."""
        self._broken = self._broken or reason
        for sequence in self.running + self.queue.items:
            self.drop(sequence)
            sequence.fail(unavailable(self._broken))
        for job in self._jobs:
            job.fail(unavailable(self._broken))
        self._jobs = []

    def drop(self, sequence):
        """Take a sequence out of the queue or the slots. Call this once for each."""
        if sequence in self.queue.items:
            self.queue.remove(sequence)
        else:
            self.running.remove(sequence)
            self._release(sequence)
        self.queue.leave(sequence.options.client)
        self._sampling.stop(sequence)
        sequence.sampler.close()

    def _release(self, sequence):
        holder = sequence.holder
        sequence.holder = None
        if self._computing:
            self._leaving.append((holder, sequence.options.cache))
        else:
            self._free(holder, sequence.options.cache)

    def _free(self, holder, keep):
        try:
            # Cells of a failed or stopped draft were computed but not noted: remove them.
            if keep and self.cache.shares:
                self.engine.seq_rm(holder.seq, len(holder.tokens), -1)
            self.cache.stop(holder, keep)
        except RuntimeError as exc:
            # Removing a whole sequence fails only when the engine itself is broken.
            self.lose(str(exc) if isinstance(exc, Lost) else "the engine failed: %s" % exc)


def _is_over(since, ms, now):
    return bool(ms) and since is not None and now - since > ms
