"""As much of hypothesis as tests/unit/net uses: random values and edges, without shrinking."""

import pytest
import random

EXAMPLES = 60


class Strategy:
    """draw: function of a random.Random that returns a value."""

    def __init__(self, draw):
        self.draw = draw

    def __or__(self, other):
        return Strategy(lambda rng: (self if rng.getrandbits(1) else other).draw(rng))


def _length(rng, low, high):
    # Often short, and sometimes as long or short as may be.
    chance = rng.getrandbits(3)
    if chance == 0:
        return low
    if chance == 1:
        return high
    return rng.randint(low, high if chance < 4 else min(high, low + 16))


class strategies:
    @staticmethod
    def integers(low, high):
        def draw(rng):
            chance = rng.getrandbits(4)
            if chance < 2:
                return (low, high)[chance]
            if chance < 5:
                return min(high, low + rng.getrandbits(4))
            return rng.randint(low, high)

        return Strategy(draw)

    @staticmethod
    def floats(low, high):
        width = high - low
        return Strategy(lambda rng: low + width * (rng.random() if rng.getrandbits(2) else 0))

    @staticmethod
    def booleans():
        return Strategy(lambda rng: bool(rng.getrandbits(1)))

    @staticmethod
    def none():
        return Strategy(lambda rng: None)

    @staticmethod
    def binary(min_size=0, max_size=100):
        return Strategy(lambda rng: rng.randbytes(_length(rng, min_size, max_size)))

    @staticmethod
    def text(alphabet, min_size=0, max_size=100):
        def draw(rng):
            return "".join(rng.choice(alphabet) for _ in range(_length(rng, min_size, max_size)))

        return Strategy(draw)

    @staticmethod
    def sampled_from(items):
        return Strategy(lambda rng: rng.choice(items))

    @staticmethod
    def tuples(*parts):
        return Strategy(lambda rng: tuple([part.draw(rng) for part in parts]))

    @staticmethod
    def lists(part, min_size=0, max_size=100):
        def draw(rng):
            return [part.draw(rng) for _ in range(_length(rng, min_size, max_size))]

        return Strategy(draw)

    @staticmethod
    def randoms():
        return Strategy(lambda rng: random.Random(rng.getrandbits(32)))


class Given(pytest.Test):
    """A test function that is called with many values of its strategies."""

    takes_fixtures = False

    def __init__(self, function, parts):
        super().__init__(self.run)
        self._tested = function
        self._parts = parts
        self.examples = EXAMPLES

    def run(self):
        rng = random.Random(1)
        for _ in range(self.examples):
            values = [part.draw(rng) for part in self._parts]
            try:
                self._tested(*values)
            except BaseException:
                print("falsifying example:", values)
                raise


def given(*parts):
    def decorate(function):
        settings_ = function if isinstance(function, _Settings) else _Settings(function, None)
        test = Given(settings_.function, parts)
        test.examples = settings_.examples or EXAMPLES
        return test

    return decorate


class _Settings:
    def __init__(self, function, examples):
        self.function = function
        self.examples = examples


def settings(max_examples=None, deadline=None):
    def decorate(function):
        if isinstance(function, Given):
            function.examples = max_examples or function.examples
            return function
        return _Settings(function, max_examples)

    return decorate
