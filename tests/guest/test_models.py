"""The API with a model in the guest: the official client, streaming, errors, bad models."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests

TIMEOUT = 120


@pytest.fixture
def client(guest):
    return openai.OpenAI(
        base_url=guest.url + "/v1", api_key="none", timeout=TIMEOUT, max_retries=0
    )


def complete(guest, **fields):
    body = {"prompt": "Hello world", "max_tokens": 8, "temperature": 0, **fields}
    return requests.post(guest.url + "/v1/completions", json=body, timeout=TIMEOUT)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_completion_streaming_and_not_agree(client):
    options = {"model": "tiny", "prompt": "The world", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**options)
    pieces = list(client.completions.create(**options, stream=True))
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert "".join(p.choices[0].text for p in pieces if p.choices) == whole.choices[0].text
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.completion_tokens <= 12


def test_chat_streaming_and_not_agree(client):
    options = {
        "model": "tiny",
        "max_tokens": 12,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    whole = client.chat.completions.create(**options)
    pieces = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content
    usage = pieces[-1].usage
    assert pieces[-1].choices == [] and usage.total_tokens == whole.usage.total_tokens
    # The second has the first one's prompt in the cache.
    assert usage.prompt_tokens_details.cached_tokens > 0


def test_a_seed_decides_and_temperature_matters(client):
    def text(**options):
        answer = client.completions.create(
            model="tiny", prompt="Hello", max_tokens=16, temperature=1.5, **options
        )
        return answer.choices[0].text

    assert text(seed=1) == text(seed=1)
    assert len({text(seed=seed) for seed in range(2, 8)}) > 1


def test_stop_strings(client):
    whole = client.completions.create(model="t", prompt="He", max_tokens=24, temperature=0)
    text = whole.choices[0].text
    stop = text[5:8]
    cut = client.completions.create(
        model="t", prompt="He", max_tokens=24, temperature=0, stop=stop
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_several_clients_get_what_each_would_get_alone(guest):
    prompts = [f"Hello {i} world" for i in range(8)]
    alone = [complete(guest, prompt=p).json()["choices"][0]["text"] for p in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda p: complete(guest, prompt=p).json(), prompts))
    assert [answer["choices"][0]["text"] for answer in together] == alone


def test_a_client_that_leaves_frees_its_slot(guest):
    for _ in range(6):  # more than there are slots
        answer = requests.post(
            guest.url + "/v1/completions",
            stream=True,
            timeout=TIMEOUT,
            json={"prompt": "x", "max_tokens": 1500, "stream": True, "temperature": 1},
        )
        next(answer.iter_content(10))
        answer.close()
    assert complete(guest).status_code == 200


@pytest.mark.parametrize(
    "body, status, kind",
    [
        ("{", 400, "invalid_request_error"),
        ("[]", 400, "invalid_request_error"),
        ("", 400, "invalid_request_error"),
        ("{}", 400, "invalid_request_error"),
        ({"prompt": 7}, 400, "invalid_request_error"),
        ({"prompt": "x", "max_tokens": "many"}, 400, "invalid_request_error"),
        ({"prompt": "x", "temperature": []}, 400, "invalid_request_error"),
        ({"prompt": "x", "n": 0}, 400, "invalid_request_error"),
        ({"prompt": "x", "n": 9}, 400, "invalid_request_error"),
        ({"prompt": [1 << 40]}, 400, "invalid_request_error"),
        ({"prompt": [-1]}, 400, "invalid_request_error"),
        ({"prompt": "Hello " * 4000}, 400, "exceed_context_size_error"),
    ],
)
def test_bad_completions(guest, body, status, kind):
    data = body if isinstance(body, str) else json.dumps(body)
    answer = requests.post(guest.url + "/v1/completions", data=data, timeout=TIMEOUT)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "hi",
        [],
        [7],
        [{"content": "no role"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
    ],
)
def test_bad_messages(guest, messages):
    answer = requests.post(
        guest.url + "/v1/chat/completions", json={"messages": messages}, timeout=TIMEOUT
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def bad_models(good):
    data = good.read_bytes()
    return {
        "empty": b"",
        "foreign": b"\x7fELF" + bytes(5000),
        "truncated header": data[:100],
        "truncated data": data[: len(data) * 3 // 4],
        "other version": data[:4] + b"\xff\0\0\0" + data[8:],
    }


@pytest.mark.parametrize(
    "kind", ["empty", "foreign", "truncated header", "truncated data", "other version"]
)
def test_a_model_that_does_not_load_is_told_and_survived(boot, tiny_model, tmp_path, kind):
    path = tmp_path / "bad.gguf"
    path.write_bytes(bad_models(tiny_model)[kind])
    guest = boot(model=str(path))
    assert guest.verdict  # the reason, from /health
    answer = requests.get(guest.url + "/health", timeout=TIMEOUT)
    assert answer.status_code == 503 and answer.json()["error"]["message"] == guest.verdict
    assert complete(guest).status_code == 503
    assert not guest.ended.is_set()
    assert b"cannot" in guest.log() or b"failed" in guest.log()


def test_without_a_model(boot):
    guest = boot()
    assert "model" in guest.verdict
    answer = complete(guest)
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "unavailable_error"
    assert guest.serial.run("1 + 1") == "2"


def test_a_tiny_machine_suffices_for_a_tiny_model(boot, tiny_model):
    guest = boot(model=str(tiny_model), memory=96)
    assert guest.verdict is None
    assert complete(guest).json()["usage"]["completion_tokens"] == 8


def test_too_little_memory_is_told_and_survived(boot, tiny_model):
    guest = boot(model=str(tiny_model), memory=64, config_json={"model": {"n_ctx": 1 << 18}})
    assert guest.verdict and not guest.ended.is_set()
    assert guest.serial.run("1 + 1") == "2"


def test_a_broken_user_script_is_told_and_survived(boot, tiny_model, tmp_path):
    app = tmp_path / "broken.py"
    app.write_text("from cllm import app\n\n1 / 0\n")
    guest = boot(model=str(tiny_model), app=str(app))
    assert guest.verdict is None
    assert b"ZeroDivisionError" in guest.log()
