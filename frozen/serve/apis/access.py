# Who may ask, who is asking, from which web pages, and the line that each request leaves on the
# console.
# MIT license; Copyright (c) 2026 cllm contributors

import hashlib

from httpd import HttpError

# What a monitor may see without a key, and the page that asks for one.
_PUBLIC = ("/", "/health", "/v1/health")


class Access:
    """keys: the API keys, none of them: everybody may. origin: the web origin that browsers may
    call from, "*" for all, "" for none. log: whether to print a line per request.
    """

    def __init__(self, keys=(), origin="*", log=False):
        # Comparing digests takes as long for a nearly right key as for a wrong one.
        self._digests = [_digest(key) for key in keys]
        self.origin = origin
        self.log = log

    def install(self, app):
        """Adds the hooks to the application."""
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
        if not self.origin:
            return
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = self.origin
        if request is not None and request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            headers["Access-Control-Allow-Headers"] = "*, Authorization"
            headers["Access-Control-Max-Age"] = "86400"

    def _line(self, request, response, ms, sent):
        # key=value, as log collectors split it. The target is the client's: it is quoted.
        if request is None:
            method = target = "-"
        else:
            method = request.method
            target = request.target
        print(
            'http method=%s target="%s" status=%d ms=%d bytes=%d peer=%s'
            % (method, _quoted(target), response.status, ms, sent, client_of(request))
        )


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
    """Whom to be fair to: the owner of the key, or else the address; a str."""
    if request is None:
        return "-"
    key = getattr(request, "key", None)
    if key is not None:
        return "key%d" % key
    return str(request.peer)


def forbidden(request):
    """The answer of what llama-server has and cllm does not offer for safety."""
    raise HttpError(403, "This feature is disabled")

