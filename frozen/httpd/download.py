"""Downloads a file over HTTP/1.1 into memory: resumes, and checks its hash while it arrives.

The file's size decides where it goes before a byte of it is read. A connection that breaks is made
again, for the rest of the file. From an https:// URL only a file whose hash is known is taken: the
machine trusts no authority, and the hash says more than a certificate would.
"""
# SPDX-License-Identifier: MIT

import asyncio
import binascii
import hashlib
import time

from micropython import const

_PIECE = const(65536)  # bytes that are hashed at once
_STRETCH = const(1 << 20)  # bytes in _PATIENCE seconds, or the connection counts as dead
_PATIENCE = 60
_HEAD = const(16384)  # bytes of a response's header section
_REDIRECTS = const(5)
_TRIES = const(8)  # in a row that bring no byte
_LONGEST_WAIT = const(120)  # seconds of Retry-After
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(Exception):
    """Why the file cannot be had."""


class _Again(Exception):
    # A try failed in a way that the next may not.
    def __init__(self, reason, wait=0):
        super().__init__(reason)
        self.wait = wait


def parse_url(url):
    """Return (whether by TLS, host, port, target) of a URL. Raise DownloadError if it is none."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https"):
        raise DownloadError("%s is no http:// or https:// URL" % url)
    secure = scheme == "https"
    rest = rest.split("#")[0]
    at = len(rest)
    for mark in "/?":
        found = rest.find(mark)
        if 0 <= found < at:
            at = found
    place, target = rest[:at], rest[at:]
    if target[:1] != "/":
        target = "/" + target
    host, _, port = place.partition(":")
    if not host or "@" in place or not (port or "80").isdigit():
        raise DownloadError("%s is no URL of a server" % url)
    return secure, host, int(port or (443 if secure else 80)), target


async def _plainly(host, port, secure):
    if secure:
        raise DownloadError("there is no TLS here")
    return await asyncio.open_connection(host, port)


class Download:
    """One file.

    url: http://HOST[:PORT]/PATH, or https:// with a sha256. take(size): returns a writable buffer
    of that size, or raises DownloadError. sha256: hexadecimal digits that the file must have, or
    None. magic: bytes that it must begin with. progress(done, total): called as it arrives.
    connect: coroutine function (host, port, secure) -> (reader, writer); without one there is no
    TLS.
    """

    def __init__(self, url, take, sha256=None, magic=b"", progress=None, connect=None):
        self.url = url
        self.done = 0  # bytes in the buffer
        self.total = None
        self._take = take
        self._sha256 = sha256 and sha256.lower()
        self._magic = magic
        self._progress = progress or _ignore
        self._connect = connect or _plainly
        self._view = None
        self._tag = None
        self._hash = hashlib.sha256()

    async def run(self):
        """Download all of it. Return the buffer. Raise DownloadError."""
        failures = 0
        while self.total is None or self.done < self.total:
            before = self.done
            try:
                await self._try(self.url, _REDIRECTS)
            except (OSError, EOFError, asyncio.TimeoutError, _Again) as exc:
                failures = 1 if self.done > before else failures + 1
                if failures >= _TRIES:
                    raise DownloadError("%s: %s" % (self.url, _reason(exc)))
                wait = getattr(exc, "wait", 0) or min(0.25 * (1 << failures), 10)
                print("cllm: %s: %s, %d bytes so far" % (self.url, _reason(exc), self.done))
                await asyncio.sleep(wait)
        found = binascii.hexlify(self._hash.digest()).decode()
        if self._sha256 and found != self._sha256:
            raise DownloadError(
                "%s has the sha256 %s and not %s: it was changed, or damaged on its way"
                % (self.url, found, self._sha256)
            )
        return self._view

    async def _try(self, url, redirects):
        secure, host, port, target = parse_url(url)
        if secure and not self._sha256:
            raise DownloadError("%s: an https:// URL needs the file's sha256" % url)
        reader, writer = await self._connect(host, port, secure)
        usual = port == (443 if secure else 80)
        try:
            await self._ask(writer, host if usual else "%s:%d" % (host, port), target)
            status, headers = await asyncio.wait_for(_head(reader), _PATIENCE)
            if status in (301, 302, 303, 307, 308):
                where = headers.get("location", "")
                if not redirects or not where:
                    raise DownloadError("%s redirects in circles" % self.url)
                if where.startswith("/"):
                    where = "http%s://%s:%d%s" % ("s" if secure else "", host, port, where)
            else:
                where = None
                self._begin(status, headers)
                await self._body(reader)
        finally:
            writer.close()
        if where:
            await self._try(where, redirects - 1)

    async def _ask(self, writer, host, target):
        lines = ["GET %s HTTP/1.1" % target, "Host: " + host, "User-Agent: cllm"]
        lines += ["Accept-Encoding: identity", "Connection: close"]
        if self.done:
            lines.append("Range: bytes=%d-" % self.done)
            if self._tag:  # RFC 9110, 13.1.5: the rest of this very file, or else all of another
                lines.append("If-Range: " + self._tag)
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await writer.drain()

    def _begin(self, status, headers):
        # Decide by a response's head what its body is.
        if status == 206:
            start, total = _content_range(headers.get("content-range", ""))
        elif status == 200:
            length = headers.get("content-length", "")
            if not length.isdigit():
                raise DownloadError("%s: the server does not say how long it is" % self.url)
            start, total = 0, int(length)
        elif status in _TRANSIENT:
            wait = headers.get("retry-after", "")
            wait = int(wait) if wait.isdigit() else 0
            if wait > _LONGEST_WAIT:
                raise DownloadError("%s: the server asks to come back in %d s" % (self.url, wait))
            raise _Again("HTTP %d" % status, wait)
        else:
            raise DownloadError("%s: HTTP %d" % (self.url, status))
        tag = headers.get("etag", "")
        if self._view is None or total != self.total or (status == 200 and self.done):
            # The first answer, or the file is another one by now.
            if not total:
                raise DownloadError("%s is empty" % self.url)
            if self._view is None or total != self.total:
                self._view = None
                self._view = self._take(total)
            self.total = total
            self.done = 0
            self._hash = hashlib.sha256()
        self._tag = None if tag.startswith("W/") else tag
        if start != self.done:
            self.done = 0
            self._hash = hashlib.sha256()
            raise _Again("the server sent another part than was asked for")

    async def _body(self, reader):
        while self.done < self.total:
            await asyncio.wait_for(self._stretch(reader, self.done + _STRETCH), _PATIENCE)

    async def _stretch(self, reader, end):
        end = min(end, self.total)
        began = time.time()
        while self.done < end and time.time() - began < _PATIENCE // 2:
            part = self._view[self.done : min(end, self.done + _PIECE)]
            n = await _readinto(reader, part)
            if not n:
                raise _Again("the connection ended")
            self._hash.update(part[:n])
            before = self.done
            self.done += n
            if before < len(self._magic) <= self.done:
                self._check_magic()
            self._progress(self.done, self.total)

    def _check_magic(self):
        begins = bytes(self._view[: len(self._magic)])
        if begins != self._magic:
            raise DownloadError(
                "%s is no %s file: it begins with %s"
                % (self.url, self._magic.decode(), repr(begins))
            )


def _ignore(_done, _total):
    pass


def _reason(exc):
    return str(exc) or type(exc).__name__


async def _readinto(reader, part):
    # asyncio's streams read into a buffer on MicroPython only.
    if hasattr(reader, "readinto"):
        while True:
            n = await reader.readinto(part)
            if n is not None:
                return n
    data = await reader.read(len(part))
    part[: len(data)] = data
    return len(data)


async def _head(reader):
    # RFC 9112, 4: the status line; 5: the header section, in lower case here.
    line = await reader.readline()
    parts = line.split(None, 2)
    if not line:
        raise _Again("the connection ended")
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise DownloadError("the server does not speak HTTP/1.1: %s" % repr(line[:40]))
    headers = {}
    size = len(line)
    while True:
        line = await reader.readline()
        size += len(line)
        if size > _HEAD:
            raise DownloadError("the server's header section is too long")
        if line in (b"\r\n", b"\n"):
            return int(parts[1]), headers
        if not line:
            raise _Again("the connection ended")
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()


def _content_range(text):
    # RFC 9110, 14.4: "bytes 5-9/10".
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.split("-")[0]
    if unit != "bytes" or not start.isdigit() or not total.isdigit():
        raise _Again("the server's Content-Range makes no sense")
    return int(start), int(total)
