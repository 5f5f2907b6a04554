"""Choosing tokens that follow a grammar, on threads of the engine.

An ambiguous grammar may take a second for one token. Each sampler has a copy of its logits, so the
next batch does not wait for it. settle() delays a batch for the tokens that are expected soon;
sequences whose token takes longer join a later batch. Meanwhile they keep their slots and cells,
and can be cancelled or preempted.
"""
# SPDX-License-Identifier: MIT

import asyncio

# Interval of checks of clients and deadlines while nothing can be computed.
_LOOK_MS = 100


class Sampling:
    """The tokens that are being chosen.

    scheduler: the Scheduler that owns the sequences. ended: coroutine function; ended(sampler)
    returns when the token of the sampler's start() is chosen. news: Event that is set when a token
    is chosen or anything else changes.
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
        """Wait until the next batch may start: until all tokens are chosen, or until something else
        can be computed and the remaining tokens take longer than `patience` milliseconds.
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
            # us(): the time of a sampler's last token predicts the next.
            if soon and any([s.sampler.us() <= patience * 1000 for s in waiting]):
                late = not await self.pause(left)
                continue
            if scheduler.idles:
                await self.pause(_LOOK_MS)
                scheduler.expel()
                continue
            break
        for sequence in waiting:
            # The next batch overwrites the logits that would verify the drafts.
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
