"""Streams that can be resumed, as llama-server has them: a request with an X-Conversation-Id header
goes on when its client leaves, and GET /v1/stream gives what it said and says.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

from httpd import HttpError, Stream
from httpd.aio import END, Source

from ..scheduling.errors import invalid
from .openai import object_of
from .params import few, typed

_MOST_NAME = 512  # characters
_FEWEST = 16  # streams beyond which ended ones are forgotten


class Session:
    """The bytes of one stream. Those at the beginning go when there is no room."""

    def __init__(self, name, owner, content_type):
        self.name = name
        self.owner = owner
        self.content_type = content_type
        self.parts = []
        self.dropped = 0  # bytes that are gone
        self.total = 0
        self.started = int(time.time())
        self.ended = 0
        self.error = None  # that ended it
        self.task = None
        self.changed = asyncio.Event()

    @property
    def held(self):
        """Bytes in memory."""
        return self.total - self.dropped

    def add(self, data):
        """Note more of the stream."""
        self.parts.append(data)
        self.total += len(data)
        self._wake()

    def finish(self, error=None):
        """Note its end."""
        self.error = error
        self.ended = int(time.time())
        self._wake()

    def shorten(self):
        """Forget the oldest piece."""
        self.dropped += len(self.parts.pop(0))

    def after(self, offset):
        """Return what there is from a byte on."""
        at = self.total
        first = len(self.parts)
        while first and at > offset:  # readers are near the end
            first -= 1
            at -= len(self.parts[first])
        return b"".join(self.parts[first:])[max(0, offset - at) :]

    def _wake(self):
        event = self.changed
        self.changed = asyncio.Event()
        event.set()


class _Reader:
    # A client's view of a Session, from a byte on.
    def __init__(self, session, offset=0):
        self._session = session
        self._offset = offset

    def __aiter__(self):
        return self

    async def __anext__(self):
        session = self._session
        while True:
            if self._offset < session.dropped:
                self._offset = session.dropped  # it reads more slowly than the model writes
            data = session.after(self._offset)
            if data:
                self._offset += len(data)
                return data
            if session.ended:
                if session.error and not session.total:
                    raise session.error
                raise StopAsyncIteration
            await session.changed.wait()


class Streams:
    """The sessions by the client's name of the conversation. most: bytes of all."""

    def __init__(self, most=0):
        self.most = most
        self._sessions = {}

    def keeps(self, request, params):
        """Whether the answer to a request goes on without its client."""
        return bool(params.stream and self.most and _name_of(request))

    def begin(self, request, items, content_type, headers):
        """Return the Stream of `items`, kept if the request asks for it."""
        name = _name_of(request)
        if not (name and self.most):
            return Stream(items, content_type, headers=headers)
        key = (_owner(request), name)
        self.end(key)
        session = Session(name, key[0], content_type)
        self._sessions[key] = session
        session.task = asyncio.create_task(self._pump(session, key, Source(items)))
        return Stream(_Reader(session), content_type, headers=headers)

    async def _pump(self, session, key, source):
        error = None
        try:
            while True:
                data = await source.next()
                if data is END:
                    break
                session.add(data.encode())
                self._make_room()
        except HttpError as exc:
            error = exc
            if not session.total and self._sessions.get(key) is session:
                del self._sessions[key]  # nothing to resume
        finally:
            session.finish(error)
            await source.close()

    def _make_room(self):
        sessions = list(self._sessions.values())
        while sum([session.held for session in sessions]) > self.most:
            largest = max(sessions, key=lambda session: session.held)
            largest.shorten()
        ended = [key for key, session in self._sessions.items() if session.ended]
        if len(self._sessions) > _FEWEST and ended:
            ended.sort(key=lambda key: self._sessions[key].ended)
            del self._sessions[ended[0]]

    def find(self, request, name):
        """Return the Session `name` of the request's client, or None."""
        return self._sessions.get((_owner(request), name))

    def end(self, key):
        """Forget a session; what still runs ends."""
        session = self._sessions.pop(key, None)
        if session and not session.ended:
            session.task.cancel()

    def named(self, request, name):
        """Return the sessions called `name`, or `name`, two colons and anything."""
        owner = _owner(request)
        return [
            session
            for session in self._sessions.values()
            if session.owner == owner
            and (session.name == name or session.name.startswith(name + "::"))
        ]


def _name_of(request):
    return request.header("x-conversation-id", "")[:_MOST_NAME] if request else ""


def _owner(request):
    return getattr(request, "key", None)


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    def asked(request):
        name = request.query.get("conv_id")
        if not name:
            raise invalid("Missing conversation id in path")
        return name[:_MOST_NAME]

    name = {"type": "string", "minLength": 1}
    offset = {"type": "integer", "minimum": 0}

    @api.get(
        "/v1/stream", gives="text/event-stream", query={"conv_id": name, "from": offset},
        codes=(404,), says="What a stream said from a byte on, and says",
    )  # fmt: skip
    def resume(request):
        session = service.streams.find(request, asked(request))
        if session is None:
            raise HttpError(404, "Stream not found or expired")
        start = request.query.get("from") or "0"
        if len(start) > 18 or start.strip("0123456789"):
            raise invalid("Invalid 'from' offset")
        if int(start) < session.dropped:
            raise invalid("Stream offset lost, please restart")
        return Stream(_Reader(session, int(start)), session.content_type)

    @api.delete(
        "/v1/stream", gives="none", query={"conv_id": name}, says="End a stream, and forget it"
    )
    def stop(request):
        service.streams.end((_owner(request), asked(request)))

    @api.post("/v1/streams/lookup", takes="Lookup", gives="Array", says="Which streams there are")
    def lookup(request):
        found = []
        for name in few(
            typed(object_of(request), "conversation_ids", "array") or [], "conversation_ids", 256
        ):
            for session in service.streams.named(request, name) if isinstance(name, str) else ():
                found.append(
                    {
                        "conversation_id": session.name,
                        "is_done": bool(session.ended),
                        "total_bytes": session.total,
                        "started_at": session.started,
                        "completed_at": session.ended,
                    }
                )
        return found
