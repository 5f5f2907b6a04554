"""SmolLM2 in the guest gives the tokens that llama.cpp gives on the host.

The tests take every way in: plain HTTP and the openai client, streaming or not, completions and
chat.
"""

import json
import re
import socket
import time

import openai
import pytest
import requests
from cllm import fetch
from support import llama_reference

N = 24
TIMEOUT = 900

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "Water boils at a temperature of",
    "def fibonacci(n):",
    "The three primary colors are",
    "1, 2, 3, 4,",
    "The sun rises in the",
    "A unikernel is",
    "Dear Sir or Madam,",
    "In 1969, the first man",
]
CHAT = (
    "<|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\nWhat color is snow?"
    "<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def llama():
    if not llama_reference.LIBRARY.exists():
        pytest.fail(f"there is no {llama_reference.LIBRARY}: run the tests by `make test`")
    llama = llama_reference.Llama(fetch.default_model())
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def served(boot_once):
    # Two cores, because how many compute threads there are does not change a token.
    guest = boot_once(model=str(fetch.default_model()), smp=2)
    assert guest.verdict is None, guest.log()[-3000:]
    return guest


def body(prompt, **more):
    return {"model": "smollm2", "prompt": prompt, "max_tokens": N, "temperature": 0, **more}


def plain(guest, prompt):
    answer = requests.post(
        guest.url + "/v1/completions", json=body(prompt), timeout=TIMEOUT
    ).json()
    return answer["choices"][0]["text"], answer["usage"]


def plain_stream(guest, prompt):
    data = body(prompt, stream=True, stream_options={"include_usage": True})
    with requests.post(
        guest.url + "/v1/completions", json=data, timeout=TIMEOUT, stream=True
    ) as answer:
        events = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: ")]
    assert events.pop() == b"[DONE]"
    events = [json.loads(event) for event in events]
    text = "".join(choice["text"] for event in events for choice in event["choices"])
    return text, events[-1]["usage"]


def client(guest):
    return openai.OpenAI(base_url=guest.url + "/v1", api_key="x", timeout=TIMEOUT, max_retries=0)


def official(guest, prompt):
    answer = client(guest).completions.create(**body(prompt))
    return answer.choices[0].text, answer.usage.model_dump()


def official_stream(guest, prompt):
    pieces = list(
        client(guest).completions.create(
            **body(prompt, stream=True, stream_options={"include_usage": True})
        )
    )
    text = "".join(choice.text for piece in pieces for choice in piece.choices)
    return text, pieces[-1].usage.model_dump()


WAYS = [plain_stream, official, plain, official_stream]


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_the_same_tokens_as_on_the_host(served, llama, number):
    prompt_tokens, expected = llama.generate(PROMPTS[number], N)
    text, usage = WAYS[number % len(WAYS)](served, PROMPTS[number])
    assert text == llama.detokenize(expected)
    assert usage["prompt_tokens"] == len(prompt_tokens)
    ended_early = len(expected) < N  # the token that ends a generation counts, as in llama-server
    assert usage["completion_tokens"] == len(expected) + ended_early


def test_chat_is_the_template_and_a_completion(served, llama):
    _, expected = llama.generate(CHAT, 4)
    answer = client(served).chat.completions.create(
        model="smollm2",
        max_tokens=4,
        temperature=0,
        messages=[
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "What color is snow?"},
        ],
    )
    assert answer.choices[0].message.content == llama.detokenize(expected)


def metric(guest, name):
    text = requests.get(guest.url + "/metrics", timeout=TIMEOUT).text
    return float(re.search(rf"^llamacpp:{name} (.*)$", text, re.MULTILINE)[1])


def test_http_is_answered_while_a_token_is_computed(served):
    """More requests than decode steps in the same time: they do not wait for one each."""
    with requests.post(
        served.url + "/v1/completions",
        json=body("The sea", max_tokens=200, stream=True),
        timeout=TIMEOUT,
        stream=True,
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        before = metric(served, "n_decode_total")
        for _ in range(20):
            assert requests.get(served.url + "/health", timeout=TIMEOUT).status_code == 200
        assert metric(served, "n_decode_total") - before < 10
        assert metric(served, "requests_processing") == 1


def test_a_decode_stops_when_its_client_leaves(served, llama):
    """A cancelled prompt is not counted, frees its cells, and does not change the next answer."""
    prompt = "The lighthouse keeper found a"
    computed = metric(served, "prompt_tokens_total")
    data = json.dumps(body(prompt, max_tokens=200, cache_prompt=False)).encode()
    attempts = 3
    for _ in range(attempts):
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            length = f"Content-Length: {len(data)}\r\n\r\n"
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + length
            connection.sendall(head.encode() + data)
            time.sleep(1.5)  # of the seconds that these tokens take
        until = time.monotonic() + 60
        while metric(served, "requests_processing") and time.monotonic() < until:
            time.sleep(0.1)
        assert metric(served, "requests_processing") == 0
        assert metric(served, "kv_cache_usage_perc") == 0
    assert metric(served, "decodes_stopped_total") > 0
    assert metric(served, "prompt_tokens_total") <= computed + 8 * attempts
    _, expected = llama.generate(prompt, 2)
    answer = requests.post(
        served.url + "/v1/completions", json=body(prompt, max_tokens=2), timeout=TIMEOUT
    ).json()
    assert answer["choices"][0]["text"] == llama.detokenize(expected)
