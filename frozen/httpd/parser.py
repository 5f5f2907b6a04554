"""Push parser for HTTP/1.1 requests (RFC 9112): bytes in, a Request and its body out. It has no
socket, clock or loop, so tests on CPython feed it bytes for every rule.

It is strict where leniency lets two parsers disagree on where a request ends (request smuggling).
It looks at data with find, split and strip only, which run in C: a Python step per byte would cost
more than the network.
"""
# SPDX-License-Identifier: MIT

from . import jsonio

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS = b"0123456789"
_HEX = b"0123456789abcdefABCDEF"
_OWS = b" \t"  # RFC 9110 5.6.3; strip() without arguments would strip more
# RFC 3986 3.2.2, 3.2.3: a name or an address, and a port. The comma of a joined list is left out.
_HOST = b"!$%&'()*+-.:;=[]_~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The methods that this server knows (RFC 9110 9). Any other is a 501, not a 405.
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")

REASONS = {
    100: "Continue",
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    499: "Client Closed Request",  # nginx's, for the log only: the client is gone
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class HttpError(Exception):
    """An answer other than success.

    status: HTTP status code. message: text for the client. headers: extra response headers.
    fields: further members of the JSON error object (`type=`, `n_ctx=` ...).
    """

    def __init__(self, status, message=None, headers=None, **fields):
        super().__init__(message or REASONS.get(status, "Error"))
        self.status = status
        self.message = message or REASONS.get(status, "Error")
        self.headers = headers or {}
        self.fields = fields


class Limits:
    """Bounds on what one client may take. Sizes are in bytes, times in seconds."""

    def __init__(self, **values):
        self.line = 8192  # request line, and one chunk-size line
        self.head = 16384  # request line and header section, also a trailer section
        self.headers = 100  # header fields
        self.body = 2 << 20  # body collected for a handler
        self.json_memory = jsonio.MAX_MEMORY  # memory for the values of a JSON body
        self.json_containers = jsonio.MAX_CONTAINERS  # arrays and objects in it
        self.connections = 64
        self.backlog = 16
        self.idle_s = 60  # between requests on a kept connection
        self.head_s = 15  # first byte to end of the header section
        self.body_s = 20  # for the body; each 4 KiB received earns one more
        self.write_s = 30  # without a byte taken by the client
        self.linger_s = 3  # of throwing unread input away before a close
        for name, value in values.items():
            if not hasattr(self, name):
                raise ValueError("unknown limit '%s'" % name)
            if type(value) not in (int, float) or value <= 0:
                raise ValueError("limit '%s' must be a positive number" % name)
            setattr(self, name, value)


def unquote(text):
    """Return `text` (str) with percent-encoding decoded as UTF-8, or raise HttpError(400)."""
    if "%" not in text:
        return text
    parts = text.encode().split(b"%")
    out = [parts[0]]
    for part in parts[1:]:
        code = part[:2]
        if len(code) < 2 or code.strip(_HEX):
            raise HttpError(400, "invalid percent-encoding in the request target")
        out.append(bytes((int(code, 16),)))
        out.append(part[2:])
    octets = b"".join(out)
    if not jsonio.is_utf8(octets):  # MicroPython's decode() lets surrogates pass
        raise HttpError(400, "the request target is not UTF-8")
    text = octets.decode()
    if "\0" in text:
        raise HttpError(400, "NUL in the request target")
    return text


# Header sections to remember: how many, and of how many bytes at most.
_KNOWN_COUNT = 32
_KNOWN_SIZE = 1024


# First bytes of a JSON array, object or string, which white space or a byte order mark may
# precede.
_JSON_STARTS = (b"{", b"[", b'"', b" ", b"\t", b"\n", b"\r", b"\xef")


def _never():
    return False


class Request:
    """One request.

    method, target: as sent. segments: the decoded path split at "/" (so an encoded slash stays
    inside its segment), None for the target "*". path: the decoded path. query: decoded query
    parameters as a dict; the last of equal names wins. headers: lower-case name -> value, repeated
    ones joined by ", ". minor: the x of HTTP/1.x, 0 or 1. length: declared bytes of the body, None
    if it is chunked. body: bytes, once collected. keep_alive: what the client asked for. peer: the
    client's address, or None. gone(): whether the client has ended its side of the connection.
    """

    # Defaults that most requests share; setting them for each would take time.
    length = 0
    keep_alive = False
    expects_continue = False
    body = b""
    peer = None
    gone = staticmethod(_never)
    read = None
    json_memory = jsonio.MAX_MEMORY
    json_containers = jsonio.MAX_CONTAINERS
    _parsed = (None, None, None)  # a body, its value, the error in it

    def __init__(self, method, target, minor, headers, segments=None, query=None):
        self.method = method
        self.target = target
        self.minor = minor
        self.headers = headers
        self.segments = segments
        self.path = target if segments is None else "/" + "/".join(segments)
        self.query = {} if query is None else query

    def header(self, name, default=None):
        """Return the value of header `name`, written in any case, or `default`."""
        return self.headers.get(name.lower(), default)

    def text(self):
        """Return the body as str; HttpError(400) if it is not UTF-8."""
        if not jsonio.is_utf8(self.body):
            raise HttpError(400, "the body is not UTF-8")
        return bytes(self.body).decode()

    def set_json(self, value):
        """Have json() return `value`, for middleware that changes a request."""
        self.body = jsonio.dumps(value).encode()

    def json(self):
        """Return the value of the body, strict JSON (RFC 8259): the same object each time.
        HttpError(400) if it is not JSON.
        """
        if self._parsed[0] is not self.body:
            value = error = None
            try:
                value = jsonio.loads(self.body, self.json_memory, self.json_containers)
            except ValueError as exc:
                error = str(exc)
            self._parsed = (self.body, value, error)
        _, value, error = self._parsed
        if error is not None:
            raise HttpError(400, "invalid JSON: " + error)
        return value

    async def parse(self):
        """Do the work of json() in slices, so that the loop runs in between, if it may be JSON."""
        body = self.body
        if body[:1] not in _JSON_STARTS:
            return
        value = error = None
        try:
            value = await jsonio.read(body, self.json_memory, self.json_containers)
        except ValueError as exc:
            error = str(exc)
        self._parsed = (body, value, error)


def _request_line(line):
    """Return (method, target, minor version)."""
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[0] or not parts[1] or parts[0].strip(_TOKEN):
        raise HttpError(400, "malformed request line")
    method, target, version = parts
    if len(version) != 8 or not version.startswith(b"HTTP/") or version[6:7] != b".":
        raise HttpError(400, "malformed HTTP version")
    if version[5:6].strip(_DIGITS) or version[7:8].strip(_DIGITS):
        raise HttpError(400, "malformed HTTP version")
    if version[5:6] != b"1":
        raise HttpError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if min(target) < 0x21 or max(target) > 0x7E or b"#" in target:
        raise HttpError(400, "malformed request target")
    # RFC 9110 2.5: a higher minor version is answered as the highest known one.
    return method.decode(), target.decode(), 0 if version[7:8] == b"0" else 1


def _fields(lines, minor):
    """Return {name: value} of the header fields in lines[1:]."""
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        # Also refuses a space before the colon and a folded line (RFC 9112 5.1, 5.2).
        if not colon or not name or name.strip(_TOKEN):
            raise HttpError(400, "malformed header field")
        name = name.lower().decode()
        value = value.strip(_OWS)
        if jsonio.is_utf8(value):
            value = value.decode()
        else:
            # RFC 9110 5.5: bytes above 0x7F are opaque.
            value = "".join([chr(c) for c in value])
        if name in headers:
            if name == "host":
                raise HttpError(400, "more than one Host")
            value = headers[name] + ", " + value
        headers[name] = value
    host = headers.get("host")
    if host is None:
        if minor:
            raise HttpError(400, "Host is missing")  # RFC 9112 3.2
    elif host.encode().strip(_HOST):
        raise HttpError(400, "invalid Host")
    return headers


def _members(value):
    """Return the members of a comma-separated list (RFC 9110 5.6.1), as bytes in lower case."""
    # In bytes, lower() changes only ASCII letters; in str, it changes the Kelvin sign, too.
    return [member.strip(_OWS).lower() for member in value.encode().split(b",")]


def _check_unfinished(line):
    """Raise HttpError(400) if `line`, which is not complete, cannot be the start of a request line
    (RFC 9112 3).
    """
    method, _, rest = line.partition(b" ")
    target, space, version = rest.partition(b" ")
    if (
        (line and not method)
        or method.strip(_TOKEN)
        or (target and (min(target) < 0x21 or max(target) > 0x7E))
        or (space and not target)
        or not b"HTTP/".startswith(version[:5])
        or len(version) > 8
    ):
        raise HttpError(400, "this is no HTTP request")


def _target(method, target):
    """Return (segments, query) of a request's target."""
    if target == "*":
        if method != "OPTIONS":
            raise HttpError(400, "malformed request target")
        return None, None
    if not target.startswith("/"):
        # RFC 9112 3.2.2: absolute-form must be accepted. authority-form is CONNECT's only.
        scheme, mark, rest = target.partition("://")
        if not mark or scheme.lower() not in ("http", "https"):
            if method == "CONNECT":
                raise HttpError(501, "CONNECT is not supported")
            raise HttpError(400, "malformed request target")
        slash = rest.find("/")
        question = rest.find("?")
        if question >= 0 and (slash < 0 or question < slash):
            rest = rest[:question] + "/" + rest[question:]
            slash = question
        if slash == 0 or not rest:
            raise HttpError(400, "malformed request target")
        target = rest[slash:] if slash > 0 else "/"
    path, _, text = target.partition("?")
    query = {}
    for pair in text.replace("+", " ").split("&"):
        if pair:
            name, _, value = pair.partition("=")
            query[unquote(name)] = unquote(value)
    return [unquote(s) for s in path[1:].split("/")], query


class Parser:
    """Parser of one connection's input.

    feed() bytes as they come. Ask head() until it returns a Request, then call begin_body(), then
    body() until it returns b"", then head() again. After an HttpError the position is lost: answer
    it and close.

    known: {header section: its Request}, a dict that parsers with the same limits share, because
    clients repeat themselves. Requests with a body are not kept: at least its length varies.
    """

    def __init__(self, limits, known=None):
        self.limits = limits
        self._known = {} if known is None else known
        self.buf = b""
        self.pos = 0  # everything before is consumed
        self._scan = 0  # the end of the header section does not start before this
        self._started = False  # the request line of an unfinished header section was checked
        self._left = 0  # bytes of the body (or of the chunk) still to come
        self._chunk = None  # the part of a chunked body that is next; None: not chunked
        self._room = 0  # body bytes the limit still allows
        self._trailer = 0  # bytes of trailer section seen

    def feed(self, data):
        """Append `data` (bytes) to the input."""
        if self.pos >= len(self.buf):
            self.buf = data
        else:
            self.buf = self.buf[self.pos :] + data
        self._scan = max(0, self._scan - self.pos)
        self.pos = 0

    def buffered(self):
        """Return how many bytes were fed and are not consumed."""
        return len(self.buf) - self.pos

    def head(self):
        """Parse the next header section. Return a Request, or None if more input is needed."""
        limits = self.limits
        if self.buf[self.pos : self.pos + 1] == b"\r":
            self._skip_empty_lines()
        start = self.pos
        end = self.buf.find(b"\r\n\r\n", max(start, self._scan - 3))
        if end < 0 or end - start > limits.head:
            self._scan = len(self.buf)
            line = self.buf.find(b"\r\n", start)
            if (line if line >= 0 else len(self.buf)) - start > limits.line:
                raise HttpError(414, "request line too long")
            if self._scan - start > limits.head:
                raise HttpError(431, "header section too large")
            if not self._started:
                self._check_start(start, line)
            return None
        self._started = False
        head = self.buf[start:end]
        self.pos = end + 4
        self._scan = 0
        known = self._known.get(head)
        if known is not None:
            return self._recall(known)
        # RFC 9112 2.2 forbids a bare CR, and allows a recipient to take a bare LF, which another
        # parser might not. Refuse both.
        lines = head.split(b"\r\n")
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise HttpError(400, "lines must end in CRLF")
        if b"\0" in head:
            raise HttpError(400, "NUL in the header section")
        if len(lines[0]) > limits.line:
            raise HttpError(414, "request line too long")
        method, target, minor = _request_line(lines[0])
        if len(lines) - 1 > limits.headers:
            raise HttpError(431, "too many header fields")
        headers = _fields(lines, minor)
        request = Request(method, target, minor, headers, *_target(method, target))
        options = _members(headers.get("connection", ""))
        request.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        self._frame(request)
        if request.length == 0 and len(head) <= _KNOWN_SIZE:
            if len(self._known) >= _KNOWN_COUNT:
                self._known.clear()
            self._known[head] = request
            return self._recall(request)
        return request

    def _skip_empty_lines(self):
        # RFC 9112 2.2: a server should ignore empty lines before a request.
        rest = self.buf[self.pos :]
        size = len(rest) - len(rest.lstrip(b"\r\n"))
        if size & 1 and size == len(rest):
            size -= 1  # half a line end
        if rest[:size] != b"\r\n" * (size >> 1):
            raise HttpError(400, "lines must end in CRLF")
        self.pos += size

    def _check_start(self, start, line):
        # Other protocols never send the end of a header section. Refuse them at the first octet
        # that no request has, or when the first line ends, at `line`; not when head_s is over.
        if line >= 0:
            _request_line(self.buf[start:line])
            self._started = True
            return
        begun = self.buf[start:]
        if b"\n" in begun or b"\r" in begun[:-1]:
            raise HttpError(400, "lines must end in CRLF")
        _check_unfinished(begun[:-1] if begun.endswith(b"\r") else begun)

    def _recall(self, known):
        """Return a new Request like `known`, which has no body."""
        self._left = 0
        self._chunk = None
        segments = known.segments
        request = Request(
            known.method,
            known.target,
            known.minor,
            known.headers.copy(),
            segments if segments is None else segments.copy(),
            known.query.copy(),
        )
        request.keep_alive = known.keep_alive
        return request

    def _frame(self, request):
        # Finds out how long the body is (RFC 9112 6).
        headers = request.headers
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        self._left = 0
        self._chunk = None
        if coding is not None:
            # RFC 9112 6.1: chunked must be the last coding, once. Beside Content-Length, or in
            # HTTP/1.0, the framing is in doubt.
            if length is not None:
                raise HttpError(400, "both Content-Length and Transfer-Encoding")
            if not request.minor:
                raise HttpError(400, "Transfer-Encoding in HTTP/1.0")
            codings = _members(coding)
            if codings[-1] != b"chunked" or codings.count(b"chunked") != 1:
                raise HttpError(400, "the last transfer coding must be chunked")
            if len(codings) > 1:
                raise HttpError(501, "unknown transfer coding")
            request.length = None
            self._chunk = _SIZE
        elif length is not None:
            values = _members(length)
            value = values[0]
            # RFC 9112 6.3 allows identical repetitions only.
            if not value or value.strip(_DIGITS) or values.count(value) != len(values):
                raise HttpError(400, "invalid Content-Length")
            if len(value) > 15:
                raise HttpError(413, "the body is too large")
            request.length = self._left = int(value)

        expect = headers.get("expect")
        if expect is not None and request.minor:
            if _members(expect) != [b"100-continue"]:
                raise HttpError(417, "unknown expectation")
            request.expects_continue = request.length != 0

    def begin_body(self, limit):
        """Set how many bytes the body may have; HttpError(413) if more are declared already."""
        self._room = limit
        if self._left > limit:
            raise HttpError(413, "the body is larger than %d bytes" % limit)

    def body(self):
        """Return the next piece (bytes) of the body, b"" at its end, None if input is missing."""
        if self._chunk is None:
            if not self._left:
                return b""
            return self._take()
        while True:
            if self._chunk == _DATA:
                if self._left:
                    return self._take()
                end = self.buf[self.pos : self.pos + 2]
                if len(end) < 2 and b"\r\n".startswith(end):
                    return None
                if end != b"\r\n":
                    raise HttpError(400, "a chunk is longer than its size")
                self.pos += 2
                self._chunk = _SIZE
                continue
            line = self._line()
            if line is None:
                return None
            if self._chunk == _SIZE:
                size = line.partition(b";")[0]  # RFC 9112 7.1.1: unknown extensions are ignored
                if size != line:
                    size = size.rstrip(_OWS)
                if not size or size.strip(_HEX):
                    raise HttpError(400, "invalid chunk size")
                size = size.lstrip(b"0")
                if len(size) > 8 or (size and int(size, 16) > self._room):
                    raise HttpError(413, "the body is too large")
                self._left = int(size, 16) if size else 0
                self._room -= self._left
                self._trailer = 0
                self._chunk = _DATA if self._left else _TRAILER
            elif not line:
                self._chunk = None
                self._left = 0
                return b""
            else:
                # RFC 9110 6.5.1: trailers may be dropped. They must be well formed all the same.
                self._trailer += len(line) + 2
                name, colon, _ = line.partition(b":")
                if not colon or not name or name.strip(_TOKEN):
                    raise HttpError(400, "malformed trailer field")
                if self._trailer > self.limits.head:
                    raise HttpError(431, "trailer section too large")

    def _take(self):
        have = len(self.buf) - self.pos
        if not have:
            return None
        size = min(have, self._left)
        if size == len(self.buf):
            data = self.buf
        else:
            data = self.buf[self.pos : self.pos + size]
        self.pos += size
        self._left -= size
        return data

    def _line(self):
        end = self.buf.find(b"\r\n", self.pos)
        line = self.buf[self.pos : end if end >= 0 else self.pos + self.limits.line + 1]
        if b"\n" in line or b"\r" in line[:-1] or (end >= 0 and line.endswith(b"\r")):
            raise HttpError(400, "lines must end in CRLF")
        if len(line) > self.limits.line:
            raise HttpError(400, "chunk-size line too long")
        if end < 0:
            return None
        self.pos = end + 2
        return line


# Parts of a chunked body (RFC 9112 7.1).
_SIZE = 1
_DATA = 2
_TRAILER = 3
