"""Cells and prefixes: sharing, eviction, and books that agree with the engine's."""

import pytest
from fake_engine import FakeEngine
from serve.scheduling.prefix_cache import PrefixCache


def make(n_running=2, n_seq=6, n_ctx=256, keep=None):
    engine = FakeEngine(n_seq=n_seq, n_ctx=n_ctx, n_batch=256)
    return engine, PrefixCache(engine, n_running, keep)


def compute(engine, cache, tokens, salt="", share=True):
    """Runs a sequence of `tokens`; returns (holder, number that were not computed)."""
    holder = cache.start(tokens, salt, share)
    known = len(holder.tokens)
    part = tokens[known:]
    assert cache.make_room(len(part))
    n = len(part)
    engine.decode(part, list(range(known, known + n)), [holder.seq] * n, [False] * n)
    cache.extend(holder, part)
    assert cache.used == engine.used()
    assert [cell.token for cell in engine.kv[holder.seq]] == tokens == holder.tokens
    return holder, known


def numbers(n, start=0):
    return [(start + i) % 250 for i in range(n)]


def test_a_prefix_is_shared_with_who_runs():
    engine, cache = make()
    first, _ = compute(engine, cache, numbers(35))
    second, known = compute(engine, cache, numbers(35) + [7] * 10)
    assert known == 32 and engine.used() == 35 + 13
    cache.stop(first)
    cache.stop(second)
    # All full blocks of the first are the second's, too.
    assert len(cache.idle) == 1
    assert cache.pinned == 0 and cache.used == engine.used() == 45
    cache.flush()
    assert engine.used() == cache.used == 0


def test_the_last_token_is_always_computed():
    engine, cache = make()
    compute(engine, cache, numbers(32))
    _, known = compute(engine, cache, numbers(32))
    assert known == 28


def test_a_short_prompt_has_a_prefix_too():
    engine, cache = make()
    holder, _ = compute(engine, cache, numbers(9))
    cache.stop(holder)
    _, known = compute(engine, cache, numbers(9))
    assert known == 8


def test_the_next_turn_of_a_chat_goes_on_with_its_cells():
    engine, cache = make()
    holder, _ = compute(engine, cache, numbers(40))
    cache.stop(holder)
    again, known = compute(engine, cache, numbers(60))
    assert again is holder and known == 40 and not cache.idle
    cache.stop(again)


def test_salts_keep_prefixes_apart():
    engine, cache = make()
    compute(engine, cache, numbers(40), "mine")
    assert cache.find(numbers(50), "yours") == (None, 0)
    assert cache.find(numbers(50))[1] == 0
    assert cache.find(numbers(50), "mine")[1] == 40


def test_who_does_not_want_to_share():
    engine, cache = make()
    compute(engine, cache, numbers(40))
    _, known = compute(engine, cache, numbers(50), share=False)
    assert known == 0
    holder = cache.start(numbers(10))
    cache.stop(holder, keep=False)
    assert holder not in cache.idle


def test_the_same_prefix_is_kept_once():
    engine, cache = make()
    first, _ = compute(engine, cache, numbers(40))
    second, _ = compute(engine, cache, numbers(40))
    cache.stop(first)
    cache.stop(second)
    assert len(cache.idle) == 1


def test_the_least_recently_used_goes_first_and_its_end():
    engine, cache = make(n_running=2, n_seq=6, n_ctx=128, keep=128)
    holders = []
    for i in range(3):
        holder, _ = compute(engine, cache, numbers(36, 50 * i))
        cache.stop(holder)
        holders.append(holder)
    compute(engine, cache, numbers(16 + 1, 0) + [9])  # the first is used again
    assert cache.used == engine.used()
    assert cache.make_room(128 - cache.used + 10)
    # Of the second, the end is gone; the first and third are whole.
    assert cache.find(numbers(40, 50))[1] == 24
    assert cache.find(numbers(40, 0))[1] == 36 and cache.find(numbers(40, 100))[1] == 36


def test_kept_cells_are_bounded():
    engine, cache = make(n_seq=20, n_ctx=512, keep=100)
    for i in range(8):
        holder, _ = compute(engine, cache, numbers(40, 30 * i))
        cache.stop(holder)
        assert cache.used - cache.pinned <= 100


def test_sequences_run_out_before_cells():
    engine, cache = make(n_running=2, n_seq=3, n_ctx=1000, keep=1000)
    for i in range(10):
        holder, _ = compute(engine, cache, numbers(40, 20 * i))
        cache.stop(holder)
    a, known = compute(engine, cache, numbers(25, 180) + [1])
    assert known == 24
    b, _ = compute(engine, cache, numbers(25, 20))
    c = cache.idle
    assert len(c) <= 1
    cache.stop(a)
    cache.stop(b)
    cache.flush()
    assert engine.used() == 0


def test_available_counts_what_can_be_taken_back():
    engine, cache = make(n_ctx=100, keep=100)
    first, _ = compute(engine, cache, numbers(40))
    cache.stop(first)
    compute(engine, cache, numbers(30, 100))
    assert cache.available == 70 and cache.used == 70
    assert cache.make_room(70) and cache.used == 30
    assert not cache.make_room(71)


@pytest.mark.parametrize("divisible", [False])
def test_a_model_whose_sequences_have_no_parts(divisible):
    engine = FakeEngine(n_seq=6, n_batch=256)
    engine.divisible = divisible
    cache = PrefixCache(engine, 2)
    holder, _ = compute(engine, cache, numbers(40))
    cache.stop(holder)
    assert engine.used() == 0 and cache.find(numbers(50)) == (None, 0)


HEAD = [240, 241, 242] * 7  # no multiple of a block


def test_a_beginning_that_all_conversations_have_is_shared_to_its_last_token():
    engine, cache = make()
    cache.head = HEAD
    head, known = compute(engine, cache, HEAD)
    assert known == 0
    cache.stop(head)
    first, known = compute(engine, cache, HEAD + numbers(20))
    assert known == len(HEAD)
    # Nobody holds the beginning alone any more: a conversation that goes on from it.
    second, known = compute(engine, cache, HEAD + numbers(20, 100))
    assert known == len(HEAD)
    third, known = compute(engine, cache, HEAD + numbers(16) + [9])
    assert known == len(HEAD) + 16
    for holder in (first, second, third):
        cache.stop(holder)
    assert cache.pinned == 0 and cache.used == engine.used()
    cache.make_room(256 - 40)
    assert cache.used == engine.used() <= 40
    # With a salt, or without all of the beginning, prefixes are what they were.
    assert cache.find(HEAD + numbers(20), "mine") == (None, 0)
    other, known = compute(engine, cache, HEAD[:20] + numbers(30))
    assert known == 0
    assert compute(engine, cache, HEAD[:20] + numbers(20))[1] >= 32
    cache.stop(other)
