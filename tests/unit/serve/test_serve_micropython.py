"""frozen/serve under the unix port of MicroPython: the tests of this folder whose subject differs
between the interpreters (ints, floats, dicts, JSON, UTF-8), and the service over a socket.

Skipped where there is no such build: see unix_micropython.py.
"""

import json
import socket
import subprocess
from pathlib import Path
from urllib import error, request

import pytest
from support import unix_micropython

FILES = ["test_params.py", "test_conversations.py", "test_stops.py"]
TOP = Path(__file__).resolve().parents[3]

APP = """
import sys
sys.path[:0] = [sys.argv[1] + "/frozen", sys.argv[1] + "/tests/unit/serve"]
sys.path.append(sys.argv[1] + "/tests/unit/shim")

class contextlib:  # the one thing that the fake engine's helper for tests wants
    suppress = None

sys.modules["contextlib"] = contextlib
import asyncio
from fake_engine import Error, FakeEngine, Sampler
from httpd import Limits, Server
from serve.apis import (
    anthropic, embeddings, info, native_api, ollama, openai, openapi, predict, rerank, responses,
    saved, streams,
)
from serve.scheduling.engine import EngineHost
from serve.scheduling.scheduler import Bounds
from serve.service import Service

MARK = 258

class Stuck(Sampler):
    def sample(self, index):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise Error("Unexpected empty grammar stack after accepting piece: b (98)")
        return Sampler.sample(self, index)

class Engine(FakeEngine):
    n_vocab = 259
    def sampler(self, params, chat=None):
        return Stuck(self) if "grammar" in params else Sampler(self)
    def next(self, cells):
        token = FakeEngine.next(self, cells)
        return MARK if token == 94 else token
    def piece(self, token, special=False):
        if token == MARK:
            return b"<|mark|>" if special else b""
        return FakeEngine.piece(self, token, special)
    def logprobs(self, index, token, n):
        return -0.5, [(200, -1.0), (201, -2.0), (65, -3.0)][:n]

async def main():
    service = Service()
    service.configure(EngineHost(__file__, "fake", {}, Engine), Bounds(speculate=False))
    for part in (
        openai, native_api, embeddings, rerank, responses, anthropic, ollama, info, saved, streams,
        predict, openapi,
    ):
        part.install(service)
    await service.start()
    await Server(service.app, "127.0.0.1", int(sys.argv[2]), Limits()).start()
    print("listening")
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("name", FILES)
def test_micropython_does_the_same(name, tmp_path):
    if not unix_micropython.program():
        pytest.skip(unix_micropython.MISSING)
    path = Path(__file__).with_name(name)
    (passed, _, failed), said = unix_micropython.run_tests(path, tmp_path)
    assert failed == 0 and passed >= len(unix_micropython.plan(path)["tests"]), said


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """A function that posts a body to the service: (status, answer or events)."""
    if not unix_micropython.program():
        pytest.skip(unix_micropython.MISSING)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = tmp_path_factory.mktemp("service") / "app.py"
    script.write_text(APP)
    process = subprocess.Popen(
        [unix_micropython.program(), "-X", "heapsize=32M", str(script), str(TOP), str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = ""
    while said[-10:] != "listening\n":
        line = process.stdout.readline()
        assert line, said
        said += line

    def post(path, **body):
        url = "http://127.0.0.1:%d%s" % (port, path)
        data = json.dumps(body).encode()
        try:
            with request.urlopen(request.Request(url, data), timeout=30) as answer:
                status, text = answer.status, answer.read().decode()
        except error.HTTPError as exc:
            status, text = exc.code, exc.read().decode()
        if not text.startswith(("{", "[")):
            events = [event.split("data: ")[1] for event in text.split("\n\n") if event]
            return status, [json.loads(event) for event in events if event != "[DONE]"]
        return status, json.loads(text)

    post.url = "http://127.0.0.1:%d" % port
    yield post
    process.kill()
    process.wait()


USER = {"role": "user", "content": "h\u00e9y"}
TOOLS = [{"type": "function", "function": {"name": "w"}}]


def test_the_service(call):
    fields = {"messages": [USER], "seed": (1 << 63) - 1, "top_logprobs": 0}
    status, answer = call("/v1/chat/completions", **fields)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "h\u00e9y")
    status, events = call("/v1/chat/completions", messages=[USER], stream=True)
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert (status, "".join(deltas)) == (200, "h\u00e9y")
    called = {"role": "user", "content": "CALL w {}"}
    answer = call("/v1/chat/completions", messages=[called], tools=TOOLS)[1]["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"]["name"] == "w"
    body = {"messages": [called], "tools": [{"name": "w"}], "max_tokens": 20}
    assert call("/v1/messages", **body)[1]["content"][0]["input"] == {}
    wrong = {"type": "function", "function": {"name": "x"}}
    assert call("/v1/chat/completions", messages=[USER], tools=TOOLS, tool_choice=wrong)[0] == 400


def test_the_services_errors(call):
    fields = {"prompt": "abcd|", "grammar": "root ::= [a-z]"}
    status, answer = call("/completion", **fields)
    assert status == 400 and "constraints" in answer["error"]["message"]
    events = call("/v1/completions", stream=True, **fields)[1]
    assert events[0]["choices"][0]["text"] == "a" and events[-1]["error"]["code"] == 400
    form = {"type": "json_schema", "json_schema": {"name": "n"}}
    assert call("/v1/chat/completions", messages=[USER], response_format=form)[0] == 400


def test_the_services_stops_and_probabilities(call):
    answer = call("/completion", prompt="ab^cd|", stop=["<|mark|>c"])[1]
    assert (answer["content"], answer["stopping_word"]) == ("ab", "<|mark|>c")
    logprobs = call("/v1/completions", prompt="h\u00e9|", logprobs=3)[1]["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"][0] == {"bytes:\\xc8": -1.0, "bytes:\\xc9": -2.0, "A": -3.0}
    assert logprobs["tokens"][:3] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    answer = call(
        "/v1/responses",
        input="hello",
        max_output_tokens=2,
        top_logprobs=1,
        include=["message.output_text.logprobs"],
    )[1]
    (item,) = answer["output"]
    assert item["status"] == answer["status"] == "incomplete"
    assert [len(entry["top_logprobs"]) for entry in item["content"][0]["logprobs"]] == [1, 1]


def test_the_services_other_apis(call):
    answer = call("/api/chat", messages=[USER], stream=False)[1]
    assert answer["message"] == {"role": "assistant", "content": "h\u00e9y"} and answer["done"]
    assert answer["created_at"].endswith("Z") and answer["eval_count"] > 1
    assert call("/api/generate", prompt="x", images=["i"])[0] == 400
    instance = {"@requestFormat": "chatCompletions", "messages": [USER]}
    answer = call("/predict", instances=[instance, {}])[1]["predictions"]
    assert answer[0]["choices"][0]["message"]["content"] == "h\u00e9y"
    assert answer[1]["error"]["code"] == 400
    first = call("/v1/responses", input="h\u00e9y")[1]
    assert first["store"] is True
    chain = {"previous_response_id": first["id"], "input": "more"}
    assert call("/v1/responses/input_tokens", **chain)[1]["input_tokens"] > 1
    assert call("/v1/responses", **chain)[1]["previous_response_id"] == first["id"]
    assert call("/v1/responses", previous_response_id="resp_x", input="more")[0] == 404
    assert call("/slots/0?action=erase")[1]["id_slot"] == 0
    assert call("/v1/streams/lookup", conversation_ids=["x"])[0] == 200
    assert call("/rerank", query="x", documents=["y"])[0] == 501
    best = call("/v1/completions", prompt="ab|", best_of=2, n=1)[1]["choices"]
    assert [choice["text"] for choice in best] == ["ab"]


def test_the_services_document_and_streams(call):
    def get(path, headers=None, data=None):
        with request.urlopen(
            request.Request(call.url + path, data, headers or {}), timeout=30
        ) as answer:
            return answer.read()

    document = json.loads(get("/openapi.json"))
    assert "/v1/chat/completions" in document["paths"] and "Chat" in str(document)
    body = json.dumps({"messages": [USER], "stream": True}).encode()
    said = get("/v1/chat/completions", {"X-Conversation-Id": "c"}, body)
    assert get("/v1/stream?conv_id=c&from=0") == said
    assert get("/v1/stream?conv_id=c&from=10") == said[10:]
    assert json.loads(get("/api/tags"))["models"][0]["name"] == "fake"
