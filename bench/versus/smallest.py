"""The least memory with which a guest serves: a search that boots guests of different sizes."""

import concurrent.futures
import time
from collections.abc import Callable, Sequence

from cllm import CllmError, qemu

from . import measure
from .guests import Guests
from .rows import Turn

STEP = 8  # MiB; how finely memory is searched


def search(
    serves: Callable[[Sequence[int]], Sequence[bool]], guess: int, most: int, name: str
) -> int:
    """Return the least size, in steps of STEP MiB, that serves.

    serves: takes sizes, returns whether a guest serves in each. guess: where to begin. Raises
    CllmError, with the guest's `name`, if it does not serve in `most` MiB.
    """
    low, high, width = 0, None, STEP  # does not serve, serves; how far away the next try is
    sizes = [max(STEP, guess - STEP), guess]
    while True:
        for size, enough in zip(sizes, serves(sizes)):
            if enough:
                high = min(size, high or size)
            elif size > low:
                low = size
        if high is None:
            if low >= most:
                raise CllmError(f"{name} does not serve in {low} MiB: give more with --memory")
            sizes = [min(most, low + width * step) for step in (1, 2)]
        elif high - low <= STEP:
            return high
        elif not low:
            sizes = [max(STEP, high - width * step) for step in (2, 1)]
        else:
            part = max(STEP, (high - low) // 3 // STEP * STEP)
            sizes = sorted({low + part, high - part})
        width *= 2


def smallest(guests: Guests, turn: Turn, guess: int, limit: float) -> int:
    """Return the least memory, in MiB, with which the guest of a turn loads the model and answers.

    guess: MiB to begin with. limit: seconds that a guest may take to load the model.
    """

    def serves(sizes):
        if len(sizes) > 1 and not guests.room_for(len(sizes)):
            return [serves([size])[0] for size in sizes]
        found = _serve(guests, turn, sizes, limit)
        guests.say(
            f"    {turn.guest}: "
            + ", ".join(
                f"{size} MiB {'serve' if enough else 'do not'}"
                for size, enough in zip(sizes, found)
            )
        )
        return found

    return search(serves, guess, guests.memory, turn.guest)


def _serve(guests, turn, sizes, limit):
    """Return whether a guest of each size serves; all are tried at once."""
    made = [guests.make(turn, size) for size in sizes]
    started = time.monotonic()

    def answers(guest, port):
        try:
            measure.first_answer(port, started, guest.ended, limit)
            measure.ready(port, started, guest.ended, limit)
            measure.Stream(port, "Once", 1).finish()
            return True
        except (CllmError, OSError):
            return False

    try:
        for guest, _ in made:
            guest.start()
        with concurrent.futures.ThreadPoolExecutor(len(made)) as pool:
            return list(pool.map(lambda pair: answers(pair[0], pair[1][qemu.GUEST_PORT]), made))
    finally:
        for guest, _ in made:
            guest.stop()
