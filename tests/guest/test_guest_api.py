"""The whole API in the guest, briefly: what tests/api holds on CPython also holds in the image."""

import json

import anthropic
import openai
import pytest
import requests
from support import tiny_model

TIMEOUT = 180
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "weather",
    "description": "x",
    "parameters": {
        "type": "object",
        "properties": {"place": {"enum": ["Paris", "Oslo"]}},
        "required": ["place"],
    },
}
APP = """
from cllm import app, llm
from serve.scheduling.policy import Policy

# Whether drafts pay is measured, and a busy host may say no.
Policy.draft_size = lambda self, right, most, *_: most

seen = []

@app.middleware
async def count(request, handler):
    response = await handler(request)
    seen.append([request.path, response.status])
    return response

@app.get("/seen")
def tell(request):
    return seen

@app.get("/vector")
async def vector(request):
    return await llm.embed("Hello")
"""


@pytest.fixture(scope="module")
def tools_guest(boot_once, tmp_path_factory):
    """A guest whose model can be made to call tools, with user code, a key and an access log."""
    folder = tmp_path_factory.mktemp("tools")
    model, app = folder / "tools.gguf", folder / "app.py"
    tiny_model.make(model, template=tiny_model.TOOLS, words=tiny_model.WORDS)
    app.write_text(APP)
    guest = boot_once(
        model=str(model), app=str(app), config_json={"keys": ["sesame"], "access_log": True}
    )
    assert guest.verdict is None
    return guest


@pytest.fixture(scope="module")
def client(tools_guest):
    return openai.OpenAI(
        base_url=tools_guest.url + "/v1", api_key="sesame", max_retries=0, timeout=TIMEOUT
    )


def call(guest, path, body=None, key="sesame"):
    headers = {"X-Api-Key": key}
    if body is None:
        return requests.get(guest.url + path, headers=headers, timeout=TIMEOUT)
    return requests.post(guest.url + path, json=body, headers=headers, timeout=TIMEOUT)


def test_keys_and_log(tools_guest):
    assert call(tools_guest, "/v1/models", key="wrong").status_code == 401
    assert call(tools_guest, "/v1/models").status_code == 200
    tools_guest.serial.expect(r'http method=GET target="/v1/models" status=401 ms=\d+ bytes=\d+')


def test_tools_streamed(client):
    options = dict(
        model="m",
        messages=HELLO,
        max_tokens=40,
        tool_choice="required",
        tools=[{"type": "function", "function": TOOL}],
        extra_body=tiny_model.saying(tiny_model.CALL, tiny_model.WORDS),
    )
    arguments = ""
    for chunk in client.chat.completions.create(**options, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            arguments += part.function.arguments or ""
    assert json.loads(arguments) == {"place": "Paris"}


def test_reasoning_in_three_apis(tools_guest, client):
    extra = tiny_model.saying(tiny_model.THOUGHT, tiny_model.WORDS)
    message = (
        client.chat.completions.create(model="m", messages=HELLO, max_tokens=20, extra_body=extra)
        .choices[0]
        .message
    )
    assert (message.reasoning_content, message.content) == ("I see", "Good day there")
    answer = client.responses.create(
        model="m", input="Hello", max_output_tokens=20, extra_body=extra
    )
    assert answer.output_text == "Good day there"
    claude = anthropic.Anthropic(
        base_url=tools_guest.url, api_key="sesame", max_retries=0, timeout=TIMEOUT
    )
    with claude.messages.stream(
        model="m", messages=HELLO, max_tokens=20, extra_body=extra
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].thinking == "I see" and final.content[1].text == "Good day there"


def test_structured_output_and_logprobs(client):
    answer = client.chat.completions.create(
        model="m",
        messages=HELLO,
        max_tokens=30,
        temperature=1,
        seed=3,
        logprobs=True,
        top_logprobs=2,
        n=2,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "boolean"}},
        },
    )
    for choice in answer.choices:
        assert json.loads(choice.message.content) in (True, False)
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)


def test_embeddings(tools_guest, client):
    vector = client.embeddings.create(model="m", input="Hello").data[0].embedding
    assert call(tools_guest, "/vector").json() == pytest.approx(vector, abs=1e-6)


def test_a_prefix_is_shared(tools_guest):
    prompt = "The sea is wide. " * 8
    counts = [
        call(tools_guest, "/completion", {"prompt": prompt + end, "n_predict": 1}).json()
        for end in "ab"
    ]
    assert counts[0]["timings"]["cache_n"] == 0 and counts[1]["timings"]["cache_n"] >= 32


def test_drafts_and_metrics(tools_guest):
    call(
        tools_guest,
        "/completion",
        {"prompt": "abcabcabcabc", "n_predict": 20, "temperature": 0, "logit_bias": [["a", 40]]},
    )
    text = call(tools_guest, "/metrics").text
    assert "llamacpp:tokens_predicted_total" in text
    assert 'llamacpp:inter_token_latency_seconds_bucket{le="+Inf"}' in text
    assert "llamacpp:spec_decode_num_accepted_tokens_total 0\n" not in text


def test_deep_health(tools_guest):
    answer = requests.get(tools_guest.url + "/health?deep=1", timeout=TIMEOUT)
    assert answer.json()["status"] == "ok" and answer.json()["decode_ms"] > 0


def test_middleware(tools_guest):
    call(tools_guest, "/v1/completions", {"prompt": 5})
    assert ["/v1/completions", 400] in call(tools_guest, "/seen").json()


def test_saved_prefixes_and_ollama(tools_guest):
    def post(path, **body):
        return call(tools_guest, path, body)

    prompt = "The world is round and the sea is wide. " * 5
    asked = dict(prompt=prompt, n_predict=1, id_slot=1, temperature=0)
    n = post("/completion", **asked).json()["tokens_evaluated"]
    assert post("/slots/1?action=save", filename="one").json()["n_saved"] == n
    post("/slots/1?action=erase")
    assert post("/slots/1?action=restore", filename="one").json()["n_restored"] == n
    assert post("/completion", **asked).json()["timings"]["cache_n"] >= n - 5
    lines = post("/api/chat", messages=HELLO, options={"num_predict": 3}).text.splitlines()
    assert json.loads(lines[-1])["eval_count"] == 3
    assert "/api/chat" in call(tools_guest, "/openapi.json").json()["paths"]
