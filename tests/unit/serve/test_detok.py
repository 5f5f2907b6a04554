"""Held back bytes and stop strings, against the plain result on the whole text."""

import random

import pytest
from serve.scheduling.detok import Stops, Utf8

TEXTS = ["plain", "é", "aé€😀z", "\u07ff\u0800\uffff\U00010000\U0010ffff", "日本語のテキスト"]


def decode(data, cuts):
    utf8 = Utf8()
    out = [utf8.push(data[a:b]) for a, b in zip([0] + cuts, cuts + [len(data)])]
    return out, utf8.flush()


@pytest.mark.parametrize("text", TEXTS)
def test_split_anywhere(text):
    data = text.encode()
    for i in range(len(data) + 1):
        for j in range(i, len(data) + 1):
            out, rest = decode(data, [i, j])
            assert "".join(out) == text and rest == ""
    out, _ = decode(data, list(range(1, len(data))))
    assert "".join(out) == text


def test_invalid_bytes_are_replaced_as_python_does():
    rng = random.Random(1)
    interesting = [
        0x41,
        0x80,
        0xBF,
        0xC0,
        0xC3,
        0xE0,
        0xED,
        0xA0,
        0x9F,
        0xF0,
        0x90,
        0xF4,
        0xF5,
        0xFF,
    ]
    for _ in range(5000):
        data = bytes(rng.choice(interesting) for _ in range(rng.randrange(8)))
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(3))
        out, rest = decode(data, cuts)
        assert "".join(out) + rest == data.decode("utf-8", "replace"), data


def run_stops(pieces, words):
    stops = Stops(words)
    out = ""
    for piece in pieces:
        out += stops.push(piece)
        if stops.found:
            return out, stops.found
    return out + stops.flush(), None


def expected(text, words):
    """The first position at which a stop string is complete decides; then the leftmost."""
    for end in range(len(text) + 1):
        hits = [(text[:end].find(w), w) for w in words if w in text[:end]]
        if hits:
            at = min(h[0] for h in hits)
            return text[:at], True
    return text, False


def test_stops_at_any_split():
    rng = random.Random(2)
    for _ in range(5000):
        words = ["".join(rng.choice("ab") for _ in range(rng.randrange(1, 5))) for _ in range(2)]
        text = "".join(rng.choice("abc") for _ in range(rng.randrange(12)))
        want, found = expected(text, words)
        got, word = run_stops(list(text), words)
        assert got == want and (word is not None) == found, (text, words)


def test_holds_back_only_what_may_become_a_stop():
    stops = Stops(["</s>", "END"])
    assert stops.push("hello <") == "hello "
    assert stops.push("/") == ""
    assert stops.push("b E") == "</b "
    assert stops.push("N") == ""
    assert stops.push("D of") == ""
    assert stops.found == "END"


def test_no_words_holds_nothing():
    assert Stops([]).push("anything") == "anything"
