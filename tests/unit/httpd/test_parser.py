"""The request parser: RFC 9112 tables, smuggling cases, and any split of the input."""

import random

import pytest
from httpd.parser import HttpError, Limits, Parser, unquote

LIMITS = Limits(line=256, head=1024, headers=20, body=1000)


def run(data, step=None, limit=1000):
    """Parses all of `data`, fed `step` bytes at a time; [(request, body)] and what is left."""
    parser = Parser(LIMITS)
    pieces = [data] if not step else [data[i : i + step] for i in range(0, len(data), step)]
    done = []
    request = None
    body = b""
    for piece in pieces:
        parser.feed(piece)
        while True:
            if request is None:
                request = parser.head()
                if request is None:
                    break
                parser.begin_body(limit)
                body = b""
            part = parser.body()
            if part is None:
                break
            body += part
            if not part:
                done.append((request, body))
                request = None
    return done, parser.buffered()


def one(data):
    done, left = run(data)
    assert len(done) == 1 and left == 0
    return done[0]


def status(data, step=None):
    with pytest.raises(HttpError) as info:
        done, left = run(data, step)
        pytest.fail("accepted %r, %d left" % (done, left))
    return info.value.status


H = b"Host: x\r\n"


def post(*headers, body=b""):
    return b"POST / HTTP/1.1\r\n" + H + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


def test_simple_get():
    request, body = one(
        b"GET /a/b%20c?x=1&y=%C3%A9+z&y HTTP/1.1\r\nHost: h:80\r\nX-A:  v \t\r\n\r\n"
    )
    assert request.method == "GET"
    assert request.segments == ["a", "b c"]
    assert request.path == "/a/b c"
    assert request.query == {"x": "1", "y": ""}
    assert request.header("x-a") == "v"
    assert request.keep_alive and body == b""


def test_query_decoding():
    request, _ = one(b"GET /?a=%26%3D&b=%C3%A9+z HTTP/1.1\r\n" + H + b"\r\n")
    assert request.query == {"a": "&=", "b": "é z"}


def test_encoded_slash_stays_in_its_segment():
    request, _ = one(b"GET /a%2Fb/c HTTP/1.1\r\n" + H + b"\r\n")
    assert request.segments == ["a/b", "c"]


def test_a_remembered_head_makes_a_request_of_its_own():
    known = {}
    data = b"GET /a/b?x=1 HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n"
    for _ in range(3):  # parsed, and twice remembered, by another parser
        parser = Parser(LIMITS, known)
        parser.feed(data + b"POST /c HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\nhi" + data)
        for last in (False, True):
            request = parser.head()
            assert (request.method, request.path, request.minor) == ("GET", "/a/b", 1)
            assert request.segments == ["a", "b"] and request.query == {"x": "1"}
            assert request.headers == {"host": "x", "connection": "close"}
            assert request.keep_alive is False and request.length == 0 and request.body == b""
            # What one handler does to its request is nobody else's.
            request.headers["added"] = request.query["added"] = request.body = "mine"
            request.segments.append("mine")
            parser.begin_body(1000)
            assert parser.body() == b""
            if not last:
                post = parser.head()
                assert post.path == "/c" and post.length == 2
                parser.begin_body(1000)
                assert parser.body() == b"hi" and parser.body() == b""
    assert list(known) == [data[:-4]]  # and none with a body


def test_few_heads_are_remembered_and_none_that_is_large():
    known = {}
    for i in range(200):
        parser = Parser(LIMITS, known)
        parser.feed(b"GET /%d HTTP/1.1\r\n" % i + H + b"\r\n")
        assert parser.head().path == "/%d" % i
        assert len(known) <= 32
    parser = Parser(Limits(), known)
    parser.feed(b"GET /large HTTP/1.1\r\n" + H + b"X: " + b"y" * 2000 + b"\r\n\r\n")
    assert parser.head().path == "/large"
    assert max(len(head) for head in known) < 100


@pytest.mark.parametrize(
    "target, segments, query",
    [
        (b"http://h/a?b", ["a"], {"b": ""}),
        (b"HTTP://h", [""], {}),
        (b"http://h?q=/x", [""], {"q": "/x"}),
        (b"/", [""], {}),
        (b"//x", ["", "x"], {}),
    ],
)
def test_targets(target, segments, query):
    request, _ = one(b"GET " + target + b" HTTP/1.1\r\n" + H + b"\r\n")
    assert request.segments == segments and request.query == query


def test_asterisk_is_for_options():
    request, _ = one(b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n")
    assert request.segments is None
    assert status(b"GET * HTTP/1.1\r\n" + H + b"\r\n") == 400


@pytest.mark.parametrize(
    "version, headers, keep",
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: foo, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.9", b"", True),
    ],
)
def test_keep_alive(version, headers, keep):
    request, _ = one(b"GET / HTTP/" + version + b"\r\n" + H + headers + b"\r\n")
    assert request.keep_alive is keep


@pytest.mark.parametrize(
    "data, code",
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
        (b" GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"G(T / HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/1.1\n" + b"Host: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
        (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/11\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/1.x\r\n" + H + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /\x80 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET http:///x HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%2 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%ed%a0%80 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /?a=%ED%BF%BF HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"GET /%c0%80 HTTP/1.1\r\n" + H + b"\r\n", 400),
        (b"CONNECT h:1 HTTP/1.1\r\n" + H + b"\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b": v\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"novalue\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"A: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + H + b"A" * 2000 + b": v\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 30 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + H + b"A: b" * 300, 431),
        (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
        (b"x" * 300, 414),
        (b"GET / HTTP/1.1\r\n" + H + b"Expect: tea\r\n\r\n", 417),
        # Framing, RFC 9112 6.
        (post(b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
        (post(b"Content-Length: 1", b"Content-Length: 2"), 400),
        (post(b"Content-Length: 1, 2"), 400),
        (post(b"Content-Length: +1"), 400),
        (post(b"Content-Length: -1"), 400),
        (post(b"Content-Length: 0x1"), 400),
        (post(b"Content-Length: 1_0"), 400),
        (post(b"Content-Length: 1 0"), 400),
        (post(b"Content-Length:"), 400),
        (post("Content-Length: ١".encode()), 400),
        (post(b"Content-Length: 1001"), 413),
        (post(b"Content-Length: " + b"9" * 30), 413),
        (post(b"Transfer-Encoding: chunked, chunked"), 400),
        (post(b"Transfer-Encoding: chunked, identity"), 400),
        (post(b"Transfer-Encoding: identity"), 400),
        (post(b"Transfer-Encoding: xchunked"), 400),
        (post(b"Transfer-Encoding:"), 400),
        (post(b"Transfer-Encoding: gzip, chunked"), 501),
        (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_refused(data, code):
    assert status(data) == code
    assert status(data, 1) == code


CHUNKED = b"Transfer-Encoding: Chunked"


@pytest.mark.parametrize(
    "body, code",
    [
        (b"0x1\r\na\r\n0\r\n\r\n", 400),
        (b"+1\r\na\r\n0\r\n\r\n", 400),
        (b" 1\r\na\r\n0\r\n\r\n", 400),
        (b"1_0\r\n", 400),
        (b"\r\n", 400),
        (b";a\r\n", 400),
        (b"g\r\n", 400),
        (b"1\na\n0\n\n", 400),
        (b"1\r\nab\r\n0\r\n\r\n", 400),
        (b"1\r\na\n0\r\n\r\n", 400),
        (b"1;a\rb\r\na\r\n", 400),
        (b"3e9\r\n", 413),
        (b"fffffffff\r\n", 413),
        (b"1;" + b"x" * 300, 400),
        (b"0\r\nbad\r\n\r\n", 400),
        (b"0\r\n a: b\r\n\r\n", 400),
        (b"0\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
    ],
)
def test_bad_chunks(body, code):
    assert status(post(CHUNKED, body=body)) == code
    assert status(post(CHUNKED, body=body), 1) == code


def test_chunk_total_is_limited():
    assert status(post(CHUNKED, body=b"1f4\r\n" + b"a" * 500 + b"\r\n1f5\r\n")) == 413


# Each is white space to some str.strip(), int() or split(), and to no HTTP (RFC 9110 5.6.3).
NO_SPACE = [bytes([c]) for c in (0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x85, 0xA0)] + [
    "\x85".encode(),
    "\xa0".encode(),
    "\u2003".encode(),
    "\u3000".encode(),
    "\ufeff".encode(),
]


@pytest.mark.parametrize("space", NO_SPACE)
def test_only_space_and_tab_are_white_space(space):
    for value in (space + b"chunked", b"chunked" + space, b"chunked ," + space, space):
        assert status(post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n")) == 400
    for value in (space + b"5", b"5" + space, b"5," + space + b"5", b"5" + space + b",5"):
        assert status(post(b"Content-Length: " + value, body=b"hello")) == 400
    for size in (space + b"5", b"5" + space, b"5" + space + b";x"):
        assert status(post(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n")) == 400
    for value in (space + b"x", b"x" + space, b"a" + space + b"b", space):
        assert status(b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n") == 400
    assert status(post(b"Expect: 100-continue" + space, b"Content-Length: 1")) == 417
    assert status(b"GET / HTTP/1.1" + space + b"\r\n" + H + b"\r\n") == 400
    assert status(b"GET" + space + b" / HTTP/1.1\r\n" + H + b"\r\n") == 400
    assert status(space + b"GET / HTTP/1.1\r\n" + H + b"\r\n") == 400
    assert status(b"GET / HTTP/1.1\r\n" + H + b"A" + space + b": b\r\n\r\n") == 400
    # Another option is not `close`, nor is it another server's mistake to see one here.
    request, _ = one(post(b"Connection: " + space + b"close"))
    assert request.keep_alive


def test_space_and_tab_are_white_space():
    request, body = one(post(b"Content-Length: \t 5\t ,\t5 ", body=b"hello"))
    assert request.length == 5 and body == b"hello"
    request, _ = one(post(b"Transfer-Encoding:\t chunked \t", body=b"0\r\n\r\n"))
    assert request.length is None
    request, _ = one(post(b"Connection:x,\tClose"))
    assert not request.keep_alive


def test_only_ascii_letters_have_a_lower_case():
    assert status(post("Transfer-Encoding: chun\u212aed".encode(), body=b"0\r\n\r\n")) == 400
    request, _ = one(post("Connection: clo\u017fe".encode()))
    assert request.keep_alive


@pytest.mark.parametrize("value", [b"x", b"", b"x:80", b"[::1]:80", b"a_b.c-d~%41", b"127.0.0.1"])
def test_hosts(value):
    request, _ = one(b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n")
    assert request.header("host") == value.decode()


@pytest.mark.parametrize(
    "value", [b"a,b", b"a/b", b"u@a", b"a\x01", b"a\\b", b"a#", b"a?b", b"\xe9"]
)
def test_bad_hosts(value):
    assert status(b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n") == 400


def started(data, step=None):
    """The status with which the parser refuses the beginning of a request, or None."""
    parser = Parser(LIMITS)
    try:
        for i in range(0, len(data), step or len(data)):
            parser.feed(data[i : i + (step or len(data))])
            assert parser.head() is None
    except HttpError as exc:
        return exc.status


def test_what_is_no_http_is_refused_at_its_first_octet():
    letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    may_begin = "\r!#$%&'*+-.^_`|~" + letters  # RFC 9110 5.6.2, and half an empty line
    for octet in range(256):
        code = None if chr(octet) in may_begin else 400
        assert started(bytes([octet])) == code, octet
        assert started(b"\r\n\r\n" + bytes([octet])) == code, octet


@pytest.mark.parametrize(
    "data, code",
    [
        (b"\x16\x03\x01\x00\xc5\x01", 400),  # TLS
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 400),  # PostgreSQL
        (b"\x05\x01\0", 400),  # SOCKS
        (b"A\0\0\0\x01\0", 400),  # MongoDB: a length whose first octet is a letter
        (b"SSH-2.0-OpenSSH_9\r\n", 400),
        (b"SSH-2.0-OpenSSH_9\n", 400),
        (b"EHLO mail\r\n", 400),
        (b"PING\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n", 400),
        (b"GET /\r\n", 400),
        (b"GET \t/", 400),
        (b"GET  /", 400),
        (b"GET /a\0", 400),
        (b"GET /a\xff", 400),
        (b"GET / ICY", 400),
        (b"GET / HTTP/1.1 x", 400),
        (b"GET / HTTP/1.1\rx", 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"\n", 400),
        (b"\rG", 400),
        (b"\r\r", 400),
        (b"\r\n\n", 400),
        (b"\r\n\rG", 400),
        (b" ", 400),
        (b"\t", 400),
    ],
)
def test_what_is_no_http_is_not_waited_for(data, code):
    assert started(data) == code
    assert started(data, 1) == code


def test_empty_lines_before_a_request_are_passed_over():
    data = b"\r\n" * 4000 + b"GET / HTTP/1.1\r\n" + H + b"\r\n"
    for step in (None, 1, 3):
        done, left = run(data, step)
        assert len(done) == 1 and left == 0


STREAM = (
    b"\r\nPOST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    + b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    + b"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b'5;a="b"\r\n\r\n\r\n\r\r\n00A  ;x\r\n0123456789\r\n00\r\nX-T: 1\r\nY: \r\n\r\n'
    + b"POST /4 HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nGET"
    + b"GET /5 HTTP/1.0\r\nX: \xe9\r\n\r\n"
)


def summary(done):
    return [(r.path, body, dict(r.headers)) for r, body in done]


def test_pipelining_at_every_split():
    whole, left = run(STREAM)
    assert left == 0
    bodies = [(path, body) for path, body, _ in summary(whole)]
    assert bodies == [
        ("/1", b"hello"),
        ("/2", b""),
        ("/3", b"\r\n\r\n\r0123456789"),
        ("/4", b"GET"),
        ("/5", b""),
    ]
    assert whole[4][0].header("x") == "\xe9"
    for step in range(1, len(STREAM)):
        done, left = run(STREAM, step)
        assert summary(done) == summary(whole) and left == 0, step


def test_every_prefix_waits():
    """No prefix of a good stream is refused or read as more than it is."""
    for end in range(len(STREAM)):
        done, _ = run(STREAM[:end])
        assert len(done) <= 5


def test_nonsense_never_raises_but_http_errors():
    rng = random.Random(1)
    alphabet = [STREAM[i : i + 3] for i in range(len(STREAM))] + [b"\0", b"\xff", b"\n", b"\r"]
    for _ in range(3000):
        data = b"".join(rng.choice(alphabet) for _ in range(rng.randrange(60)))
        try:
            run(data, rng.choice([None, 1, 7]))
        except HttpError as exc:
            assert 400 <= exc.status < 600
    for _ in range(3000):
        data = bytearray(STREAM)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            run(bytes(data))
        except HttpError as exc:
            assert 400 <= exc.status < 600


def test_expect_continue():
    request, _ = one(post(b"Expect: 100-Continue", b"Content-Length: 1", body=b"x"))
    assert request.expects_continue
    request, _ = one(post(b"Expect: 100-continue"))
    assert not request.expects_continue


def test_unquote():
    assert unquote("a%41%c3%a9") == "aAé"
    with pytest.raises(HttpError):
        unquote("%")


def test_limits_are_checked():
    assert Limits(body=5).body == 5
    with pytest.raises(ValueError, match="unknown limit 'bodyy'"):
        Limits(bodyy=5)
    with pytest.raises(ValueError, match="positive"):
        Limits(body="5")
