"""Saved prefixes: the cells of a slot's last sequence as bytes, and back into the cache.

A slot is a label here: the scheduler gives each running sequence the lowest free number, or the one
that it asks for, and what the sequence leaves in the prefix cache keeps it. A restored prefix is one
of the cache's, so any request that begins with it uses it.
"""
# SPDX-License-Identifier: MIT

from .errors import invalid, unavailable
from .jobs import Call


def _holder(scheduler, slot):
    for sequence in scheduler.running:
        if sequence.holder.slot == slot:
            raise unavailable("slot %d is busy" % slot)
    newest = None
    for holder in scheduler.cache.idle:
        if holder.slot == slot and (newest is None or holder.used_at > newest.used_at):
            newest = holder
    return newest


async def save(scheduler, slot):
    """Return (salt, token ids, state as bytes) of a slot. RequestError: there is nothing in it."""

    def call(scheduler):
        holder = _holder(scheduler, slot)
        if holder is None or not holder.tokens:
            raise invalid("slot %d is empty" % slot)
        return holder.salt, list(holder.tokens), scheduler.engine.state_get(holder.seq)

    return await scheduler.do(Call(call))


async def restore(scheduler, slot, salt, tokens, state):
    """Put a saved prefix into the cache. RequestError: it is another model's, or has no room."""

    def call(scheduler):
        erased(scheduler)
        cache = scheduler.cache
        holder = cache.adopt(tokens, salt, lambda seq: scheduler.engine.state_set(seq, state))
        if holder is None:
            raise invalid(
                "%d tokens have no room: at most %d cells keep prefixes now (model.n_ctx)"
                % (len(tokens), min(cache.keep, cache.available))
            )
        holder.slot = slot

    def erased(scheduler):
        old = _holder(scheduler, slot)
        if old is not None:
            old.slot = None

    await scheduler.do(Call(call))


async def erase(scheduler, slot):
    """Forget what a slot left in the cache; return the number of tokens."""

    def call(scheduler):
        holder = _holder(scheduler, slot)
        if holder is None:
            return 0
        n = len(holder.tokens)
        scheduler.cache.drop(holder)
        return n

    return await scheduler.do(Call(call))
