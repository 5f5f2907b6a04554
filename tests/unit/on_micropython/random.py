"""MicroPython's random, with Random and shuffle, which only CPython's has."""

import urandom
from urandom import choice, getrandbits, randint, random, randrange, seed, uniform


class Random:
    """A generator of its own: xorshift64* (Vigna, 2016)."""

    def __init__(self, seed=1):
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D) & 0xFFFFFFFFFFFFFFFF or 1

    def _next(self):
        x = self._state
        x ^= x >> 12
        x ^= x << 25 & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 27
        self._state = x
        return (x * 0x2545F4914F6CDD1D & 0xFFFFFFFFFFFFFFFF) >> 32

    def getrandbits(self, count):
        value = 0
        for _ in range(-(-count // 32)):
            value = value << 32 | self._next()
        return value >> -count % 32

    def random(self):
        return self._next() / 4294967296

    def randrange(self, start, stop=None):
        if stop is None:
            start, stop = 0, start
        return start + self.getrandbits(64) % (stop - start)

    def randint(self, low, high):
        return self.randrange(low, high + 1)

    def choice(self, items):
        return items[self.randrange(len(items))]

    def sample(self, items, count):
        items = list(items)
        self.shuffle(items)
        return items[:count]

    def shuffle(self, items):
        for at in range(len(items) - 1, 0, -1):
            other = self.randrange(at + 1)
            items[at], items[other] = items[other], items[at]

    def randbytes(self, count):
        return self.getrandbits(8 * count).to_bytes(count, "little") if count else b""
