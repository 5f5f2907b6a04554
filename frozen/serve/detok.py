# From the bytes of tokens to text that may be sent: a token can end inside a character and a stop
# string can begin in one token and end three later, so both hold back what is not decided yet.
# MIT license; Copyright (c) 2026 cllm contributors


def _length(lead):
    # Bytes of the character that starts with `lead`; 0 if none does.
    if lead < 0x80:
        return 1
    if 0xC2 <= lead <= 0xDF:
        return 2
    if 0xE0 <= lead <= 0xEF:
        return 3
    if 0xF0 <= lead <= 0xF4:
        return 4
    return 0


def _second(lead, byte):
    # Unicode 15 table 3-7: the second byte's range excludes overlong forms, surrogates and what is
    # beyond U+10FFFF. MicroPython's decode() lets those pass, a client's JSON parser does not.
    if lead == 0xE0:
        return 0xA0 <= byte <= 0xBF
    if lead == 0xED:
        return 0x80 <= byte <= 0x9F
    if lead == 0xF0:
        return 0x90 <= byte <= 0xBF
    if lead == 0xF4:
        return 0x80 <= byte <= 0x8F
    return 0x80 <= byte <= 0xBF


class Utf8:
    """Incremental UTF-8 decoder. Invalid bytes become U+FFFD, an incomplete end waits."""

    def __init__(self):
        self._held = b""

    def push(self, data):
        """Text of `data` (bytes) after what was held back; str."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data or max(data) < 0x80:
            return data.decode()
        out = []
        i = 0
        n = len(data)
        while i < n:
            size = _length(data[i])
            j = i + 1
            while j < n and j < i + size:
                if not (_second(data[i], data[j]) if j == i + 1 else 0x80 <= data[j] <= 0xBF):
                    break
                j += 1
            if size and j == i + size:
                out.append(data[i:j].decode())
            elif size and j == n:
                self._held = data[i:]
                break
            else:
                # Unicode 15 3.9: one replacement for the longest part that began well.
                out.append("\ufffd")
            i = j
        return "".join(out)

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
