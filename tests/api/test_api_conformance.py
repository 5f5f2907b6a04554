"""What suites written by others ask of the API: llama.cpp's server tests, OpenAI's and Anthropic's
SDKs, the Open Responses compliance test. Each test names the cause that it stands for.
"""

import json
import re

import pytest
import requests
from support.api_server import ApiServer

TIMEOUT = 60
BROWSER = {"Access-Control-Request-Method": "POST"}


def post(server, path, **body):
    return requests.post(server.url + path, json=body, timeout=TIMEOUT)


def get(server, path, **options):
    return requests.get(server.url + path, timeout=TIMEOUT, **options)


def events(answer):
    lines = answer.content.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def preflight(server, origin, asked="Authorization"):
    headers = {**BROWSER, "Origin": origin, "Access-Control-Request-Headers": asked}
    return requests.options(server.url + "/completions", headers=headers, timeout=TIMEOUT)


def test_preflight_reflects_the_origin(server):
    answer = preflight(server, "web.mydomain.fr")
    assert answer.status_code == 200
    headers = {name.lower(): value for name, value in answer.headers.items()}
    prefix = "access-control-allow-"
    assert {name[len(prefix) :]: headers[name] for name in headers if prefix in name} == {
        "origin": "web.mydomain.fr",
        "credentials": "true",
        "methods": "GET, POST, DELETE, OPTIONS",
        "headers": "*",
    }
    # For a browser "*" does not cover Authorization: it gets the names that it asks for.
    answer = preflight(server, "https://a.example", "authorization, x-one")
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-one"


def test_origins_that_cors_names(tiny):
    with ApiServer(tiny, {"cors": "localhost, https://a.example"}) as server:
        for origin in (
            "http://localhost", "http://localhost:8080", "http://127.0.0.1:3000",
            "http://[::1]", "http://[::1]:3000", "https://a.example",
        ):  # fmt: skip
            answer = preflight(server, origin)
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Vary"] == "Origin"
        for origin in (
            "http://evil.com", "http://notlocalhost", "http://localhost.evil.com",
            "http://127.0.0.1.evil.com", "http://[::1].evil.com", "https://a.example.org", "null",
        ):  # fmt: skip
            answer = preflight(server, origin)
            assert answer.status_code in (200, 204)
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
            answer = get(server, "/health", headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_verbose(server):
    body = {"messages": [{"role": "user", "content": "What is the Book?"}], "max_tokens": 2}
    answer = post(server, "/chat/completions", verbose=True, **body).json()
    assert "What is the Book?<|im_end|>" in answer["__verbose"]["prompt"]
    assert answer["__verbose"]["tokens_predicted"] == 2
    assert "__verbose" not in post(server, "/chat/completions", verbose=False, **body).json()
    last = events(post(server, "/v1/chat/completions", verbose=True, stream=True, **body))[-1]
    assert "Book" in last["__verbose"]["prompt"]
    answer = post(server, "/v1/completions", prompt="Hello", max_tokens=1, verbose=True).json()
    assert answer["__verbose"]["prompt"] == "Hello"


@pytest.mark.parametrize(
    "path, body",
    [
        ("/completion", {"n_predict": 4, "prompt": "This is a test. " * 20}),
        ("/v1/completions", {"max_tokens": 4, "prompt": "This is a trial. " * 20}),
        (
            "/v1/chat/completions",
            {"max_tokens": 4, "messages": [{"role": "user", "content": "This is it. " * 20}]},
        ),
        ("/v1/responses", {"max_output_tokens": 4, "input": "This is all. " * 20}),
    ],
)
def test_progress_of_a_prompt(server, path, body):
    found = events(
        post(server, path, stream=True, return_progress=True, timings_per_token=True, **body)
    )
    steps = [event["prompt_progress"] for event in found if "prompt_progress" in event]
    assert len(steps) >= 3  # more than one batch of 64
    assert (
        steps[0]["processed"] == steps[0]["cache"] and steps[-1]["processed"] == steps[-1]["total"]
    )
    done = [step["processed"] for step in steps]
    assert done == sorted(set(done))
    assert {(step["total"], step["cache"]) for step in steps} == {
        (steps[0]["total"], steps[0]["cache"])
    }
    if path == "/v1/responses":
        deltas = [event for event in found if event["type"] == "response.output_text.delta"]
        assert all("predicted_per_second" in event["timings"] for event in deltas)
        assert found[-1]["timings"]["predicted_n"] == 4
    plain = events(post(server, path, stream=True, **body))
    assert not [event for event in plain if "prompt_progress" in event]


def test_bias_of_the_end(server):
    def bias(**options):
        answer = post(server, "/completion", prompt="x", n_predict=2, **options).json()
        return answer["generation_settings"]["logit_bias"]

    assert bias(ignore_eos=True) == [{"token": 0, "bias": None}, {"token": 2, "bias": None}]
    assert bias(ignore_eos=False) == []


def test_rate_without_the_first_token(server):
    one = post(server, "/completion", prompt="x", n_predict=1).json()["timings"]
    assert one["predicted_per_second"] == one["predicted_per_token_ms"] == 0
    some = post(server, "/completion", prompt="x", n_predict=9, ignore_eos=True).json()["timings"]
    assert some["predicted_n"] == 9
    assert some["predicted_per_second"] == pytest.approx(8000 / some["predicted_ms"])


def test_a_short_prompt_is_reused(server):
    tokens = [50, 51, 52, 53, 54, 55, 56, 57, 58]
    cached = [
        post(server, "/completion", prompt=tokens, n_predict=2).json()["timings"]["cache_n"]
        for _ in range(2)
    ]
    assert cached == [0, 8]


def test_counts_of_input_tokens(server):
    messages = [{"role": "user", "content": "What is the best book"}]
    found = {
        path: post(server, path, messages=messages).json()
        for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens")
    }
    n = post(server, "/v1/chat/completions", messages=messages, max_tokens=1).json()["usage"]
    for answer in found.values():
        assert answer == {"input_tokens": n["prompt_tokens"], "object": "response.input_tokens"}
    answer = post(server, "/v1/responses/input_tokens", input="What is the best book").json()
    assert answer["input_tokens"] == n["prompt_tokens"]


def test_prompts_that_are_objects(server):
    answer = post(server, "/completion", prompt=[[1, 5], {"prompt_string": "x"}], n_predict=1)
    assert len(answer.json()) == 2
    parts = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    found = [
        post(server, "/embedding", input=text).json()[0]["embedding"] for text in (parts, "ab")
    ]
    assert found[0] == found[1]
    image = {"prompt_string": "<__media__>", "multimodal_data": ["iVBORw0"]}
    for prompt in (image, [image]):
        answer = post(server, "/completion", prompt=prompt)
        assert answer.status_code == 400 and "multimodal" in answer.json()["error"]["message"]
    answer = post(server, "/embedding", input={"content": [{"type": "image_url"}]})
    assert answer.status_code == 400


def test_best_of(server):
    options = {"prompt": "Hello", "max_tokens": 4, "temperature": 1.5, "seed": 7, "logprobs": 1}
    all_four = post(server, "/v1/completions", n=4, **options).json()["choices"]
    best = post(server, "/v1/completions", n=2, best_of=4, **options).json()

    def likelihood(choice):
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    wanted = sorted(all_four, key=likelihood, reverse=True)[:2]
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in wanted]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 16
    plain = post(server, "/v1/completions", prompt="x", best_of=2, suffix="end", max_tokens=1)
    assert plain.status_code == 200 and plain.json()["choices"][0]["logprobs"] is None
    assert post(server, "/v1/completions", prompt="x", best_of=2, stream=True).status_code == 400
    assert post(server, "/v1/completions", prompt="x", best_of=0, stream=True).status_code == 200


def test_dimensions(server):
    whole = post(server, "/v1/embeddings", input="text").json()["data"][0]["embedding"]
    part = post(server, "/v1/embeddings", input="text", dimensions=8).json()
    part = part["data"][0]["embedding"]
    length = sum(x * x for x in whole[:8]) ** 0.5
    assert part == pytest.approx([x / length for x in whole[:8]], rel=1e-5)
    assert post(server, "/v1/embeddings", input="x", dimensions=65).status_code == 400
    assert post(server, "/v1/embeddings", input="x", dimensions=0).status_code == 400


def test_names_and_routes_of_a_configuration(tiny):
    config = {
        "metrics": False,
        "slot_list": False,
        "model": {"alias": "tinyllama-2,fim,code", "tags": "small,chat"},
    }
    with ApiServer(tiny, config) as server:
        listed = get(server, "/models").json()
        model = listed["data"][0]
        assert model["id"] == listed["first_id"] == "code"
        assert model["aliases"] == ["code", "fim", "tinyllama-2"]
        assert model["tags"] == ["chat", "small"]
        assert model["type"] == "model" and model["display_name"] == "code"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", model["created_at"])
        assert get(server, "/v1/models/fim").json()["id"] == "code"
        for path in ("/metrics", "/slots"):
            answer = get(server, path)
            assert answer.status_code == 501
            assert answer.json()["error"]["type"] == "not_supported_error"
        props = get(server, "/props").json()
        assert not props["endpoint_slots"] and not props["endpoint_metrics"]


def test_metrics_name_the_start(server):
    assert int(get(server, "/metrics").headers["Process-Start-Time-Unix"]) > 1e9


RESPONSE = {
    "previous_response_id": None,
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "reasoning": None,
    "max_tool_calls": None,
    "background": False,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "store": True,
}


def test_response_object(server):
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    answer = post(server, "/v1/responses", input="Hello", max_output_tokens=3, tools=[tool]).json()
    assert {name: answer[name] for name in RESPONSE} == RESPONSE
    assert answer["tools"] == [dict(tool, description=None, strict=False)]
    assert isinstance(answer["temperature"], float) and isinstance(answer["top_p"], float)
    sent = post(
        server, "/v1/responses", input="Hello", max_output_tokens=1, temperature=0.5,
        store=False, stream=True,
    )  # fmt: skip
    for event in events(sent):
        if "response" in event:
            assert event["response"]["temperature"] == 0.5 and event["response"]["store"] is False
    for name in ("background", "conversation", "prompt"):
        assert post(server, "/v1/responses", input="x", **{name: True}).status_code == 400


def test_stored_responses(tools_server):
    server = tools_server
    first = post(server, "/v1/responses", input="My name is Ada", max_output_tokens=3).json()
    assert get(server, "/v1/responses/" + first["id"]).json() == first
    items = get(server, f"/v1/responses/{first['id']}/input_items").json()["data"]
    assert items[0]["content"][0]["text"] == "My name is Ada"
    chain = {"previous_response_id": first["id"], "input": "And yours?"}
    said = first["output"][0]["content"][0]["text"]
    whole = [
        {"role": "user", "content": "My name is Ada"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And yours?"},
    ]
    counts = [
        post(server, "/v1/responses/input_tokens", **chain).json()["input_tokens"],
        post(server, "/chat/completions/input_tokens", messages=whole).json()["input_tokens"],
    ]
    assert counts[0] == counts[1]
    stream = events(post(server, "/v1/responses", stream=True, max_output_tokens=2, **chain))
    second = stream[-1]["response"]
    assert second["previous_response_id"] == first["id"]
    assert get(server, "/v1/responses/" + second["id"]).json() == second
    url = server.url + "/v1/responses/" + first["id"]
    gone = {"id": first["id"], "object": "response", "deleted": True}
    assert requests.delete(url, timeout=TIMEOUT).json() == gone
    for answer in (
        requests.get(url, timeout=TIMEOUT),
        requests.delete(url, timeout=TIMEOUT),
        post(server, "/v1/responses", **chain),
    ):
        assert answer.status_code == 404 and answer.json()["error"]["type"] == "not_found_error"


def test_stored_responses_are_bounded_and_private(tiny):
    config = {"keys": ["one", "two"], "limits": {"stored": 6000}}
    with ApiServer(tiny, config) as server:

        def ask(key, method, path, **body):
            headers = {"Authorization": "Bearer " + key}
            return requests.request(
                method, server.url + path, json=body or None, headers=headers, timeout=TIMEOUT
            )

        first = ask("one", "POST", "/v1/responses", input="Hello", max_output_tokens=2).json()
        assert ask("two", "GET", "/v1/responses/" + first["id"]).status_code == 404
        assert ask("one", "GET", "/v1/responses/" + first["id"]).status_code == 200
        for i in range(6):
            ask("one", "POST", "/v1/responses", input="Hello %d" % i, max_output_tokens=2)
            assert 0 < server.service.stored.size <= 6000
        assert ask("one", "GET", "/v1/responses/" + first["id"]).status_code == 404
        long = ask(
            "one", "POST", "/v1/responses", input="Hello " * 900, max_output_tokens=2
        ).json()
        assert ask("one", "GET", "/v1/responses/" + long["id"]).status_code == 404
    with ApiServer(tiny, {"limits": {"stored": 0}}) as server:
        answer = post(server, "/v1/responses", input="Hello", max_output_tokens=1).json()
        assert answer["store"] is False


def test_fields_of_anthropic(server):
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    answer = post(server, "/v1/messages", **body).json()
    assert answer["container"] is None and answer["content"][0]["citations"] is None
    usage = answer["usage"]
    assert usage["service_tier"] == "standard" and usage["server_tool_use"] is None
    assert usage["cache_creation"]["ephemeral_5m_input_tokens"] == 0
    start = events(post(server, "/v1/messages", stream=True, **body))[0]["message"]
    assert set(start) == set(answer)
