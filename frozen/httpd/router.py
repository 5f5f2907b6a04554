# Application: maps method and path to a handler, and what the handler returns to a response. Knows
# requests and responses, nothing of sockets.
# MIT license; Copyright (c) 2026 cllm contributors

import sys

from . import jsonio
from .aio import END, Source, settle
from .parser import METHODS, REASONS, HttpError

JSON = "application/json; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"

# Header sections of answers, by what they say.
_heads = {}
_HEADS = 64
_HEAD_SIZE = 512

_SMALL = 1024  # bytes of a body that are parsed when the handler asks, at once

_NONE = {}  # arguments of the handlers of fixed paths


def out_of_memory():
    """The 503 for a request that does not fit what memory is left."""
    return HttpError(503, "not enough memory for this request now", {"Retry-After": "1"})


def print_exception(exc):
    """Prints the traceback of `exc` on the console."""
    if hasattr(sys, "print_exception"):
        sys.print_exception(exc)
    else:
        import traceback

        traceback.print_exception(exc)


class Response:
    """A complete answer. body: bytes, str, or any JSON value; headers: dict of str to str.

    The attribute `body` is bytes, but for the text of a large JSON value, which finish() makes.
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
        """Status line and header section as bytes. ValueError: a header has a line break.

        length: bytes of the body, None for a chunked one, -1 for an end by closing or no body at
        all. connection: a value for the Connection header, or None.
        """
        # Most answers say the same as one before. Anything but text is rare, and 1 is equal to True.
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
        # RFC 9112 6.3: how the client finds the end of the answer.
        if length is None:
            lines.append("Transfer-Encoding: chunked")
        elif length >= 0:
            lines.append("Content-Length: %d" % length)
        if connection:
            lines.append("Connection: " + connection)
        text = "\r\n".join(lines)
        # A line break in a value would let it write headers, or a second response.
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("line break in a response header")
        return text.encode() + b"\r\n\r\n"


class Stream(Response):
    """An answer in pieces as they come: from a generator, an async generator or an object with
    __aiter__, of str or bytes (never None, see aio.py). Its close() is called when the client
    goes.
    """

    def __init__(self, items, content_type=_TEXT, status=200, headers=None):
        Response.__init__(self, b"", status, headers, content_type)
        self.source = items if isinstance(items, Source) else Source(items)
        self._first = END

    async def start(self):
        """Waits for the first piece, so that an error before it is still a plain error answer."""
        try:
            self._first = await self.next()
        except BaseException:  # also cancelled because the client went away
            await self.source.close()
            raise

    async def next(self):
        """The next piece as bytes, not empty; END after the last."""
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
            if len(data):  # an empty chunk would end the chunked coding
                return data


# What handlers return that waits for nothing.
_PLAIN = (dict, list, str, bytes, tuple, Response)


def respond(value):
    """Makes a Response of a handler's value: see App.route for the kinds."""
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
    """One pattern and method. limit: body bytes, None for the server's. stream: call the handler
    before the body is read; it takes pieces with `await request.read()`.
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
        """The handler's arguments when the path fits, else None."""
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

    A later route with the same pattern and method replaces an earlier one; among overlapping
    patterns the later wins, and a fixed path wins over a pattern.
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

        The handler is plain or async and returns a dict or list (JSON), str (text), bytes, None
        (204), (body, status[, headers]), a Response or a Stream; or it is a generator or async
        generator of str or bytes and the pieces are sent as they come.
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
        """Decorator: `hook(request)`, plain or async, runs before every handler; what it returns,
        unless None, is the answer.
        """
        self._before.append(hook)
        return hook

    def middleware(self, hook):
        """Decorator: `async hook(request, handler)` runs around every handler, the latest added
        outermost. `await handler(request)` gives the Response, which the hook returns, or another
        one, or what a handler may return. It may change the request (`request.body`) before.
        """
        self._around.append(hook)
        return hook

    def after(self, hook):
        """Decorator: `hook(request, response)` runs before any response is sent, also an error's;
        it may add headers. request is None when none could be parsed. It must not await.
        """
        self._after.append(hook)
        return hook

    def done(self, hook):
        """Decorator: `hook(request, response, ms, sent)` runs when a response was sent, or broke
        off: milliseconds since the request's header section, bytes sent. It must not await.
        """
        self._done.append(hook)
        return hook

    def error(self, hook):
        """Decorator: `hook(request, error)` makes the answer to an HttpError; request is None when
        none could be parsed. It must not await.
        """
        self._error = hook
        return hook

    def find(self, request):
        """(route, arguments) for `request`. Raises HttpError 404, 405 or 501.

        For OPTIONS without a handler the route is None and the arguments are the allowed methods.
        """
        method = request.method
        # Most requests are for a fixed path. A decoded slash inside a segment must not make a path
        # that the client did not ask for.
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
        """Runs hooks and handler; returns a Response, started if it is a Stream.

        Any exception of theirs becomes an error answer here and costs no one else.
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
            # Not a mistake of the handler's: it may fit once others have ended.
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
        # An error of the inner handler is a response for the hook too.
        async def safe(request):
            try:
                return await inner(request)
            except HttpError as exc:
                return self.failure(request, exc)

        async def wrapped(request):
            return await self._respond(await settle(hook(request, safe)))

        return wrapped

    def finish(self, request, response):
        """Runs the hooks before a response is sent."""
        for hook in self._after:
            hook(request, response)

    def report(self, request, response, ms, sent):
        """Runs the hooks after a response was sent."""
        for hook in self._done:
            hook(request, response, ms, sent)

    def crash(self, request, exc):
        """The answer to an unexpected exception: traceback on the console, 500 for the client."""
        print("error in %s %s:" % (request.method, request.target))
        print_exception(exc)
        return self.failure(request, HttpError(500))

    def failure(self, request, error):
        """The answer to an HttpError."""
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
        except (ValueError, TypeError):  # words from elsewhere that are no UTF-8
            body = {"code": error.status, "message": REASONS.get(error.status, "Error")}
            text = jsonio.dumps({"error": body})
        return Response(text.encode(), error.status, error.headers, JSON)
