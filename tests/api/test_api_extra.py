"""Reranking, adapters, saved prefixes, resumable streams, predictions and Ollama's routes."""

import json
import time

import pytest
import requests
from support import tiny_model
from support.api_server import ApiServer

TIMEOUT = 60


def post(server, path, body=None, **fields):
    body = fields if body is None else body
    return requests.post(server.url + path, json=body, timeout=TIMEOUT)


def get(server, path, **options):
    return requests.get(server.url + path, timeout=TIMEOUT, **options)


DOCUMENTS = ["a machine", "learning is fun", "the sea is wide and blue", "hello"]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("rank") / "rank.gguf"
    tiny_model.make_bert(path, ranks=True)
    with ApiServer(path) as server:
        yield server


def test_rerank(ranker):
    answer = post(ranker, "/v1/rerank", query="machine learning is", documents=DOCUMENTS).json()
    scores = [item["relevance_score"] for item in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert sorted(item["index"] for item in answer["results"]) == [0, 1, 2, 3]
    assert answer["object"] == "list" and answer["model"] == "rank"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 20
    # A document's score is its own, whatever stands beside it.
    alone = post(ranker, "/rerank", query="machine learning is", documents=DOCUMENTS[2:3]).json()
    score = next(item["relevance_score"] for item in answer["results"] if item["index"] == 2)
    assert alone["results"][0]["relevance_score"] == pytest.approx(score)
    for path in ("/rerank", "/reranking", "/v1/reranking"):
        best = post(ranker, path, query="x", documents=[{"text": "a"}, "b"], top_n=1).json()
        assert len(best["results"]) == 1
    shown = post(ranker, "/rerank", query="x", documents=["a"], return_documents=True).json()
    assert shown["results"][0]["document"] == {"text": "a"}


def test_rerank_as_tei(ranker):
    answer = post(ranker, "/rerank", query="is", texts=DOCUMENTS, return_text=True).json()
    assert len(answer) == 4 and answer[0]["score"] >= answer[-1]["score"]
    assert all(item["text"] == DOCUMENTS[item["index"]] for item in answer)


def test_rerank_of_nonsense(ranker, server):
    for documents in ([], None, 123, [1, 2, 3], ["x"] * 1025):
        answer = post(ranker, "/rerank", query="x", documents=documents)
        assert answer.status_code == 400, documents
    for query in (None, 1):
        assert post(ranker, "/rerank", query=query, documents=["x"]).status_code == 400
    assert post(ranker, "/rerank", query="x", documents=["word " * 900]).status_code == 400
    answer = post(server, "/rerank", query="x", documents=["x"])
    assert answer.status_code == 501
    assert answer.json()["error"]["type"] == "not_supported_error"


def test_pooling_none(tiny):
    with ApiServer(tiny, {"model": {"pooling": "none"}}) as server:
        found = post(server, "/embedding", input="Hello world").json()[0]["embedding"]
        n = len(
            post(server, "/tokenize", content="Hello world", add_special=True).json()["tokens"]
        )
        assert len(found) == n and all(len(vector) == 64 for vector in found)
        # Its mean is what a server with that pooling gives.
        answer = post(server, "/v1/embeddings", input="Hello world")
        assert answer.status_code == 400
    mean = [sum(column) / n for column in zip(*found)]
    with ApiServer(tiny, {"model": {"pooling": "mean"}}) as server:
        pooled = post(server, "/embedding", input="Hello world", embd_normalize=-1).json()
        assert pooled[0]["embedding"] == pytest.approx(mean, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("lora")
    paths = [folder / "one.gguf", folder / "two.gguf"]
    for seed, path in enumerate(paths):
        tiny_model.make_adapter(path, seed)
    with ApiServer(tiny, {"model": {"lora": [str(path) for path in paths]}}) as server:
        yield server


def said(server, **fields):
    fields = {"prompt": "Hello", "n_predict": 12, "temperature": 0, "ignore_eos": True, **fields}
    return post(server, "/completion", **fields).json()["content"]


def test_adapters(adapted, server):
    plain = said(server)
    listed = get(adapted, "/lora-adapters").json()
    assert [(item["id"], item["scale"]) for item in listed] == [(0, 1.0), (1, 1.0)]
    none = [{"id": 0, "scale": 0}, {"id": 1, "scale": 0}]
    assert said(adapted, lora=none) == said(adapted, lora=[]) == plain
    first, both = said(adapted, lora=[{"id": 0, "scale": 1}]), said(adapted)
    assert len({plain, first, both}) == 3
    assert post(adapted, "/lora-adapters", [{"id": 0, "scale": 1}]).json() == {"success": True}
    assert said(adapted) == first
    assert get(adapted, "/lora-adapters").json()[1]["scale"] == 0
    post(adapted, "/lora-adapters", [{"id": i, "scale": 1} for i in (0, 1)])
    for wrong in ([{"id": 2, "scale": 1}], {"id": 0}, [1], [{"id": 0, "scale": "x"}]):
        assert post(adapted, "/lora-adapters", wrong).status_code == 400
        assert post(adapted, "/completion", prompt="x", lora=wrong).status_code == 400


def test_adapters_of_requests_that_run_together(adapted):
    """Each has the text that it has alone: batches do not mix adapters, prefixes neither."""
    from concurrent.futures import ThreadPoolExecutor

    asks = [{"lora": [{"id": i % 2, "scale": 1.0}]} if i % 3 else {"lora": []} for i in range(8)]
    alone = [said(adapted, **ask) for ask in asks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda ask: said(adapted, **ask), asks))
    assert together == alone


def test_a_saved_prefix_is_reused(tiny):
    config = {"model": {"n_ctx": 4096}}
    prompt = "The world is round and the sea is wide. " * 40
    with ApiServer(tiny, config) as server:
        first = post(server, "/completion", prompt=prompt, n_predict=1, id_slot=1).json()
        n = first["tokens_evaluated"]
        assert first["timings"]["cache_n"] == 0 and n > 500
        saved = post(server, "/slots/1?action=save", filename="one.bin").json()
        assert saved["n_saved"] == n and saved["id_slot"] == 1 and saved["n_written"] > n * 100
        erased = post(server, "/slots/1?action=erase").json()
        assert erased == {"id_slot": 1, "n_erased": n}
        cold = post(server, "/completion", prompt=prompt, n_predict=1, cache_prompt=False).json()
        assert cold["timings"]["cache_n"] == 0
        restored = post(server, "/slots/0?action=restore", filename="one.bin").json()
        assert restored["n_restored"] == n and restored["n_read"] == saved["n_written"]
        warm = post(server, "/completion", prompt=prompt, n_predict=1).json()
        assert warm["timings"]["cache_n"] >= n - 5
        assert warm["content"] == cold["content"]
        assert not server.scheduler.cache.pinned
        server.scheduler.cache.flush()
        assert server.scheduler.cache.used == 0
        for path, body, status in (
            ("/slots/3?action=save", {"filename": "x"}, 400),  # it is empty
            ("/slots/0?action=restore", {"filename": "none"}, 404),
            ("/slots/0?action=save", {"filename": "../x"}, 400),
            ("/slots/0?action=save", {}, 400),
            ("/slots/4?action=erase", {}, 400),
            ("/slots/0?action=juggle", {}, 400),
            ("/slots/x?action=erase", {}, 404),
        ):
            assert post(server, path, body).status_code == status, path


def test_saved_prefixes_are_bounded_and_checked(tiny):
    with ApiServer(tiny, {"limits": {"saved": 100000}}) as server:
        post(server, "/completion", prompt="word " * 100, n_predict=1, id_slot=0)
        assert post(server, "/slots/0?action=save", filename="a").status_code == 200
        answers = [post(server, "/slots/0?action=save", filename=str(i)) for i in range(3)]
        assert answers[-1].status_code == 400 and "limits.saved" in answers[-1].text
        assert post(server, "/slots/0?action=save", filename="a").status_code == 200
        data = bytearray(server.service.saved.get("a"))
        for name, damage in (("cut", data[:100]), ("short", data[:-10]), ("none", b"x")):
            server.service.saved._files.write(name, bytes(damage))
            answer = post(server, "/slots/1?action=restore", filename=name)
            assert answer.status_code in (400, 500), name
        assert post(server, "/completion", prompt="x", n_predict=1).status_code == 200


CHAT = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def test_a_stream_is_resumed(server):
    headers = {"X-Conversation-Id": "conv::org/model"}
    body = dict(CHAT, stream=True, max_tokens=40, ignore_eos=True)
    whole = post(server, "/v1/chat/completions", body).text
    with requests.post(
        server.url + "/v1/chat/completions", json=body, headers=headers, stream=True,
        timeout=TIMEOUT,
    ) as answer:  # fmt: skip
        first = next(answer.iter_content(64))
    found = get(server, "/v1/stream?conv_id=conv%3A%3Aorg%2Fmodel&from=0")
    text = found.content
    assert found.headers["Content-Type"].startswith("text/event-stream")
    assert text.startswith(first) and text.endswith(b"data: [DONE]\n\n")
    assert text.count(b"data: ") == whole.count("data: ")
    rest = get(server, "/v1/stream?conv_id=conv::org/model&from=100").content
    assert rest == text[100:]
    known = post(server, "/v1/streams/lookup", conversation_ids=["conv", "other", 5]).json()
    assert [item["conversation_id"] for item in known] == ["conv::org/model"]
    assert known[0]["is_done"] and known[0]["total_bytes"] == len(text)
    url = server.url + "/v1/stream?conv_id=conv::org/model"
    assert requests.delete(url, timeout=TIMEOUT).status_code == 204
    assert requests.delete(url, timeout=TIMEOUT).status_code == 204
    assert requests.get(url, timeout=TIMEOUT).status_code == 404
    assert get(server, "/v1/stream").status_code == 400


def test_a_resumable_stream_is_stopped(server):
    headers = {"X-Conversation-Id": "long"}
    body = dict(CHAT, stream=True, max_tokens=1900, ignore_eos=True)
    answer = requests.post(
        server.url + "/v1/chat/completions", json=body, headers=headers, stream=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    next(answer.iter_content(64))
    answer.close()
    time.sleep(0.3)
    assert server.scheduler.busy  # it goes on without its client
    requests.delete(server.url + "/v1/stream?conv_id=long", timeout=TIMEOUT)
    until = time.monotonic() + 10
    while server.scheduler.busy and time.monotonic() < until:
        time.sleep(0.01)
    assert not server.scheduler.busy
    # An error before the first event leaves nothing behind, and has its status.
    body["max_tokens"] = "x"
    answer = requests.post(server.url + "/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 400
    assert get(server, "/v1/stream?conv_id=long").status_code == 404


def test_streams_are_bounded(tiny):
    with ApiServer(tiny, {"limits": {"streams": 2000}}) as server:
        body = dict(CHAT, stream=True, max_tokens=40, ignore_eos=True)
        for i in range(20):
            headers = {"X-Conversation-Id": f"c{i}"}
            requests.post(server.url + "/v1/chat/completions", json=body, headers=headers).text
            held = [session.held for session in server.service.streams._sessions.values()]
            assert sum(held) <= 2000 and len(held) <= 17
        assert get(server, "/v1/stream?conv_id=c19&from=0").status_code == 400  # it is lost


def test_the_end_of_a_thought_is_forced(tools_server):
    server = tools_server
    think = [tiny_model.WORDS.index(word) for word in ("<think>\n", "I see")]
    first = len(tiny_model.vocabulary()[0])
    body = dict(
        CHAT, stream=True, max_tokens=1500, ignore_eos=True, reasoning_control=True,
        logit_bias=[[first + think[1], 80]],
        messages=[*CHAT["messages"], {"role": "assistant", "content": "<think>\n"}],
    )  # fmt: skip
    answer = requests.post(
        server.url + "/v1/chat/completions", json=body, stream=True, timeout=TIMEOUT
    )
    result = None
    content = ""
    for line in answer.iter_lines():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if result is None and event["choices"]:
            asked = {"id": event["id"], "action": "reasoning_end"}
            result = post(server, "/v1/chat/completions/control", asked).json()
        for choice in event["choices"]:
            content += choice["delta"].get("content") or ""
    assert result == {"success": True}
    assert content.startswith("I see")  # it went on after its thought
    unknown = post(server, "/chat/completions/control", id="x", action="reasoning_end").json()
    assert unknown["success"] is False
    for wrong in ({}, {"id": "x"}, {"id": "x", "action": "dance"}):
        assert post(server, "/chat/completions/control", wrong).status_code == 400


def test_predictions(server):
    chat = {"@requestFormat": "chatCompletions", "max_tokens": 3, "stream": True, **CHAT}
    embed = {"@requestFormat": "/v1/embeddings", "input": "Hello"}
    bad = [{"@requestFormat": "juggle"}, 5, {}, {"@requestFormat": "tokenize", "content": {}}]
    answer = post(server, "/predict", instances=[chat, embed, *bad]).json()["predictions"]
    assert answer[0]["choices"][0]["message"]["role"] == "assistant"
    assert len(answer[1]["data"][0]["embedding"]) == 64
    assert all(item["error"]["code"] == 400 for item in answer[2:])
    for wrong in ({}, {"instances": 5}, {"instances": [1] * 129}):
        assert post(server, "/predict", wrong).status_code == 400


# Ollama


def lines(answer):
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_ollama_facts(server):
    assert requests.head(server.url + "/", timeout=TIMEOUT).status_code == 200
    assert get(server, "/api/version").json()["version"].count(".") == 2
    model = get(server, "/api/tags").json()["models"][0]
    assert model["name"] == model["model"] == "tiny" and model["details"]["format"] == "gguf"
    assert get(server, "/api/ps").json()["models"][0]["context_length"] == 2048
    shown = post(server, "/api/show", model="tiny").json()
    assert "completion" in shown["capabilities"] and shown["template"]
    assert shown["model_info"]["llama.context_length"] == 2048


def test_ollama_chat(server):
    body = {"model": "tiny", "messages": CHAT["messages"]}
    options = {"temperature": 0, "num_predict": 5, "seed": 1}
    parts = lines(post(server, "/api/chat", {**body, "options": options}))
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last["done_reason"] == "length" and last["eval_count"] == 5
    assert last["total_duration"] >= last["eval_duration"] > 0
    whole = post(server, "/api/chat", {**body, "options": options, "stream": False}).json()
    text = "".join(part["message"]["content"] for part in parts)
    assert whole["message"] == {"role": "assistant", "content": text} and whole["done"]
    reference = post(server, "/v1/chat/completions", max_tokens=5, **CHAT).json()
    assert text == reference["choices"][0]["message"]["content"]
    loaded = post(server, "/api/chat", model="tiny", messages=[], stream=False).json()
    assert loaded["done_reason"] == "load"


def test_ollama_generate(server):
    options = {"temperature": 0, "num_predict": 6}
    raw = post(
        server, "/api/generate", prompt="Hello", raw=True, stream=False, options=options
    ).json()
    reference = post(server, "/completion", prompt="Hello", n_predict=6, temperature=0).json()
    assert raw["response"] == reference["content"] and raw["done_reason"] == "length"
    parts = lines(post(server, "/api/generate", prompt="Hello", system="Be", options=options))
    assert parts[-1]["prompt_eval_count"] > raw["prompt_eval_count"]
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    found = post(server, "/api/generate", prompt="x", format=schema, stream=False).json()
    assert len(json.loads(found["response"])) == 2
    for wrong in (
        {"prompt": "x", "images": ["iVBORw0"]},
        {"prompt": "x", "suffix": "y"},
        {"prompt": "x", "template": "y"},
        {"prompt": 5},
        {"prompt": "x", "format": 5},
        {"prompt": "x", "options": {"temperature": "hot"}},
    ):
        answer = post(server, "/api/generate", wrong)
        assert answer.status_code == 400 and isinstance(answer.json()["error"], str), wrong
    image = {"messages": [{"role": "user", "content": "x", "images": ["iVBORw0"]}]}
    assert post(server, "/api/chat", image).status_code == 400


def test_ollama_tools_and_thoughts(tools_server):
    server = tools_server
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }
    words = tiny_model.saying(tiny_model.CALL, tiny_model.WORDS)
    # Ollama has no logit_bias: what the model says comes from a conversation that says it before.
    assert words
    history = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"place": "Paris"}}}],
        },
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    body = {"messages": history, "tools": [tool], "stream": False, "options": {"num_predict": 4}}
    answer = post(server, "/api/chat", body)
    assert answer.status_code == 200 and answer.json()["done"]
    for think in (True, False, "low"):
        body["think"] = think
        assert post(server, "/api/chat", body).status_code == 200


def test_ollama_embeddings(server):
    answer = post(server, "/api/embed", model="tiny", input=["Hello", "world"]).json()
    assert len(answer["embeddings"]) == 2 and answer["prompt_eval_count"] >= 2
    one = post(server, "/v1/embeddings", input="Hello").json()["data"][0]["embedding"]
    assert answer["embeddings"][0] == pytest.approx(one)
    assert len(post(server, "/api/embed", input="x", dimensions=8).json()["embeddings"][0]) == 8
    assert len(post(server, "/api/embeddings", prompt="Hello").json()["embedding"]) == 64
    assert post(server, "/api/embed", input=[]).json()["embeddings"] == []
    assert post(server, "/api/embed", input=[5]).status_code == 400
