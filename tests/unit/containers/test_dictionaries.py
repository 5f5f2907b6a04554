"""Dictionaries against lists of pairs: their content and order.

The tests are for the image's own tables (name_lookup.c), which the unix build of MicroPython has,
too. CPython shows that the tests are right.
"""

import gc
import json
import random
from collections import OrderedDict, namedtuple

import pytest


class Key:
    """A key that a program defines; many have the same hash."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return self.number % 3

    def __eq__(self, other):
        return isinstance(other, Key) and self.number == other.number

    def __repr__(self):
        return "Key(%d)" % self.number


class Thing:
    pass


NAMES = ["name%d" % i for i in range(40)]
TEXTS = ["a text %d" % (i * i) * (1 + i % 4) for i in range(40)]
NUMBERS = list(range(-20, 20)) + [i + 0.5 for i in range(20)] + [1 << (60 + i) for i in range(10)]
OTHERS = [None, (), (1, 2), ("name1",), (2.5, (3, "x")), b"bytes", b"", "", "n" * 300]
KEYS = {
    "names": NAMES,
    "texts": NAMES[:20] + TEXTS,
    "numbers": NUMBERS,
    "objects": [Key(i) for i in range(30)],
    "addresses": [4096 * i for i in range(64)],
    "mixed": NAMES[:8] + TEXTS[:8] + NUMBERS[::5] + OTHERS[:5] + [Key(i) for i in range(8)],
}


def index_of(pairs, key):
    for i, pair in enumerate(pairs):
        if type(pair[0]) is type(key) and pair[0] == key:
            return i
    return -1


def check(d, pairs, keys):
    assert len(d) == len(pairs)
    assert list(d) == [key for key, _ in pairs]
    assert list(d.values()) == [value for _, value in pairs]
    assert list(d.items()) == [(key, value) for key, value in pairs]
    for key in keys:
        at = index_of(pairs, key)
        assert (key in d) == (at >= 0)
        assert d.get(key, "none") == ("none" if at < 0 else pairs[at][1])


def remove(d, pairs, at):
    """Remove an entry in one of several ways."""
    key, value = pairs.pop(at)
    if at == len(pairs) and random.getrandbits(1):
        assert d.popitem() == (key, value)
    elif random.getrandbits(1):
        assert d.pop(key) == value
    else:
        del d[key]


@pytest.mark.parametrize("name", sorted(KEYS))
@pytest.mark.parametrize("size", [1, 3, 4, 5, 9, 60])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_entries_come_and_go_in_order(name, size, kind):
    random.seed(size)
    keys = KEYS[name]
    d, pairs = kind(), []
    for step in range(500):
        key = random.choice(keys)
        at = index_of(pairs, key)
        if at >= 0 and (random.getrandbits(1) or len(pairs) > size):
            remove(d, pairs, at)
        elif at >= 0:
            d[key] = pairs[at][1] = step
        elif len(pairs) <= size:
            if random.getrandbits(1):
                d[key] = step
            else:
                assert d.setdefault(key, step) == step
            pairs.append([key, step])
        if step % 25 == 0:
            check(d, pairs, keys)
            check(d.copy(), pairs, keys)
            check(kind(d), pairs, keys)
            check(kind([(key, value) for key, value in d.items()]), pairs, keys)
            assert d == d.copy() and not (d and d == kind())
    while pairs:
        remove(d, pairs, random.randrange(len(pairs)))
    check(d, [], keys)


@pytest.mark.parametrize("n", list(range(1, 20)) + [100, 127, 128, 129, 255, 256, 257, 1000])
def test_a_copy_goes_its_own_way(n):
    names = [NAMES[i % 40] + str(i) for i in range(n)]
    for keys in (names, list(range(n)), [Key(i) for i in range(n)]):
        d = {key: i for i, key in enumerate(keys)}
        for key in keys[: n // 2 : 2]:
            del d[key]
        before = list(d.items())
        copy = d.copy()
        copy["more"] = 1
        assert list(copy.items()) == before + [("more", 1)]
        assert list(d.items()) == before
        assert copy.pop("more") == 1 and copy == d
        d.clear()
        assert list(copy.items()) == before and list(d) == []
        d["again"] = 2
        assert d == {"again": 2}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 8, 9, 100, 254, 255, 256, 300])
def test_texts_of_programs_keep_their_order(n):
    names = ["k%d" % (i * 7919 % 1000) for i in range(n)]
    source = "{" + ", ".join("%r: %d" % (name, i) for i, name in enumerate(names)) + "}"
    expected = [(name, i) for i, name in enumerate(names)]
    assert list(eval(source).items()) == expected
    assert list(json.loads(source.replace("'", '"')).items()) == expected
    assert json.dumps(json.loads(source.replace("'", '"'))) == source.replace("'", '"')
    assert repr(eval(source)) == source
    assert list(dict(expected).items()) == expected
    assert list(dict.fromkeys(names, 0)) == names
    assert list({name: i for i, name in enumerate(names)}.items()) == expected


def keywords(*positional, first=0, **others):
    return list(others.items())


def test_keyword_arguments_keep_their_order():
    assert keywords(z=1, y=2, x=3, w=4, first=9, v=5, a=6) == [
        ("z", 1),
        ("y", 2),
        ("x", 3),
        ("w", 4),
        ("v", 5),
        ("a", 6),
    ]
    given = {name: i for i, name in enumerate(reversed(NAMES))}
    assert keywords(**given) == list(given.items())
    assert keywords(1, zebra=0, **given) == [("zebra", 0)] + list(given.items())
    assert list(dict({"b": 1, "a": 2}, z=3, y=4, b=5).items()) == [
        ("b", 5),
        ("a", 2),
        ("z", 3),
        ("y", 4),
    ]


def test_updates_keep_their_order():
    d = {"b": 1, "a": 2}
    d.update({"z": 3, "a": 4})
    d.update([("y", 5), ("b", 6)], x=7)
    d.update(d)
    d |= {"w": 8}
    assert list(d.items()) == [("b", 6), ("a", 4), ("z", 3), ("y", 5), ("x", 7), ("w", 8)]
    assert list(({"v": 1} | d).items()) == [("v", 1)] + list(d.items())
    assert list((d | {"v": 1}).items()) == list(d.items()) + [("v", 1)]
    with pytest.raises(ValueError):
        d.update([("one", 2, 3)])
    with pytest.raises(ValueError):
        d.update([("one",)])
    with pytest.raises(KeyError):
        {}.popitem()


def test_attributes_keep_their_order():
    class Class:
        zebra = 1
        apple = 2

        def method(self):
            pass

        middle = 3
        last = 4

    Class.added = 5
    names = [name for name in Class.__dict__ if not name.startswith("__")]
    assert names == ["zebra", "apple", "method", "middle", "last", "added"]
    thing, expected = Thing(), []
    for i, name in enumerate(reversed(NAMES)):
        setattr(thing, name, i)
        expected.append(name)
        assert list(thing.__dict__) == expected
    for name in NAMES[::3]:
        delattr(thing, name)
        expected.remove(name)
        assert list(thing.__dict__) == expected
        assert not hasattr(thing, name)
    scope = {}
    exec("z = 1\ny = 2\nx = 3\nw = 4\nv = 5\ndef a(): pass\nclass B: pass\nz = 6\n", scope)
    assert [name for name in scope if not name.startswith("__")] == list("zyxwvaB")


def test_other_makers_of_dictionaries():
    pair = namedtuple("Pair", ["second", "first"])(1, 2)
    if hasattr(pair, "_asdict"):  # the image's has it
        d = pair._asdict()
        d["more"] = 3
        d.pop("second")
        d["second"] = 4
        assert list(d.items()) == [("first", 2), ("more", 3), ("second", 4)]
    assert OrderedDict([("a", 1), ("b", 2)]) != OrderedDict([("b", 2), ("a", 1)])
    assert OrderedDict([("a", 1), ("b", 2)]) == OrderedDict([("a", 1), ("b", 2)])
    assert {"a": 1, "b": 2} == {"b": 2, "a": 1}
    # A table of the program text, not on the heap.
    d = dict(str.__dict__) if not hasattr(str.__dict__, "copy") else str.__dict__.copy()
    n = len(d)
    assert "split" in d and "none" not in d
    d["none"] = 1
    assert d.pop("split") and d["none"] == 1 and len(d) == n


def test_what_is_equal_is_one_key():
    for n in (0, 3, 200):
        d = {"n%d" % i: i for i in range(n)}
        for key in (True, 1, 1.0, 1 + 0j):
            d[key] = key
        assert len(d) == n + 1 and list(d)[-1] is True
        assert d["n" + str(n - 1)] == n - 1 if n else "n0" not in d
        with pytest.raises(TypeError):
            d[[]] = 1
        # NaN is not equal to itself, but the same object is the same key.
        nan = float("nan")
        d[nan] = 1
        d[nan] = 2
        assert d[nan] == 2 and len(d) == n + 2


@pytest.mark.parametrize("n", [5, 250, 260, 65530, 65540, 100000])
def test_many_entries(n):
    d = {}
    for i in range(n):
        d["key%d" % i if i % 2 else i] = i
    assert len(d) == n and all(i == value for i, value in enumerate(d.values()))
    assert all(d["key%d" % i if i % 2 else i] == i for i in range(0, n, 7))
    assert all(-1 - i not in d and "no%d" % i not in d for i in range(0, n, 7))
    for i in range(n - 1, n // 2, -1):
        assert d.popitem()[1] == i
    for i in range(0, n // 2, 3):
        del d["key%d" % i if i % 2 else i]
    d["end"] = d["more"] = n
    expected = [i for i in range(n // 2 + 1) if i % 3 or i >= n // 2] + [n, n]
    assert list(d.values()) == expected


def churn(d, rounds):
    for i in range(rounds):
        d[i] = i  # a queue
        d.pop(i - 20, None)
        d["stack"] = i
        d.popitem()


def test_coming_and_going_takes_no_memory():
    if not hasattr(gc, "mem_alloc"):
        pytest.skip("CPython's memory is not counted here")
    d = {}
    churn(d, 100)
    gc.collect()
    before = gc.mem_alloc()
    for _ in range(10):
        churn(d, 3000)
    gc.collect()
    assert gc.mem_alloc() - before < 2000
    assert len(d) == 20


def test_entries_may_go_while_they_are_looked_through():
    # CPython refuses; here each entry is seen once, as long as none is added.
    if not hasattr(gc, "mem_alloc"):
        pytest.skip("CPython refuses")
    for n in (1, 4, 5, 100, 300):
        d = {i: i for i in range(n)}
        seen = []
        for key in d:
            seen.append(key)
            if key % 3:
                del d[key]
        assert seen == list(range(n)) and list(d) == list(range(0, n, 3))
