"""What comes of a sequence, for an answer: text, or the parts of a chat message. One answer, or
several at once as they come.
"""
# SPDX-License-Identifier: MIT

import asyncio

from httpd.jsonio import loads

from ..scheduling.detok import text_of

PING = "ping"  # from Replies: nothing came for a long time


class Piece:
    """News of one answer. index: the answer's number; text: new text; deltas: what it adds to a
    chat message, as OpenAI's delta objects; item: the sequence's Item, None at the end; last:
    whether this is the end; probs: Items whose text is in the content that the deltas add.
    """

    def __init__(self, index, text, deltas, item):
        self.probs = []
        self.index = index
        self.text = text
        self.deltas = deltas
        self.item = item
        self.last = item is None
        self.progress = item and item.progress  # llama-server's `prompt_progress`


class Reply:
    """One answer. sequence: generates it; conversation: what it replies to, None for a completion;
    index: its number in the request.

    text, probs, tokens: what came so far; content_probs: the probs of the content, without
    thoughts and calls; message: OpenAI's message object, at the end.
    """

    def __init__(self, sequence, conversation=None, index=0):
        self.sequence = sequence
        self.index = index
        self.texts = []
        self.probs = []
        self.content_probs = []
        self.tokens = []
        self.message = None
        self._said = False  # deltas were given out
        self._unread = []  # text that the parser could not read yet
        self._pending = []  # probabilities of tokens whose text is held back
        self.ended = False
        self._parser = None
        if conversation is not None and not conversation.plain:
            self._parser = conversation.chat.reply()

    @property
    def text(self):
        return "".join(self.texts)

    def take(self):
        """Return the next Piece of a sequence that is ready. Raise RequestError if it failed."""
        item = self.sequence.take()
        if item and item.progress:
            return Piece(self.index, "", [], item)
        text = item.text if item else ""
        if text:
            self.texts.append(text)
        if item is None:
            self.ended = True
        else:
            if item.probs is not None:
                self.probs.append(item)
            if item.token is not None:
                self.tokens.append(item.token)
        piece = Piece(self.index, text, self._deltas(text), item)
        self._attribute(piece)
        return piece

    def _attribute(self, piece):
        # Tokens become text later, and some of that text is no content.
        if piece.item is not None and piece.item.probs is not None:
            self._pending.append(piece.item)
        if not piece.deltas:
            return
        self._said = True
        if any(["content" in delta for delta in piece.deltas]):
            piece.probs = self._pending
            self.content_probs.extend(self._pending)
        self._pending = []

    def _deltas(self, text):
        if self._parser is None:
            if self.ended:
                self.message = {"role": "assistant", "content": self.text}
            return [{"content": text}] if text else []
        if not text and not self.ended:
            return []
        try:
            parsed = loads(self._parser.push(text, self.ended))
        except RuntimeError:
            # The start of some formats is ambiguous: wait for more.
            self._unread.append(text)
            return self._unparsed() if self.ended else []
        self._unread = []
        if self.ended:
            self.message = message = parsed["message"]
            if not (message["content"] or len(message) > 2):
                # The parser made nothing of it, such as JSON that was cut off: give it as it is.
                message["content"] = self.text
            self._parser.close()
        return parsed["deltas"]

    def _unparsed(self):
        # The model has left its own format, or nests deeper than can be parsed: the message is the
        # whole text, and what was not sent yet is content.
        self._parser.close()
        self.message = {"role": "assistant", "content": self.text}
        text = "".join(self._unread) if self._said else self.text
        return [{"content": text}] if text else []

    def close(self):
        """End the sequence if it still runs, and free the parser."""
        self.sequence.cancel()
        if self._parser is not None:
            self._parser.close()

    def finish_reason(self):
        """Return OpenAI's word for how it ended."""
        if self.sequence.finish_reason == "stop" and self.message.get("tool_calls"):
            return "tool_calls"
        return self.sequence.finish_reason


class Replies:
    """All answers of a request. `async for` gives their Pieces as they come, or PING."""

    prompt = ""  # of a chat, as its template rendered it

    def __init__(self, replies):
        self.replies = replies
        self._event = asyncio.Event()
        for reply in replies:
            reply.sequence.event = self._event

    def __aiter__(self):
        return self

    async def __anext__(self):
        while True:
            piece = self._next()
            if piece is not None:
                return piece
            if all([reply.ended for reply in self.replies]):
                raise StopAsyncIteration
            self._event.clear()
            await self._event.wait()

    def _next(self):
        silent = False
        for reply in self.replies:
            sequence = reply.sequence
            if not reply.ended and sequence.ready:
                sequence.silent = False
                return reply.take()
            if sequence.silent:
                sequence.silent = False
                silent = True
        return PING if silent else None

    async def collect(self):
        """Wait for the end of all; then the replies hold everything. Cancel them if cancelled."""
        try:
            async for _ in self:
                pass
        finally:
            self.cancel()

    def cancel(self):
        """End those that still run."""
        for reply in self.replies:
            reply.close()


async def described(items, describe):
    """Return [describe(item), ...], with a turn of the event loop after each: an answer of 2,000
    tokens with 20 alternatives is 40,000 objects.
    """
    found = []
    for item in items:
        found.append(describe(item))
        await asyncio.sleep(0)
    return found


# Bytes of a token that an answer shows. Tokens of real vocabularies are shorter.
_MOST_BYTES = 1024


def _text(engine, token):
    # (text, bytes) of a token, with U+FFFD for what is no UTF-8 by itself. A control token has no
    # text, so that the bytes of all tokens together are the answer, as OpenAI's schema says.
    piece = engine.piece(token)
    if len(piece) > _MOST_BYTES:
        return text_of(piece[:_MOST_BYTES]), None
    return text_of(piece), list(piece)


def key_of(engine, token, taken=()):
    """Return a token's key in OpenAI's `top_logprobs`: its text, or "bytes:" and the bytes of what
    is no text by itself. taken: keys of other tokens.
    """
    piece = engine.piece(token, True)[:_MOST_BYTES]
    key = text_of(piece)
    if key.encode() != piece:
        key = "bytes:" + "".join(["\\x%02x" % byte for byte in piece])
    if key in taken:  # two tokens of a vocabulary may have the same text
        key = "token_id:%d" % token
    return key


def probs_object(engine, item, post=False):
    """Return llama-server's object for a token and its alternatives. post: probabilities after
    sampling, not logarithms.
    """
    name = "prob" if post else "logprob"
    own, others = item.probs
    text, data = _text(engine, item.token)
    top = []
    for token, value in others:
        its_text, its_data = _text(engine, token)
        top.append({"id": token, "token": its_text, "bytes": its_data, name: value})
    return {"id": item.token, "token": text, "bytes": data, name: own, "top_%ss" % name: top}
