# Who gets what of the next step: plain arithmetic on numbers and times that are handed in, so that
# every promise made here is tested in milliseconds with a simulated clock.
# MIT license; Copyright (c) 2026 cllm contributors

_PAST = 64  # clients remembered after they left


class StepCost:
    """Predicts how long a step of n tokens takes: a + b * n milliseconds.

    Fitted to the steps seen, the latest counting most, by least squares; so it follows the machine
    (a token costs 5 ms on one and a second on another, emulated) and the length of the context.
    """

    _KEEP = 0.9  # weight of the past at each step

    def __init__(self):
        self.weight = 0.0
        self._n = self._t = self._nn = self._nt = 0.0

    def observe(self, n, ms):
        """A step of n tokens took ms milliseconds."""
        keep = self._KEEP
        self.weight = self.weight * keep + 1
        self._n = self._n * keep + n
        self._t = self._t * keep + ms
        self._nn = self._nn * keep + n * n
        self._nt = self._nt * keep + n * ms

    def line(self):
        """(a, b); (0, 0) before anything was seen."""
        if not self.weight:
            return 0.0, 0.0
        spread = self.weight * self._nn - self._n * self._n
        if spread > 1e-3 * self._nn * self.weight:
            b = (self.weight * self._nt - self._n * self._t) / spread
            a = (self._t - b * self._n) / self.weight
            if b > 0:
                return (a, b) if a > 0 else (0.0, self._t / self._n)
        # Steps of one size, or times that make no sense: half of it is for the step itself, which
        # is enough of a reason to try other sizes.
        return self._t / self.weight / 2, self._t / self._n / 2

    def predict(self, n):
        """Milliseconds of a step of n tokens."""
        a, b = self.line()
        return a + b * n


class FairQueue:
    """Requests that wait. The next one is of the most urgent priority; among those, of the client
    that was served least; among those, the oldest.

    Waiting makes urgent: after every `aging_ms` a request counts as one priority better, so none
    starves. A request has the attributes options.priority, options.client, t_submit, number and
    after (see Sequence).
    """

    def __init__(self, aging_ms=30000):
        self.aging_ms = aging_ms
        self.items = []
        self._served = {}  # client -> tokens computed for it, while it has requests
        self._active = {}  # client -> number of its requests
        self._past = {}  # client -> the same of clients that left lately
        self._level = 0  # what a client that comes is taken to have had

    def __len__(self):
        return len(self.items)

    def enter(self, client):
        """A request of `client` begins its life."""
        if client not in self._active:
            self._raise_level()
            self._active[client] = 0
            # Going away and coming back makes nobody a new client.
            self._served[client] = max(self._level, self._past.pop(client, 0))
        self._active[client] += 1

    def leave(self, client):
        """A request of `client` has ended."""
        self._active[client] -= 1
        if not self._active[client]:
            self._raise_level()
            del self._active[client]
            served = self._served.pop(client)
            if not self._served:
                # Nobody competed: what was free is no debt.
                self._level = served
                self._past = {}
            elif len(self._past) < _PAST:
                self._past[client] = served

    def _raise_level(self):
        if self._served:
            self._level = max(self._level, min(self._served.values()))

    def count(self, client):
        """Number of requests that `client` has, waiting or running."""
        return self._active.get(client, 0)

    def charge(self, client, tokens):
        """Tokens were computed for `client`."""
        self._served[client] += tokens

    def push(self, item):
        self.items.append(item)

    def remove(self, item):
        self.items.remove(item)

    def urgency(self, item, now):
        """What decides; the least is next."""
        waited = max(0, now - item.t_submit)
        return (
            item.options.priority - int(waited / self.aging_ms),
            self._served.get(item.options.client, 0),
            item.number,
        )

    def next(self, now):
        """The item to be run next, or None."""
        best = None
        for item in self.items:
            after = item.after
            if after is not None and after.t_prompt is None and not after.finished:
                continue  # its prompt is being computed by another
            urgency = self.urgency(item, now)
            if best is None or urgency < best[0]:
                best = (urgency, item)
        return best[1] if best else None


class Policy:
    """How many tokens a step has, and who gets them.

    n_batch: most tokens in a step. n_slots: sequences at a time. step_ms: how long a step should
    take at most; nobody's next token, and no new request, waits longer. min_chunk: prompt tokens
    that a step has in any case, so that prompts get on where a single token takes longer.
    """

    def __init__(self, n_batch, n_slots, step_ms=500, min_chunk=8):
        self.n_batch = n_batch
        self.n_slots = n_slots
        self.step_ms = step_ms
        self.min_chunk = min_chunk
        self.cost = StepCost()

    def budget(self, n_decoding):
        """Tokens of a step in which n_decoding sequences need one each."""
        least = min(self.n_batch, n_decoding + self.min_chunk)
        a, b = self.cost.line()
        if not b:
            return least
        return max(least, min(self.n_batch, int((self.step_ms - a) / b)))

    def share(self, budget, wants):
        """Divides `budget` among sequences that want so many tokens: as evenly as can be, and what
        one does not need goes to the others. A list of numbers.
        """
        shares = [0] * len(wants)
        left = [i for i in range(len(wants)) if wants[i] > 0]
        while left and budget > 0:
            part = budget // len(left)
            if not part:
                # Fewer tokens than sequences: the first ones, who are the oldest.
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
        """The sequence whose cells the others may have: the least urgent, of these the youngest.
        Never the most urgent and oldest, which therefore ends, and then the next.
        """
        worst = None
        for sequence in running:
            rank = (sequence.options.priority, sequence.number)
            if worst is None or rank > worst[0]:
                worst = (rank, sequence)
        return worst[1] if len(running) > 1 else None

    def fits(self, need, available, running):
        """Whether a sequence with `need` tokens to compute may start beside the running ones: with
        their prompts computed, there must be a cell for everybody's next token.
        """
        promised = sum([s.missing for s in running])
        return not running or need + promised + len(running) + 1 <= available

    def draft_size(self, p, most, each=0.0):
        """How many tokens to draft when each is right with probability p and takes `each`
        milliseconds to guess: what makes the most tokens per millisecond. Expected tokens are
        1 + p + ... + p^k (Leviathan, arXiv 2211.17192).
        """
        a, b = self.cost.line()
        if not b:
            return 0
        best = 0
        rate = 1 / (a + b)
        expected = 1.0
        power = 1.0
        for k in range(1, most + 1):
            power *= p
            expected += power
            now = expected / (a + b * (1 + k) + each * k)
            if now > rate:
                rate = now
                best = k
        return best
