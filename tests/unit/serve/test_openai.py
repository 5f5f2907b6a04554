"""The HTTP routes over a real socket, with the fake engine: shapes, stream order, errors."""

import json
import threading

import pytest
from fake_engine import all_closed, forget
from running import CHAT, MODEL, Running, message
from serve.apis.params import Params


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    forget()
    with Running(tmp_path_factory.mktemp("model")) as running:
        yield running
        assert not running.service.scheduler.running and all_closed()


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
    status, body = server.call(path, dict(CHAT, cache_prompt=False))
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
    options["cache_prompt"] = False
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
    body = dict(CHAT, model="whatever", unknown={"a": 1}, **dict.fromkeys(fields.split()))
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
        (
            "/v1/completions",
            {"prompt": "a", "max_tokens": 1, "logit_bias": {str(i % 256): 0 for i in range(256)}},
        ),
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
