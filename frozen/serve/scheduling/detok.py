# From the bytes of tokens to text that may be sent: a token can end inside a character and a stop
# string can begin in one token and end three later, so both hold back what is not decided yet.
# MIT license; Copyright (c) 2026 cllm contributors

from httpd import jsonio


class Utf8:
    """Incremental UTF-8 decoder. Invalid bytes become U+FFFD, an incomplete end waits."""

    def __init__(self):
        self._held = b""

    def push(self, data):
        """Text of `data` (bytes) after what was held back; str."""
        if self._held:
            data = self._held + data
        text, used = jsonio.decode(data)
        self._held = data[used:]
        return text

    def flush(self):
        """An incomplete end, when there is no more to come: U+FFFD or nothing."""
        held = self._held
        self._held = b""
        return "\ufffd" if held else ""


def text_of(data):
    """The whole text of `data` (bytes); str."""
    text = Utf8()
    return text.push(data) + text.flush()


class Stops:
    """Finds stop strings across pieces of text and holds back what may become one.

    words: list of non-empty str.
    """

    def __init__(self, words):
        self.words = words
        self.found = None  # the stop string that was met
        self._held = ""
        self._hidden = []  # (from, to) in _held: names of control tokens

    def push(self, text):
        """Text that can be sent now: str. After a stop string was `found`, that is the rest."""
        if not self.words:
            return text
        return self._push(text, False)

    def hide(self, name):
        """Like push() for the name of a control token, which is no part of the text but may be one
        of a stop string's. A stop string matches all of a name or nothing of it.
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
            # Of two that end up in the same text, the one that starts first counts.
            if i >= 0 and (at < 0 or i < at):
                at = i
                self.found = word
        if at < 0:
            at = len(text) - self._may_begin(text)
        self._held = "" if self.found else text[at:]
        self._hidden = [(a - at, b - at) for a, b in names if b > at]  # from may be before
        return _shown(text[:at], names)

    def _may_begin(self, text):
        # How much of the end of `text` a stop string may begin with.
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
        """The held back text, when the generation ends without a stop string."""
        held = _shown(self._held, self._hidden)
        self._held = ""
        self._hidden = []
        return held


def _find(text, word, names):
    # Where `word` is and holds each of the names that it touches as a whole; or -1.
    i = text.find(word)
    while i >= 0:
        end = i + len(word)
        if all([end <= a or b <= i or (i <= a and b <= end) for a, b in names]):
            return i
        i = text.find(word, i + 1)
    return -1


def _shown(text, names):
    # `text` without the names that begin in it.
    if not names:
        return text
    parts = []
    i = 0
    for a, b in names:
        parts.append(text[i : max(i, a)])
        i = b
    parts.append(text[i:])
    return "".join(parts)
