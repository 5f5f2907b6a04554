"""Responses that are kept for requests that go on from them, within a bounded memory.

They are kept as JSON text, which takes a fraction of the memory of its values. The oldest one makes
room for a new one.
"""
# SPDX-License-Identifier: MIT

from httpd import HttpError
from httpd.jsonio import dumps, loads


class _Entry:
    # answer: the response object; items: the request's input; both as JSON text.
    def __init__(self, answer, messages, items, owner):
        self.answer = answer
        self._messages = messages
        self.items = items
        self.owner = owner
        self.size = len(answer) + len(messages) + len(items)

    def messages(self):
        """Return the messages of the chat up to and with the answer."""
        return loads(self._messages)


class Stored:
    """most: bytes of JSON text to keep, 0 for none. With API keys, each sees its own only."""

    def __init__(self, most=0):
        self.most = most
        self.size = 0
        self._entries = {}
        self._order = []  # ids, oldest first

    def put(self, answer, messages, items, request):
        """Keep a response object with the chat's messages. One that is too long is not kept."""
        entry = _Entry(dumps(answer), dumps(messages), dumps(items), _owner(request))
        if entry.size > self.most:
            return
        while self.size + entry.size > self.most:
            self._drop(self._order[0])
        self.size += entry.size
        self._entries[answer["id"]] = entry
        self._order.append(answer["id"])

    def get(self, name, request):
        """Return the entry `name`; HttpError 404 if there is none, or it is another key's."""
        entry = self._entries.get(name)
        if entry is None or entry.owner != _owner(request):
            raise HttpError(404, "there is no response '%s' (any more)" % name[:64])
        return entry

    def remove(self, name, request):
        """Forget the entry `name`; HttpError 404 as in get()."""
        self.get(name, request)
        self._drop(name)

    def _drop(self, name):
        self.size -= self._entries.pop(name).size
        self._order.remove(name)


def _owner(request):
    return getattr(request, "key", None)
