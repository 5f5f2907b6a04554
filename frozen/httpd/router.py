"""Application: maps method and path to a handler, and what the handler returns to a response.
Knows requests and responses, nothing of sockets.
"""
# SPDX-License-Identifier: MIT

import sys

from . import jsonio
from .aio import END, Source, settle
from .parser import METHODS, REASONS, HttpError

JSON = "application/json; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"

# Header sections of answers, by their contents: at most _HEADS, of at most _HEAD_SIZE bytes.
_heads = {}
_HEADS = 64
_HEAD_SIZE = 512

_SMALL = 1024  # a body of at most this many bytes is parsed only when the handler asks for it

_NONE = {}  # the arguments of a fixed path's handler


def out_of_memory():
    """Return the 503 for a request that needs more memory than is left."""
    return HttpError(503, "not enough memory for this request now", {"Retry-After": "1"})


def print_exception(exc):
    """Print the traceback of `exc` on the console."""
    if hasattr(sys, "print_exception"):
        sys.print_exception(exc)
    else:
        import traceback

        traceback.print_exception(exc)


class Response:
    """A complete answer. body: bytes, str, or any JSON value; headers: dict of str to str.

    The attribute `body` is bytes, except for a large JSON value until finish() has run.
    """

    def __init__(self, body=b"", status=200, headers=None, content_type=None):
        if isinstance(body, str):
            body = body.encode()
            content_type = content_type or _TEXT
        elif not isinstance(body, (bytes, bytearray, memoryview)):
            body = jsonio.begin(body)
            content_type = content_type or JSON
        self.body = body
        self.source = None
        self.status = status
        self.headers = headers or {}
        self.content_type = content_type or "application/octet-stream"

    async def finish(self):
        """Make `body` bytes, with turns of the event loop."""
        self.body = await jsonio.finish(self.body)

    def head(self, length, connection):
        """Return status line and header section as bytes. ValueError: a header has a line break.

        length: bytes of the body; None: it is chunked; -1: closing the connection ends it, or
        there is none. connection: a value for the Connection header, or None.
        """
        # Most answers repeat the header section of an earlier one. A value that is no text makes
        # no key, because 1 equals True.
        key = (self.status, self.content_type, length, connection)
        for name, value in self.headers.items():
            if type(value) is not str:
                return self._new_head(length, connection)
            key += (name, value)
        head = _heads.get(key)
        if head is None:
            head = self._new_head(length, connection)
            if len(_heads) >= _HEADS:
                _heads.clear()
            if len(head) <= _HEAD_SIZE:
                _heads[key] = head
        return head

    def _new_head(self, length, connection):
        status = self.status
        lines = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Status"))]
        lines.append("Content-Type: " + self.content_type)
        for name in self.headers:
            lines.append("%s: %s" % (name, self.headers[name]))
        # RFC 9112 6.3: by these the client finds the end of the answer.
        if length is None:
            lines.append("Transfer-Encoding: chunked")
        elif length >= 0:
            lines.append("Content-Length: %d" % length)
        if connection:
            lines.append("Connection: " + connection)
        text = "\r\n".join(lines)
        # With a line break, a value could add headers, or a second response.
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("line break in a response header")
        return text.encode() + b"\r\n\r\n"


class Stream(Response):
    """An answer whose pieces are sent as they come: from a generator, an async generator or an
    object with __aiter__, of str or bytes (never None, see aio.py). When the client goes, its
    close() is called.
    """

    def __init__(self, items, content_type=_TEXT, status=200, headers=None):
        Response.__init__(self, b"", status, headers, content_type)
        self.source = items if isinstance(items, Source) else Source(items)
        self._first = END

    async def start(self):
        """Wait for the first piece, so that an error before it becomes a plain error answer."""
        try:
            self._first = await self.next()
        except BaseException:  # cancellation too, when the client went away
            await self.source.close()
            raise

    async def next(self):
        """Return the next piece as bytes, never empty; END after the last."""
        if self._first is not END:
            data = self._first
            self._first = END
            return data
        while True:
            data = await self.source.next()
            if data is END:
                return END
            if isinstance(data, str):
                data = data.encode()
            elif not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError("a stream yields str or bytes, not %s" % type(data).__name__)
            if len(data):  # an empty chunk would end the body
                return data


# Types that a handler may return and that need not be awaited.
_PLAIN = (dict, list, str, bytes, tuple, Response)


def respond(value):
    """Return the Response for a handler's value; App.route lists the kinds."""
    if isinstance(value, Response):
        return value
    status = 200
    headers = None
    if isinstance(value, tuple):
        if not 2 <= len(value) <= 3:
            raise TypeError("a handler's tuple is (body, status) or (body, status, headers)")
        status = value[1]
        headers = value[2] if len(value) == 3 else None
        value = value[0]
    if value is None:
        return Response(b"", 204 if status == 200 else status, headers)
    if isinstance(value, Source) or hasattr(value, "__anext__") or hasattr(value, "send"):
        return Stream(value, status=status, headers=headers)
    return Response(value, status, headers)


def _int(text):
    digits = text[1:] if text.startswith("-") else text
    if not digits or len(digits) > 18 or digits.encode().strip(b"0123456789"):
        return None
    return int(text)


class Route:
    """One pattern and method. limit: bytes of the body, None for the server's limit. stream: the
    handler is called before the body is read, and takes pieces with `await request.read()`.
    """

    def __init__(self, pattern, handler, limit, stream):
        self.handler = handler
        self.limit = limit
        self.stream = stream
        self.parts = []  # str, or (kind, name)
        if not pattern.startswith("/"):
            raise ValueError("a route starts with '/': %r" % pattern)
        for part in pattern[1:].split("/"):
            if self.parts and type(self.parts[-1]) is tuple and self.parts[-1][0] == "path":
                raise ValueError("<path:...> is the last part: %r" % pattern)
            if part.startswith("<") and part.endswith(">"):
                kind, _, name = part[1:-1].rpartition(":")
                kind = kind or "str"
                if kind not in ("str", "int", "path") or not name:
                    raise ValueError("unknown part %s in %r" % (part, pattern))
                part = (kind, name)
            self.parts.append(part)

    def static(self):
        """Whether the pattern is one fixed path."""
        return all([type(p) is str for p in self.parts])

    def match(self, segments):
        """Return the handler's arguments if the path fits, else None."""
        params = {}
        for i, part in enumerate(self.parts):
            if i >= len(segments):
                return None
            segment = segments[i]
            if type(part) is str:
                if part != segment:
                    return None
                continue
            kind, name = part
            if kind == "path":
                params[name] = "/".join(segments[i:])
                return params
            if kind == "int":
                segment = _int(segment)
            if segment is None or segment == "":
                return None
            params[name] = segment
        return params if len(segments) == len(self.parts) else None


class App:
    """Routes and hooks.

        @app.get("/hello/<name>")
        async def hello(request, name):
            return {"hello": name}

    A route replaces an earlier one with the same pattern and method. Where patterns overlap, the
    later one wins; a fixed path wins over any pattern.
    """

    def __init__(self):
        self._fixed = {}  # "/a/b" -> {method: Route}
        self._patterns = []  # [(pattern, {method: Route})], latest first
        self._before = []
        self._around = []
        self._after = []
        self._done = []
        self._error = None

    def route(self, pattern, methods=("GET",), limit=None, stream=False):
        """Decorator: `handler(request, **parts)` answers `pattern`, with <name>, <int:name> and,
        as the last part, <path:name>.

        A plain or async handler returns a dict or list (JSON), str (text), bytes, None (204),
        (body, status[, headers]), a Response or a Stream. A generator or async generator yields
        pieces (str or bytes), which are sent as they come.
        """

        def decorate(handler):
            route = Route(pattern, handler, limit, stream)
            table = None
            if route.static():
                table = self._fixed.setdefault(pattern, {})
            else:
                for known, methods_ in self._patterns:
                    if known == pattern:
                        table = methods_
                if table is None:
                    table = {}
                    self._patterns.insert(0, (pattern, table))
            for method in methods:
                if method not in METHODS:
                    raise ValueError("unknown method %r" % method)
                table[method] = route
            return handler

        return decorate

    def get(self, pattern, **options):
        """Decorator for GET (and HEAD)."""
        return self.route(pattern, ("GET",), **options)

    def post(self, pattern, **options):
        """Decorator for POST."""
        return self.route(pattern, ("POST",), **options)

    def put(self, pattern, **options):
        """Decorator for PUT."""
        return self.route(pattern, ("PUT",), **options)

    def delete(self, pattern, **options):
        """Decorator for DELETE."""
        return self.route(pattern, ("DELETE",), **options)

    def before(self, hook):
        """Decorator: `hook(request)`, plain or async, runs before every handler. If it returns
        anything but None, that is the answer.
        """
        self._before.append(hook)
        return hook

    def middleware(self, hook):
        """Decorator: `async hook(request, handler)` runs around every handler, the hook that was
        added last outermost. `await handler(request)` gives the Response. The hook returns it,
        another one, or what a handler may return, and may change the request before.
        """
        self._around.append(hook)
        return hook

    def after(self, hook):
        """Decorator: `hook(request, response)` runs before any response is sent, errors too, and
        may add headers. request: None if none could be parsed. The hook must not await.
        """
        self._after.append(hook)
        return hook

    def done(self, hook):
        """Decorator: `hook(request, response, ms, sent)` runs after a response was sent, or broke
        off. ms: milliseconds since the request's header section had come; sent: bytes. The hook
        must not await.
        """
        self._done.append(hook)
        return hook

    def error(self, hook):
        """Decorator: `hook(request, error)` returns the answer to an HttpError. request: None if
        none could be parsed. The hook must not await.
        """
        self._error = hook
        return hook

    def find(self, request):
        """Return (route, arguments) for `request`. Raise HttpError 404, 405 or 501.

        For OPTIONS without a handler, the route is None and the arguments are the allowed methods.
        """
        method = request.method
        # Most requests ask for a fixed path. The count keeps a decoded slash inside a segment from
        # making a path that the client did not ask for.
        path = request.path
        table = self._fixed.get(path)
        if table is not None and path.count("/") == len(request.segments or ()):
            route = table.get(method)
            if route is not None:
                return route, _NONE
        if method not in METHODS:
            raise HttpError(501, "method %s is not supported" % method)
        if request.segments is None:  # OPTIONS *
            return None, list(METHODS)
        allowed = []
        for table, params in self._matches(request.segments):
            route = table.get(method) or (method == "HEAD" and table.get("GET"))
            if route:
                return route, params
            allowed.extend(table)
        if not allowed:
            raise HttpError(404, "no such path: " + request.path)
        if "GET" in allowed:
            allowed.append("HEAD")
        allowed = sorted(set(allowed + ["OPTIONS"]))
        if method == "OPTIONS":
            return None, allowed
        # RFC 9110 15.5.6: a 405 names what is allowed.
        raise HttpError(
            405, "method %s is not allowed here" % method, {"Allow": ", ".join(allowed)}
        )

    def _matches(self, segments):
        path = "/" + "/".join(segments)
        table = self._fixed.get(path)
        if table is not None and path.count("/") == len(segments):
            yield table, _NONE
        for _, table in self._patterns:
            for method in table:
                params = table[method].match(segments)
                if params is not None:
                    yield table, params
                break

    async def handle(self, request, route, params):
        """Run hooks and handler. Return a Response, started if it is a Stream.

        An exception of theirs becomes an error answer and affects no other request.
        """
        try:
            for hook in self._before:
                value = hook(request)
                if value is not None:
                    value = await settle(value)
                if value is not None:
                    return await self._respond(value)
            if route is None:
                return Response(b"", 204, {"Allow": ", ".join(params)})
            if len(request.body) > _SMALL:
                await request.parse()
            if not self._around:
                value = route.handler(request, **params) if params else route.handler(request)
                if type(value) not in _PLAIN:
                    value = await settle(value)
                response = respond(value)
                if response.source is not None:
                    await response.start()
                elif type(response.body) is not bytes:
                    await response.finish()
                return response

            async def handler(request):
                return await self._respond(await settle(route.handler(request, **params)))

            for hook in self._around:
                handler = self._wrapped(hook, handler)
            return await handler(request)
        except HttpError as exc:
            return self.failure(request, exc)
        except MemoryError as exc:
            # No mistake of the handler: there may be memory once other requests have ended.
            print("out of memory in %s %s: %s" % (request.method, request.target, exc))
            return self.failure(request, out_of_memory())
        except Exception as exc:
            return self.crash(request, exc)

    async def _respond(self, value):
        response = respond(value)
        if response.source is not None:
            await response.start()
        else:
            await response.finish()
        return response

    def _wrapped(self, hook, inner):
        # To the hook, an error of the inner handler is a response, too.
        async def safe(request):
            try:
                return await inner(request)
            except HttpError as exc:
                return self.failure(request, exc)

        async def wrapped(request):
            return await self._respond(await settle(hook(request, safe)))

        return wrapped

    def finish(self, request, response):
        """Run the hooks before a response is sent."""
        for hook in self._after:
            hook(request, response)

    def report(self, request, response, ms, sent):
        """Run the hooks after a response was sent."""
        for hook in self._done:
            hook(request, response, ms, sent)

    def crash(self, request, exc):
        """Print an unexpected exception. Return the client's 500."""
        print("error in %s %s:" % (request.method, request.target))
        print_exception(exc)
        return self.failure(request, HttpError(500))

    def failure(self, request, error):
        """Return the answer to an HttpError."""
        if self._error is not None:
            try:
                response = respond(self._error(request, error))
                response.body = jsonio.finish_now(response.body)
                return response
            except Exception as exc:
                print("error in the error hook:")
                print_exception(exc)
        body = {"code": error.status, "message": error.message}
        body.update(error.fields)
        try:
            text = jsonio.dumps({"error": body})
        except (ValueError, TypeError):  # a handler's words may be no UTF-8
            body = {"code": error.status, "message": REASONS.get(error.status, "Error")}
            text = jsonio.dumps({"error": body})
        return Response(text.encode(), error.status, error.headers, JSON)
