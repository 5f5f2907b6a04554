# Drafts: guesses of the next tokens that one decode call verifies together. Those that the sampler
# chooses itself are kept, so the text is what it would be without drafts; a wrong guess costs its
# share of the step. How many are worth it follows from how often guesses were right and what a
# token costs (Policy.draft_size).
# MIT license; Copyright (c) 2026 cllm contributors

_START = 0.75  # how often a guess is right, before anything is known: worth a try
_LEARN = 0.2  # weight of the newest draft
_FORGET = 0.01  # of what was learned, at each step without a draft


class _State:
    # What is known of one sequence.
    def __init__(self):
        self.right = _START
        self.seen = 0  # tokens in `after`
        self.after = {}  # the last tokens -> where they were followed by others


class NgramDraft:
    """Guesses that what followed the last n tokens before will follow them again, as in copying,
    editing and quoting. Needs no second model.
    """

    def __init__(self, policy, n=3, most=16):
        self.policy = policy
        self.n = n
        self.most = most

    def draft(self, sequence, room):
        """Tokens that may come next; at most `room`. An empty list if nothing is known."""
        state = sequence.drafts
        if state is None:
            state = sequence.drafts = _State()
        tokens = sequence.tokens
        end = len(tokens)
        n = self.n
        for i in range(max(n, state.seen), end):
            state.after[tuple(tokens[i - n : i])] = i
        state.seen = end
        at = state.after.get(tuple(tokens[end - n :]))
        if at is None:
            return []
        state.right += _FORGET * (_START - state.right)
        k = min(room, self.policy.draft_size(state.right, self.most))
        return tokens[at : at + k]

    def learn(self, sequence, drafted, accepted):
        """Of `drafted` tokens `accepted` were right."""
        state = sequence.drafts
        tried = min(drafted, accepted + 1)  # what follows the first wrong one says nothing
        state.right += _LEARN * (accepted / tried - state.right)


class ModelDraft:
    """Guesses by a small model with the same vocabulary.

    engine: an _engine.Engine of it, with as many sequences as the large one's; clock:
    milliseconds.
    """

    def __init__(self, policy, engine, clock, most=4):
        self.policy = policy
        self.engine = engine
        self.clock = clock
        self.each = 0.0  # milliseconds that a guess takes
        self.most = most
        self._held = {}  # sequence number of the engine -> tokens in its cache
        self._sampler = engine.sampler({"temperature": 0})

    def draft(self, sequence, room):
        """Tokens that may come next; at most `room`."""
        state = sequence.drafts
        if state is None:
            state = sequence.drafts = _State()
        state.right += _FORGET * (_START - state.right)
        k = min(room, self.policy.draft_size(state.right, self.most, self.each))
        if not k or len(sequence.tokens) + k > self.engine.n_ctx // 2:
            return []
        seq = sequence.holder.seq
        try:
            return self._guess(seq, sequence.tokens, k)
        except RuntimeError:
            # No room, or stopped: its cache is only a cache.
            self.engine.clear()
            self._held = {}
            return []

    def _guess(self, seq, tokens, k):
        held = self._held.get(seq, [])
        same = 0
        most = min(len(held), len(tokens) - 1)
        while same < most and held[same] == tokens[same]:
            same += 1
        self.engine.seq_rm(seq, same if same else -1, -1)
        self._held[seq] = held = tokens[:same]
        while len(held) < len(tokens):
            part = tokens[len(held) : len(held) + self.engine.n_batch]
            index = self._decode(seq, held, part)
        guesses = [self._sampler.sample(index)]
        began = self.clock()
        while len(guesses) < k and not self.engine.is_eog(guesses[-1]):
            index = self._decode(seq, held, [guesses[-1]])
            guesses.append(self._sampler.sample(index))
        if len(guesses) > 1:
            self.each = (self.clock() - began) / (len(guesses) - 1)
        return guesses

    def _decode(self, seq, held, part):
        n = len(part)
        start = len(held)
        self.engine.decode(
            part, list(range(start, start + n)), [seq] * n, [False] * (n - 1) + [True]
        )
        held.extend(part)
        return n - 1

    def learn(self, sequence, drafted, accepted):
        """Of `drafted` tokens `accepted` were right."""
        state = sequence.drafts
        tried = min(drafted, accepted + 1)
        state.right += _LEARN * (accepted / tried - state.right)
