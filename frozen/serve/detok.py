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


class Stops:
    """Finds stop strings across pieces of text and holds back what may become one.

    words: list of non-empty str.
    """

    def __init__(self, words):
        self.words = words
        self.found = None  # the stop string that was met
        self._held = ""

    def push(self, text):
        """Text that can be sent now: str. After a stop string was `found`, that is the rest."""
        if not self.words:
            return text
        text = self._held + text
        self._held = ""
        at = -1
        for word in self.words:
            i = text.find(word)
            # Of two that end up in the same text, the one that starts first counts.
            if i >= 0 and (at < 0 or i < at):
                at = i
                self.found = word
        if at >= 0:
            return text[:at]
        hold = 0
        for word in self.words:
            for size in range(min(len(word) - 1, len(text)), hold, -1):
                if text.endswith(word[:size]):
                    hold = size
                    break
        if hold:
            self._held = text[len(text) - hold :]
            return text[: len(text) - hold]
        return text

    def flush(self):
        """The held back text, when the generation ends without a stop string."""
        held = self._held
        self._held = ""
        return held
