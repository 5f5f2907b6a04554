"""Tokens that follow a grammar are chosen while the engine computes: order, fairness, cancelling,
preemption, the end of the server."""

import asyncio
import random
import time

import pytest
from fake_engine import Sampler
from serve.scheduling.errors import RequestError
from serve.scheduling.scheduler import Scheduler
from test_scheduler import Clients, idle, make, submit, text

GRAMMAR = {"grammar": "root ::= [a-z]*"}


@pytest.fixture(autouse=True)
def no_sampler_leaks():
    Sampler.open = 0
    yield
    assert Sampler.open == 0


class Beside:
    """A scheduler with an engine and samplers beside the loop.

    The token of a sampler takes as long as `takes` of its attributes says: decodes of the engine,
    or until there are none; None: for ever. act(n) is called during decode number n.
    """

    def __init__(self, act=None, **options):
        self.engine, plain = make(**options)
        self.act = act
        self.n_decodes = 0
        self.scheduler = Scheduler(self.engine, plain.bounds, plain.clock, ended=self.ended)

    async def ended(self, item):
        if item is self.engine:
            self.n_decodes += 1
            await asyncio.sleep(0)
            if self.act:
                self.act(self.n_decodes)
            return
        assert item.chosen is not None
        until = self.n_decodes + (item.takes or 0)
        last, since = self.n_decodes, time.monotonic()
        while item.takes is None or self.n_decodes < until:
            await asyncio.sleep(0)
            if last != self.n_decodes:
                last, since = self.n_decodes, time.monotonic()
            elif item.takes is not None and time.monotonic() > since + item.stall_s:
                break

    def submit(self, said, max_tokens=None, takes=0, known=True, **options):
        """A constrained request. known: the scheduler knows what its last token took."""
        sequence = submit(self.scheduler, said, max_tokens, sampling=GRAMMAR, **options)
        sequence.sampler.takes = takes
        sequence.sampler.stall_s = 0.001 if known else 0.02
        sequence.sampler.cost_us = 10**7 if known and takes != 0 else 0
        return sequence

    async def go(self, until=None, steps=10000):
        for _ in range(steps):
            if not self.scheduler.busy or until and until():
                return
            await self.scheduler.step()
        raise AssertionError("does not end")

    def run(self, until=None):
        asyncio.run(self.go(until))

    def idle(self):
        idle(self.engine, self.scheduler)


@pytest.mark.parametrize("known", [True, False])
def test_a_slow_token_holds_up_nobody(known):
    """The stream beside it has a token in every batch; the slow one has its own, in its cells."""
    beside = Beside()
    slow = beside.submit("abcdef|", takes=3, known=known)
    slow.sampler.stall_s = 0.5
    free = submit(beside.scheduler, "*xy|", 60)
    gaps = []
    last = 0

    async def go():
        nonlocal last
        while not slow.finished:
            before = free.n_generated
            await beside.scheduler.step()
            if free.n_generated > before:
                gaps.append(beside.n_decodes - last)
                last = beside.n_decodes
            if slow.sampling:
                assert len(beside.engine.kv[slow.holder.seq]) == len(slow.tokens)

    asyncio.run(go())
    assert text(slow) == "abcdef"
    assert max(gaps) == 1 and len(gaps) > 7 * 3
    beside.run()
    assert text(free) == "xy" * 30
    beside.idle()


def test_a_token_that_is_soon_chosen_is_waited_for():
    """As many batches as without a grammar: nobody's token comes a step late."""
    batches = []
    for constrained in (False, True):
        beside = Beside(n_ctx=512)
        ask = beside.submit if constrained else lambda said: submit(beside.scheduler, said)
        sequences = [ask("abcdefgh|"), ask("ijklmnop|"), submit(beside.scheduler, "qrstuvwx|")]
        beside.run()
        assert [text(s) for s in sequences] == ["abcdefgh", "ijklmnop", "qrstuvwx"]
        batches.append(beside.engine.batches)
        beside.idle()
    assert batches[0] == batches[1]


def test_probabilities_are_of_the_sampler_when_the_batch_is_gone():
    beside = Beside()
    slow = beside.submit("ab|", takes=2, n_probs=1)
    after = beside.submit("cd|", takes=2, n_probs=1, post_probs=True)
    free = submit(beside.scheduler, "*x|", 20)

    async def items(sequence):
        return [(item.text, item.probs) async for item in sequence]

    beside.run()
    found = asyncio.run(items(slow))
    assert found[:2] == [("a", (-0.5, [(97, -0.5)])), ("b", (-0.5, [(98, -0.5)]))]
    assert asyncio.run(items(after))[0] == ("c", (1.0, [(99, 1.0)]))
    assert text(free) == "x" * 20
    beside.idle()


@pytest.mark.parametrize("when", range(1, 14))
@pytest.mark.parametrize("cache", [False, True])
def test_cancel_while_its_token_is_chosen(when, cache):
    sampled = []

    def act(n):
        if n == when:
            sampled.append(slow.sampling is not None)
            slow.cancel()
            assert slow.sampling is None and slow.sampler.closed

    beside = Beside(act)
    slow = beside.submit("abcdefghijkl|", takes=2, cache=cache)
    free = submit(beside.scheduler, "*xy|", 30)
    beside.run()
    assert sampled and text(free) == "xy" * 15
    assert "abcdefghijkl".startswith(text(slow))
    beside.idle()


def test_a_client_that_leaves_while_nothing_else_runs():
    beside = Beside()
    clients = Clients()
    slow = beside.submit("abc|", takes=None, gone=clients.gone(0))

    async def go():
        task = asyncio.create_task(beside.go())
        while not slow.sampling:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        clients.left.add(0)
        await task

    asyncio.run(go())
    with pytest.raises(RequestError, match="closed the connection"):
        text(slow)
    beside.idle()


def test_its_time_may_end_while_its_token_is_chosen():
    beside = Beside(bounds={"request_s": 20})
    slow = beside.submit("abc|", takes=None)

    async def go():
        task = asyncio.create_task(beside.go())
        while not slow.sampling:
            await asyncio.sleep(0)
        beside.scheduler.clock.now += 20001
        await task

    asyncio.run(go())
    assert text(slow) == "" and slow.finish_reason == "length"
    beside.idle()


@pytest.mark.parametrize("known", [True, False])
def test_a_request_that_comes_while_only_tokens_are_chosen(known):
    beside = Beside()
    slow = beside.submit("abc|", takes=None, known=known)

    async def go():
        task = asyncio.create_task(beside.scheduler.run())
        while not slow.sampling:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        late = submit(beside.scheduler, "late|")
        vector = await beside.scheduler.embed([1, 2])
        assert vector[0] == 3
        assert "".join([item.text async for item in late]) == "late"
        slow.cancel()
        task.cancel()

    asyncio.run(asyncio.wait_for(go(), 10))
    beside.idle()


def test_nothing_spins_while_only_tokens_are_chosen():
    """Also with one in the queue, preempted or waiting for the slot."""
    beside = Beside(slots=1)
    slow = beside.submit("abc|", takes=None)
    waiting = submit(beside.scheduler, "x|")
    turns = 0
    plan = beside.scheduler._plan

    def counted():
        nonlocal turns
        turns += 1
        return plan()

    beside.scheduler._plan = counted

    async def go():
        task = asyncio.create_task(beside.scheduler.run())
        await asyncio.sleep(0.3)
        assert turns < 10 and slow.sampling
        beside.scheduler._requeue(slow)
        beside.scheduler.queue.remove(waiting)
        await asyncio.sleep(0.3)
        assert turns < 20 and slow.sampling and slow.holder is None
        beside.scheduler.queue.push(waiting)
        slow.cancel()
        waiting.cancel()
        task.cancel()

    asyncio.run(go())
    beside.idle()


def test_preempted_while_its_token_is_chosen():
    """A cache that is too small: what is chosen meanwhile counts, once."""
    beside = Beside(n_ctx=48, n_batch=8)
    texts = ["abcdefghijklm"[i:] + str(i) for i in range(8)]
    sequences = [beside.submit(t + "|", takes=i % 3) for i, t in enumerate(texts)]
    chosen = set()
    requeue = beside.scheduler._requeue

    def watched(sequence):
        chosen.add(sequence.sampling is not None)
        requeue(sequence)

    beside.scheduler._requeue = watched
    beside.run()
    assert [text(s) for s in sequences] == texts
    assert beside.scheduler.metrics.preemptions > 3 and chosen == {True, False}
    beside.idle()


def test_displaced_while_its_token_is_chosen():
    beside = Beside(slots=1)
    slow = beside.submit("abcdef|", takes=None, priority=1)

    async def go():
        task = asyncio.create_task(beside.go())
        while not slow.sampling:
            await asyncio.sleep(0)
        urgent = submit(beside.scheduler, "*xy|", 10)
        while not urgent.finished:
            await asyncio.sleep(0)
        assert slow.holder is None and slow.sampling
        slow.sampler.takes = 0
        await task
        return urgent

    urgent = asyncio.run(go())
    assert text(urgent) == "xy" * 5 and text(slow) == "abcdef"
    assert beside.scheduler.metrics.displaced == 1
    beside.idle()


def test_the_server_stops_while_tokens_are_chosen():
    beside = Beside()
    slow = beside.submit("abc|", takes=None)
    free = submit(beside.scheduler, "*xy|")

    async def go():
        task = asyncio.create_task(beside.scheduler.run())
        while free.n_generated < 5:
            await asyncio.sleep(0)
        chooses = slow.sampling.task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.CancelledError):
            await chooses
        assert slow.sampling is None

    asyncio.run(go())
    slow.cancel()
    free.cancel()
    beside.idle()


def test_an_error_of_a_slow_token_is_its_requests():
    beside = Beside()
    slow = beside.submit("abc|", takes=2)
    free = submit(beside.scheduler, "*xy|", 20)

    def fail():
        raise RuntimeError("the grammar is too ambiguous")

    slow.sampler.finish = fail
    beside.run()
    with pytest.raises(RequestError, match="allow no next token: the grammar is too") as info:
        text(slow)
    assert info.value.status == 400
    assert text(free) == "xy" * 10
    beside.idle()


@pytest.mark.parametrize("takes", [0, 1, 3])
def test_drafts_with_a_grammar(takes):
    """A slow token costs the rest of its draft where others wait, and no token changes."""
    beside = Beside(speculate=True, n_batch=32, n_ctx=512)
    beside.scheduler.policy.draft_size = lambda right, most, *_: min(most, 5)
    said = "abcabdabc"
    slow = beside.submit("*" + said + "|", 40, takes=takes)
    free = submit(beside.scheduler, "*xyxyz|", 40)
    beside.run()
    assert text(slow) == (said * 5)[:40] and text(free) == ("xyxyz" * 8)[:40]
    metrics = beside.scheduler.metrics
    assert metrics.drafted > metrics.accepted > 0
    assert slow.n_accepted > 10 or takes
    beside.idle()


def test_a_slow_token_alone_keeps_its_draft():
    beside = Beside(speculate=True, n_batch=32, n_ctx=512)
    beside.scheduler.policy.draft_size = lambda right, most, *_: min(most, 5)
    slow = beside.submit("*abcdefgh|", 64, takes=3)
    beside.run()
    assert text(slow) == "abcdefgh" * 8
    assert slow.n_accepted > 40
    beside.idle()


@pytest.mark.parametrize("seed", range(20))
def test_anything_while_tokens_are_chosen(seed):
    """Requests come and go at any moment, in a cache that is too small for all of them."""
    chance = random.Random(seed)
    sequences = []

    def add():
        said = "".join(chance.choice("abcd") for _ in range(chance.randrange(1, 30)))
        options = dict(
            cache=chance.random() < 0.7, client=chance.choice("xyz"), priority=chance.randrange(3)
        )
        if chance.random() < 0.6:
            sequence = beside.submit(
                said + "|",
                takes=chance.choice([0, 0, 1, 2, 5]),
                known=chance.random() < 0.9,
                **options,
            )
        else:
            sequence = submit(beside.scheduler, said + "|", **options)
        sequences.append((said, sequence))

    def act(n):
        if n < 150 and chance.random() < 0.4:
            add()
        if chance.random() < 0.1:
            chance.choice(sequences)[1].cancel()

    beside = Beside(act, slots=4, n_ctx=96, n_batch=8, speculate=chance.random() < 0.5)
    for _ in range(8):
        add()
    beside.run()
    for said, sequence in sequences:
        if sequence.finish_reason != "cancelled":
            assert text(sequence) == said
    assert beside.scheduler.metrics.finished["stop"] > 5
    beside.idle()
