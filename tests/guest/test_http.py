"""HTTP through the emulated card: many requests, large bodies, bad input that changes nothing."""

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

HANDLERS = Path(__file__).with_name("handlers.py")
TIMEOUT = 120
WORST_MS = 250  # between two turns of the event loop


@pytest.fixture(scope="module")
def served(boot_once, tiny_model):
    """A guest with the tiny model and the test handlers."""
    guest = boot_once(model=str(tiny_model), app=str(HANDLERS))
    assert guest.verdict is None, guest.log()[-3000:]
    return guest


@pytest.fixture
def url(served):
    yield served.url
    assert requests.get(served.url + "/health", timeout=TIMEOUT).status_code == 200


def exchange(url, data, until_closed=True):
    """Send raw bytes; return everything that comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(data)
        if until_closed:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_200_requests_on_one_connection(url):
    with requests.Session() as session:
        for _ in range(200):
            answer = session.get(url + "/health", timeout=TIMEOUT)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_50_new_connections(url):
    for _ in range(50):
        answer = requests.get(url + "/health", timeout=TIMEOUT, headers={"Connection": "close"})
        assert answer.json() == {"status": "ok"}


def test_20_connections_at_once(url):
    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(lambda _: requests.get(url + "/health", timeout=TIMEOUT), range(60))
        assert {answer.status_code for answer in answers} == {200}


def test_a_mebibyte_comes_back(url):
    body = os.urandom(1 << 20)
    answer = requests.post(url + "/echo", data=body, timeout=TIMEOUT)
    assert answer.content == body


def test_a_chunked_body_comes_back(url):
    body = os.urandom(100_000)
    pieces = (body[at : at + 7777] for at in range(0, len(body), 7777))
    assert requests.post(url + "/echo", data=pieces, timeout=TIMEOUT).content == body


def test_ten_mebibytes_stream(url):
    size = 10 << 20
    with requests.get(f"{url}/stream/{size}", timeout=TIMEOUT, stream=True) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        body = answer.content
    assert body == bytes(range(256)) * (size // 256)


def test_a_client_that_leaves_a_stream_costs_nothing(url):
    for _ in range(5):
        with requests.get(f"{url}/stream/{10 << 20}", timeout=TIMEOUT, stream=True) as answer:
            next(answer.iter_content(1000))


def test_pipelined_requests_are_answered_in_order(url):
    data = b"".join(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % i for i in range(5)
    )
    answer = exchange(url, data)
    ends = b"".join(part[-1:] for part in answer.split(b"HTTP/1.1 200")[1:])
    assert ends == b"01234"


def test_expect_100_continue(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        answer = b""
        while part := connection.recv(1000):
            answer += part
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize(
    "data, status",
    [
        (b"\x00\x01nonsense\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_bad_requests_get_their_status_and_a_json_error(url, data, status):
    answer = exchange(url, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert json.loads(body)["error"]["code"] == status


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xc5\x01\x00\x00\xc1\x03\x03",  # TLS
        b"\0\0\0\x08\x04\xd2\x16\x2f",  # PostgreSQL
        b" GET / HTTP/1.1",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_what_is_no_http_is_refused_at_once(url, data):
    begun = time.monotonic()
    assert exchange(url, data, until_closed=False).startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - begun < 10  # `head_s` is 15


def test_white_space_that_http_has_not(url):
    start = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
    for field in (b"Transfer-Encoding: \x0bchunked", b"Content-Length: 5\x0c"):
        second = b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = exchange(url, start + field + b"\r\n\r\n" + second)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1


def test_connections_above_the_limit_are_told_so(url):
    host, port = url.removeprefix("http://").split(":")
    request = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
    kept = []
    try:
        for _ in range(64):
            kept.append(socket.create_connection((host, int(port)), timeout=TIMEOUT))
            kept[-1].sendall(request % b"/hold")
            assert kept[-1].recv(12) == b"HTTP/1.1 200"
        answer = exchange(url, request % b"/health", until_closed=False)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "unavailable_error"
    finally:
        for connection in kept:
            connection.close()
    # A client that ends its side may still be reading: for `linger_s`.
    until = time.monotonic() + 30
    while requests.get(url + "/health", timeout=TIMEOUT).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.5)


def test_json_is_exact(url):
    for text in (
        b'[0.30000000000000004,1.7976931348623157e+308,5e-324,9223372036854775807,1e+22]',
        '{"zulu":1,"alpha":"\U0001f600","mike":[],"bravo":{},"delta":"\\u0001","k":-0.0}'.encode(),
    ):
        assert requests.post(url + "/same", data=text, timeout=TIMEOUT).content == text
    for text in (b"[1e999]", b'["\\ud800"]', b'["\xed\xa0\x80"]', b"[1,]"):
        assert requests.post(url + "/same", data=text, timeout=TIMEOUT).status_code == 400


def chat(content, count=1):
    message = '{"role":"user","content":"%s"}' % content
    return '{"max_tokens":1,"messages":[%s]}' % ",".join([message] * count)


BODIES = [
    ("escapes", "/v1/chat/completions", chat("\\n" * 1000000)),
    ("Cyrillic", "/v1/chat/completions", chat("\\u0436" * 340000)),
    ("messages", "/v1/chat/completions", chat("a", 20000)),
    (
        "floats",
        "/v1/completions",
        '{"prompt":"a","max_tokens":1,"x":[%s]}' % ",".join(["0.5"] * 500000),
    ),
    ("halves of characters", "/detokenize", '{"tokens":[%s]}' % ",".join(["200"] * 500000)),
    ("integers", "/detokenize", '{"tokens":[%s]}' % ",".join(["5"] * 1000000)),
    ("token ids", "/v1/completions", '{"prompt":[%s]}' % ",".join(["5"] * 1000000)),
    ("back again", "/same", "[%s]" % ",".join(["0.12345678901234567"] * 100000)),
]


@pytest.mark.parametrize("name, path, body", BODIES, ids=[body[0] for body in BODIES])
def test_a_large_body_leaves_turns_to_others(url, name, path, body):
    assert len(body) < 2 << 20
    gaps = []
    for _ in range(3):  # the host may have had other work
        requests.get(url + "/watch", timeout=TIMEOUT)
        requests.get(url + "/watch", timeout=TIMEOUT)
        answer = requests.post(url + path, data=body, timeout=TIMEOUT)
        assert answer.status_code in (200, 400)
        gaps.append(requests.get(url + "/watch", timeout=TIMEOUT).json()["worst_us"] / 1000)
        requests.delete(url + "/watch", timeout=TIMEOUT)
        if gaps[-1] < WORST_MS:
            break
    print(f"{name}: {answer.status_code}, worst gaps in ms: {gaps}")
    assert min(gaps) < WORST_MS


def test_a_handler_may_print_more_than_the_serial_line_takes(url, served):
    """Others wait for a second at most; what was left out is said. The REPL's lines print all."""
    requests.get(url + "/watch", timeout=TIMEOUT)
    requests.get(url + "/watch", timeout=TIMEOUT)
    assert requests.post(url + "/print/5000", timeout=TIMEOUT).status_code == 204
    worst = requests.get(url + "/watch", timeout=TIMEOUT).json()["worst_us"] / 1e6
    requests.delete(url + "/watch", timeout=TIMEOUT)
    time.sleep(2)
    served.serial.send("\r")
    dropped = served.serial.expect(r"\r\n\[(\d+) bytes dropped\]\r\n", TIMEOUT)
    sent = served.serial.before.count(b"z")
    assert 1022 < sent < 1022 * 5000 and int(dropped.group(1)) > sent
    print(f"{sent} bytes sent, the loop stood still for {worst} s")
    assert worst < 5
    shown = served.serial.run("[print('y' * 1022) for i in range(800)] and None", TIMEOUT)
    assert shown.count("y" * 1022) == 800


def test_half_a_request_is_not_answered_as_a_whole_one(url):
    answer = exchange(url, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert not answer.startswith(b"HTTP/1.1 200")


def test_a_failing_handler_is_that_requests_500(url, served):
    answer = requests.get(url + "/fail", timeout=TIMEOUT)
    assert answer.status_code == 500
    assert "error" in answer.json()
    served.serial.expect("a handler that always fails")


def test_a_handler_may_use_the_model(url):
    answer = requests.post(url + "/count", data="Hello world", timeout=TIMEOUT)
    assert answer.json()["tokens"] > 1
