"""Mutated frames against the network core, on CPython.

    .venv/bin/python tests/net/fuzz.py [--frames 1000000] [--seed 1] [--ip 6]

Each process sends frames of its own seed to a fresh stack, in rounds of 50,000. Then it checks
that no exception escaped, that nothing is left over, and that the stack answers. A failure names
the seed that repeats it.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

import support.on_cpython  # noqa: F401, makes the next ones importable

# isort: split
from fuzzing import Target
from fuzzing6 import Target6

ROUND = 50000


def _round(arguments):
    version, seed, count = arguments
    try:
        target = (Target6 if version == 6 else Target)(seed)
        target.feed(count)
        target.check()
    except BaseException as error:
        raise AssertionError(f"--ip {version} --seed {seed} --frames {count}") from error
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ip", type=int, choices=(4, 6), default=4)
    arguments = parser.parse_args()
    start = time.monotonic()
    rounds = [
        (arguments.ip, arguments.seed + number, min(ROUND, arguments.frames - at))
        for number, at in enumerate(range(0, arguments.frames, ROUND))
    ]
    done = 0
    with ProcessPoolExecutor() as pool:
        for count in pool.map(_round, rounds):
            done += count
            print(f"{done} frames, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
