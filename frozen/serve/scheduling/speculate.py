"""Drafts: guesses of the next tokens that one decode call verifies together.

Tokens that the sampler chooses itself are kept, so the text is what it would be without drafts,
and a wrong guess costs its share of the step. How many guesses are worth it follows from how often
they were right and what a token costs (Policy.draft_size); both are measured all the time. The
loss of any one text is bounded.
"""
# SPDX-License-Identifier: MIT

from _engine import Lost

# Each text has a credit of time that bounds its loss. Every step earns this part of its own time,
# right guesses earn what they save, and wrong ones pay. Beyond its credit, a draft of a kind is
# trusted with the time of _TRUST steps.
_EARN = 0.015
_MOST = 4  # steps whose time can be saved up
_TRUST = (0.5, 1, 2, 4)

# A guess is of a kind, by how many of the last tokens agree with those before the earlier place:
# 3, 4 to 7, 8 to 15, 16. The more agree, the surer is what follows.
_SAME = 16  # most tokens to compare
_RIGHT = (0.4, 0.6, 0.8, 0.95)  # how often a guess of each kind is right, before any is counted
_LEARN = 0.1  # weight of the newest guess
_FORGET = 0.01  # how fast a model's rate returns to the first one, per step without a draft


class _State:
    # What is known of one sequence.
    def __init__(self, right):
        self.right = list(right)  # how often guesses of each kind are right
        self.kind = 0  # of the newest guess
        self.drafted = 0  # tokens in it
        self.credit = 0.0  # milliseconds
        self.seen = 0  # how many tokens `after` knows
        self.after = {}  # n tokens -> the place after their last occurrence
        self.place = None  # the place from which the text repeats itself,
        self.end = 0  # when it had this many tokens


class _Draft:
    # Decides how long a draft is, and learns from what comes of it.
    def __init__(self, policy, most, right, trust):
        self.policy = policy
        self.most = most
        self.each = 0.0  # milliseconds that a guess takes
        self.right = right
        self.trust = trust

    def state(self, sequence):
        if sequence.drafts is None:
            sequence.drafts = _State(self.right)
        return sequence.drafts

    def size(self, state, room, others):
        # How many tokens to guess, of the kind in `state`.
        policy = self.policy
        most = min(room, self.most)
        step = policy.batch.predict(1 + others, 1 + others)
        left = state.credit + step * self.trust[state.kind]
        k = policy.draft_size(state.right[state.kind], most, self.each, others, left)
        if state.credit < _MOST * step:
            state.credit += _EARN * step
        return k

    def learn(self, sequence, drafted, accepted, others):
        """Learn how many of `drafted` tokens were right. others: other tokens of the step."""
        state = sequence.drafts
        for _ in range(accepted):
            self._learn(state, 1)
        if accepted < drafted:
            self._learn(state, 0)  # those behind the first wrong one say nothing
        base = 1 + others
        batch = self.policy.batch
        step = batch.predict(base, base)
        cost = batch.predict(base + drafted, base) - step + self.each * drafted
        # Without the draft, each token would have cost its part of a step.
        state.credit = min(_MOST * step, state.credit + accepted * step / base - cost)

    def _learn(self, state, right):
        kind = state.kind
        state.right[kind] += _LEARN * (right - state.right[kind])


class NgramDraft(_Draft):
    """Guesses that what followed the last n tokens earlier in the text follows them again, as in
    copying, editing and quoting. Needs no second model.
    """

    def __init__(self, policy, n=3, most=32):
        _Draft.__init__(self, policy, most, _RIGHT, _TRUST)
        self.n = n

    def draft(self, sequence, room, others=0):
        """Return at most `room` tokens that may come next, an empty list if nothing is known.
        others: tokens that the step has for other sequences.
        """
        state = self.state(sequence)
        tokens = sequence.tokens
        end = len(tokens)
        if state.place and not state.drafted:
            # The last step had no draft: learn whether its guess would have been right.
            self._learn(state, tokens[state.place] == tokens[state.end])
        state.drafted = 0
        same, at = self._find(state, tokens)
        if not same:
            return []
        state.kind = 0 if same < 4 else 1 if same < 8 else 2 if same < _SAME else 3
        state.drafted = k = self.size(state, room, others)
        period = end - at  # a guess that reaches the end of the text starts over
        return [tokens[at + i % period] for i in range(k)]

    def _find(self, state, tokens):
        # (how many of the last tokens stand before an earlier place too, that place). Candidates
        # are the place from which the text repeats itself, and the last where n tokens agree.
        n = self.n
        end = len(tokens)
        after = state.after
        for i in range(max(n, state.seen), end):
            after[tuple(tokens[i - n : i])] = i
        state.seen = end
        best = n - 1
        place = None
        going = state.place + end - state.end if state.place else 0
        for at in (going, after.get(tuple(tokens[end - n :]), 0)):
            same = 0
            while same < min(_SAME, at) and tokens[at - same - 1] == tokens[end - same - 1]:
                same += 1
            if same > best:
                best = same
                place = at
        state.place = place
        state.end = end
        return (best, place) if place else (0, 0)


class ModelDraft(_Draft):
    """Guesses by a small model with the same vocabulary.

    engine: its _engine.Engine, with as many sequences as the large model's; clock: milliseconds.
    """

    def __init__(self, policy, engine, clock, most=4):
        _Draft.__init__(self, policy, most, (0.75,), (2,))
        self.engine = engine
        self.clock = clock
        self._held = {}  # sequence number of the engine -> tokens in its cache
        self._sampler = engine.sampler({"temperature": 0})

    def draft(self, sequence, room, others=0):
        """Return tokens that may come next, as NgramDraft does."""
        state = self.state(sequence)
        fits = len(sequence.tokens) + self.most <= self.engine.n_ctx // 2
        k = self.size(state, room, others) if fits else 0
        if not k:
            state.right[0] += _FORGET * (self.right[0] - state.right[0])
            return []
        seq = sequence.holder.seq
        try:
            return self._guess(seq, sequence.tokens, k)
        except Lost:
            return []  # the model that drafts are for will notice too
        except RuntimeError:
            # No room, or stopped. Its cache can be computed again.
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
