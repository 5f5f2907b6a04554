"""A GPU that computes the model: what the server says of it, its loss, and loading again."""

import json
import threading
from urllib import request

import _engine
import pytest
from _engine import Lost
from fake_engine import FakeEngine
from running import CHAT, Running

GPU = {
    "name": "Emulated",
    "kind": "ptx",
    "fault": "",
    "memory": 64 << 20,
    "used": 3 << 20,
    "launches": 576,
    "graph_launches": 2,
    "round_trips": 7,
    "copied": 2832,
    "losses": 0,
}
FAULT = "kernel mul_mat_vec, block 3, thread 5: address 0x10 is in no allocation"


class GpuEngine(FakeEngine):
    """Computes on a GPU until somebody takes that away."""

    gpu_layers = 3
    made = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        GpuEngine.made += 1

    def _idle(self):
        if _engine.gpu()["fault"]:
            raise Lost("the GPU is lost: " + _engine.gpu()["fault"])
        super()._idle()

    def finish(self):
        if _engine.gpu()["fault"]:
            self.started = None
            raise Lost("the GPU is lost: " + _engine.gpu()["fault"])
        return super().finish()


@pytest.fixture
def gpu(monkeypatch):
    """What _engine.gpu() returns."""
    found = dict(GPU)
    monkeypatch.setattr(_engine, "gpu", lambda: found)
    return found


def wait_for(condition):
    for _ in range(250):
        if condition():
            return True
        threading.Event().wait(0.02)
    return False


def test_what_the_server_says_of_a_gpu(tmp_path, gpu):
    with Running(tmp_path, GpuEngine) as running:
        props = running.call("/props")[1]
        assert props["kernels"] == "ggml"
        assert props["gpu"]["name"] == "Emulated" and props["gpu"]["kernels"] == "ggml-cuda"
        assert props["gpu"]["layers"] == 3 and props["gpu"]["round_trips"] == 7
        memory = {"name": "Emulated", "kind": "ptx", "memory": 64 << 20, "used": 3 << 20}
        assert running.call("/health")[1] == {"status": "ok", "gpu": memory}
        metrics = running.raw("/metrics")[2].decode()
        assert "llamacpp:gpu_memory_used_bytes %d\n" % (3 << 20) in metrics
        assert "llamacpp:gpu_launches_total 576\n" in metrics
        assert "llamacpp:gpu_losses_total 0\n" in metrics


def test_without_a_gpu_nothing_is_said_of_one(tmp_path):
    with Running(tmp_path) as running:
        assert running.call("/props")[1]["gpu"] is None
        assert running.call("/health")[1] == {"status": "ok"}
        assert b"gpu" not in running.raw("/metrics")[2]


def test_a_model_on_the_cpu_does_not_mind_the_loss(tmp_path, gpu):
    gpu["fault"] = FAULT
    with Running(tmp_path) as running:
        assert running.call("/health")[0] == 200
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 200


def test_a_loss_while_decoding(tmp_path, gpu):
    with Running(tmp_path, GpuEngine, n_ctx=100000) as running:
        open_ = request.urlopen(
            running.url + "/v1/completions", b'{"prompt":"*ab|","stream":true}', timeout=5
        )
        open_.readline()
        gpu["fault"] = FAULT
        events = open_.read().decode()
        last = json.loads(events.rsplit("data: ", 1)[1])
        assert last["error"]["code"] == 503 and FAULT in last["error"]["message"]
        # The cause, until the model is loaded again; all else is served.
        for path, body in (("/health", None), ("/v1/chat/completions", CHAT), ("/props", None)):
            status, answer = running.call(path, body)
            assert status == 503 and FAULT in answer["error"]["message"]
        assert running.raw("/")[0] == 200 and running.call("/tools")[0] == 403
        # Loading again.
        gpu["fault"], gpu["losses"], made = "", 1, GpuEngine.made
        engine = running.host.engine
        assert running.call("/models/load", {}) == (200, {"success": True})
        assert wait_for(lambda: running.call("/health")[0] == 200)
        assert engine.closed and GpuEngine.made == made + 1
        status, answer = running.call("/v1/completions", {"prompt": "xy|"})
        assert status == 200 and answer["choices"][0]["text"] == "xy"
        assert "gpu_losses_total 1\n" in running.raw("/metrics")[2].decode()


def test_a_loss_while_sampling(tmp_path, gpu, monkeypatch):
    def lose(*_):
        raise Lost("the GPU is lost: " + FAULT)

    with Running(tmp_path, GpuEngine) as running:
        monkeypatch.setattr("fake_engine.Sampler.sample", lose)
        body = {"prompt": "x|", "ignore_eos": True}  # a constraint, which may be to blame
        status, answer = running.call("/completion", body)
        assert status == 503 and FAULT in answer["error"]["message"]


def test_an_idle_server_notices_the_loss(tmp_path, gpu):
    with Running(tmp_path, GpuEngine) as running:
        assert running.call("/health")[0] == 200
        gpu["fault"] = "gpud does not answer"
        status, answer = running.call("/health")
        assert status == 503 and "gpud" in answer["error"]["message"]


def test_the_loss_during_an_embedding(tmp_path, gpu, monkeypatch):
    def lose(self, *_):
        gpu["fault"] = FAULT
        raise Lost("the GPU is lost: " + FAULT)

    monkeypatch.setattr(GpuEngine, "start_embed", lose)
    with Running(tmp_path, GpuEngine) as running:
        status, answer = running.call("/v1/embeddings", {"input": "a"})
        assert status == 503 and FAULT in answer["error"]["message"]
        assert running.call("/health")[0] == 503


def test_too_little_gpu_memory_is_the_end_of_one_request(tmp_path, gpu, monkeypatch):
    finish = GpuEngine.finish

    def short(self):
        if self.started and 33 in self.started[0]:
            self.started = None
            raise MemoryError("the GPU's memory is used up")
        return finish(self)

    monkeypatch.setattr(GpuEngine, "finish", short)
    with Running(tmp_path, GpuEngine) as running:
        status, answer = running.call("/v1/completions", {"prompt": "!|"})
        assert status == 503 and "memory" in answer["error"]["message"]
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 200


def test_reload_ends_what_runs(tmp_path):
    with Running(tmp_path, n_ctx=100000) as running:
        engine = running.host.engine
        open_ = request.urlopen(
            running.url + "/v1/completions", b'{"prompt":"*ab|","stream":true}', timeout=5
        )
        open_.readline()
        assert running.call("/models/load", {"model": "fake-model"})[0] == 200
        last = json.loads(open_.read().decode().rsplit("data: ", 1)[1])
        assert last["error"]["code"] == 503
        assert wait_for(lambda: running.call("/health")[0] == 200) and engine.closed
        assert running.call("/v1/completions", {"prompt": "x|"})[0] == 200


def test_reload_of_another_model(tmp_path):
    with Running(tmp_path) as running:
        status, answer = running.call("/models/load", {"model": "other"})
        assert status == 400 and "other" in answer["error"]["message"]
        assert running.call("/health")[0] == 200


def test_reload_that_fails_says_why_and_may_be_repeated(tmp_path, gpu):
    class Picky(GpuEngine):
        refuse = False

        def __init__(self, *arguments, **options):
            if Picky.refuse:
                raise Lost("the GPU is gone, and there is no other one")
            super().__init__(*arguments, **options)

    with Running(tmp_path, Picky) as running:
        Picky.refuse = True
        assert running.call("/models/load", b"")[0] == 200
        assert wait_for(lambda: running.host.state == "failed")
        assert "there is no other one" in running.call("/health")[1]["error"]["message"]
        Picky.refuse = False
        assert running.call("/models/load", {})[0] == 200
        assert wait_for(lambda: running.call("/health")[0] == 200)
