"""Batching against a fake engine: answers, fairness, budgets, preemption, cancel, errors."""

import asyncio
import random

import pytest
from fake_engine import FakeEngine, all_closed, forget, step
from serve.scheduling.errors import RequestError
from serve.scheduling.scheduler import Bounds, Scheduler
from serve.scheduling.sequence import Options


class Clock:
    """Simulated milliseconds: only the engine spends any."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def make(slots=4, queue=64, a=0, b=1, speculate=False, kept_cells=None, bounds=None, **options):
    """A scheduler on a fake engine whose decode of n tokens takes a + b * n milliseconds."""
    engine = FakeEngine(n_seq=2 * slots, **options)
    limits = dict(slots=slots, queue=queue, speculate=speculate, kept_cells=kept_cells)
    scheduler = Scheduler(engine, Bounds(**limits, **(bounds or {})), Clock())

    def spend(n):
        scheduler.clock.now += a + b * n

    engine.on_decode = spend
    return engine, scheduler


def submit(scheduler, text, max_tokens=None, stop=(), sampling=None, after=None, **options):
    options = Options(max_tokens=max_tokens, stop=stop, **options)
    return scheduler.submit(scheduler.engine.tokenize(text), sampling, options, after=after)


def drain(scheduler, limit=10000):
    for _ in range(limit):
        if not scheduler.busy:
            return
        step(scheduler)
    raise AssertionError("does not end")


def text(sequence):
    """All text of a finished sequence; raises its error."""

    async def go():
        return "".join([item.text async for item in sequence])

    return asyncio.run(go())


def idle(engine, scheduler):
    """Nothing is left of any request but prefixes, and the books are right."""
    cache = scheduler.cache
    assert not scheduler.busy and not cache.pinned and cache.used == engine.used()
    cache.flush()
    assert engine.kv == [[] for _ in range(engine.n_seq)]
    assert cache.used == 0 and not cache._keys and not cache._where
    assert sorted(cache._free) == list(range(engine.n_seq))
    assert not scheduler.queue._active
    assert all_closed()


@pytest.fixture(autouse=True)
def no_sampler_leaks():
    forget()
    yield
    assert all_closed()


def test_one():
    engine, scheduler = make()
    sequence = submit(scheduler, "hello|")
    drain(scheduler)
    assert text(sequence) == "hello"
    assert sequence.finish_reason == "stop" and sequence.stop_word is None
    assert (sequence.n_prompt, sequence.n_generated) == (6, 6)  # the end token counts
    timings = sequence.timings()
    assert timings["prompt_n"] == 6 and timings["predicted_n"] == 6
    assert timings["prompt_ms"] == 6 and timings["predicted_ms"] == 5  # a millisecond a token
    idle(engine, scheduler)


def test_many_at_once_do_not_mix():
    engine, scheduler = make(n_ctx=400, n_batch=8, slots=3)
    texts = ["%d-%s" % (i, "abcdefghij"[: i % 10]) for i in range(20)]
    sequences = [submit(scheduler, t + "|") for t in texts]
    drain(scheduler)
    assert [text(s) for s in sequences] == texts
    assert any(len(batch) == 3 for batch in engine.batches)
    idle(engine, scheduler)


def test_budget_and_decoding_first():
    """A long prompt is cut, and a stream beside it gets its token in every batch."""
    engine, scheduler = make(n_batch=8, slots=2)
    stream = submit(scheduler, "*ab|", 60)
    for _ in range(3):
        step(scheduler)
    engine.batches.clear()
    long = submit(scheduler, "x" * 100 + "|", 1)
    before = stream.n_generated
    steps = 0
    while not long.finished:
        step(scheduler)
        steps += 1
    assert steps == 15  # 101 tokens, 7 in each batch
    assert stream.n_generated == before + steps
    assert all(sum(n for _, n in batch) <= 8 for batch in engine.batches)
    stream.cancel()


def test_first_come_first_served():
    engine, scheduler = make(slots=1)
    order = []
    sequences = [submit(scheduler, "%d|" % i) for i in range(5)]
    while not all(s.finished for s in sequences):
        step(scheduler)
        order += [s for s in sequences if s.finished and s not in order]
    assert order == sequences


def test_a_small_request_does_not_overtake_a_large_one_for_ever():
    engine, scheduler = make(n_ctx=64, n_batch=8, slots=2)
    submit(scheduler, "*a|", 20)
    large = submit(scheduler, "y" * 59 + "|", 2)
    small = [submit(scheduler, "z|") for _ in range(10)]
    while large.t_start is None:
        step(scheduler)
        assert large.t_start is not None or not any(s.t_start is not None for s in small)
    drain(scheduler)
    assert text(large) == "yy" and [text(s) for s in small] == ["z"] * 10
    idle(engine, scheduler)


def test_max_tokens():
    engine, scheduler = make()
    sequence = submit(scheduler, "hello|", 3)
    zero = submit(scheduler, "hello|", 0)
    drain(scheduler)
    assert text(sequence) == "hel" and sequence.finish_reason == "length"
    assert text(zero) == "" and zero.finish_reason == "length" and zero.n_generated == 0
    idle(engine, scheduler)


def test_context_full_is_length():
    engine, scheduler = make(n_ctx=32)
    sequence = submit(scheduler, "*abc|")
    drain(scheduler)
    assert sequence.finish_reason == "length"
    assert len(sequence.tokens) == 32
    idle(engine, scheduler)


def test_too_long_prompt():
    engine, scheduler = make(n_ctx=32)
    with pytest.raises(RequestError) as info:
        submit(scheduler, "a" * 32)
    assert info.value.status == 400
    assert info.value.fields == {
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 32,
        "n_ctx": 32,
    }
    sequence = submit(scheduler, "a" * 30 + "|")
    drain(scheduler)
    assert text(sequence) == "a" and sequence.finish_reason == "length"


def test_empty_prompt_and_bad_tokens():
    engine, scheduler = make()
    assert text(scheduler.submit([])) == ""
    for bad in ([-1], [258], [1, 10**9]):
        with pytest.raises(RequestError) as info:
            scheduler.submit(bad)
        assert info.value.status == 400
    with pytest.raises(RequestError, match="evil"):
        scheduler.submit([1], {"top_k": 666})


@pytest.mark.parametrize(
    "stop, want",
    [(["lo"], "hel"), (["l"], "he"), (["xx", "ell"], "h"), (["h"], ""), (["zz"], "hello")],
)
def test_stop_strings(stop, want):
    engine, scheduler = make()
    sequence = submit(scheduler, "hello|", None, stop)
    drain(scheduler)
    assert text(sequence) == want and sequence.finish_reason == "stop"
    assert sequence.stop_word == (None if want == "hello" else stop[-1])


def test_held_back_text_is_sent_at_the_end():
    engine, scheduler = make()
    sequence = submit(scheduler, "hello|", 4, ["loX"])
    drain(scheduler)
    assert text(sequence) == "hell" and sequence.finish_reason == "length"


def test_characters_of_several_tokens():
    engine, scheduler = make()
    sequence = submit(scheduler, "é€😀|")
    cut = submit(scheduler, "€|", 2)
    drain(scheduler)
    assert text(sequence) == "é€😀"
    assert text(cut) == ""


def test_queue_is_bounded():
    engine, scheduler = make(slots=1, queue=2)
    first = submit(scheduler, "*a|")
    step(scheduler)
    waiting = [submit(scheduler, "b|") for _ in range(2)]
    with pytest.raises(RequestError) as info:
        submit(scheduler, "c|")
    assert info.value.status == 503 and int(info.value.headers["Retry-After"]) >= 1
    waiting[0].cancel()
    submit(scheduler, "c|").cancel()
    first.cancel()
    drain(scheduler)
    idle(engine, scheduler)


def test_preemption_changes_no_answer():
    """A cache that never holds all: requests lose it and compute again."""
    engine, scheduler = make(n_ctx=48, n_batch=8, slots=4)
    texts = ["abcdefghijklm"[i:] + str(i) for i in range(8)]
    sequences = [submit(scheduler, t + "|") for t in texts]
    drain(scheduler)
    assert [text(s) for s in sequences] == texts
    assert scheduler.metrics.preemptions > 3
    idle(engine, scheduler)


def test_cancel_at_every_point():
    for when in range(40):
        engine, scheduler = make(n_ctx=64, n_batch=4, slots=2)
        texts = ["abcdefg", "hijklmnop", "qrstuvw"]
        sequences = [submit(scheduler, t + "|") for t in texts]
        for _ in range(when):
            step(scheduler)
        for victim in range(3):
            if when % 3 == victim:
                sequences[victim].cancel()
                sequences[victim].cancel()
        drain(scheduler)
        for i, t in enumerate(texts):
            if i != when % 3:
                assert text(sequences[i]) == t
        idle(engine, scheduler)


class Clients:
    """Clients by number, and who of them has left."""

    def __init__(self):
        self.left = set()

    def gone(self, number):
        return lambda: number in self.left


def test_clients_that_leave_are_dismissed_wherever_they_are():
    for when in range(12):
        engine, scheduler = make(n_ctx=64, n_batch=4, slots=2)
        clients = Clients()
        texts = ["abcdefg", "hijklmnop", "qrstuvw"]
        sequences = [submit(scheduler, t + "|", gone=clients.gone(i)) for i, t in enumerate(texts)]
        for _ in range(when):
            step(scheduler)
        assert not sequences[when % 3].finished
        clients.left.add(when % 3)
        step(scheduler)
        with pytest.raises(RequestError) as info:
            text(sequences[when % 3])
        assert info.value.status == 499
        drain(scheduler)
        for i, t in enumerate(texts):
            if i != when % 3:
                assert text(sequences[i]) == t
        assert scheduler.metrics.finished == {"abort": 1, "stop": 2}
        idle(engine, scheduler)


def leave_in_a_decode(engine, scheduler, clients, numbers):
    """In the next decode these clients leave, and the network tells."""
    spend = engine.on_decode

    def leave(n):
        spend(n)
        clients.left.update(numbers)
        engine.on_decode = spend
        scheduler.look()

    engine.on_decode = leave


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_decode_for_nobody_is_stopped(steps):
    """In the first chunk of the prompt, in a later one, and while generating."""
    engine, scheduler = make(n_batch=8)
    clients = Clients()
    sequence = submit(scheduler, "*abcdefghijklmnopqrstuvwxyz|", gone=clients.gone(0))
    for _ in range(steps):
        step(scheduler)
    leave_in_a_decode(engine, scheduler, clients, [0])
    step(scheduler)
    assert len(engine.batches) == steps and not scheduler.busy
    with pytest.raises(RequestError, match="closed the connection"):
        text(sequence)
    same = submit(scheduler, "abcdefghijklmnopqrstuvwxyz|")
    drain(scheduler)
    assert text(same) == "abcdefghijklmnopqrstuvwxyz"
    idle(engine, scheduler)


def test_a_decode_that_somebody_waits_for_goes_on():
    engine, scheduler = make(n_batch=8)
    clients = Clients()
    gone = [submit(scheduler, c * 5 + "|", gone=clients.gone(i)) for i, c in enumerate("ab")]
    stays = submit(scheduler, "ccccc|", gone=clients.gone(2))
    by_hand = submit(scheduler, "ddddd|")  # of user code, which never leaves
    for first in (stays, by_hand):
        leave_in_a_decode(engine, scheduler, clients, [0, 1])
        before = len(engine.batches)
        step(scheduler)
        assert len(engine.batches) == before + 1
        assert first.computed
    drain(scheduler)
    assert text(stays) == "ccccc" and text(by_hand) == "ddddd"
    assert all(s.finished for s in gone)
    scheduler.look()  # nothing is computed: nothing to stop
    idle(engine, scheduler)


class Meanwhile:
    """A scheduler whose engine computes beside the loop; act(n) runs during decode number n."""

    def __init__(self, act, **options):
        engine, plain = make(**options)
        self.act = act
        self.n_decodes = 0
        self.engine = engine
        self.scheduler = Scheduler(engine, plain.bounds, plain.clock, ended=self.ended)

    async def ended(self, engine):
        assert engine.started
        self.n_decodes += 1
        await asyncio.sleep(0)
        self.act(self.n_decodes)

    def run(self, steps=10000):
        async def go():
            for _ in range(steps):
                if not self.scheduler.busy:
                    return
                await self.scheduler.step()
            raise AssertionError("does not end")

        asyncio.run(go())


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("when", range(1, 8))
def test_cancel_while_the_engine_computes(when, cache):
    """The cells are being written: they are free once that has ended."""

    def act(n):
        if n == when:
            sequences[when % 3].cancel()
            assert sequences[when % 3] not in beside.scheduler.running

    beside = Meanwhile(act, n_batch=8)
    texts = ["abcdefgh", "ijklmnop", "qrstuvwx"]
    sequences = [submit(beside.scheduler, t + "|", cache=cache, client=t) for t in texts]
    beside.run()
    for i, t in enumerate(texts):
        said = text(sequences[i])
        assert t.startswith(said) if i == when % 3 else said == t
    assert beside.scheduler.metrics.finished == {"abort": 1, "stop": 2}
    idle(beside.engine, beside.scheduler)


def test_submit_while_the_engine_computes():
    late = []

    def act(n):
        if n <= 5:
            late.append(submit(beside.scheduler, "late %d|" % n))

    beside = Meanwhile(act, slots=2)
    first = submit(beside.scheduler, "first one|")
    beside.run()
    assert text(first) == "first one"
    assert [text(s) for s in late] == ["late %d" % n for n in range(1, 6)]
    idle(beside.engine, beside.scheduler)


def test_all_cancelled_while_the_engine_fails():
    def act(_):
        beside.engine.cells = 0
        for sequence in sequences:
            sequence.cancel()

    beside = Meanwhile(act)
    sequences = [submit(beside.scheduler, "ab|"), submit(beside.scheduler, "cd|")]
    beside.run()
    assert beside.scheduler.metrics.finished == {"abort": 2}
    idle(beside.engine, beside.scheduler)


def test_the_server_stops_while_the_engine_computes():
    async def go():
        task = asyncio.create_task(beside.scheduler.run())
        submit(beside.scheduler, "*ab|")
        while not beside.engine.started:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    beside = Meanwhile(lambda _: None)
    asyncio.run(go())
    assert beside.engine.stop and not beside.engine.started
    for sequence in list(beside.scheduler.running):
        sequence.cancel()
    idle(beside.engine, beside.scheduler)


@pytest.mark.parametrize("seed", range(20))
def test_anything_while_the_engine_computes(seed):
    """Requests come and go at any moment, in a cache that is too small for all of them."""
    chance = random.Random(seed)
    sequences = []

    def add():
        length = chance.randrange(1, 30)
        said = "".join(chance.choice("abcd") for _ in range(length))
        sequences.append(
            (
                said,
                submit(
                    beside.scheduler,
                    said + "|",
                    cache=chance.random() < 0.7,
                    client=chance.choice("xyz"),
                    priority=chance.randrange(3),
                ),
            )
        )

    def act(n):
        if n < 150 and chance.random() < 0.4:
            add()
        if chance.random() < 0.1:
            chance.choice(sequences)[1].cancel()

    beside = Meanwhile(act, slots=4, n_ctx=96, n_batch=8, speculate=chance.random() < 0.5)
    for _ in range(8):
        add()
    beside.run()
    for said, sequence in sequences:
        if sequence.finish_reason != "cancelled":
            assert text(sequence) == said
    assert beside.scheduler.metrics.finished["stop"] > 5
    idle(beside.engine, beside.scheduler)


def test_an_error_costs_only_its_own_request():
    engine, scheduler = make()
    engine.poison = ord("!")
    good = submit(scheduler, "good|")
    bad = submit(scheduler, "ba!d|")
    fine = submit(scheduler, "fine|")
    drain(scheduler)
    assert text(good) == "good" and text(fine) == "fine"
    with pytest.raises(RequestError, match="poisoned") as info:
        text(bad)
    assert info.value.status == 500 and info.value.fields["type"] == "server_error"
    idle(engine, scheduler)


def test_a_request_for_which_memory_runs_out_may_come_again():
    engine, scheduler = make()
    finish = engine.finish

    def finish_or_not():
        batch = engine.started
        if batch and ord("!") in batch[0]:
            engine.started = None
            raise MemoryError("failed to allocate CPU buffer of size 13436672")
        return finish()

    engine.finish = finish_or_not
    good = submit(scheduler, "good|")
    bad = submit(scheduler, "ba!d|")
    drain(scheduler)
    assert text(good) == "good"
    with pytest.raises(RequestError, match="out of memory") as info:
        text(bad)
    assert info.value.status == 503 and info.value.headers["Retry-After"]
    idle(engine, scheduler)


def test_a_cache_smaller_than_reckoned():
    """Cells were lost without the scheduler's knowledge: all that fit alone still end."""
    engine, scheduler = make(n_ctx=200)
    engine.cells = 64
    texts = [c * 20 for c in "abcd"]
    sequences = [submit(scheduler, t + "|") for t in texts]
    large = submit(scheduler, "e" * 80 + "|")
    drain(scheduler)
    assert [text(s) for s in sequences] == texts
    with pytest.raises(RequestError, match="Context size has been exceeded"):
        text(large)
    assert scheduler.metrics.preemptions
    idle(engine, scheduler)


def test_a_sampler_that_fails():
    engine, scheduler = make()
    bad = submit(scheduler, "bad|")
    good = submit(scheduler, "good|")

    def fail(index):
        raise ValueError("sampler")

    bad.sampler.sample = fail
    drain(scheduler)
    assert text(good) == "good"
    with pytest.raises(RequestError, match="sampler"):
        text(bad)
    idle(engine, scheduler)


def test_a_dead_engine_ends_everything_once():
    reasons = []
    engine = FakeEngine(n_seq=4)
    scheduler = Scheduler(engine, Bounds(slots=2), Clock(), reasons.append)
    sequences = [submit(scheduler, "*a|") for _ in range(5)]
    step(scheduler)
    engine.dead = True
    drain(scheduler)
    for sequence in sequences:
        with pytest.raises(RequestError):
            text(sequence)
    assert reasons == ["the engine failed: dead"]
    with pytest.raises(RequestError) as info:
        submit(scheduler, "a|")
    assert info.value.status == 503


def test_run_sleeps_without_work_and_wakes():
    async def go():
        engine, scheduler = make()
        task = asyncio.create_task(scheduler.run())
        await asyncio.sleep(0.01)
        assert scheduler.metrics.n_decode == 0
        sequences = [submit(scheduler, t + "|") for t in ("one", "three")]
        got = await asyncio.gather(*[collect(s) for s in sequences])
        assert got == ["one", "three"]
        steps = scheduler.metrics.n_decode
        await asyncio.sleep(0.01)
        assert scheduler.metrics.n_decode == steps
        task.cancel()

    async def collect(sequence):
        return "".join([item.text async for item in sequence])

    asyncio.run(go())


def test_random_traffic():
    rng = random.Random(5)
    engine, scheduler = make(n_ctx=120, n_batch=8, slots=4, queue=10)
    alive = []
    finished = 0
    for _ in range(6000):
        if rng.random() < 0.15:
            body = "".join(rng.choice("abcdef") for _ in range(rng.randrange(1, 40)))
            try:
                alive.append((body, submit(scheduler, body + "|")))
            except RequestError as exc:
                assert exc.status == 503
        if alive and rng.random() < 0.02:
            alive.pop(rng.randrange(len(alive)))[1].cancel()
        step(scheduler)
        for item in list(alive):
            if item[1].finished:
                assert text(item[1]) == item[0]
                alive.remove(item)
                finished += 1
    assert finished > 200 and scheduler.metrics.preemptions
    drain(scheduler)
    idle(engine, scheduler)
