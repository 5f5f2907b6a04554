"""Turns among clients, and the budget of one request."""

import asyncio

import pytest
from serve.scheduling.errors import RequestError
from serve.scheduling.preparation import Preparation, Turns


class Job:
    def __init__(self, result, ms):
        self.result = result
        self._ms = ms
        self.closed = False

    def ms(self):
        return self._ms

    def finish(self):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def close(self):
        self.closed = True


class Engine:
    """Jobs that take `ms` each and give, or raise, `result`."""

    def __init__(self, result, ms):
        self.result = result
        self.cost = ms
        self.jobs = []
        self.allowed = []

    def start_chat(self, request, ms):
        self.allowed.append(ms)
        self.jobs.append(Job(self.result, self.cost))
        return self.jobs[-1]

    def tokenize(self, text, add_special, parse_special):
        return [len(text)]


def test_the_budget_is_the_requests():
    engine = Engine("chat", 400)
    preparation = Preparation(engine, ms=1000)

    async def go():
        for _ in range(3):
            assert await preparation.chat("{}") == "chat"
        with pytest.raises(RequestError, match="more than 1000 ms") as error:
            await preparation.chat("{}")
        assert error.value.status == 400
        assert await preparation.tokenize("short") == [5]  # in place, whatever is left

    asyncio.run(asyncio.wait_for(go(), 10))
    assert engine.allowed == [1000, 600, 200]
    assert all(job.closed for job in engine.jobs)


def test_no_limit():
    engine = Engine("chat", 10**9)
    preparation = Preparation(engine)

    async def go():
        await preparation.chat("{}")
        await preparation.chat("{}")

    asyncio.run(asyncio.wait_for(go(), 10))
    assert engine.allowed == [0, 0]


@pytest.mark.parametrize(
    "failure, status",
    [(ValueError("no such option"), 400), (RuntimeError("broken"), 400), (MemoryError(), 503)],
)
def test_a_job_that_fails_is_the_requests_error(failure, status):
    engine = Engine(failure, 1)
    turns = Turns()

    async def go():
        with pytest.raises(RequestError) as error:
            await Preparation(engine, turns=turns).chat("{}")
        assert error.value.status == status
        await asyncio.wait_for(turns.take("next"), 1)  # the turn was given back

    asyncio.run(asyncio.wait_for(go(), 10))
    assert engine.jobs[0].closed


def test_a_client_with_many_jobs_waits_for_others():
    turns = Turns()
    order = []

    async def job(client, ms):
        await turns.take(client)
        order.append(client)
        await asyncio.sleep(0.01)
        turns.give(client, ms)

    async def go():
        many = [asyncio.create_task(job("greedy", 100)) for _ in range(10)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(job("modest", 100)) for _ in range(2)]
        await asyncio.gather(*many, *few)

    asyncio.run(asyncio.wait_for(go(), 10))
    assert order[:4] == ["greedy", "modest", "greedy", "modest"]
    assert order.count("greedy") == 10


def test_who_leaves_while_waiting_or_just_chosen():
    turns = Turns()

    async def go():
        await turns.take("first")
        gone = asyncio.create_task(turns.take("gone"))
        chosen = asyncio.create_task(turns.take("chosen"))
        last = asyncio.create_task(turns.take("last"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        turns.give("first", 1)  # it is the turn of `chosen` now, which leaves before it knows
        chosen.cancel()
        await asyncio.wait_for(last, 1)
        turns.give("last", 1)
        await asyncio.wait_for(turns.take("again"), 1)

    asyncio.run(asyncio.wait_for(go(), 10))
