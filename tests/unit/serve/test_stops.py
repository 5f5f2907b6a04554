"""Stop strings that are or hold the names of control tokens, on CPython and on MicroPython."""

import pytest
from serve.scheduling.detok import Stops, text_of

START, END = "<|im_start|>", "<|im_end|>"


def run(words, *pieces):
    """Return (text, stop string) of pieces: str is text, a tuple holds a control token's name."""
    stops = Stops(words)
    out = ""
    for piece in pieces:
        out += stops.hide(piece[0]) if isinstance(piece, tuple) else stops.push(piece)
        if stops.found:
            return out, stops.found
    return out + stops.flush(), None


def test_the_name_of_a_control_token_stops():
    assert run([START], "a", "b", (START,), "c") == ("ab", START)
    assert run(["zz", END], "a", (END,)) == ("a", END)
    assert run([END], (END,), "a") == ("", END)


def test_other_control_tokens_stay_without_text():
    assert run([START], "a", (END,), "b", (END,)) == ("ab", None)
    assert run(["xy"], "x", (END,), "y") == ("xy", None)
    assert run([], "a", (END,), "b") == ("ab", None)


def test_a_name_and_text_together():
    assert run(["\n" + END], "a", "\n", (END,)) == ("a", "\n" + END)
    assert run([START + "user"], "a", (START,), "us", "er", "!") == ("a", START + "user")
    assert run([START + "user"], "a", (START,), "tool", "!") == ("atool!", None)
    assert run([END + START], "a", (END,), (START,)) == ("a", END + START)
    assert run([END + START], "a", (END,), "b", (START,)) == ("ab", None)


def test_a_part_of_a_name_is_no_stop():
    assert run(["im_start"], "a", (START,), "b") == ("ab", None)
    assert run(["start"], "a", (START,), "start", "b") == ("a", "start")
    assert run(["|>b"], "a", (START,), "b", "c") == ("abc", None)
    assert run(["a<"], "a", (START,), "b") == ("ab", None)


def test_what_is_spelled_out_is_found_as_well():
    assert run([START], "a<|im", "_start|>b") == ("a", START)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_text_is_found_and_sent_as_before(size):
    text = "one two three <stop> four"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert run(["<stop>", "five"], *pieces) == ("one two three ", "<stop>")
    assert run(["<stopp>"], *pieces) == (text, None)


def test_text_of_bytes():
    assert text_of(b"") == "" and text_of("h\u00e9".encode()) == "h\u00e9"
    assert text_of(b"a\xff\xc0\x80\xed\xa0\x80b\xc3") == "a" + 6 * "\ufffd" + "b\ufffd"
