"""The beginning that a chat template gives every conversation, computed before the first request.

A template puts the same tokens in front of the first message: a role, often a system prompt of its
own. Emulated, they cost a first question seconds. They are computed as soon as the model is loaded
and stay in the prefix cache until its cells are needed.
"""
# SPDX-License-Identifier: MIT

from _engine import Lost

from .errors import RequestError

_TEXTS = ("A", "7", "?")  # first messages that have no beginning in common


async def beginning_of(service):
    """Return the tokens that every conversation begins with, [] for none.

    Args: service: a Service with a loaded model that generates text.
    """
    common = None
    try:
        for text in _TEXTS:
            preparation = service.prepare()
            body = {"messages": [{"role": "user", "content": text}]}
            with await service.converse(body, preparation) as conversation:
                tokens = await service.tokens(conversation.prompt, preparation=preparation)
            common = tokens if common is None else common[: _equal(common, tokens)]
    except RequestError:  # the template refuses such a conversation
        return []
    return common


def _equal(one, other):
    n = min(len(one), len(other))
    for i in range(n):
        if one[i] != other[i]:
            return i
    return n


class Beginning:
    """Computes `tokens` in pieces, one a step of the scheduler."""

    def __init__(self, scheduler, tokens):
        self._scheduler = scheduler
        self._tokens = tokens
        scheduler.cache.head = tokens
        self._holder = scheduler.cache.start(tokens)

    def delays(self, tokens):
        """Return whether a prompt should wait for this beginning, which is its own."""
        return tokens[: len(self._tokens)] == self._tokens

    async def step(self):
        """Compute the next piece. Return whether there is another one."""
        scheduler, holder, cache = self._scheduler, self._holder, self._scheduler.cache
        start = len(holder.tokens)
        part = self._tokens[start : start + scheduler.policy.budget(0)]
        n = len(part)
        try:
            cache.make_room(n)
            began = scheduler.clock()
            places = list(range(start, start + n))
            await scheduler.compute(
                scheduler.engine.start, part, places, [holder.seq] * n, [False] * n
            )
            scheduler.policy.observe(n, n, scheduler.clock() - began)
            cache.extend(holder, part)
            if len(holder.tokens) < len(self._tokens):
                return True
        except Lost as exc:
            scheduler.lose(str(exc))
        except (RuntimeError, ValueError, MemoryError):
            pass  # requests compute it themselves, and report what is wrong
        cache.stop(holder)
        return False
