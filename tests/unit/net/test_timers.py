"""Deadlines: in order, movable, and gone without a trace."""

import random

from net.timers import Timed, Timers


class Owner(Timed):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def on_deadline(self, now):
        self.log.append((now, self))


def test_random_deadlines_are_met_once_and_in_order():
    rng = random.Random(1)
    log = []
    timers = Timers()
    owners = [Owner(log) for _ in range(50)]
    wanted = {}
    for now in range(3000):
        for _ in range(3):
            owner = rng.choice(owners)
            choice = rng.random()
            if choice < 0.7:
                wanted[owner] = now + rng.randrange(1, 500)
                timers.set(owner, wanted[owner])
            elif choice < 0.9:
                wanted.pop(owner, None)
                timers.set(owner, None)
            else:
                wanted.pop(owner, None)
                timers.forget(owner)
        timers.run(now)
        due = {owner for owner, at in wanted.items() if at <= now}
        assert {owner for _, owner in log} == due and len(log) == len(due)
        for owner in due:
            del wanted[owner]
        log.clear()
        upcoming = timers.next()
        assert not wanted or upcoming <= min(wanted.values())


def test_what_is_forgotten_takes_no_memory():
    timers = Timers()
    for _ in range(10000):
        owner = Owner([])
        timers.set(owner, 60000)
        timers.forget(owner)
    assert len(timers.heap) < 200


def test_moving_a_deadline_to_and_fro_takes_no_memory():
    # A delayed acknowledgement in front of a keepalive two hours ahead.
    timers = Timers()
    owner = Owner([])
    for now in range(0, 400000, 40):
        timers.set(owner, now + 7200000)
        timers.set(owner, now + 20)
        timers.run(now + 20)
    assert len(timers.heap) < 200
