"""The image over TLS: both versions, what is refused, clients, many handshakes, half-open ones."""

import re
import socket
import ssl
import threading
import time

import openai
import pytest
import requests
from cllm import certificates, qemu

APP = """
from cllm import app

@app.get("/secure")
async def secure(request):
    # This machine as its own client.
    import asyncio, ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations("/boot/cert.pem")
    found = []
    for name in ("cllm.local", "other.local"):
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", PORT, ssl=context, server_hostname=name
            )
            writer.write(b"GET /health HTTP/1.0\\r\\n\\r\\n")
            await writer.drain()
            found.append((await reader.readline()).decode().strip())
            found.append(writer.s.version())
            writer.close()
            await writer.wait_closed()
        except OSError as exc:
            found.append(repr(exc))
    return found
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key, _ = certificates.make(["cllm.local", "localhost", "127.0.0.1"])
    return certificates.write(folder, certificate, key)


@pytest.fixture(scope="module")
def secure(boot_once, pair, tiny_model, tmp_path_factory):
    port = qemu.free_port()
    app = tmp_path_factory.mktemp("app") / "app.py"
    app.write_text(APP.replace("PORT", str(port)))
    guest = boot_once(
        model=str(tiny_model),
        app=str(app),
        tls_port=port,
        config_json={
            "tls": {"cert": str(pair[0]), "key": str(pair[1])},
            "limits": {"idle_s": 4, "head_s": 2},
        },
    )
    assert guest.verdict is None
    guest.https = f"https://localhost:{port}"
    guest.tls_port = port
    return guest


def context(pair, version=None):
    made = ssl.create_default_context(cafile=pair[0])
    if version:
        made.minimum_version = made.maximum_version = version
    return made


def connect(guest, made):
    plain = socket.create_connection(("127.0.0.1", guest.tls_port), 60)
    return made.wrap_socket(plain, server_hostname="cllm.local")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_answer(secure, pair, version):
    with connect(secure, context(pair, version)) as sock:
        assert sock.version() == version.name.replace("_", ".")
        for _ in range(2):  # kept alive
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: cllm.local\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_clients_talk_over_it(secure, pair):
    body = {"prompt": "a", "n_predict": 8, "temperature": 0}
    text = requests.post(secure.https + "/completion", json=body, verify=pair[0], timeout=60)
    # The plain port serves nobody; see test_the_plain_port_sends_clients_on.
    assert text.status_code == 200 and text.json()["tokens_predicted"] == 8
    client = openai.OpenAI(
        base_url=secure.https + "/v1",
        api_key="none",
        http_client=openai.DefaultHttpx2Client(verify=context(pair)),
    )
    pieces = [
        chunk.choices[0].text
        for chunk in client.completions.create(
            model="x", prompt="a", max_tokens=8, temperature=0, stream=True
        )
        if chunk.choices
    ]
    assert "".join(pieces) == text.json()["content"] and len(pieces) > 4


def test_a_large_body_and_a_large_answer_pass(secure, pair):
    words = "word " * 4000
    with requests.Session() as session:
        options = {"verify": pair[0], "timeout": 60}
        answer = session.post(secure.https + "/tokenize", json={"content": words}, **options)
        tokens = answer.json()["tokens"]
        answer = session.post(secure.https + "/detokenize", json={"tokens": tokens}, **options)
        assert answer.json()["content"] == words
        assert len(answer.content) > 16384  # more than one record


def test_the_plain_port_sends_clients_on(secure, pair):
    answer = requests.get(secure.url + "/v1/models?x=1", allow_redirects=False, timeout=60)
    assert answer.status_code == 308
    where = f"https://127.0.0.1:{secure.tls_port}/v1/models?x=1"
    assert answer.headers["Location"] == where
    assert requests.get(where, verify=pair[0], timeout=60).json()["data"]
    assert requests.get(secure.url + "/health", timeout=60).json() == {"status": "ok"}
    post = requests.post(secure.url + "/completion", json={}, allow_redirects=False, timeout=60)
    assert post.status_code == 308


@pytest.mark.parametrize(
    "suite", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-SHA"]
)
def test_old_suites_are_refused(secure, pair, suite):
    made = context(pair, ssl.TLSVersion.TLSv1_2)
    made.set_ciphers(suite + ":@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secure, made)


def test_old_versions_are_refused(secure, pair):
    made = context(pair)
    made.minimum_version = ssl.TLSVersion.TLSv1
    made.maximum_version = ssl.TLSVersion.TLSv1_1
    made.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secure, made)


def test_plain_http_on_the_secure_port_ends_the_connection(secure):
    with socket.create_connection(("127.0.0.1", secure.tls_port), 60) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while piece := sock.recv(4096):
            data += piece
        assert data[:1] in (b"", b"\x15")  # an alert at most


def test_half_open_handshakes_time_out_and_hold_nobody_up(secure, pair):
    hello = ssl.MemoryBIO()
    client = context(pair).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="cllm.local")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    text = hello.read()
    socks = [socket.create_connection(("127.0.0.1", secure.tls_port), 60) for _ in range(20)]
    for i, sock in enumerate(socks):
        sock.sendall(text[: len(text) if i % 2 else 40])
    answer = requests.get(secure.https + "/health", verify=pair[0], timeout=60)
    assert answer.status_code == 200
    for sock in socks:
        sock.settimeout(60)
        try:
            while sock.recv(4096):  # the server's first flight, then the end
                pass
        except ConnectionError:
            pass
        sock.close()


def test_the_machine_is_a_client_too(secure, pair):
    found = requests.get(secure.https + "/secure", verify=pair[0], timeout=60).json()
    assert isinstance(found, list), secure.log()[-2000:].decode()
    assert found[:2] == ["HTTP/1.1 200 OK", "TLSv1.3"]
    assert re.search("does not match|Common Name", found[2])


def test_many_handshakes_leave_memory_as_it_was(secure, pair):
    made = context(pair)

    def heap():
        # The collector takes what looks like a pointer for one: the least of some looks counts.
        text = "import gc; gc.collect(); gc.mem_alloc()"
        return min(int(secure.serial.run(text).split()[-1]) for _ in range(3))

    def shake(count):
        for _ in range(count):
            with connect(secure, made) as sock:
                # The client ends the connection, so that the guest has no TIME-WAIT to remember.
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert sock.recv(4096).startswith(b"HTTP/1.1 200")

    shake(60)
    before = heap()
    shake(60)
    assert heap() - before < 20_000


def test_a_stream_goes_on_while_others_shake_hands(secure, pair):
    gaps = []
    stop = threading.Event()

    def shake():
        while not stop.wait(0.2):
            with connect(secure, context(pair)):
                pass

    thread = threading.Thread(target=shake)
    thread.start()
    body = {"prompt": "a", "n_predict": 100, "stream": True, "ignore_eos": True}
    try:
        with requests.post(
            secure.https + "/completion", json=body, verify=pair[0], stream=True, timeout=60
        ) as answer:
            last = time.monotonic()
            for line in answer.iter_lines():
                if line:
                    gaps.append(time.monotonic() - last)
                    last = time.monotonic()
    finally:
        stop.set()
        thread.join()
    assert len(gaps) >= 100


def test_a_certificate_that_cannot_be_used_is_said(boot, pair, tmp_path):
    other = certificates.write(tmp_path / "other", *certificates.make(["other"])[:2])
    guest = boot(config_json={"tls": {"cert": str(pair[0]), "key": str(other[1])}})
    answer = requests.get(guest.url + "/v1/models", timeout=60)
    assert answer.status_code == 503
    assert "tls.cert" in answer.text and "does not belong to the certificate" in answer.text
