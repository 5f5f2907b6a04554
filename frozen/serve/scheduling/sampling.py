# Choosing tokens that follow a grammar, on threads of the engine: an ambiguous grammar may take a
# second for one. Each has a copy of its logits, so the next batch does not wait for it: settle()
# holds a batch back for the tokens that are expected soon, and the sequences of the others join a
# later one. They keep their slots and cells, and may be cancelled or preempted like any other.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio

# Between two looks at clients and deadlines while nothing but tokens is waited for.
_LOOK_MS = 100


class Sampling:
    """The tokens that are being chosen.

    scheduler: the Scheduler whose sequences they are of. ended: coroutine function;
    ended(sampler) returns when the token that the sampler's start() began has been chosen. news:
    Event that is set when a token was chosen, or anything else has changed.
    """

    def __init__(self, scheduler, ended, news):
        self.scheduler = scheduler
        self._ended = ended
        self._news = news

    def start(self, item):
        """Begin to choose the next token of a Work whose batch is the engine's last."""
        item.sequence.sampler.start(item.index + item.right)
        item.sequence.sampling = item
        item.task = asyncio.create_task(self._follow(item))

    def stop(self, sequence):
        """Forget the token that is being chosen for `sequence`, if any. Its sampler is closed."""
        item = sequence.sampling
        if item:
            sequence.sampling = None
            item.task.cancel()

    async def _follow(self, item):
        sequence = item.sequence
        sampler = sequence.sampler
        try:
            while True:
                await self._ended(sampler)
                sequence.sampling = None
                if not self.scheduler.take(item):
                    break
                sampler.start(item.index + item.right)
                sequence.sampling = item
        except (RuntimeError, ValueError, MemoryError) as exc:
            self.scheduler.fail(sequence, exc)
        self._news.set()

    async def settle(self, patience):
        """Return when the next batch may start: all tokens were chosen, or something else can be
        computed and those that are left take longer than `patience` milliseconds.
        """
        scheduler = self.scheduler
        until = scheduler.clock() + patience
        late = False
        while True:
            waiting = [s for s in scheduler.running if s.sampling]
            if not waiting:
                return
            left = until - scheduler.clock()
            soon = not late and left > 0
            # A sampler takes about as long as the last time.
            if soon and any([s.sampler.us() <= patience * 1000 for s in waiting]):
                late = not await self.pause(left)
                continue
            if scheduler.idles:
                await self.pause(_LOOK_MS)
                scheduler.expel()
                continue
            break
        for sequence in waiting:
            # The batch's logits are about to go, and with them what would verify the draft.
            scheduler.cut_draft(sequence.sampling)

    async def pause(self, ms=_LOOK_MS):
        """Wait for news, `ms` at most. Return whether there was any."""
        self._news.clear()
        alarm = asyncio.create_task(self._ring(ms))
        try:
            await self._news.wait()
            return not alarm.done()
        finally:
            alarm.cancel()

    async def _ring(self, ms):
        await asyncio.sleep(ms / 1000)
        self._news.set()
