"""Server-sent events of an answer: one loop for all APIs. Each API's Writer makes the events."""
# SPDX-License-Identifier: MIT

from httpd import HttpError
from httpd.jsonio import dumps

from ..scheduling.errors import error_object
from .reply import PING

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Writer:
    """Turns the pieces of answers into an API's events. Each method returns the events' text."""

    done = ""  # the text after the last event
    content_type = "text/event-stream"
    ping = ":\n\n"  # after a long silence

    def start(self, replies):
        """Return what comes before the first piece of all."""
        return ""

    def progress(self, reply, progress):
        """Return the events that report llama-server's `prompt_progress`, for whom it is wanted."""
        return ""

    def piece(self, reply, piece):
        """Return the events of a piece that is not an answer's last."""
        raise NotImplementedError

    def end(self, reply, piece):
        """Return the events of an answer's last piece."""
        raise NotImplementedError

    def finish(self, replies):
        """Return what comes when all answers have ended."""
        return ""

    def failure(self, error):
        """Return the event of an HttpError that comes after the status was sent."""
        return "data: " + dumps({"error": error_object(error)}) + "\n\n"


def event(name, data):
    """Return one event with a name, as in the Responses and Anthropic APIs."""
    return "event: " + name + "\ndata: " + dumps(data) + "\n\n"


def stream(replies, writer, service, request):
    """Return the Stream of the events that `writer` makes of `replies`, which answer `request`. An
    error before the first event becomes a plain error answer.
    """
    events = _events(replies, writer)
    return service.streams.begin(request, events, writer.content_type, _HEADERS)


async def _events(replies, writer):
    started = False  # something was sent
    opening = True
    try:
        async for piece in replies:
            if piece == PING:
                if writer.ping:
                    started = True
                    yield writer.ping
                continue
            data = writer.start(replies) if opening else ""
            opening = False
            reply = replies.replies[piece.index]
            if piece.progress:
                data += writer.progress(reply, piece.progress)
            else:
                data += writer.end(reply, piece) if piece.last else writer.piece(reply, piece)
            if data:
                started = True
                yield data
        data = writer.finish(replies) + writer.done
        if data:
            yield data
    except HttpError as exc:
        if not started:
            raise
        yield writer.failure(exc)
    finally:
        replies.cancel()
