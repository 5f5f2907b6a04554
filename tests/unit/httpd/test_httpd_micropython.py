"""The same server under the unix port of MicroPython, where coroutines and generators are one type,
and the parser's tests there.

Skipped where there is no such build: see unix_micropython.py.
"""

import json
import socket
import subprocess
import time
from pathlib import Path
from urllib import error, request

import pytest
from support import unix_micropython

FROZEN = Path(__file__).resolve().parents[3] / "frozen"

APP = """
import sys
sys.path.insert(0, sys.argv[1])
import asyncio
from httpd import App, HttpError, Server

app = App()

@app.get("/value")
async def value(request):
    await asyncio.sleep_ms(1)
    return {"a": 1}

@app.get("/agen")
async def agen(request):
    for i in range(3):
        await asyncio.sleep_ms(1)
        yield "part %d " % i
        yield b"raw "

@app.get("/gen")
def gen(request):
    yield "x"
    yield "y"

@app.get("/early")
async def early(request):
    await asyncio.sleep_ms(1)
    raise HttpError(409, "too early")
    yield

@app.get("/endless")
async def endless(request):
    try:
        while True:
            yield "z" * 100
            await asyncio.sleep_ms(5)
    finally:
        print("endless closed")

@app.get("/wait")
async def wait(request):
    try:
        await asyncio.sleep(60)
    finally:
        print("wait closed")

turns = 0

async def count_turns():
    global turns
    while True:
        turns += 1
        await asyncio.sleep(0)

@app.post("/turns")
async def count(request):
    before = turns
    return [before] + request.json()

@app.post("/echo")
def echo(request):
    return request.body

async def main():
    await Server(app, "127.0.0.1", int(sys.argv[2])).start()
    asyncio.create_task(count_turns())
    print("listening")
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path):
    if not unix_micropython.program():
        pytest.skip(unix_micropython.MISSING)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = tmp_path / "app.py"
    script.write_text(APP)
    process = subprocess.Popen(
        [unix_micropython.program(), "-X", "heapsize=16M", str(script), str(FROZEN), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout.readline() == "listening\n", process.stdout.read()
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_all_kinds_of_handler(server):
    process, port = server
    url = "http://127.0.0.1:%d" % port

    def get(path, data=None):
        try:
            with request.urlopen(url + path, data, timeout=10) as answer:
                return answer.status, answer.read()
        except error.HTTPError as exc:
            return exc.code, exc.read()

    assert get("/value") == (200, b'{"a":1}')
    assert get("/agen") == (200, b"part 0 raw part 1 raw part 2 raw ")
    assert get("/gen") == (200, b"xy")
    assert get("/early")[0] == 409
    blob = bytes(range(256)) * 4096
    assert get("/echo", blob) == (200, blob)
    assert get("/nope")[0] == 404
    for path in (b"/endless", b"/wait"):
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            if path == b"/endless":
                assert s.recv(100).startswith(b"HTTP/1.1 200")
            else:
                time.sleep(0.1)
    assert {process.stdout.readline() for _ in range(2)} == {"endless closed\n", "wait closed\n"}
    assert get("/value")[0] == 200


def test_large_json_gives_way(server):
    _, port = server
    url = "http://127.0.0.1:%d/turns" % port
    body = b"[" + b"0.123," * 200000 + b"1]"

    def turns(data):
        with request.urlopen(url, data, timeout=20) as answer:
            return json.loads(answer.read())

    start = turns(b"[]")[0]
    first = turns(body)
    assert first[1:] == json.loads(body)
    second = turns(b"[]")[0]
    # Read before the handler ran, written after it.
    assert first[0] > start + 5 and second > first[0] + 5


@pytest.mark.parametrize("name", ["test_parser.py", "test_jsonio.py"])
def test_the_same_tests_pass(name, tmp_path):
    if not unix_micropython.program():
        pytest.skip(unix_micropython.MISSING)
    path = Path(__file__).with_name(name)
    (passed, _, failed), said = unix_micropython.run_tests(path, tmp_path)
    assert failed == 0 and passed >= len(unix_micropython.plan(path)["tests"]) - 1, said
