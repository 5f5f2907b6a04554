"""What clients are answered while the engine loads, fails, is full, or loses its clients."""

import asyncio
import json
import threading
from urllib import request

import pytest
from fake_engine import FakeEngine
from running import CHAT, Running, message
from serve.scheduling.engine import EngineHost


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
            status, headers, data = running.raw(path)
            assert status == 503 and headers["Retry-After"] == "1"
            assert json.loads(data)["error"] == {
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
        status, headers, data = running.raw("/health")
        assert status == 503 and b"invalid magic" in data and headers["Retry-After"] == "1"
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
    monkeypatch.setattr("serve.scheduling.jobs.gc.collect", lambda: swept.append(1))
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
