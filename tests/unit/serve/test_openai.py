"""The HTTP routes over a real socket, with the fake engine: shapes, stream order, errors."""

import asyncio
import json
import sys
import threading
from pathlib import Path
from urllib import error, request

import pytest
from fake_engine import FakeEngine, Sampler

from httpd import Limits, Server
from serve import main
from serve.apis.access import Access
from serve.apis.params import Params
from serve.scheduling.engine import EngineHost
from serve.scheduling.scheduler import Bounds
from serve.service import Service

MODEL = "fake-model"


class Running:
    """The service in a thread with its own loop, as clients see it."""

    def __init__(
        self, tmp_path, make=FakeEngine, load=True, slots=4, access=None, wait=True, **options
    ):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF")
        self.service = Service()
        self.host = EngineHost(str(path), MODEL, options, make)
        bounds = Bounds(slots=slots, queue=2, speculate=False)
        self.service.configure(self.host, bounds)
        main.install(self.service, access or Access())
        self.started = threading.Event()
        self.load = load
        self.wait = wait  # until it is loaded
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self):
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        server = Server(self.service.app, "127.0.0.1", 0, Limits(), 0.05)
        await server.start()
        self.port = server._server.sockets[0].getsockname()[1]
        if not self.wait:
            self.started.set()
        if self.load:
            await self.service.start()
        self.started.set()
        await self.done.wait()
        self.service.stop()
        await server.close()

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(5)
        self.url = "http://127.0.0.1:%d" % self.port
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(5)
        assert not self.thread.is_alive()

    def raw(self, path, body=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with request.urlopen(request.Request(self.url + path, data), timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except error.HTTPError as exc:
            return exc.code, dict(exc.headers), exc.read()

    def call(self, path, body=None):
        status, _, data = self.raw(path, body)
        return status, json.loads(data)

    def stream(self, path, body):
        """The events of a stream, parsed; "[DONE]" stays a string."""
        status, headers, data = self.raw(path, dict(body, stream=True))
        assert status == 200, data
        assert headers["Content-Type"] == "text/event-stream"
        events = data.decode().split("\n\n")
        assert events.pop() == ""
        assert all(e.startswith("data: ") for e in events)
        return [e[6:] if e == "data: [DONE]" else json.loads(e[6:]) for e in events]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    Sampler.open = 0
    with Running(tmp_path_factory.mktemp("model")) as running:
        yield running
        assert not running.service.scheduler.running and Sampler.open == 0


CHAT = {"messages": [{"role": "user", "content": "hé<y"}]}
TIMINGS = {
    "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second", "predicted_n",
    "predicted_ms", "predicted_per_token_ms", "predicted_per_second",
}  # fmt: skip
USAGE = {
    "completion_tokens": 6,
    "prompt_tokens": 6,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def test_health_and_models(server):
    assert server.call("/health") == (200, {"status": "ok"})
    assert server.call("/v1/health") == (200, {"status": "ok"})
    for path in ("/v1/models", "/models"):
        status, body = server.call(path)
        assert status == 200 and body["object"] == "list"
        assert body["data"][0]["id"] == body["models"][0]["name"] == MODEL
    info = server.call("/v1/models/" + MODEL)[1]
    assert info["object"] == "model" and info["owned_by"] == "llamacpp" and info["created"] > 0
    assert info["meta"]["n_ctx"] == 256
    status, body = server.call("/v1/models/other")
    assert status == 404 and body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_chat(server, path):
    status, body = server.call(path, CHAT)
    assert status == 200
    assert set(body) == {
        "choices", "created", "id", "model", "system_fingerprint", "object", "usage", "timings",
    }  # fmt: skip
    assert body["choices"] == [
        {
            "finish_reason": "stop",
            "index": 0,
            "message": {"role": "assistant", "content": "hé<y", "refusal": None},
            "logprobs": None,
        }
    ]
    assert body["object"] == "chat.completion" and body["model"] == MODEL
    assert body["id"].startswith("chatcmpl-") and isinstance(body["created"], int)
    assert body["usage"] == USAGE and set(body["timings"]) == TIMINGS


@pytest.mark.parametrize("include_usage", [False, True])
def test_chat_stream(server, include_usage):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    events = server.stream("/v1/chat/completions", dict(CHAT, **options))
    assert events.pop() == "[DONE]"
    assert {e["object"] for e in events} == {"chat.completion.chunk"}
    assert len({(e["id"], e["created"], e["model"], e["system_fingerprint"]) for e in events}) == 1
    if include_usage:
        last = events.pop()
        assert last["choices"] == [] and last["usage"] == USAGE
        assert set(last["timings"]) == TIMINGS
        assert "timings" not in events[-1]
    else:
        assert set(events[-1]["timings"]) == TIMINGS
    assert all("usage" not in e for e in events)
    choices = [e["choices"][0] for e in events]
    assert choices[0]["delta"] == {"role": "assistant", "content": None}
    assert [c["delta"]["content"] for c in choices[1:-1]] == ["h", "é", "<y"]  # "<" begins a stop
    assert choices[-1]["delta"] == {}
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_completion(server):
    status, body = server.call("/v1/completions", {"prompt": "hello|", "max_tokens": 3})
    assert status == 200 and body["object"] == "text_completion"
    assert body["choices"] == [
        {"text": "hel", "index": 0, "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"]["completion_tokens"] == 3
    for prompt in (list(b"hello|"), ["hello|"], [list(b"hello|")]):
        assert (
            server.call("/v1/completions", {"prompt": prompt})[1]["choices"][0]["text"] == "hello"
        )


def test_completion_stream(server):
    events = server.stream("/v1/completions", {"prompt": "abcd|", "stop": "cd"})
    assert events.pop() == "[DONE]"
    choices = [e["choices"][0] for e in events]
    assert [c["text"] for c in choices] == ["a", "b", ""]
    assert [c["finish_reason"] for c in choices] == [None, None, "stop"]
    assert all(c["logprobs"] is None for c in choices)
    assert "usage" in events[-1] and "timings" in events[-1] and "usage" not in events[0]


def test_nothing_to_generate(server):
    body = server.call("/v1/chat/completions", dict(CHAT, max_tokens=0))[1]
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "length"
    events = server.stream("/v1/chat/completions", dict(CHAT, max_tokens=0))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant" and events[-1] == "[DONE]"
    assert server.call("/v1/completions", {"prompt": ""})[1]["choices"][0]["text"] == ""


def test_nulls_and_unknown_fields_are_ignored(server):
    fields = (
        "max_tokens max_completion_tokens temperature top_p top_k min_p seed stop stream n user "
        "stream_options tools response_format"
    )
    body = dict(CHAT, model="whatever", unknown={"a": 1}, **{f: None for f in fields.split()})
    assert server.call("/v1/chat/completions", body)[0] == 200
    full = dict(
        CHAT,
        temperature=0,
        top_p=2,
        top_k=1,
        min_p=0.1,
        seed=-5,
        stop=["q", ""],
        n=1,
        max_tokens=-1,
    )
    assert server.call("/v1/chat/completions", full)[0] == 200


def test_params():
    params = Params({"seed": -5, "temperature": 0, "top_p": 2, "top_k": -3, "stop": ["a", ""]})
    assert params.sampling == {"seed": 2**32 - 5, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    assert params.stop == ["a"] and params.max_tokens is None and not params.stream
    assert Params({"seed": -1}).sampling == {}
    assert Params({"max_tokens": 1, "max_completion_tokens": 2}).max_tokens == 2
    assert Params({"max_tokens": -1}).max_tokens is None


def test_template_stops_and_content_parts(server):
    parts = [{"type": "text", "text": "ab<e"}, {"type": "text", "text": "nd>cd"}]
    body = server.call("/v1/chat/completions", message(content=parts))[1]
    assert body["choices"][0]["message"]["content"] == "ab"


def message(**fields):
    return {"messages": [dict({"role": "user", "content": "x"}, **fields)]}


@pytest.mark.parametrize(
    "body, names",
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"messages" []}', "JSON"),
        (b"[]", "object"),
        (b'"x"', "object"),
        (b"\xff", "JSON"),
        ({}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "assistant"}]}, "content"),
        (message(content=1), "content"),
        (message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "image"),
        (message(content=[{"type": "text"}]), "text"),
        (message(content=[{"type": "poem"}]), "type"),
        (message(content=["x"]), "type"),
        (message(role="bad"), "unknown role"),
        (dict(CHAT, temperature="hot"), "temperature"),
        (dict(CHAT, temperature=True), "temperature"),
        (dict(CHAT, top_p=[]), "top_p"),
        (dict(CHAT, max_tokens="5"), "max_tokens"),
        (dict(CHAT, max_tokens=1.5), "max_tokens"),
        (dict(CHAT, max_tokens=-2), "max_tokens"),
        (dict(CHAT, max_completion_tokens=1e30), "max_completion_tokens"),
        (dict(CHAT, top_k={}), "top_k"),
        (dict(CHAT, top_k=666), "top_k"),
        (dict(CHAT, seed="x"), "seed"),
        (dict(CHAT, stop=1), "stop"),
        (dict(CHAT, stop=["a", 1]), "stop"),
        (dict(CHAT, stop=["a"] * 100), "stop"),
        (dict(CHAT, stream=1), "stream"),
        (dict(CHAT, stream_options=[]), "stream_options"),
        (dict(CHAT, stream_options={"include_usage": "y"}), "include_usage"),
        (dict(CHAT, n=5), "n"),
        (dict(CHAT, n=0), "n"),
    ],
)
def test_bad_chat(server, body, names):
    status, answer = server.call("/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["code"] == 400 and answer["error"]["type"] == "invalid_request_error"
    assert names in answer["error"]["message"]


@pytest.mark.parametrize(
    "body, names",
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1.5]}, "prompt"),
        ({"prompt": ["a"] * 100}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [258]}, "Prompt"),
        ({"prompt": [-1]}, "Prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
    ],
)
def test_bad_completion(server, body, names):
    status, answer = server.call("/v1/completions", body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    assert names in answer["error"]["message"]


MANY = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 2049}, "messages"),
    ("/v1/chat/completions", message(content=[{"type": "text", "text": "a"}] * 4097), "content"),
    ("/v1/chat/completions", dict(CHAT, tools=[{}] * 4097), "tools"),
    ("/v1/chat/completions", dict(CHAT, stop=["a"] * 100000), "stop"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 20000}, "objects"),
    ("/v1/messages", {"messages": [{"role": "user", "content": "a"}] * 2049}, "messages"),
    ("/v1/messages", message(content=[{"type": "text", "text": "a"}] * 4097), "content"),
    ("/v1/messages", dict(CHAT, system=[{"type": "text", "text": "a"}] * 4097), "system"),
    ("/v1/responses", {"input": [{"role": "user", "content": "a"}] * 4097}, "input"),
    ("/v1/responses", {"input": message(content=["a"] * 4097)["messages"]}, "content"),
    ("/v1/completions", {"prompt": ["a", 5] * 2049}, "prompt"),
    ("/v1/completions", {"prompt": [5] * 400000 + [True]}, "prompt"),
    ("/v1/completions", {"prompt": ["a"] * 100000}, "prompt"),
    ("/v1/completions", {"prompt": [5] * 400000}, "context"),
    ("/tokenize", {"content": ["a"] * 100000}, "content"),
    ("/detokenize", {"tokens": [5] * 400000 + [True]}, "tokens"),
    ("/detokenize", {"tokens": [5] * 400000 + [1 << 70]}, "tokens"),
    ("/v1/embeddings", {"input": ["a", 5] * 2049}, "input"),
]


@pytest.mark.parametrize("path, body, names", MANY)
def test_what_python_looks_at_one_by_one_is_bounded(server, path, body, names):
    status, answer = server.call(path, body)
    assert status == 400 and names in answer["error"]["message"]


def test_as_many_as_may_be(server):
    for path, body in (
        ("/v1/completions", {"prompt": ["a", 5] * 100, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1, "x": [0.5] * 300000}),
        ("/detokenize", {"tokens": [5] * 400000}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1,
                             "logit_bias": {str(i % 256): 0 for i in range(256)}}),
    ):
        assert server.call(path, body)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [256, 300, 100000])
def test_too_long(server, size, stream):
    status, body = server.call("/v1/completions", {"prompt": "a" * size, "stream": stream})
    assert status == 400
    assert body["error"]["type"] == "exceed_context_size_error"
    # A text that cannot fit is not tokenized: the number is then a lower bound.
    assert body["error"]["n_prompt_tokens"] == (size if size < 10000 else size // 64)
    assert body["error"]["n_ctx"] == 256


def test_paths_and_methods(server):
    assert server.call("/nope")[1]["error"]["type"] == "not_found_error"
    status, headers, data = server.raw("/v1/chat/completions")
    assert status == 405 and "POST" in headers["Allow"]
    assert json.loads(data)["error"]["type"] == "invalid_request_error"


def test_tokenize_and_back(server):
    assert server.call("/tokenize", {"content": "hé"})[1] == {"tokens": [104, 195, 169]}
    assert server.call("/tokenize", {})[1] == {"tokens": []}
    pieces = server.call("/tokenize", {"content": "hé", "with_pieces": True})[1]["tokens"]
    assert pieces == [
        {"id": 104, "piece": "h"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]},
    ]  # fmt: skip
    assert server.call("/detokenize", {"tokens": [104, 195, 169]})[1] == {"content": "hé"}
    for body in ({"tokens": "x"}, {"tokens": [999]}, {"tokens": [1.5]}):
        assert server.call("/detokenize", body)[0] == 400
    assert server.call("/tokenize", {"content": 1})[0] == 400
    assert server.call("/apply-template", CHAT)[1] == {"prompt": "hé<y|"}


def test_props(server):
    status, body = server.call("/props")
    assert status == 200 and body["total_slots"] == 4
    assert body["default_generation_settings"]["n_ctx"] == 256
    assert body["bos_token"] == "<bos>" and body["eos_token"] == "<eog>"


def test_clients_at_once(server):
    texts = ["text number %d" % i for i in range(4)]
    got = {}

    def go(text):
        got[text] = server.call("/v1/completions", {"prompt": text + "|"})[1]["choices"][0]["text"]

    threads = [threading.Thread(target=go, args=(t,)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {t: t for t in texts}


def test_error_in_a_stream_is_an_event(tmp_path):
    with Running(tmp_path) as running:
        # Generated, not prompted: the stream has begun when the engine meets it.
        running.host.engine.next = lambda cells: 33 if len(cells) > 5 else 97
        running.host.engine.poison = 33
        events = running.stream("/v1/chat/completions", CHAT | {"messages": message()["messages"]})
        assert events[0]["choices"][0]["delta"]["role"] == "assistant"
        assert events[-1] == {
            "error": {"code": 500, "message": "poisoned", "type": "server_error"}
        }
        status, body = running.call("/v1/completions", {"prompt": "!"})
        assert status == 500 and body["error"]["type"] == "server_error"
        assert running.call("/health")[0] == 200


def test_leaving_clients_free_their_slots(tmp_path):
    with Running(tmp_path, n_ctx=200000) as running:
        scheduler = running.service.scheduler
        for body in ({"prompt": "*ab|"}, {"prompt": "*ab|", "stream": True}):
            data = json.dumps(body).encode()
            with pytest.raises(TimeoutError):
                with request.urlopen(running.url + "/v1/completions", data, timeout=0.3) as answer:
                    answer.read(50)
                    raise TimeoutError
            for _ in range(200):
                if not scheduler.running:
                    break
                threading.Event().wait(0.02)
            assert not scheduler.running


def test_full_queue(tmp_path):
    with Running(tmp_path, n_ctx=100000, slots=1) as running:
        open_ = [
            request.urlopen(running.url + "/v1/completions", b'{"prompt":"*a|","stream":true}')
        ]
        threads = []
        for _ in range(2):
            thread = threading.Thread(
                target=running.call, args=("/v1/completions", {"prompt": "b|"})
            )
            thread.start()
            threads.append(thread)
        scheduler = running.service.scheduler
        for _ in range(200):
            if len(scheduler.queue) == 2:
                break
            threading.Event().wait(0.02)
        status, headers, data = running.raw("/v1/completions", {"prompt": "c|"})
        assert status == 503 and int(headers["Retry-After"]) >= 1
        assert json.loads(data)["error"]["type"] == "unavailable_error"
        open_[0].close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def test_loading(tmp_path):
    with Running(tmp_path, load=False) as running:
        for path in ("/health", "/v1/models", "/props"):
            status, body = running.call(path)
            assert status == 503
            assert body["error"] == {
                "code": 503,
                "message": "Loading model",
                "type": "unavailable_error",
                "progress": 0.0,
            }
        assert running.call("/v1/chat/completions", CHAT)[0] == 503


def test_bad_model(tmp_path, capsys):
    def broken(path, **options):
        raise RuntimeError("invalid magic characters: 'XXXX', expected 'GGUF'")

    with Running(tmp_path, broken) as running:
        status, body = running.call("/health")
        assert status == 503 and "invalid magic" in body["error"]["message"]
        assert running.call("/v1/completions", {"prompt": "x"})[0] == 503
        assert running.call("/nope")[0] == 404
    assert "invalid magic" in capsys.readouterr().out


def test_no_model(tmp_path):
    running = Running(tmp_path)
    running.host.path = str(tmp_path / "absent.gguf")
    with running:
        status, body = running.call("/health")
        assert status == 503 and "no model" in body["error"]["message"]


def test_a_dead_engine_shows_in_health(tmp_path):
    with Running(tmp_path) as running:
        running.host.engine.dead = True
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 500
        status, body = running.call("/health")
        assert status == 503 and "the engine failed" in body["error"]["message"]


class CrampedEngine(FakeEngine):
    """Has no memory for embeddings, the first times that it is asked."""

    refusals = 0
    error = MemoryError("insufficient memory (attempted to allocate 41.96 MB)")

    def start_embed(self, *arguments):
        if CrampedEngine.refusals:
            CrampedEngine.refusals -= 1
            raise self.error
        super().start_embed(*arguments)


def test_without_memory_an_embedding_may_be_asked_for_again(tmp_path, monkeypatch):
    swept = []
    monkeypatch.setattr("serve.scheduling.scheduler.gc.collect", lambda: swept.append(1))
    with Running(tmp_path, CrampedEngine) as running:
        CrampedEngine.refusals = 1000
        for route in ("/v1/embeddings", "/embedding"):
            status, headers, data = running.raw(route, {"input": ["a", "b"]})
            message = json.loads(data)["error"]["message"]
            assert status == 503 and int(headers["Retry-After"]) > 0
            assert "not enough memory" in message and "--memory" in message
            assert "alloc" not in message and "MB" not in message
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 200
        # What Python's heap held was what was missing.
        CrampedEngine.refusals, swept[:] = 1, []
        status, body = running.call("/v1/embeddings", {"input": ["a", "b"]})
        assert status == 200 and len(body["data"]) == 2 and swept == [1]


def test_what_llama_cpp_says_of_an_embedding_goes_to_the_console(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CrampedEngine, "error", RuntimeError("ggml.c:1: GGML_ASSERT(x) failed"))
    with Running(tmp_path, CrampedEngine) as running:
        CrampedEngine.refusals = 1
        status, body = running.call("/v1/embeddings", {"input": "a"})
        assert status == 500 and "ASSERT" not in body["error"]["message"]
        assert running.call("/v1/embeddings", {"input": "a"})[0] == 200
    assert "GGML_ASSERT(x)" in capsys.readouterr().out


def test_a_model_without_memory_is_told_in_words(tmp_path):
    def make(*_, **__):
        raise MemoryError("failed to allocate CPU buffer of size 13436672")

    with Running(tmp_path, make, n_ctx=2048) as running:
        status, body = running.call("/health")
        assert status == 503 and "2048 cells" in body["error"]["message"]
        assert "--memory" in body["error"]["message"] and "alloc" not in body["error"]["message"]


def test_handlers_that_are_no_text_cost_nobody_else_anything(tmp_path, capsys):
    (tmp_path / "app.py").write_bytes(b"# caf\xe9\n")
    main.run_user_code(str(tmp_path / "app.py"))
    assert "the server goes on without" in capsys.readouterr().out


def test_progress_is_printed_in_tenths(capsys):
    host = EngineHost(__file__, None, {}, SlowEngine)
    asyncio.run(host.load())
    out = capsys.readouterr().out
    assert out.count("loading ") == 11 and "loading 50%" in out and host.state == "ready"


class SlowEngine(FakeEngine):
    """Takes a few looks until it is loaded."""

    made = None

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.looks = 0
        SlowEngine.made = self

    def loaded(self):
        self.looks += 1
        return min(1, self.looks / 10)


def test_answers_while_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(SlowEngine, "loaded", lambda self: 1 if self.looks else 0.25)
    with Running(tmp_path, SlowEngine, wait=False) as running:
        status, body = running.call("/health")
        assert (status, body["error"]["progress"]) == (503, 0.25)
        assert running.call("/v1/completions", {"prompt": "x"})[0] == 503
        SlowEngine.made.looks = 1
        for _ in range(200):
            if running.call("/health")[0] == 200:
                break
            threading.Event().wait(0.02)
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 200


def test_an_end_while_loading_closes_the_engine(monkeypatch):
    monkeypatch.setattr(SlowEngine, "loaded", lambda self: 0.5)

    async def go():
        host = EngineHost(__file__, None, {}, SlowEngine)
        task = asyncio.create_task(host.load())
        await asyncio.sleep(0.05)
        assert host.state == "loading" and host.progress == 0.5
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert SlowEngine.made.closed


def test_an_error_at_the_end_of_loading_is_the_reason(monkeypatch):
    def loaded(self):
        self.looks += 1
        if self.looks > 2:
            raise RuntimeError("tensor 'x' is cut off")
        return 0.5

    monkeypatch.setattr(SlowEngine, "loaded", loaded)
    host = EngineHost(__file__, None, {}, SlowEngine)
    asyncio.run(host.load())
    assert host.state == "failed" and "tensor 'x' is cut off" in host.reason
    assert SlowEngine.made.closed


def test_openai_client(server):
    client_module = pytest.importorskip("openai", reason="the openai package is not installed")
    client = client_module.OpenAI(base_url=server.url + "/v1", api_key="none")
    answer = client.chat.completions.create(model="m", messages=CHAT["messages"])
    assert answer.choices[0].message.content == "hé<y"
    chunks = list(
        client.chat.completions.create(
            model="m",
            messages=CHAT["messages"],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hé<y"
    assert chunks[-1].usage.completion_tokens == 6
    assert client.completions.create(model="m", prompt="abc|").choices[0].text == "abc"
    texts = client.completions.create(model="m", prompt="abc|", stream=True)
    assert "".join(c.choices[0].text for c in texts) == "abc"
    assert client.models.retrieve(MODEL).id == client.models.list().data[0].id == MODEL
    with pytest.raises(client_module.BadRequestError, match="temperature"):
        client.chat.completions.create(model="m", messages=CHAT["messages"], temperature="x")


@pytest.fixture
def cllm(monkeypatch):
    """The module that user code imports, fresh, with a service of its own."""
    api = Path(main.__file__).resolve().parent.parent / "lib" / "cllm.py"
    from serve import service as module

    monkeypatch.setattr(module, "service", Service())
    monkeypatch.setattr(main, "service", module.service)
    namespace = type(sys)("cllm")
    exec(compile(api.read_text(), str(api), "exec"), namespace.__dict__)
    monkeypatch.setitem(sys.modules, "cllm", namespace)
    return namespace


def test_llm(cllm, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")

    async def go():
        with pytest.raises(Exception) as info:
            await cllm.llm.generate("x")
        assert info.value.status == 503
        cllm.service.configure(EngineHost(str(path), None, {}, FakeEngine))
        await cllm.service.start()
        assert await cllm.llm.generate("hello|", max_tokens=4) == "hell"
        assert await cllm.llm.chat("hi") == "hi"
        assert await cllm.llm.chat([{"role": "user", "content": "ho"}], stop="o") == "h"
        assert [item.text async for item in cllm.llm.stream("ab|")] == ["a", "b", ""]
        assert await cllm.llm.tokenize("a") == [97]
        with pytest.raises(Exception, match="temperature"):
            await cllm.llm.generate("x", temperature="y")
        cllm.service.stop()

    asyncio.run(go())


APP = """
from cllm import app, llm

@app.get("/twice/<text>")
async def twice(request, text):
    return {"text": await llm.generate(text + text + "|")}

@app.get("/fail")
def fail(request):
    return 1 / 0

@app.get("/health")
def health(request):
    return "mine"
"""


def test_serve_with_user_code(cllm, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.gguf").write_bytes(b"x")
    (tmp_path / "app.py").write_text(APP)
    run_user_code = main.run_user_code
    monkeypatch.setattr(main, "_BOOT", str(tmp_path) + "/")
    monkeypatch.setattr(main, "run_user_code", lambda: run_user_code(str(tmp_path / "app.py")))
    servers = []

    class Loopback(Server):
        def __init__(self, app, host, port, limits):
            Server.__init__(self, app, "127.0.0.1", 0, limits)
            servers.append(self)

    monkeypatch.setattr(main, "Server", Loopback)

    async def go():
        task = asyncio.create_task(main.serve({"model": {"alias": "a"}}, make=FakeEngine))
        while not (servers and servers[0]._server and cllm.service.scheduler):
            await asyncio.sleep(0.01)
        url = "http://127.0.0.1:%d" % servers[0]._server.sockets[0].getsockname()[1]

        def get(path):
            try:
                with request.urlopen(url + path, timeout=5) as answer:
                    return answer.status, answer.read()
            except error.HTTPError as exc:
                return exc.code, exc.read()

        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, get, "/twice/ab") == (200, b'{"text":"abab"}')
        assert (await loop.run_in_executor(None, get, "/fail"))[0] == 500
        assert await loop.run_in_executor(None, get, "/health") == (200, b"mine")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_serve_ends_when_it_is_asked_to(cllm, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.gguf").write_bytes(b"x")
    monkeypatch.setattr(main, "_BOOT", str(tmp_path) + "/")
    monkeypatch.setattr(main, "run_user_code", lambda: None)
    drained = []

    class Loopback(Server):
        def __init__(self, app, host, port, limits):
            Server.__init__(self, app, "127.0.0.1", 0, limits)

        async def drain(self, seconds):
            drained.append(seconds)
            await Server.drain(self, seconds)

    monkeypatch.setattr(main, "Server", Loopback)

    async def go():
        button = asyncio.Event()
        config = {"limits": {"drain_s": 7}}
        task = asyncio.create_task(main.serve(config, make=FakeEngine, asked=button.wait))
        await asyncio.sleep(0.1)
        assert not task.done() and not drained
        button.set()
        await asyncio.wait_for(task, 5)

    asyncio.run(go())
    assert drained == [7] and "asked to end" in capsys.readouterr().out
    for wrong in (-1, 86401, "7"):
        with pytest.raises(main.ConfigError):
            main.Settings({"limits": {"drain_s": wrong}})


def test_broken_user_code_is_reported(tmp_path, capsys):
    path = tmp_path / "app.py"
    for source in ("def x(:", "1 / 0", "import nothing_of_this_name"):
        path.write_text(source)
        main.run_user_code(str(path))
        captured = capsys.readouterr()
        assert "the server goes on" in captured.out and "Error" in captured.err
    main.run_user_code(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    "config, names",
    [
        ({"port": "x"}, "port"),
        ({"port": 70000}, "port"),
        ({"limits": []}, "limits"),
        ({"limits": {"bodyy": 1}}, "bodyy"),
        ({"model": "x"}, "model"),
        ({"model": {"n_ctx": 0}}, "n_ctx"),
        ({"model": {"file": 1}}, "file"),
        ({"model": {"slots": 100}}, "slots"),
    ],
)
def test_bad_settings(config, names):
    with pytest.raises(main.ConfigError, match=names):
        main.Settings(config)


def test_settings(tmp_path):
    settings = main.Settings({})
    assert settings.port == 80 and settings.path == "/boot/model.gguf"
    settings = main.Settings({"model": {"slots": 2}, "limits": {"queue": 3, "body": 9}})
    assert settings.bounds.slots == 2 and settings.bounds.queue == 3 and settings.limits.body == 9
    path = tmp_path / "config.json"
    assert main.read_config(str(path)) == {}
    path.write_text('{"port": 8080}')
    assert main.read_config(str(path)) == {"port": 8080}
    for bad in ("{", "[]"):
        path.write_text(bad)
        with pytest.raises(main.ConfigError):
            main.read_config(str(path))
