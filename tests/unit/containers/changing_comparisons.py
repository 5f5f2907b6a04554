"""__eq__, __hash__ and __repr__ that change the dictionary or set that they are called for.

The result may be any that Python's rules allow, or an exception; the interpreter and the container
must be sound afterwards. Each operation is tried with containers of several sizes, and with each
change at each call.
"""

import json
import random
from collections import OrderedDict

import pytest

SIZES = (1, 4, 5, 9)


class Stop(Exception):
    pass


class Key:
    """Equal to keys of the same number. The n-th call of one of its methods makes a change."""

    calls = 0
    at = -1
    change = None

    def __init__(self, number, slots=1):
        self.number = number
        self.slots = slots

    def call(self):
        Key.calls += 1
        if Key.calls == Key.at or (Key.at == 0 and Key.calls < 500):
            # Calls that the change itself makes do not change anything.
            change, Key.change = Key.change, None
            if change:
                try:
                    change()
                finally:
                    Key.change = change

    def __hash__(self):
        self.call()
        return self.number % self.slots

    def __eq__(self, other):
        self.call()
        return isinstance(other, Key) and self.number == other.number

    def __repr__(self):
        self.call()
        return "Key(%d)" % self.number


def junk():
    """Fill memory that was just freed with data that is no object."""
    return [bytearray(b"\x7f" * size) for size in (32, 64, 160, 320, 640) for _ in range(4)]


def stop():
    raise Stop


def clear(c):
    c.clear()
    junk()


def clear_and_fill(c):
    n = len(c)
    c.clear()
    put(c, [Key(100 + i, 7) for i in range(n)])


def grow(c):
    put(c, [Key(200 + len(c) + i, 5) for i in range(40)])
    junk()


def shrink(c):
    for key in list(c):
        c.discard(key) if isinstance(c, set) else c.pop(key, None)


def remove_one(c):
    if c:
        c.pop() if isinstance(c, set) else c.popitem()


def exchange(c):
    for i, key in enumerate(list(c)[:2]):
        c.discard(key) if isinstance(c, set) else c.pop(key, None)
        put(c, [Key(300 + i)])


def put(c, keys):
    for key in keys:
        if isinstance(c, set):
            c.add(key)
        else:
            c[key] = [key]


def make(kind, n, slots):
    c = kind()
    put(c, [Key(i, slots) for i in range(n)])
    return c


def update_pairs(d, n):
    d.update([(Key(i, 3), i) for i in range(n)], more=1)


def other(kind, n, slots):
    return make(kind, n, slots)


DICT_OPERATIONS = {
    "get": lambda d, n, s: d.get(Key(n - 1, s)),
    "missing": lambda d, n, s: d.get(Key(n + 50, s)),
    "in": lambda d, n, s: Key(n // 2, s) in d,
    "in keys": lambda d, n, s: Key(n // 2, s) in d.keys(),
    "set": lambda d, n, s: d.__setitem__(Key(n, s), [n]),
    "replace": lambda d, n, s: d.__setitem__(Key(n // 2, s), [n]),
    "delete": lambda d, n, s: d.__delitem__(Key(n // 2, s)),
    "pop": lambda d, n, s: d.pop(Key(n - 1, s), None),
    "setdefault": lambda d, n, s: d.setdefault(Key(n, s), [n]),
    "text": lambda d, n, s: d.__setitem__("a text", [n]),
    "number": lambda d, n, s: d.__setitem__(2, [n]),
    "update": lambda d, n, s: d.update(other(dict, n + 3, s)),
    "update of another": lambda d, n, s: other(dict, n, s).update(d),
    "update with pairs": lambda d, n, s: update_pairs(d, n),
    "update with itself": lambda d, n, s: d.update(d),
    "in place": lambda d, n, s: d.__setitem__(Key(n + 1, s), d | other(dict, n, s)),
    "equal": lambda d, n, s: d == other(dict, n, s),
    "equal the other way": lambda d, n, s: other(dict, n, s) == d,
    "copy": lambda d, n, s: dict(d.copy(), name=1),
    "fromkeys": lambda d, n, s: dict.fromkeys(d),
    "print": lambda d, n, s: repr(d),
    "print views": lambda d, n, s: repr(d.items()) + repr(d.keys()) + repr(d.values()),
    "sorted": lambda d, n, s: sorted([key.number for key in d if isinstance(key, Key)]),
}
SET_OPERATIONS = {
    "in": lambda c, n, s: Key(n // 2, s) in c,
    "add": lambda c, n, s: c.add(Key(n, s)),
    "add again": lambda c, n, s: c.add(Key(n // 2, s)),
    "add a number": lambda c, n, s: c.add(2),
    "discard": lambda c, n, s: c.discard(Key(n - 1, s)),
    "remove": lambda c, n, s: c.remove(Key(n // 2, s)),
    "update": lambda c, n, s: c.update(other(set, n + 3, s)),
    "update with itself": lambda c, n, s: c.update(c),
    "union": lambda c, n, s: c | other(set, n + 3, s),
    "union of another": lambda c, n, s: other(set, n, s) | c,
    "in place": lambda c, n, s: c.__ior__(other(set, n + 3, s)) if hasattr(c, "__ior__") else None,
    "intersection": lambda c, n, s: c.intersection(other(set, n, s)),
    "intersection of another": lambda c, n, s: other(set, n, s).intersection(c),
    "intersection_update": lambda c, n, s: c.intersection_update(other(set, n, s)),
    "difference": lambda c, n, s: c - other(set, n, s),
    "difference_update": lambda c, n, s: c.difference_update(other(set, n, s)),
    "difference of another": lambda c, n, s: other(set, n, s).difference_update(c),
    "symmetric": lambda c, n, s: c ^ other(set, n + 3, s),
    "symmetric_update": lambda c, n, s: c.symmetric_difference_update(other(set, n + 3, s)),
    "issubset": lambda c, n, s: c <= other(set, n + 3, s),
    "issuperset": lambda c, n, s: c >= other(set, n, s),
    "isdisjoint": lambda c, n, s: c.isdisjoint(other(set, n, s)),
    "equal": lambda c, n, s: c == other(set, n, s),
    "pop": lambda c, n, s: c.pop(),
    "copy": lambda c, n, s: set(c) | frozenset(c),
    "hash": lambda c, n, s: hash(frozenset(c)),
    "print": lambda c, n, s: repr(c),
}
CHANGES = (clear, clear_and_fill, grow, shrink, remove_one, exchange, None)
# Exceptions that a change may cause, beside a result.
ALLOWED = (KeyError, RuntimeError, Stop, TypeError)


def sound(c):
    """Use a container: a damaged one fails or ends the interpreter."""
    Key.at, Key.change = -1, None
    assert len(c) == len(list(c))
    for key in list(c):
        assert key in c
    put(c, [Key(900 + i, 11) for i in range(30)])
    assert all(Key(900 + i, 11) in c for i in range(30))
    while c:
        remove_one(c)
    put(c, ["a", "b", "c"])
    assert sorted(c) == ["a", "b", "c"]


def attempt(kind, operation, change, n, slots, at):
    """Return whether `at` calls were reached."""
    Key.change = None
    c = make(kind, n, slots)
    Key.calls, Key.at = 0, at
    Key.change = stop if change is None else lambda: change(c)
    try:
        operation(c, n, slots)
    except ALLOWED:
        pass
    finally:
        Key.change = None
    reached = Key.calls >= at
    sound(c)
    return reached


def attempt_all(kind, operation, change):
    for n in SIZES:
        for slots in (1, 4):
            at = 0  # at each call
            while attempt(kind, operation, change, n, slots, at) and at < 24:
                at += 1 if at < 6 else 4


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", sorted(DICT_OPERATIONS))
def test_a_dictionary_survives(name, change):
    attempt_all(dict, DICT_OPERATIONS[name], change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["get", "set", "delete", "update", "equal", "print"])
def test_an_ordered_dictionary_survives(name, change):
    attempt_all(OrderedDict, DICT_OPERATIONS[name], change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", sorted(SET_OPERATIONS))
def test_a_set_survives(name, change):
    attempt_all(set, SET_OPERATIONS[name], change)


def test_a_key_that_always_changes_its_dictionary_ends():
    for kind in (dict, set):
        for change in (clear, grow, clear_and_fill):
            c = make(kind, 5, 1)
            Key.calls, Key.at, Key.change = 0, 0, lambda: change(c)
            try:
                put(c, [Key(60)])
            except RuntimeError:
                pass
            finally:
                Key.change = None
            sound(c)


class Never:
    """Not equal to anything, itself included."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return False


def test_the_same_object_is_the_same_member():
    # A set that is added to itself would grow for ever.
    members = [Never() for _ in range(10)]
    s = set(members)
    s.update(s)
    s |= s
    assert len(s) == 10 and all(member in s for member in members)
    s ^= s
    assert len(s) == 0


@pytest.mark.parametrize("n", [1, 3, 5, 12, 100])
def test_sets_hold_what_lists_hold(n):
    random.seed(n)
    for keys in (
        list(range(n)),
        ["name%d" % i for i in range(n)],
        [Key(i, 4) for i in range(n)],
        [i / 2 for i in range(n)] + [None, (), ("x", 1)],
    ):
        s, members = set(), []
        for step in range(400):
            key = random.choice(keys)
            if key in members and random.getrandbits(1):
                members.remove(key)
                s.remove(key)
            elif key not in members:
                members.append(key)
                s.add(key)
            if step % 20 == 0:
                assert len(s) == len(members) == len(list(s))
                assert all((key in s) == (key in members) for key in keys)
                assert s == set(members) == s.copy()
                assert s - set(members[::2]) == set(members[1::2])
                assert s & set(keys[::2]) == set([key for key in keys[::2] if key in members])
                assert s ^ set(keys) == set([key for key in keys if key not in members])
        while s:
            members.remove(s.pop())
        assert members == []


def test_a_search_in_vain_is_short_after_many_members_went():
    s, calls = set(), []

    class Counted(Key):
        def __eq__(self, other):
            calls.append(1)
            return self.number == other.number

        def __hash__(self):
            return self.number

    for i in range(3000):
        s.add(Counted(i))
        if i >= 100:
            s.remove(Counted(i - 100))
    assert len(s) == 100 and len(calls) < 20000
    del calls[:]
    for i in range(100):
        assert Counted(5000 + i) not in s
    assert len(calls) < 1000


@pytest.mark.parametrize("make_new", [dict, dict.fromkeys, set, frozenset])
def test_a_false_length_does_no_harm(make_new):
    class Long:
        def __init__(self, length):
            self.length = length

        def __len__(self):
            return self.length

        def __iter__(self):
            return iter([("a", 1), ("b", 2)])

    for length in (1 << 28, 1 << 56, 1 << 59, 1 << 60, (1 << 60) + 1, 1 << 61):
        try:
            made = make_new(Long(length))
        except (MemoryError, OverflowError):
            continue
        assert len(made) == 2


def test_what_is_printed_as_json_may_change():
    d = {}

    d.update({"a": 1, "b": [Key(1), Key(2)], "c": 3})
    Key.calls, Key.at, Key.change = 0, 1, d.clear
    try:
        json.dumps(d)
    except TypeError:
        pass  # CPython's
    Key.change = None
    assert d in ({}, {"a": 1, "b": [Key(1), Key(2)], "c": 3})
