"""The image's own look-up tables (ports/cllm_x86/name_lookup.c) against lists of pairs."""

import pytest

SOURCE = """\
import json
import random
from collections import OrderedDict, namedtuple
NAMES = ["n%d" % i for i in range(40)]
KEYS = NAMES + list(range(-20, 20)) + [1 << 70, 2.5, None, "n" * 300, (1, 2), ("n1",)]
class Thing:
    pass
class Text(str):
    pass
def find(pairs, key):
    for i, pair in enumerate(pairs):
        if type(pair[0]) is type(key) and pair[0] == key:
            return i
    return -1
def same(d, pairs):
    assert list(d.items()) == [(key, value) for key, value in pairs]
    assert len(d) == len(pairs) == len(list(d)), (len(d), len(pairs))
    for key, value in pairs:
        assert key in d and d[key] == value, key
    for key in KEYS:
        assert (key in d) == (find(pairs, key) >= 0), key
        assert (d.get(key, "none") == "none") == (find(pairs, key) < 0), key
def run(seed, keys, size):
    random.seed(seed)
    d, pairs = {}, []
    for step in range(600):
        key = random.choice(keys)
        at = find(pairs, key)
        if at >= 0 and (random.getrandbits(2) or len(pairs) > size):
            assert d.pop(key) == pairs.pop(at)[1]
        elif at >= 0:
            d[key] = pairs[at][1] = step
        else:
            d[key] = step
            pairs.append([key, step])
        if step % 40 == 0:
            same(d, pairs)
            same(d.copy(), pairs)
            same(dict(list(d.items())), pairs)
    while pairs:
        assert d.popitem() == tuple(pairs.pop())
    same(d, [])
    d.clear()
def attributes(seed):
    random.seed(seed)
    thing, pairs = Thing(), []
    for step in range(400):
        name = random.choice(NAMES)
        at = find(pairs, name)
        if at >= 0 and random.getrandbits(1):
            delattr(thing, name)
            pairs.pop(at)
        else:
            setattr(thing, name, step)
            if at >= 0:
                pairs[at][1] = step
            else:
                pairs.append([name, step])
        for name, value in pairs:
            assert getattr(thing, name) == value
        assert [name for name in NAMES if hasattr(thing, name)] == [
            name for name in NAMES if find(pairs, name) >= 0]
def keywords(**given):
    same(given, [[name, i] for i, name in enumerate(NAMES)])
def order():
    d = namedtuple("Pair", ["second", "first"])(1, 2)._asdict()
    d["more"] = 3
    d.pop("second")
    d["second"] = 4
    assert list(d.items()) == [("first", 2), ("more", 3), ("second", 4)]
    text = "{" + ", ".join('"k%d": %d' % (i * 7 % 300, i) for i in range(300)) + "}"
    d = json.loads(text)
    assert json.dumps(d) == text and list(d.values()) == list(range(300))
    assert d.popitem() == ("k293", 299)
    d["k0"] = d.pop("k0")
    assert list(d)[-1] == "k0" and list(d)[0] == "k7"
class Changer(int):
    def __hash__(self):
        return 1
    def __eq__(self, other):
        Changer.of.clear()
        return False
def changing():
    def add(i):
        Changer.of.update({Changer(i): i} if isinstance(Changer.of, dict) else [Changer(i)])
    for of in (set(), {}, OrderedDict()):
        Changer.of = of
        for i in range(9):
            add(i)
        assert len(of) <= 9
"""


@pytest.fixture(scope="module")
def repl(boot_once):
    serial = boot_once().serial
    serial.send("\r\x05")
    serial.expect("=== ")
    serial.send(SOURCE.replace("\n", "\r") + "\x04")
    serial.expect(">>> ")
    return serial


@pytest.mark.parametrize("keys", ["KEYS", "NAMES", "KEYS[40:]", "list(range(0, 4096 * 64, 4096))"])
@pytest.mark.parametrize("size", [3, 12, 60])
def test_a_dictionary_is_what_a_list_of_pairs_is(repl, keys, size):
    assert repl.run(f"[run(seed, {keys}, {size}) for seed in range(2)] == [None] * 2") == "True"


def test_attributes_come_and_go(repl):
    assert repl.run("attributes(1); attributes(2)") == ""


def test_keyword_arguments(repl):
    assert repl.run("keywords(**{name: i for i, name in enumerate(NAMES)})") == ""


def test_unhashable_and_misleading_keys(repl):
    assert "TypeError" in repl.run("{}[[]] = 1")
    assert "KeyError" in repl.run("{}['nothing']")
    # Objects that are equal are the same key, whatever their types.
    for n in (3, 200):
        repl.run(f"d = {{i: i for i in range({n})}}")
        repl.run(f"d.update({{'n' + str(i): i for i in range({n})}})")
        assert (
            repl.run("d[True], d[2.0], d[2 + 0j], d[Text('n2')], 'x' in d")
            == "(1, 2, 2, 2, False)"
        )
    assert (
        repl.run("d = {'a' + str(i): i for i in range(5000)}; d['a4999'], len(d)")
        == "(4999, 5000)"
    )


def test_order_and_other_makers(repl):
    assert repl.run("order()") == ""


def test_comparisons_that_change_what_they_are_called_for(repl):
    # Each of these ended the machine.
    assert repl.run("changing()") == ""
