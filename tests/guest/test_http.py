"""HTTP through the emulated card: many requests, large bodies, bad input, and the server goes on."""

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

HANDLERS = Path(__file__).with_name("handlers.py")
TIMEOUT = 120


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
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200")[1:]] == [b"0", b"1", b"2", b"3", b"4"]


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
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
         400),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_bad_requests_get_their_status_and_a_json_error(url, data, status):
    answer = exchange(url, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert json.loads(body)["error"]["code"] == status


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
