"""Who gets what of the next step: plain arithmetic on numbers and times that are handed in, so
that tests prove every promise made here in milliseconds, with a simulated clock.
"""
# SPDX-License-Identifier: MIT

_PAST = 64  # clients remembered after they left

# Lengths of drafts to consider. Kernels work in blocks, so neighbouring lengths differ in their
# cost per token; with few lengths, each is measured soon.
_DRAFTS = (1, 2, 3, 5, 7, 11, 15, 23, 31)
_WORTH = 1.03  # a draft must promise this gain, because measurements err

# ggml's attention computes this many queries at once for about half of what they cost one by one
# (GGML_FA_TILE_Q in ggml-cpu/common.h), so a step of 64 tokens may take less time than one of 63.
_BLOCK = 64
_STRETCH = 2  # a step may overrun step_ms up to this factor,
_GAIN = 0.25  # if prompts are computed faster by this part where it overruns by all of it
# Smaller steps with prompts before a whole block is tried again, at first and at most.
_RETRY = 16, 512

# Least and most for which a batch is held back for tokens that are being chosen.
_HOLD_MS = 5, 200


class StepCost:
    """Predicts how long a step of n tokens takes: a + b * n milliseconds.

    The line is fitted to the steps seen by least squares, with more weight for later ones. So it
    follows the machine (a token costs 5 ms on one, and a second on an emulated one) and the length
    of the context.
    """

    _KEEP = 0.9  # each step multiplies the weight of those before it by this

    def __init__(self):
        self.weight = 0.0
        self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, n, ms):
        """Learn that a step of n tokens took ms milliseconds."""
        keep = self._KEEP
        self.weight = self.weight * keep + 1
        self._n = self._n * keep + n
        self._t = self._t * keep + ms
        self._nn = self._nn * keep + n * n
        self._nt = self._nt * keep + n * ms

    def line(self):
        """Return (a, b); (0, 0) before any step was seen."""
        if not self.weight:
            return 0.0, 0.0
        spread = self.weight * self._nn - self._n * self._n
        if spread > 1e-3 * self._nn * self.weight:
            b = (self.weight * self._nt - self._n * self._t) / spread
            a = (self._t - b * self._n) / self.weight
            if b > 0:
                return (a, b) if a > 0 else (0.0, self._t / self._n)
        # Steps of one size, or times that make no sense. Ascribe half of the time to the step
        # itself: that makes other sizes worth trying.
        return self._t / self.weight / 2, self._t / self._n / 2

    def predict(self, n):
        """Return the milliseconds that a step of n tokens takes."""
        a, b = self.line()
        return a + b * n


class BatchCost:
    """Predicts what small steps without prompts cost, size by size. The kernels decide whether
    another token costs next to nothing or as much as the first, and the costs form no line.

    A size that was not tried lately is assumed to cost as little as it may, so that it is tried:
    each further token as little as one of a prompt, or of another size.
    """

    _WEIGHT = 0.3  # of the newest step of a size
    _FADE = 0.995  # trust in a size falls by this factor with every step of any size

    def __init__(self):
        self._seen = {}  # size -> (milliseconds, step)
        self._steps = 0
        self._least = 0.0  # milliseconds of a further token, at best; 0: not known

    def observe(self, n, n_prompt, ms):
        """Learn that a step of n tokens, n_prompt of them of prompts, took ms milliseconds."""
        self._steps += 1
        if n_prompt:
            if n >= 16:
                self._further(ms / n)
            return
        before = self._seen.get(n)
        if before:
            # A pause of the machine says nothing of the size.
            ms = before[0] + self._WEIGHT * (min(ms, 3 * before[0]) - before[0])
        self._seen[n] = ms, self._steps
        if n > 1 and 1 in self._seen:
            self._further((ms - self._seen[1][0]) / (n - 1))

    def _further(self, ms):
        # Keeps the least, which rises slowly towards newer values.
        if not self._least or ms < self._least:
            self._least = max(ms, 1e-3)
        else:
            self._least += 0.02 * (ms - self._least)

    def predict(self, n, base):
        """Return the milliseconds of a step of n tokens, starting from the known cost of a step of
        `base` tokens; 0 if none of that size was seen.
        """
        known = self._seen.get(base)
        if not known:
            return 0.0
        step = known[0]
        least = step / base / 2
        if self._least:
            least = min(least, self._least)
        ms = step + (n - base) * least
        known = self._seen.get(n)
        if known:
            ms += (known[0] - ms) * self._FADE ** (self._steps - known[1])
        return ms


class FairQueue:
    """Waiting requests, ordered by `priority`, then by which client has been served least, then by
    arrival.

    Each `aging_ms` of waiting improves a request's priority by one, so none starves.
    A request has the attributes options.priority, options.client, t_submit, number,
    after and sampling (see Sequence).
    """

    def __init__(self, aging_ms=30000):
        self.aging_ms = aging_ms
        self.items = []
        self._served = {}  # client -> tokens computed for it, while it has requests
        self._active = {}  # client -> number of its requests
        self._past = {}  # client -> tokens computed for it, if it left lately
        self._level = 0  # tokens that a new client starts with

    def __len__(self):
        return len(self.items)

    def enter(self, client):
        """Count a new request of `client`."""
        if client not in self._active:
            self._raise_level()
            self._active[client] = 0
            # A client that left and comes back is no new one.
            self._served[client] = max(self._level, self._past.pop(client, 0))
        self._active[client] += 1

    def leave(self, client):
        """Count the end of a request of `client`."""
        self._active[client] -= 1
        if not self._active[client]:
            self._raise_level()
            del self._active[client]
            served = self._served.pop(client)
            if not self._served:
                # Nobody competed for it, so nobody owes anything.
                self._level = served
                self._past = {}
            elif len(self._past) < _PAST:
                self._past[client] = served

    def _raise_level(self):
        if self._served:
            self._level = max(self._level, min(self._served.values()))

    def count(self, client):
        """Return how many requests `client` has, waiting or running."""
        return self._active.get(client, 0)

    def charge(self, client, tokens):
        """Count tokens that were computed for `client`, unless it has left meanwhile."""
        if client in self._served:
            self._served[client] += tokens

    def push(self, item):
        self.items.append(item)

    def remove(self, item):
        self.items.remove(item)

    def urgency(self, item, now):
        """Return the key by which requests are ordered; the least is next."""
        waited = max(0, now - item.t_submit)
        return (
            item.options.priority - int(waited / self.aging_ms),
            self._served.get(item.options.client, 0),
            item.number,
        )

    def next(self, now):
        """Return the item to run next, or None."""
        best = None
        for item in self.items:
            after = item.after
            if after is not None and after.t_prompt is None and not after.finished:
                continue  # its prompt is being computed by another
            if item.sampling:
                continue  # it was preempted, and will have its next token to compute
            urgency = self.urgency(item, now)
            if best is None or urgency < best[0]:
                best = (urgency, item)
        return best[1] if best else None


class Policy:
    """Decides how many tokens a step has, and which sequences get them.

    n_batch: most tokens in a step. n_slots: sequences at a time. step_ms: milliseconds that a step
    should take; a running stream's next token, and a new request, waits no longer, or twice as
    long where that pays. min_chunk: every step computes at least this many prompt tokens, so
    prompts always advance.
    """

    def __init__(self, n_batch, n_slots, step_ms=500, min_chunk=8):
        self.n_batch = n_batch
        self.n_slots = n_slots
        self.step_ms = step_ms
        self.min_chunk = min_chunk
        self.cost = StepCost()  # of steps smaller than a block of attention
        self.wide = StepCost()  # of larger ones
        self._narrow = 0  # smaller steps with prompts since the last larger one
        self._patience = _RETRY[0]
        self.batch = BatchCost()
        self._last_ms = 0  # of the last step

    def patience(self):
        """Milliseconds for which a batch is held back for a token that is being chosen.

        A sequence that misses a batch loses one step, so waiting for longer than a step takes
        costs more than it can save. _HOLD_MS bounds what the others feel of it.
        """
        least, most = _HOLD_MS
        return min(max(self._last_ms, least), most)

    def budget(self, n_decoding):
        """Return the size of a step in which n_decoding sequences need a token each."""
        least = min(self.n_batch, n_decoding + self.min_chunk)
        a, b = self.cost.line()
        if not b:
            return least
        size = min(self.n_batch, int((self.step_ms - a) / b))
        if self.n_batch >= _BLOCK:
            size = self._whole_block(size)
        return max(least, size)

    def _whole_block(self, size):
        # A block, or more, if that is better than `size`, which is right for smaller steps.
        single = self.cost.predict(_BLOCK)
        limit = self.step_ms * _STRETCH
        if not self.wide.weight or self._narrow >= self._patience:
            # Nothing is known of whole blocks, or only what a pause of the machine may have
            # spoilt. At best, a block takes half of what the smaller steps predict.
            return _BLOCK if size < _BLOCK and single / 2 <= limit else size
        block = self.wide.predict(_BLOCK)
        if block <= self.step_ms:
            a, b = self.wide.line()
            return min(self.n_batch, max(_BLOCK, int((self.step_ms - a) / b)))
        over = (block / self.step_ms - 1) / (_STRETCH - 1)
        if over <= 1 and block < single * (1 - _GAIN * over):
            return _BLOCK
        return min(size, _BLOCK - 1)

    def share(self, budget, wants):
        """Divide `budget` evenly among sequences that want `wants` tokens; what one does not need
        goes to the others. Return a list of numbers.
        """
        shares = [0] * len(wants)
        left = [i for i in range(len(wants)) if wants[i] > 0]
        while left and budget > 0:
            part = budget // len(left)
            if not part:
                # Fewer tokens than sequences: the first in the list, which are the oldest.
                for i in left[:budget]:
                    shares[i] += 1
                break
            still = []
            for i in left:
                more = min(part, wants[i] - shares[i])
                shares[i] += more
                budget -= more
                if shares[i] < wants[i]:
                    still.append(i)
            left = still
        return shares

    def victim(self, running):
        """Return the sequence that gives its cells to the others: of the least urgent ones, the
        youngest. Never the most urgent and oldest, so that one always ends, and then the next.
        """
        worst = None
        for sequence in running:
            rank = (sequence.options.priority, sequence.number)
            if worst is None or rank > worst[0]:
                worst = (rank, sequence)
        return worst[1] if len(running) > 1 else None

    def fits(self, need, available, running):
        """Return whether a sequence with `need` tokens to compute may start beside the running
        ones: once all prompts are computed, each must have a cell for its next token.
        """
        promised = sum([s.missing for s in running])
        return not running or need + promised + len(running) + 1 <= available

    def observe(self, n, n_prompt, ms):
        """Learn that a step of n tokens, n_prompt of them of prompts, took ms milliseconds."""
        self._last_ms = ms
        if n < _BLOCK:
            self._narrow += n_prompt > 0
            self.cost.observe(n, ms)
        else:
            if not self._narrow:
                self._patience = _RETRY[0]
            elif self.wide.weight:
                self._patience = min(_RETRY[1], 2 * self._patience)
            self._narrow = 0
            self.wide.observe(n, ms)
        self.batch.observe(n, n_prompt, ms)

    def draft_size(self, p, most, each=0.0, others=0, left=1e9):
        """Return how many tokens to draft for the most tokens per millisecond, if each is right
        with probability p and takes `each` milliseconds to guess. A draft of k makes
        1 + p + ... + p^k tokens (Leviathan, arXiv 2211.17192). others: other tokens of the step.
        left: milliseconds that the draft may cost.
        """
        base = 1 + others
        step = self.batch.predict(base, base)
        if not step or most < 1:
            return 0
        best = 0
        rate = base / step * _WORTH
        for k in _DRAFTS:
            k = min(k, most)
            right = k if p == 1 else p * (1 - p**k) / (1 - p)
            cost = self.batch.predict(base + k, base) + each * k
            if cost - step > left:
                break
            if (base + right) / cost > rate:
                rate = (base + right) / cost
                best = k
            if k == most:
                break
        return best
