"""Downloads into memory: what breaks on the way, and what is refused before it costs memory."""

import asyncio
import hashlib

import pytest
from httpd import download
from httpd.download import Download, DownloadError

DATA = b"GGUF" + bytes(range(256)) * 2000
RIGHT = hashlib.sha256(DATA).hexdigest()


class Site:
    """A server of one file. answers: what it does with one request after another; afterwards it
    sends the file, or the range that was asked for."""

    def __init__(self, *answers, data=DATA):
        self.answers = list(answers)
        self.data = data
        self.asked = []
        self.taken = []

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        self.asked.append((head.split()[1], fields.get("Range"), fields.get("If-Range")))
        answer = self.answers.pop(0) if self.answers else {}
        writer.write(self.response(answer, fields.get("Range")))
        await writer.drain()
        writer.close()

    def response(self, answer, wanted):
        if "raw" in answer:
            return answer["raw"]
        start = int(wanted[6:-1]) if wanted and not answer.get("whole") else 0
        body = answer.get("data", self.data)
        head = "HTTP/1.1 200 OK\r\n"
        if start:
            head = (
                f"HTTP/1.1 206 OK\r\nContent-Range: bytes {start}-{len(body) - 1}/{len(body)}\r\n"
            )
        body = body[start:]
        head += f'Content-Length: {len(body)}\r\nETag: "{answer.get("tag", "a")}"\r\n\r\n'
        return head.encode() + body[: answer.get("cut", len(body))]

    def take(self, size):
        if size > 10_000_000:
            raise DownloadError("it does not fit")
        self.taken.append(size)
        return memoryview(bytearray(size))


def fetch(site, **options):
    waits = []

    async def go():
        server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = options.pop("url", f"http://127.0.0.1:{port}/m.gguf")
        site.url = url
        try:
            return bytes(await Download(url, site.take, magic=b"GGUF", **options).run())
        finally:
            server.close()

    async def no_sleep(seconds):
        waits.append(seconds)

    real, download.asyncio.sleep = download.asyncio.sleep, no_sleep
    try:
        return asyncio.run(go()), waits
    finally:
        download.asyncio.sleep = real


def status(code, *fields):
    return {"raw": "\r\n".join([f"HTTP/1.1 {code} x", *fields, "", ""]).encode()}


def test_a_whole_file():
    site = Site()
    seen = []
    data, _ = fetch(site, sha256=RIGHT.upper(), progress=lambda *at: seen.append(at))
    assert data == DATA and site.asked == [("/m.gguf", None, None)] and site.taken == [len(DATA)]
    assert seen[-1] == (len(DATA), len(DATA))


def test_it_goes_on_where_connections_broke():
    site = Site(*[{"cut": n} for n in (0, 3, 5, 70_000, 200_000, 1, 1, 1, 1, 1)])
    data, _ = fetch(site, sha256=RIGHT)
    assert data == DATA and len(site.asked) == 11 and site.taken == [len(DATA)]
    assert site.asked[2][1:] == ("bytes=3-", '"a"')


def test_a_file_that_changed_meanwhile_begins_again():
    other = b"GGUF" + bytes(len(DATA) - 4)
    new = {"data": other, "tag": "b", "whole": True}
    site = Site({"cut": 1000}, new)
    assert fetch(site)[0] == other
    longer = other + b"more"
    site = Site({"cut": 1000}, {"data": longer, "whole": True})
    assert fetch(site)[0] == longer and site.taken == [len(DATA), len(longer)]


def test_servers_that_are_busy_are_asked_again():
    site = Site(status(503), status(429, "Retry-After: 7"), {"cut": 10}, status(500))
    data, waits = fetch(site, sha256=RIGHT)
    assert data == DATA and 7 in waits
    with pytest.raises(DownloadError, match="come back in 999 s"):
        fetch(Site(status(429, "Retry-After: 999")))


def test_redirects():
    site = Site(status(302, "Location: /other"))
    assert fetch(site)[0] == DATA and [path for path, _, _ in site.asked] == ["/m.gguf", "/other"]
    with pytest.raises(DownloadError, match="in circles"):
        fetch(Site(*[status(302, "Location: /x")] * 20))


@pytest.mark.parametrize(
    ("answers", "words", "taken"),
    [
        ([{"data": b"<html>"}], "no GGUF file: it begins with b'<htm'", [6]),
        ([status(404)], "HTTP 404", []),
        ([status(200)], "does not say how long", []),
        ([status(200, "Content-Length: 0")], "is empty", []),
        ([status(200, "Content-Length: 9999999999")], "does not fit", []),
        ([{"raw": b"SSH-2.0\r\n"}], "does not speak HTTP", []),
        ([status(200, *["X: " + "y" * 1000] * 20)], "header section is too long", []),
        ([{"cut": 0}] * 50, "the connection ended", [len(DATA)]),
        ([{"cut": 9}] + [{"raw": b""}] * 50, "the connection ended", [len(DATA)]),
    ],
)
def test_what_cannot_be_had(answers, words, taken):
    site = Site(*answers)
    with pytest.raises(DownloadError, match=words):
        fetch(site)
    assert site.taken == taken


def test_a_wrong_hash():
    with pytest.raises(DownloadError, match=f"has the sha256 {RIGHT} and not 000"):
        fetch(Site(), sha256="0" * 64)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a/b", (False, "a", 80, "/b")),
        ("http://a:81", (False, "a", 81, "/")),
        ("http://a?x=/y#z", (False, "a", 80, "/?x=/y")),
        ("https://a/", (True, "a", 443, "/")),
        ("https://a:444/b", (True, "a", 444, "/b")),
        ("ftp://a/", None),
        ("http:///b", None),
        ("http://u@a/b", None),
        ("http://a:x/b", None),
    ],
)
def test_urls(url, parts):
    if parts:
        assert download.parse_url(url) == parts
    else:
        with pytest.raises(DownloadError):
            download.parse_url(url)


def test_by_tls_only_what_has_a_known_hash_is_taken():
    asked = []

    async def connect(host, port, secure):
        asked.append((host, port, secure))
        return await asyncio.open_connection("127.0.0.1", int(site.port))

    async def serve(reader, writer):
        await site.serve(reader, writer)

    async def go(**options):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        site.port = server.sockets[0].getsockname()[1]
        try:
            return bytes(await Download("https://a/m.gguf", site.take, **options).run())
        finally:
            server.close()

    site = Site()
    with pytest.raises(DownloadError, match="needs the file's sha256"):
        asyncio.run(go(connect=connect))
    assert not asked and not site.taken
    with pytest.raises(DownloadError, match="no TLS here"):
        asyncio.run(go(sha256=RIGHT))
    moved = status(302, "Location: /n.gguf", "Content-Length: 0")
    site = Site(moved)
    assert asyncio.run(go(sha256=RIGHT, connect=connect)) == DATA
    assert asked == [("a", 443, True)] * 2


def test_a_redirect_to_tls_needs_the_hash_too():
    site = Site(status(302, "Location: https://127.0.0.1:1/m.gguf", "Content-Length: 0"))
    with pytest.raises(DownloadError, match="needs the file's sha256"):
        fetch(site)
