"""From the bytes of tokens to text that may be sent.

A token can end inside a character, and a stop string can start in one token and end three later,
so both classes hold back what is not decided yet.
"""
# SPDX-License-Identifier: MIT

from httpd import jsonio


class Utf8:
    """Incremental UTF-8 decoder. Invalid bytes become U+FFFD; an incomplete end is held back."""

    def __init__(self):
        self._held = b""

    def push(self, data):
        """Return the text (str) of what was held back and `data` (bytes)."""
        if self._held:
            data = self._held + data
        text, used = jsonio.decode(data)
        self._held = data[used:]
        return text

    def flush(self):
        """Return what an incomplete end becomes when nothing follows: U+FFFD or nothing."""
        held = self._held
        self._held = b""
        return "\ufffd" if held else ""


def text_of(data):
    """Return the whole text (str) of `data` (bytes)."""
    text = Utf8()
    return text.push(data) + text.flush()


class Stops:
    """Finds stop strings across pieces of text and holds back what may become one.

    words: list of non-empty str.
    """

    def __init__(self, words):
        self.words = words
        self.found = None  # the stop string that ended the text
        self._held = ""
        self._hidden = []  # (from, to) in _held of each name of a control token

    def push(self, text):
        """Return the text (str) that can be sent now. Once a stop string is `found`, it is all."""
        if not self.words:
            return text
        return self._push(text, False)

    def hide(self, name):
        """Like push() for the name of a control token, which is not sent but may be part of a stop
        string. A stop string matches all of a name or nothing of it.
        """
        return self._push(name, True) if self.words and name else ""

    def _push(self, text, hidden):
        start = len(self._held)
        text = self._held + text
        names = self._hidden
        if hidden:
            names = names + [(start, len(text))]
        at = -1
        for word in self.words:
            i = _find(text, word, names)
            # If this text completes two, the one that starts first counts.
            if i >= 0 and (at < 0 or i < at):
                at = i
                self.found = word
        if at < 0:
            at = len(text) - self._may_begin(text)
        self._held = "" if self.found else text[at:]
        self._hidden = [(a - at, b - at) for a, b in names if b > at]  # `a` may be before `at`
        return _shown(text[:at], names)

    def _may_begin(self, text):
        # Length of the longest end of `text` that a stop string begins with.
        hold = 0
        n = len(text)
        for word in self.words:
            i = text.find(word[0], max(0, n - len(word) + 1))
            while i >= 0 and n - i > hold:
                if word.startswith(text[i:]):
                    hold = n - i
                    break
                i = text.find(word[0], i + 1)
        return hold

    def flush(self):
        """Return the held back text, at the end of a generation without a stop string."""
        held = _shown(self._held, self._hidden)
        self._held = ""
        self._hidden = []
        return held


def _find(text, word, names):
    # Where `word` is and covers each name that it touches as a whole; or -1.
    i = text.find(word)
    while i >= 0:
        end = i + len(word)
        if all([end <= a or b <= i or (i <= a and b <= end) for a, b in names]):
            return i
        i = text.find(word, i + 1)
    return -1


def _shown(text, names):
    # `text` without the names that start in it.
    if not names:
        return text
    parts = []
    i = 0
    for a, b in names:
        parts.append(text[i : max(i, a)])
        i = b
    parts.append(text[i:])
    return "".join(parts)
