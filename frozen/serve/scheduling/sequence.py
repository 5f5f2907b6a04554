"""One generation in the scheduler: its tokens, what its owner awaits, and what it may cost."""
# SPDX-License-Identifier: MIT

import asyncio

from .detok import Stops, Utf8


class Options:
    """How to run one request.

    max_tokens: int, or None until the context is full. min_tokens: stop strings count from this
    many tokens on. stop: stop strings. n_probs: alternatives to report for each token, None for no
    probabilities; post_probs: report those after the samplers, not the model's own. priority:
    smaller runs earlier. client: a key, among whose values the scheduler is fair. gone(): whether
    the client has left; None: it cannot leave. salt: only requests with the same one share
    prefixes. cache: whether to share any. t_max_predict_ms: limit of generating, 0 for none.
    n_draft: most tokens to guess at a time, None for as many as pay. shown: control tokens that
    are text here. progress: whether to report how much of the prompt is computed. slot: the number
    of the slot to run in, if it is free. lora: scales of the model's adapters, () without any.
    """

    def __init__(self, **values):
        self.max_tokens = None
        self.min_tokens = 0
        self.stop = ()
        self.n_probs = None
        self.post_probs = False
        self.priority = 0
        self.client = "app"
        self.gone = None
        self.salt = ""
        self.cache = True
        self.t_max_predict_ms = 0
        self.n_draft = None
        self.shown = ()
        self.progress = False
        self.slot = None
        self.lora = ()
        for name in values:
            if not hasattr(self, name):
                raise TypeError("unknown option '%s'" % name)
            setattr(self, name, values[name])


class Sequence:
    """A list of tokens (the prompt, then what was generated) of which the first `computed` are in
    the KV cache; and the handle that its owner holds.

    `async for item in sequence` gives an Item for each token, and raises RequestError if the
    request failed. At the end, finish_reason is "stop" or "length" and the counts hold. cancel()
    (or close()) may be called at any time.
    """

    def __init__(self, scheduler, prompt, sampler, options, after=None):
        self.tokens = list(prompt)
        self.n_prompt = len(self.tokens)
        self.sampler = sampler
        self.options = options
        self.after = after  # waits until this one's prompt is computed: they share it
        self.holder = None  # of cells in the KV cache, while running
        self.sampling = None  # the Work whose token Sampling is choosing
        self.n_cached = 0  # prompt tokens that were not computed because the cache had them
        self.finish_reason = None
        self.stop_kind = "none"  # llama-server's stop_type: eos, word, limit
        self.n_drafted = 0
        self.n_accepted = 0
        self.constrained = False  # the request has constraints, which may allow no next token
        self.drafts = None  # what speculate.py knows of this sequence
        self.stops = Stops(list(options.stop))
        self.utf8 = Utf8()
        # Times in milliseconds.
        self.t_submit = 0  # when it was queued
        self.t_start = None  # its first step began
        self.t_prompt = None  # its prompt was computed
        self.t_last = None  # its newest token was sampled
        self.t_news = 0  # its owner was woken last
        self.name = ""  # the answer's id, for those who control it
        self.controlled = False  # they may have its thought end
        self.ends_thought = False  # a thought is to end with the next token
        self.silent = False  # the owner was woken because nothing came for long
        self.number = 0  # order of arrival
        self._scheduler = scheduler
        self._items = []
        self._error = None
        self.event = asyncio.Event()  # set when there is news; several sequences may share one

    @property
    def computed(self):
        """How many tokens are in the KV cache."""
        return len(self.holder.tokens) if self.holder else 0

    @property
    def missing(self):
        """How many tokens are still to be computed."""
        return len(self.tokens) - self.computed

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
        """Return llama-server's `timings` object."""
        prompt_n = self.n_prompt - self.n_cached
        start = self.t_start or 0
        prompt = (self.t_prompt or start) - start
        predicted = max(0, (self.t_last or 0) - (self.t_prompt or 0))
        n = self.n_generated
        timings = {
            "cache_n": self.n_cached,
            "prompt_n": prompt_n,
            "prompt_ms": prompt,
            "prompt_per_token_ms": prompt / prompt_n if prompt_n else 0,
            "prompt_per_second": prompt_n * 1000 / prompt if prompt else 0,
            "predicted_n": n,
            "predicted_ms": predicted,
            # The first token comes of the prompt's logits: it costs no step.
            "predicted_per_token_ms": predicted / (n - 1) if n > 1 else 0,
            "predicted_per_second": (n - 1) * 1000 / predicted if predicted and n > 1 else 0,
        }
        if self.n_drafted:
            timings["draft_n"] = self.n_drafted
            timings["draft_n_accepted"] = self.n_accepted
        return timings

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self.ready:
            self.event.clear()
            await self.event.wait()
        item = self.take()
        if item is None:
            raise StopAsyncIteration
        return item

    @property
    def ready(self):
        """Whether take() has something to give."""
        return bool(self._items) or self.finished

    def take(self):
        """Return the next Item, None at the end. Raise RequestError if the request failed."""
        if self._items:
            return self._items.pop(0)
        if self._error is not None:
            raise self._error
        return None

    def cancel(self):
        """End the request, unless it has finished; its slot and cache are free on return."""
        if not self.finished:
            self._scheduler.drop(self)
            self._scheduler.metrics.finish("abort")
            self.finish("cancelled")

    close = cancel

    def emit(self, text, token, probs):
        """Give the owner a token, and the text that can be sent with it."""
        self._items.append(Item(text, token, probs))
        self.t_news = self._scheduler.clock()
        self.event.set()

    def report(self, now):
        """Give the owner llama-server's `prompt_progress`, if it is asked for."""
        if self.options.progress:
            item = Item("", None, None)
            item.progress = {
                "total": self.n_prompt,
                "cache": self.n_cached,
                "processed": min(self.computed, self.n_prompt),
                "time_ms": now - self.t_start,
            }
            self._items.append(item)
            self.t_news = now
            self.event.set()

    def nudge(self, now, silence_ms):
        """Wake the owner after a long silence, so that it sends its client a sign of life."""
        if now - self.t_news > silence_ms:
            self.t_news = now
            self.silent = True
            self.event.set()

    def finish(self, reason, kind="none"):
        """End the stream."""
        self.finish_reason = reason
        self.stop_kind = kind
        self.event.set()

    def fail(self, error):
        """End the stream with a RequestError."""
        self._error = error
        self.event.set()


class Item:
    """One token of a sequence. text: what can be sent now, which may lag behind the token. probs:
    (its probability or logarithm, [(alternative token, its probability), ...]), or None. progress:
    instead of a token, how much of the prompt is computed; None otherwise.
    """

    progress = None

    def __init__(self, text, token, probs):
        self.text = text
        self.token = token
        self.probs = probs
