"""The scheduler's promises, in simulated time: budgets, fairness, priorities, no starvation."""

import random

import pytest
from fake_engine import all_closed, forget, step
from serve.scheduling.errors import RequestError
from serve.scheduling.policy import FairQueue, Policy, StepCost
from test_scheduler import drain, idle, make, submit, text


@pytest.fixture(autouse=True)
def no_sampler_leaks():
    forget()
    yield
    assert all_closed()


@pytest.mark.parametrize("a, b", [(0, 5), (8, 0.5), (1000, 400), (0.1, 0.01)])
def test_cost_is_learned(a, b):
    cost = StepCost()
    for n in (1, 8, 1, 64, 1, 3):
        cost.observe(n, a + b * n)
    for n in (1, 10, 64):
        assert cost.predict(n) == pytest.approx(a + b * n, rel=0.01)


def test_cost_follows_a_machine_that_slows_down():
    cost = StepCost()
    for _ in range(50):
        for n in (1, 32):
            cost.observe(n, n)
    for _ in range(50):
        for n in (1, 32):
            cost.observe(n, 10 * n)
    assert cost.predict(32) == pytest.approx(320, rel=0.01)


def test_cost_survives_noise():
    rng = random.Random(1)
    cost = StepCost()
    for _ in range(1000):
        cost.observe(rng.randrange(1, 65), rng.random() * 100)
        a, b = cost.line()
        assert a >= 0 and b > 0


def test_budget_bounds_a_step_in_time():
    for a, b, step_ms, want in ((0, 1, 15, 15), (10, 4, 50, 10), (5, 0.001, 100, 64)):
        policy = Policy(64, 4, step_ms)
        for n in (1, 9, 2, 30):
            policy.cost.observe(n, a + b * n)
        assert policy.budget(1) == pytest.approx(want, abs=1)


@pytest.mark.parametrize(
    "single, block, step_ms, want",
    [
        (18, 9.5, 500, 64),  # a block takes longer than a step should, but is twice as quick
        (18, 17, 500, 27),  # it gains nothing
        (60, 30, 500, 8),  # it takes too long
        (5, 2.5, 500, 200),
        (122, 122, 500, 8),  # emulated
    ],
)
def test_a_block_of_attention(single, block, step_ms, want):
    """Steps are of 64 tokens where these cost so much less by the token that it is worth it."""
    policy = Policy(512, 4, step_ms)
    tried = 0
    for i in range(500):
        n = 1 if i % 3 else policy.budget(0)
        tried += n >= 64
        policy.observe(n, n if n > 1 else 0, n * (block if n >= 64 else single))
    assert policy.budget(0) == pytest.approx(want, abs=1)
    assert (tried > 50) if want >= 64 else (tried <= 5)


def test_what_was_known_of_large_steps_is_forgotten():
    policy = Policy(64, 4, 500)
    policy.observe(1, 0, 18)
    policy.observe(8, 8, 144)
    policy.observe(64, 64, 5000)  # the machine paused
    assert policy.budget(0) == 27
    for n in (1, 2) * 50:
        policy.observe(n, 0, 18 * n)  # says nothing of prompts
    assert policy.budget(0) == 27
    for _ in range(16):
        policy.observe(27, 27, 486)
    assert policy.budget(0) == 64


def test_prompts_get_on_where_a_token_takes_longer_than_a_step_should():
    policy = Policy(64, 4, 500, min_chunk=8)
    policy.cost.observe(1, 3000)
    policy.cost.observe(4, 12000)
    assert policy.budget(3) == 3 + 8
    assert Policy(6, 4).budget(4) == 6  # never more than a batch


@pytest.mark.parametrize(
    "budget, wants, shares",
    [
        (10, [100, 100], [5, 5]),
        (10, [2, 100], [2, 8]),
        (10, [1, 2, 100], [1, 2, 7]),
        (2, [5, 5, 5], [1, 1, 0]),
        (10, [], []),
        (0, [5], [0]),
        (100, [5, 6], [5, 6]),
    ],
)
def test_share(budget, wants, shares):
    assert Policy(64, 4).share(budget, wants) == shares


def test_share_is_never_more_than_there_is():
    rng = random.Random(2)
    for _ in range(2000):
        wants = [rng.randrange(40) for _ in range(rng.randrange(6))]
        budget = rng.randrange(80)
        shares = Policy(64, 4).share(budget, wants)
        assert sum(shares) == min(budget, sum(wants))
        assert all(0 <= share <= want for share, want in zip(shares, wants))


def test_draft_size():
    policy = Policy(64, 4)
    assert policy.draft_size(1.0, 31) == 0  # nothing is known of what it costs
    policy.observe(64, 64, 128)
    policy.observe(1, 0, 10)  # at best, five tokens of a batch for the price of one alone
    assert policy.draft_size(0.0, 31) == 0
    assert policy.draft_size(1.0, 31) == 31
    assert policy.draft_size(1.0, 9) == 9
    assert policy.draft_size(1.0, 31, left=7) == 3
    assert 0 < policy.draft_size(0.6, 31) < 15
    assert policy.draft_size(0.9, 31, each=20) == 0  # guessing takes longer than computing
    dear = Policy(64, 4)
    for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        dear.observe(n, 0, 10 * n)
    assert dear.draft_size(0.99, 31) == 0  # a token costs what it costs


def test_what_a_batch_costs_is_learned_size_by_size():
    """As on a CPU: two and three tokens gain nothing, four do."""
    policy = Policy(64, 4)
    cost = {1: 17, 2: 32, 3: 47, 4: 49, 6: 65, 8: 81}
    policy.observe(64, 64, 64 * 9)
    policy.observe(1, 0, cost[1])
    tried = []
    for _ in range(12):
        k = policy.draft_size(0.95, 7)
        tried.append(k)
        policy.observe(1 + k, 0, cost[1 + k])
    assert tried[-1] in (5, 7)  # 3.7 and 4.7 times the price of one
    assert policy.draft_size(0.5, 7) == 0
    assert policy.draft_size(0.95, 2) in (1, 2)
    # A size that looked bad once, long ago, is tried again.
    policy.observe(2, 0, 300)
    assert policy.draft_size(0.95, 1) == 0
    for _ in range(1000):
        policy.observe(1, 0, cost[1])
    assert policy.draft_size(0.95, 1) == 1


def test_a_batch_is_held_back_for_a_step_at_most():
    policy = Policy(n_batch=64, n_slots=4)
    assert policy.patience() == 5  # nothing is known
    policy.observe(8, 0, 40)
    assert policy.patience() == 40
    policy.observe(8, 0, 2)
    assert policy.patience() == 5
    policy.observe(64, 60, 900)
    assert policy.patience() == 200


class Request:
    number = 0

    def __init__(self, client="a", priority=0, t_submit=0):
        Request.number += 1
        self.number = Request.number
        self.t_submit = t_submit
        self.after = None
        self.sampling = None
        self.options = self
        self.client = client
        self.priority = priority


def test_queue_order():
    queue = FairQueue()
    requests = [Request(priority=p) for p in (1, 0, 1, 0, -1)]
    for request in requests:
        queue.enter("a")
        queue.push(request)
    order = []
    while len(queue):
        order.append(queue.next(0))
        queue.remove(order[-1])
    assert order == [requests[i] for i in (4, 1, 3, 0, 2)]


def test_queue_serves_who_had_least():
    queue = FairQueue()
    greedy = [Request("greedy") for _ in range(5)]
    modest = Request("modest")
    for request in greedy + [modest]:
        queue.enter(request.client)
        queue.push(request)
    queue.remove(greedy[0])
    queue.charge("greedy", 100)
    assert queue.next(0) is modest
    queue.remove(modest)
    queue.charge("modest", 200)
    assert queue.next(0) is greedy[1]


def test_leaving_and_coming_back_gains_nothing():
    queue = FairQueue()
    for client in ("a", "b"):
        queue.enter(client)
    queue.charge("a", 1000)
    queue.charge("b", 10)
    queue.leave("a")
    queue.enter("a")
    a, b = Request("a"), Request("b")
    queue.push(a)
    queue.push(b)
    assert queue.next(0) is b


def test_a_new_client_owes_nothing_and_is_owed_nothing():
    queue = FairQueue()
    queue.enter("old")
    queue.charge("old", 10**6)
    queue.enter("new")
    old, new = Request("old"), Request("new")
    queue.push(old)
    queue.push(new)
    assert queue.next(0) is old  # both have had the same since "new" came


def test_waiting_makes_urgent():
    queue = FairQueue(aging_ms=1000)
    low = Request(priority=3, t_submit=0)
    queue.enter("a")
    queue.push(low)
    for now in range(0, 10000, 100):
        high = Request(priority=0, t_submit=now)
        queue.enter("a")
        queue.push(high)
        first = queue.next(now)
        if first is low:
            break
        queue.remove(first)
    assert first is low and now == 3000


def test_a_client_with_many_requests_does_not_crowd_out_another():
    engine, scheduler = make(slots=2)
    greedy = [submit(scheduler, "abcdefgh|", client="greedy") for _ in range(20)]
    for _ in range(20):
        step(scheduler)
    modest = [submit(scheduler, "abcdefgh|", client="modest") for _ in range(5)]
    while not all(s.finished for s in modest):
        step(scheduler)
    # They had as much as the other meanwhile, not their turn after all of it.
    assert sum(s.finished for s in greedy) <= 12
    drain(scheduler)
    idle(engine, scheduler)


def test_a_running_stream_waits_for_no_prompt():
    """The gap between two tokens stays near step_ms while a long prompt arrives."""
    engine, scheduler = make(a=5, b=2, n_ctx=4096, n_batch=512, slots=2, bounds={"step_ms": 100})
    stream = submit(scheduler, "*ab|", 2000)
    for _ in range(20):
        step(scheduler)
    long = submit(scheduler, "x" * 2000 + "|", 1)
    gaps = []
    while not long.finished:
        before = scheduler.clock.now
        n = stream.n_generated
        step(scheduler)
        assert stream.n_generated > n
        gaps.append(scheduler.clock.now - before)
    assert max(gaps) <= 140 and sum(gaps) < 5 * len(gaps) + 2 * 2001 + 200 * 3
    stream.cancel()


def test_streams_go_at_one_rate():
    engine, scheduler = make(slots=4, n_ctx=2048)
    streams = [submit(scheduler, "*a|", 200) for _ in range(4)]
    for _ in range(100):
        step(scheduler)
    counts = [s.n_generated for s in streams]
    assert max(counts) - min(counts) <= 1
    for stream in streams:
        stream.cancel()


def test_an_urgent_request_takes_a_slot():
    engine, scheduler = make(slots=2)
    low = [submit(scheduler, "*ab|", 60, priority=5) for _ in range(2)]
    for _ in range(5):
        step(scheduler)
    urgent = submit(scheduler, "now|", priority=0)
    same = submit(scheduler, "later|", priority=5)
    while not urgent.finished:
        step(scheduler)
        assert same.t_start is None
    assert scheduler.metrics.displaced == 1 and not scheduler.metrics.preemptions
    drain(scheduler)
    assert text(urgent) == "now" and [text(s) for s in low] == ["ab" * 30] * 2
    idle(engine, scheduler)


def test_per_client_limit():
    engine, scheduler = make(bounds={"per_client": 2})
    mine = [submit(scheduler, "*a|", client="me") for _ in range(2)]
    with pytest.raises(RequestError) as info:
        submit(scheduler, "a|", client="me")
    assert info.value.status == 429 and "Retry-After" in info.value.headers
    submit(scheduler, "a|", client="you")
    mine[0].cancel()
    submit(scheduler, "a|", client="me")
    mine[1].cancel()
    drain(scheduler)
    idle(engine, scheduler)


def test_time_limits():
    engine, scheduler = make(slots=1, b=100, n_ctx=100000, bounds={"request_s": 20, "queue_s": 5})
    first = submit(scheduler, "*ab|")
    second = submit(scheduler, "b|")
    drain(scheduler)
    assert first.finish_reason == "length" and 150 < first.n_generated < 250
    with pytest.raises(RequestError, match="waited too long") as info:
        text(second)
    assert info.value.status == 503
    limited = submit(scheduler, "*ab|", t_max_predict_ms=1000)
    drain(scheduler)
    assert limited.finish_reason == "length" and limited.n_generated <= 13
    idle(engine, scheduler)


def test_a_silent_request_is_nudged():
    engine, scheduler = make(slots=1, b=1000)
    submit(scheduler, "*ab|", 60)
    waiting = submit(scheduler, "b|")
    for _ in range(30):
        step(scheduler)
    assert waiting.silent and waiting.event.is_set()
    drain(scheduler)


def test_answers_of_one_prompt_share_it():
    engine, scheduler = make(n_batch=64)
    prompt = "shared words of a long prompt, that is|"
    first = submit(scheduler, prompt)
    others = [submit(scheduler, prompt, after=first) for _ in range(3)]
    drain(scheduler)
    assert {text(s) for s in [first, *others]} == {prompt[:-1]}
    assert all(s.n_cached == 36 for s in others) and first.n_cached == 0
    idle(engine, scheduler)


def test_others_go_on_when_the_first_of_them_is_cancelled():
    engine, scheduler = make()
    first = submit(scheduler, "hello|")
    other = submit(scheduler, "hello|", after=first)
    first.cancel()
    drain(scheduler)
    assert text(other) == "hello"
    idle(engine, scheduler)


def test_drafts_of_repetition():
    """Copying is guessed: fewer steps, the same tokens; nothing of a wrong guess stays."""
    answers = []
    steps = []
    for speculate in (False, True):
        engine, scheduler = make(a=10, b=0.1, n_ctx=2000, n_batch=32, speculate=speculate)
        sequence = submit(scheduler, "*abcd|", 300)
        drain(scheduler)
        answers.append(text(sequence))
        steps.append(scheduler.metrics.n_decode)
        idle(engine, scheduler)
    assert answers[0] == answers[1] and steps[1] < steps[0] / 4
    assert sequence.n_accepted == scheduler.metrics.accepted > 200


def test_drafts_that_are_wrong():
    engine, scheduler = make(a=10, b=0.1, n_ctx=2000, n_batch=32, speculate=True)
    rng = random.Random(3)
    letters = "".join(rng.choice("ab") for _ in range(300))
    sequence = submit(scheduler, letters + "|")
    drain(scheduler)
    assert text(sequence) == letters
    assert 0 < scheduler.metrics.accepted < scheduler.metrics.drafted
    idle(engine, scheduler)


def test_no_drafts_under_load():
    engine, scheduler = make(a=10, b=0.1, n_ctx=4000, n_batch=32, speculate=True)
    streams = [submit(scheduler, "*abcd|", 100) for _ in range(4)]
    while not any(s.finished for s in streams):
        step(scheduler)
    assert scheduler.metrics.drafted == 0
    drain(scheduler)


def test_drafts_as_long_as_the_request_allows():
    """speculative.n_max: 0 turns them off, for this request alone."""
    engine, scheduler = make(a=10, b=0.1, n_ctx=4000, n_batch=32, speculate=True)
    none = submit(scheduler, "*abcd|", 100, n_draft=0)
    drain(scheduler)
    assert none.n_drafted == scheduler.metrics.drafted == 0
    two = submit(scheduler, "*abcd|", 100, n_draft=2)
    drain(scheduler)
    assert text(two) == text(none)
    assert two.n_accepted > 50 and len(scheduler.metrics.accepted_at) == 2
    idle(engine, scheduler)


def test_drafts_end_where_the_answer_does():
    engine, scheduler = make(a=10, b=0.1, n_ctx=60, n_batch=32, speculate=True)
    limited = submit(scheduler, "*ab|", 20)
    drain(scheduler)
    assert text(limited) == "ab" * 10 and limited.n_generated == 20
    full = submit(scheduler, "*ab|")
    drain(scheduler)
    assert len(full.tokens) == 60
    stopped = submit(scheduler, "*abc|", 50, ["bcabca"])
    drain(scheduler)
    assert text(stopped) == "a"
    idle(engine, scheduler)


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("cells", [64, 200, 2000])
def test_random_traffic_with_everything(speculate, cells):
    """Priorities, clients, salts, repeated prompts, cancels at any time, a cache of any size."""
    rng = random.Random(cells)
    engine, scheduler = make(
        a=3, b=1, n_ctx=cells, n_batch=16, slots=4, queue=20, speculate=speculate
    )
    alive = []
    finished = 0
    bodies = ["".join(rng.choice("abc") for _ in range(rng.randrange(1, 25))) for _ in range(12)]
    for _ in range(3000):
        if rng.random() < 0.3:
            body = rng.choice(bodies)
            try:
                sequence = submit(
                    scheduler,
                    body + "|",
                    client=rng.choice("xyz"),
                    priority=rng.randrange(3),
                    salt=rng.choice(["", "s"]),
                    cache=rng.random() < 0.9,
                )
                alive.append((body, sequence))
            except RequestError as exc:
                assert exc.status == 503
        if alive and rng.random() < 0.05:
            alive.pop(rng.randrange(len(alive)))[1].cancel()
        step(scheduler)
        cache = scheduler.cache
        assert cache.used == engine.used() and 0 <= cache.pinned <= cache.used <= engine.n_ctx
        for item in list(alive):
            if item[1].finished:
                assert text(item[1]) == item[0]
                alive.remove(item)
                finished += 1
    assert finished > 60
    # All of it was met, not only asked for.
    metrics = scheduler.metrics
    assert metrics.displaced and cache.n_hits
    assert bool(metrics.preemptions) == (cells == 64)
    assert bool(metrics.accepted) == speculate
    drain(scheduler)
    idle(engine, scheduler)
