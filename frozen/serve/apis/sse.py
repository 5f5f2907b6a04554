# Server-sent events of an answer. One loop for all APIs; what an event looks like is the API's.
# MIT license; Copyright (c) 2026 cllm contributors

from httpd import HttpError, Stream
from httpd.jsonio import dumps

from ..scheduling.errors import error_object
from .reply import PING

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Writer:
    """What an API makes of the pieces of its answers; all results are text of events."""

    done = ""  # what follows the last event

    def start(self, replies):
        """Before the first piece of all."""
        return ""

    def piece(self, reply, piece):
        """For a piece that is not an answer's last."""
        raise NotImplementedError

    def end(self, reply, piece):
        """For an answer's last piece."""
        raise NotImplementedError

    def finish(self, replies):
        """When all answers have ended."""
        return ""

    def failure(self, error):
        """For an error (HttpError) after the first event: the status is sent."""
        return "data: " + dumps({"error": error_object(error)}) + "\n\n"


def event(name, data):
    """One event with a name, as the Responses and Anthropic APIs have them."""
    return "event: " + name + "\ndata: " + dumps(data) + "\n\n"


def stream(replies, writer):
    """The streamed answer made of `replies` by `writer`. An error before the first event is a
    plain error answer.
    """
    return Stream(_events(replies, writer), "text/event-stream", headers=_HEADERS)


async def _events(replies, writer):
    started = False  # something was sent
    opening = True
    try:
        async for piece in replies:
            if piece == PING:
                started = True
                yield ":\n\n"
                continue
            data = writer.start(replies) if opening else ""
            opening = False
            reply = replies.replies[piece.index]
            data += writer.end(reply, piece) if piece.last else writer.piece(reply, piece)
            if data:
                started = True
                yield data
        yield writer.finish(replies) + writer.done
    except HttpError as exc:
        if not started:
            raise
        yield writer.failure(exc)
    finally:
        replies.cancel()
