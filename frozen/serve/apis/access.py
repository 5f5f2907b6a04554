"""Access: keys, the identity of a client, CORS, and the log line of each request."""
# SPDX-License-Identifier: MIT

import hashlib

from httpd import HttpError
from net import ipv6

# Open to all: what monitors ask for, and the page that has a field for the key.
_PUBLIC = ("/", "/health", "/v1/health")


class Access:
    """keys: the API keys; with none, everybody may ask. origins: the web origins that browsers may
    call from, with commas; "*" is any, "localhost" those of the browser's own machine, "" none.
    log: whether to print a line per request.
    """

    def __init__(self, keys=(), origins="*", log=False):
        # Digests of a nearly right key and of a wrong one take equally long to compare.
        self._digests = [_digest(key) for key in keys]
        self.origins = [name.strip() for name in origins.split(",") if name.strip()]
        self.log = log

    def install(self, app):
        """Add the hooks to the application."""
        app.before(self._check)
        app.after(self._headers)
        if self.log:
            app.done(self._line)

    def _check(self, request):
        if request.method == "OPTIONS":
            return None  # a browser asks before it sends any key
        request.key = None
        if not self._digests or request.path in _PUBLIC:
            return None
        given = _digest(_key_of(request))
        if given not in self._digests:
            raise HttpError(401, "Invalid API Key", {"WWW-Authenticate": "Bearer"})
        request.key = self._digests.index(given)
        return None

    def _headers(self, request, response):
        if not self.origins or request is None:
            return
        headers = response.headers
        # Caches must not give one origin's answer to another (Fetch 3.2.5).
        headers["Vary"] = "Origin"
        origin = request.header("origin", "")
        if origin and request.method == "OPTIONS" and response.status == 204:
            response.status = 200  # as llama-server; Fetch takes any of 2xx
        if not origin or not self._allows(origin):
            return
        # The origin itself, not a wildcard, which browsers refuse beside credentials (Fetch 3.2.5).
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
            headers["Access-Control-Allow-Headers"] = _allowed_headers(request, origin)
            headers["Access-Control-Max-Age"] = "86400"

    def _allows(self, origin):
        for name in self.origins:
            if name in ("*", origin) or name == "localhost" and _is_local(origin):
                return True
        return False

    def _line(self, request, response, ms, sent):
        # key=value, which log collectors split. The target comes from the client, so it is quoted.
        if request is None:
            method = target = "-"
        else:
            method = request.method
            target = request.target
        print(
            'http method=%s target="%s" status=%d ms=%d bytes=%d peer=%s'
            % (method, _quoted(target), response.status, ms, sent, _name_of(request))
        )


def _is_local(origin):
    # An origin is scheme "://" host [":" port] (RFC 6454 6.2).
    scheme, mark, host = origin.partition("://")
    if not mark or scheme not in ("http", "https"):
        return origin == "localhost"
    if host.startswith("["):
        return host == "[::1]" or host.startswith("[::1]:")
    return host.split(":")[0] in ("localhost", "127.0.0.1")


def _allowed_headers(request, origin):
    # Beside credentials "*" is no wildcard, and it never covers Authorization (Fetch 3.2.3). So a
    # browser, which alone sends an origin with a scheme, gets the names that it asks for.
    asked = request.header("access-control-request-headers", "")
    return asked if asked and "://" in origin else "*"


def _digest(key):
    return hashlib.sha256(key.encode()).digest()


def _key_of(request):
    header = request.header("authorization", "")
    scheme, _, key = header.partition(" ")
    if scheme.lower() == "bearer":
        return key.strip(" \t")
    return request.header("x-api-key", "")


def _quoted(text):
    return text[:200].replace("\\", "\\\\").replace('"', '\\"')


def client_of(request):
    """Return the client (str) among whom the scheduler is fair: the key's owner, or an address.

    A network of IPv6 counts as one client: each of its hosts may have 2^64 addresses (RFC 8981).
    """
    name = _name_of(request)
    if ":" not in name or name.startswith("fe80:"):
        return name
    return ipv6.address_text(ipv6.mask(ipv6.address(name), 64)) + "/64"


def _name_of(request):
    if request is None:
        return "-"
    key = getattr(request, "key", None)
    if key is not None:
        return "key%d" % key
    return str(request.peer)


def forbidden(request):
    """Answer the routes that llama-server has and cllm leaves out for safety."""
    raise HttpError(403, "This feature is disabled")
