"""Models that the guest fetches itself, from a server on the host's loopback."""

import hashlib
import http.server
import re
import ssl
import threading

import pytest
import requests
from cllm import certificates
from support import tiny_model as tiny
from support.fake_hub import FakeHub, cut, status

HOST = "http://10.0.2.2"  # QEMU's user network leads it to the host's loopback


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.make(folder / "a.gguf")
    tiny.make(folder / "b.gguf", seed=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["page.gguf"] = b"<html>please sign in</html>" * 1000
    files["cut.gguf"] = files["a.gguf"][:70_000]
    with FakeHub({"user/repo": files}) as hub:
        hub.files = files
        hub.port = hub.content.rsplit(":", 1)[1]
        hub.at = lambda name: f"{HOST}:{hub.port}/cdn/user/repo/{name}"
        hub.sha = lambda name: hashlib.sha256(files[name]).hexdigest()
        yield hub


@pytest.fixture(scope="module")
def machine(server, boot_once):
    """A guest without a model module. Its configuration comes from three sources."""
    server.troubles += [cut(0), cut(3), cut(1000), status(503), cut(100_000), cut(1), cut(1)]
    fw_cfg = '{"n_ctx": 1024,, "alias": "from-fw-cfg"}'  # QEMU reads a comma from two
    guest = boot_once(
        memory=256,
        config_json={"model": {"url": server.at("a.gguf"), "sha256": server.sha("a.gguf")}},
        words="cllm.n_ctx=512 cllm.limits.queue=7",
        extra=["-fw_cfg", f"name=opt/cllm/config,string={fw_cfg}"],
    )
    assert guest.verdict is None, guest.log().decode(errors="replace")
    return guest


def call(guest, path, body=None):
    answer = requests.request("POST" if body is not None else "GET", guest.url + path, json=body)
    return answer.status_code, answer.json()


def load(guest, **fields):
    return call(guest, "/models/load", {"wait": True, **fields})


def names(guest):
    return {m["id"]: m["status"]["value"] for m in call(guest, "/models")[1]["data"]}


def free(guest):
    guest.serial.run("import _x86, gc; gc.collect()")
    return int(guest.serial.run("_x86.memory()[1]"))


def test_the_connection_breaks_and_the_model_is_whole(machine, server):
    assert names(machine) == {"from-fw-cfg": "loaded"}
    starts = [int(r[6:-1]) for r in server.downloads() if r]
    assert starts == sorted(starts) and 100_000 < starts[-1] < len(server.files["a.gguf"])
    status_, answer = call(machine, "/v1/completions", {"prompt": "ab", "max_tokens": 4})
    assert status_ == 200 and answer["usage"]["completion_tokens"] == 4


def test_later_sources_win(machine):
    # n_ctx: of the command line over that of fw_cfg.
    assert call(machine, "/props")[1]["default_generation_settings"]["n_ctx"] == 512


def test_what_cannot_be_had_leaves_the_old_one(machine, server):
    before = free(machine)
    for fields, words in (
        ({"url": server.at("b.gguf"), "sha256": "0" * 64}, "has the sha256"),
        ({"url": server.at("page.gguf")}, "no GGUF file: it begins with"),
        ({"url": server.at("cut.gguf")}, "cannot load"),
        ({"url": server.at("none.gguf")}, "HTTP 404"),
        ({"file": "none.gguf"}, "there is no file"),
    ):
        code, answer = load(machine, **fields)
        assert code == 422 and words in answer["error"]["message"], answer
        assert names(machine) == {"from-fw-cfg": "loaded"}
    assert abs(free(machine) - before) < 1 << 20
    code, answer = call(machine, "/health")
    assert code == 200 and "there is no file" in answer["load_error"]


def test_more_than_memory_holds_is_refused_before_it_is_fetched(machine, server):
    class Sparse(bytes):
        def __len__(self):
            return 6 << 30

        def __getitem__(self, _):
            return self

    server.files["big.gguf"] = Sparse(b"GGUF")
    n = len(server.requests)
    code, answer = load(machine, url=server.at("big.gguf"))
    assert code == 422
    assert re.search(r"does not fit: it has 6144 MiB, \d+ MiB", answer["error"]["message"])
    assert len(server.requests) == n + 1


def test_switching_takes_no_memory(machine, server):
    load(machine, url=server.at("b.gguf"), sha256=server.sha("b.gguf"))
    assert names(machine) == {"b": "loaded"}
    for _ in range(2):
        assert load(machine, url=server.at("a.gguf"))[0] == 200
        assert load(machine, url=server.at("b.gguf"))[0] == 200
    first = free(machine)
    for _ in range(3):
        assert load(machine, url=server.at("a.gguf"))[0] == 200
        code, answer = call(machine, "/v1/completions", {"prompt": "ab", "max_tokens": 2})
        assert code == 200 and answer["model"] == "a"
        assert load(machine, url=server.at("b.gguf"))[0] == 200
    assert abs(free(machine) - first) < first // 100
    # One file in /boot is the model's, one the configuration.
    assert machine.serial.run("import os; sorted(os.listdir('/boot'))").count(".gguf") == 1


@pytest.fixture(scope="module")
def secure(server, tmp_path_factory):
    """The port of a server that sends the same files by TLS."""
    folder = tmp_path_factory.mktemp("secure")
    pair = certificates.write(folder, *certificates.make(["10.0.2.2"])[:2])
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(server.files[name])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made.server_address[1]
    made.shutdown()
    thread.join()


def test_a_model_comes_by_tls_if_its_hash_is_known(machine, server, secure):
    url = f"https://10.0.2.2:{secure}/b.gguf"
    status, answer = load(machine, url=url, sha256=server.sha("b.gguf"), model="by-tls")
    assert status == 200, answer
    assert names(machine) == {"by-tls": "loaded"}
    status, answer = load(machine, url=url)
    assert status == 400 and "needs the file's 'sha256'" in answer["error"]["message"]
    status, answer = load(machine, url=url, sha256=server.sha("a.gguf"))
    assert status == 422 and "has the sha256" in answer["error"]["message"]
    assert names(machine) == {"by-tls": "loaded"}
