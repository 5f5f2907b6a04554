"""Another model while one is served: it waits for nobody, and a failure changes nothing."""

import asyncio
import json
import threading
from urllib import request

import pytest
from fake_engine import FakeEngine
from running import Running
from serve.scheduling.engine import NoModel


class Named(FakeEngine):
    """Says which file it was made from, and whether it is closed."""

    made = []
    beside = True  # whether there is memory for two

    def __init__(self, path, **options):
        if "broken" in path:
            raise RuntimeError("no such architecture")
        if not Named.beside and any(not e.gone for e in Named.made):
            raise MemoryError
        super().__init__(path, **options)
        self.path, self.gone = path, False
        self.desc = path
        Named.made.append(self)

    def close(self):
        self.gone = True
        super().close()


@pytest.fixture
def served(tmp_path):
    Named.made, Named.beside = [], True
    with Running(tmp_path, Named, n_ctx=100000) as running:
        running.discarded = []
        running.service.discard = running.discarded.append
        running.folder = tmp_path
        yield running


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


def load(running, name, **fields):
    (running.folder / name).write_bytes(b"GGUF")

    async def find(path, progress):
        if path.startswith("/boot/"):
            path = str(running.folder / path[6:])
        if path.startswith("http://"):
            if "gone" in path:
                raise NoModel(path + ": HTTP 404")
            path = str(running.folder / path.split("#")[0].rsplit("/", 1)[1])
        return path

    running.service.host.find = find
    return running.call("/models/load", {"wait": True, **fields})


def state(running, name):
    listed = {m["id"]: m["status"] for m in running.call("/models")[1]["data"]}
    return listed.get(name)


def test_another_model_takes_the_place(served):
    assert state(served, "fake-model") == {"value": "loaded"}
    old = served.host.path
    assert load(served, "b.gguf", file="b.gguf") == (200, {"success": True})
    assert served.call("/v1/completions", {"prompt": "x|"})[1]["model"] == "b"
    assert state(served, "b") == {"value": "loaded"} and state(served, "fake-model") is None
    assert wait_for(lambda: Named.made[0].gone) and not Named.made[1].gone
    assert wait_for(lambda: served.discarded == [old])
    url = "http://192.0.2.1/c.gguf"
    assert load(served, "c.gguf", url=url, sha256="a" * 64, model="mine")[0] == 200
    assert served.call("/v1/models/mine")[1]["id"] == "mine"


def test_a_failure_says_why_and_changes_nothing(served):
    status, answer = load(served, "broken.gguf", file="broken.gguf")
    assert status == 422 and "no such architecture" in answer["error"]["message"]
    status, answer = load(served, "x.gguf", url="http://192.0.2.1/gone.gguf")
    assert status == 422 and answer["error"]["message"].endswith("HTTP 404")
    assert served.call("/v1/completions", {"prompt": "x|"})[1]["model"] == "fake-model"
    health = served.call("/health")[1]
    assert health["status"] == "ok" and "HTTP 404" in health["load_error"]
    assert not Named.made[0].gone
    assert load(served, "b.gguf", file="b.gguf")[0] == 200
    assert "load_error" not in served.call("/health")[1]


def test_running_streams_end_first(served):
    stream = request.urlopen(
        served.url + "/v1/completions",
        json.dumps({"prompt": "*ab|", "stream": True, "max_tokens": 4000}).encode(),
    )
    stream.readline()
    assert load(served, "b.gguf", file="b.gguf")[0] == 200
    assert served.call("/v1/completions", {"prompt": "x|"})[1]["model"] == "b"
    events = stream.read().decode()
    last = json.loads(events.rsplit("data: {", 1)[1].split("\n")[0].join(["{", ""]))
    assert last["choices"][0]["finish_reason"] == "length" and '"fake-model"' in events
    assert wait_for(lambda: Named.made[0].gone)


def test_without_memory_for_two_the_old_one_goes_first_and_comes_back(served):
    Named.beside = False
    assert load(served, "b.gguf", file="b.gguf")[0] == 200
    assert served.call("/v1/completions", {"prompt": "x|"})[1]["model"] == "b"
    assert [e.gone for e in Named.made] == [True, False]

    class Never(Named):
        def __init__(self, path, **options):
            raise MemoryError

    served.service.host.make = lambda path, **o: (Never if "big" in path else Named)(path, **o)
    status, answer = load(served, "big.gguf", file="big.gguf")
    assert status == 422 and "not enough memory" in answer["error"]["message"]
    assert served.call("/v1/completions", {"prompt": "x|"})[1]["model"] == "b"


def test_unload_and_load_again(served):
    assert served.call("/models/unload", {}) == (200, {"success": True})
    assert wait_for(lambda: state(served, "fake-model") == {"value": "unloaded"})
    status, answer = served.call("/v1/completions", {"prompt": "x|"})
    assert status == 503 and "was unloaded" in answer["error"]["message"]
    assert served.call("/models/unload", {})[0] == 400
    assert served.call("/models/load", {})[0] == 200
    assert wait_for(lambda: state(served, "fake-model") == {"value": "loaded"})
    assert served.call("/v1/completions", {"prompt": "x|"})[0] == 200


def test_one_at_a_time_and_progress_meanwhile(served):
    go = asyncio.Event()

    async def find(path, progress):
        progress(0.5)
        await go.wait()
        raise NoModel("no")

    served.service.host.find = find
    assert served.call("/models/load", {"file": "slow.gguf"})[0] == 200
    assert wait_for(lambda: served.service.switch.next)
    assert wait_for(lambda: (state(served, "slow") or {}).get("progress"))
    assert state(served, "slow")["value"] == "loading"
    assert served.call("/models/load", {"file": "other.gguf"})[0] == 503
    assert served.call("/models/unload", {})[0] == 503
    assert served.call("/health")[1]["loading"]["model"] == "slow"
    assert b"\nllamacpp:model_load_progress 0." in served.raw("/metrics")[2]
    served.loop.call_soon_threadsafe(go.set)
    assert wait_for(lambda: state(served, "slow") is None)
    assert served.service.switch.error == "no model: no"


def test_events(served):
    watch = request.urlopen(served.url + "/models/sse", timeout=10)
    first = json.loads(watch.readline()[6:])
    assert first == {
        "model": "fake-model", "event": "status_change", "data": {"status": {"value": "loaded"}},
    }  # fmt: skip
    assert load(served, "b.gguf", file="b.gguf")[0] == 200
    seen = []
    while not any(e["event"] == "model_remove" for e in seen):
        line = watch.readline()
        if line.startswith(b"data: "):
            seen.append(json.loads(line[6:]))
    assert {e["model"] for e in seen} == {"b", "fake-model"}
    watch.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"url": 5}, "'url' must be a string"),
        ({"url": "http://a/b c"}, "must be a URL that begins with"),
        ({"url": "https://a/b"}, "needs the file's 'sha256'"),
        ({"url": "http://a/b", "file": "c"}, "not by both"),
        ({"url": "http://a/b", "sha256": "12"}, "64 hexadecimal"),
        ({"file": "../x"}, "name of a file"),
        ({"file": "/etc/x"}, "name of a file"),
        ({"model": "other"}, "there is no model 'other'"),
    ],
)
def test_what_names_no_model(served, body, words):
    status, answer = served.call("/models/load", body)
    assert status == 400 and words in answer["error"]["message"]
