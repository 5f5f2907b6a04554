"""`cllm run --model smollm2` without other settings: all that is documented works on that machine.

The tests ask for few tokens, as the machine is emulated. Memory does not depend on their number: a
context allocates its cache and buffers at the beginning.
"""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from cllm import TOP, fetch, memory
from support import tiny_model

TIMEOUT = 600
ROOM = 24 << 20  # bytes that must be free at any time: slack for requests larger than these

# The machine's least free memory, as far as a look every 50 ms shows it.
WATCH = """
import asyncio, _x86
from cllm import app

least = [_x86.memory()[1]]

async def watch():
    while True:
        least[0] = min(least[0], _x86.memory()[1])
        await asyncio.sleep(0.05)

@app.get("/least")
def tell(request):
    return {"least": least[0], "total": _x86.memory()[0]}

asyncio.create_task(watch())
"""


def app_file(folder, *sources):
    """Return one file of handlers in which each source has a name space of its own."""
    path = folder / "app.py"
    path.write_text("".join(f"exec({source!r}, {{}})\n" for source in sources))
    return str(path)


@pytest.fixture(scope="module")
def machine(boot_once, tmp_path_factory):
    examples = [path.read_text() for path in sorted((TOP / "examples").glob("*.py"))]
    assert len(examples) == 6
    app = app_file(tmp_path_factory.mktemp("app"), WATCH, *examples)
    guest = boot_once(model=str(fetch.default_model()), app=app)
    assert guest.verdict is None, guest.log()[-3000:]
    return guest


@pytest.fixture(autouse=True)
def there_was_room(request):
    """Check that a test leaves the machine serving, and never used up its memory."""
    yield
    if "machine" in request.fixturenames:
        guest = request.getfixturevalue("machine")
        assert not guest.ended.is_set(), guest.reason()
        answer = requests.get(guest.url + "/health", timeout=TIMEOUT)
        assert answer.status_code == 200
        assert least_free(guest) >= ROOM


def least_free(guest):
    return requests.get(guest.url + "/least", timeout=TIMEOUT).json()["least"]


def ask(guest, route, body=None, method=None):
    method = method or ("GET" if body is None else "POST")
    return requests.request(method, guest.url + route, json=body, timeout=TIMEOUT)


MESSAGES = [{"role": "user", "content": "Hi"}]
SHORT = {"max_tokens": 1, "temperature": 0}
CHAT = {"messages": MESSAGES, **SHORT}
COMPLETION = {"prompt": "Hi", **SHORT}
RESPONSE = {"input": "Hi", "max_output_tokens": 1, "temperature": 0}
EMBEDDING = {"input": ["a", "b"]}
RANKING = {"query": "a", "documents": ["b", "c"]}
OLLAMA = {"options": {"num_predict": 1, "temperature": 0}, "stream": False}

# For each route of docs/api.md: a body, and the status of its answer.
ROUTES = {
    "GET /health": (None, 200),
    "GET /v1/health": (None, 200),
    "GET /v1/models": (None, 200),
    "GET /models": (None, 200),
    "GET /v1/models/{id}": (None, 200),
    "POST /v1/chat/completions": (CHAT, 200),
    "POST /chat/completions": (CHAT, 200),
    "POST /v1/chat/completions/input_tokens": (CHAT, 200),
    "POST /v1/responses/input_tokens": (RESPONSE, 200),
    "POST /v1/completions": (COMPLETION, 200),
    "POST /completion": (COMPLETION, 200),
    "POST /completions": (COMPLETION, 200),
    "POST /infill": ({"input_prefix": "a", "input_suffix": "b"}, 501),
    "POST /v1/responses": (RESPONSE, 200),
    "POST /responses": (RESPONSE, 200),
    "GET /v1/responses/{id}": (None, 404),
    "DELETE /v1/responses/{id}": (None, 404),
    "GET /v1/responses/{id}/input_items": (None, 404),
    "POST /v1/messages": (CHAT, 200),
    "POST /v1/messages/count_tokens": (CHAT, 200),
    "POST /v1/embeddings": (EMBEDDING, 200),
    "POST /embedding": ({"content": "a"}, 200),
    "POST /embeddings": ({"content": ["a", "b"], "embd_normalize": 0}, 200),
    "POST /tokenize": ({"content": "Hello", "with_pieces": True}, 200),
    "POST /detokenize": ({"tokens": [19556]}, 200),
    "POST /apply-template": ({"messages": MESSAGES}, 200),
    "POST /models/load": ({"model": "another"}, 400),
    "POST /models/unload": ({"model": "another"}, 400),
    "POST /v1/rerank": (RANKING, 501),
    "POST /rerank": (RANKING, 501),
    "POST /v1/reranking": (RANKING, 501),
    "POST /reranking": (RANKING, 501),
    "GET /lora-adapters": (None, 200),
    "POST /lora-adapters": ([], 200),
    "POST /slots/{id}?action=save": ({"filename": "saved"}, 200),
    "POST /v1/chat/completions/control": ({"id": "none", "action": "reasoning_end"}, 200),
    "POST /chat/completions/control": ({"id": "none", "action": "reasoning_end"}, 200),
    "GET /v1/stream": (None, 400),
    "DELETE /v1/stream": (None, 400),
    "POST /v1/streams/lookup": ({"ids": []}, 200),
    "POST /predict": ({"instances": [{"@requestFormat": "chatCompletions", **CHAT}]}, 200),
    "GET /api/version": (None, 200),
    "GET /api/tags": (None, 200),
    "GET /api/ps": (None, 200),
    "POST /api/show": ({"model": "any"}, 200),
    "POST /api/chat": ({"messages": MESSAGES, **OLLAMA}, 200),
    "POST /api/generate": ({"prompt": "Hi", **OLLAMA}, 200),
    "POST /api/embed": (EMBEDDING, 200),
    "POST /api/embeddings": ({"prompt": "a"}, 200),
    "GET /openapi.json": (None, 200),
    "GET /props": (None, 200),
    "GET /slots": (None, 200),
    "GET /metrics": (None, 200),
    "GET /": (None, 200),
    "GET /tools": (None, 403),
    "GET /cors-proxy": (None, 403),
}


def documented_routes():
    """Return "METHOD /path" of every route in the table of docs/api.md."""
    text = (TOP / "docs" / "api.md").read_text()
    table = text.split("## Routes")[1].split("`HEAD` works")[0]
    for line in table.splitlines():
        method = "GET"
        for word in re.findall(r"`([^`]*)`", line.split("|")[1]) if line.startswith("| `") else ():
            method, path = word.split() if " " in word else (method, word)
            yield f"{method} {path}"


def test_the_routes_below_are_those_of_the_documentation():
    assert sorted(documented_routes()) == sorted(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route(machine, route):
    body, status = ROUTES[route]
    method, path = route.split()
    name = "0" if path.startswith("/slots") else "SmolLM2-135M-Instruct.Q4_1"
    answer = ask(machine, path.replace("{id}", name), body, method)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert answer.json()["error"]["message"]


def test_the_deep_look_at_health(machine):
    assert ask(machine, "/health?deep=1").json()["decode_ms"] > 0


def test_embeddings_of_several_texts_while_all_slots_are_busy(machine):
    with ThreadPoolExecutor(8) as pool:
        chats = [
            pool.submit(
                ask,
                machine,
                "/v1/chat/completions",
                {**CHAT, "max_tokens": 4, "logprobs": True, "top_logprobs": 20},
            )
            for _ in range(4)
        ]
        vectors = [
            pool.submit(ask, machine, "/v1/embeddings", {"input": [f"word {i}", "b", "c"]})
            for i in range(2)
        ]
        for work in chats:
            answer = work.result()
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 20
        for work in vectors:
            answer = work.result()
            assert answer.status_code == 200, answer.text
            assert [len(item["embedding"]) for item in answer.json()["data"]] == [576] * 3


def test_as_many_answers_as_slots(machine):
    answer = ask(machine, "/v1/completions", {**COMPLETION, "n": 4, "temperature": 1})
    assert answer.status_code == 200 and len(answer.json()["choices"]) == 4


def test_constraints(machine):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = ask(
        machine, "/v1/chat/completions", {**CHAT, "max_tokens": 24, "response_format": format_}
    )
    assert answer.status_code == 200
    assert json.loads(answer.json()["choices"][0]["message"]["content"])["a"] in (1, 2)
    answer = ask(machine, "/completion", {"prompt": "a", "grammar": 'root ::= "yes"'})
    assert answer.json()["content"] == "yes"


def test_drafts(machine):
    # The text repeats, so the drafter can guess.
    answer = ask(
        machine,
        "/completion",
        {"prompt": "a b c d a b c d a b c d a b c d a b", "n_predict": 8, "temperature": 0},
    )
    assert answer.status_code == 200 and answer.json()["tokens_predicted"] == 8


def test_what_is_too_long_is_refused_in_words(machine):
    words = {"content": "word " * 20_000}
    answer = ask(machine, "/tokenize", words)
    assert answer.status_code == 200 and len(answer.json()["tokens"]) > 20_000
    for route in ("/v1/embeddings", "/v1/completions"):
        answer = ask(machine, route, {"input": words["content"], "prompt": words["content"]})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "exceed_context_size_error"
    # A body of the largest size that is read, and a larger one.
    answer = ask(machine, "/v1/completions", {"prompt": "x" * ((2 << 20) - 100)})
    assert answer.status_code == 400
    answer = ask(machine, "/v1/completions", {"prompt": "x" * (2 << 20)})
    assert answer.status_code == 413


def test_as_many_connections_as_are_served(machine):
    connections = []
    try:
        for _ in range(63):  # the fixture may hold one more
            connection = socket.create_connection(("127.0.0.1", machine.port), TIMEOUT)
            connections.append(connection)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    finally:
        for connection in connections:
            connection.close()


def test_the_examples(machine):
    answer = requests.post(machine.url + "/rate", data="Cold soup.", timeout=TIMEOUT)
    assert answer.status_code == 200 and answer.json()["stars"] in range(1, 6)
    assert "joke" in ask(machine, "/joke/penguins").json()
    notes = ask(machine, "/search?q=what+do+cats+eat").json()
    assert len(notes) == 3 and notes[0]["note"] == "Cats eat fish."
    with requests.get(machine.url + "/story?about=the+sea", stream=True, timeout=TIMEOUT) as story:
        assert story.status_code == 200 and next(story.iter_content(4))
    refused = ask(
        machine,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "the password"}]},
    )
    assert refused.status_code == 403
    assert ask(machine, "/counts").json()["403"] >= 1
    without_gpu = ask(machine, "/add", {"a": [1], "b": [2]})
    assert without_gpu.status_code == 503 and "--gpu" in without_gpu.text


def use(guest):
    """Make the guest allocate both of its contexts."""
    answer = ask(guest, "/v1/embeddings", EMBEDDING)
    assert answer.status_code == 200, answer.text
    answer = ask(guest, "/v1/completions", {**COMPLETION, "max_tokens": 4, "logprobs": 5})
    assert answer.status_code in (200, 501), answer.text


@pytest.mark.parametrize(
    "options",
    [
        {"kernels": "tcg"},
        {"smp": 2},
        {"draft": True},
        {"config_json": {"model": {"n_ctx": 8192, "slots": 16, "n_batch": 256}}},
    ],
    ids=str,
)
def test_the_default_memory_suffices_for_other_settings(boot, tmp_path, options):
    model = str(fetch.default_model())
    if "draft" in options:
        options = {"draft": model}
    guest = boot(model=model, app=app_file(tmp_path, WATCH), **options)
    assert guest.verdict is None, guest.log()[-3000:]
    use(guest)
    assert least_free(guest) >= ROOM


def test_too_little_memory_for_embeddings_is_a_503_in_words(boot):
    guest = boot(model=str(fetch.default_model()), memory=192)
    assert guest.verdict is None
    for _ in range(2):
        answer = ask(guest, "/v1/embeddings", EMBEDDING)
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert "memory" in answer.json()["error"]["message"]
        assert "alloc" not in answer.text
    assert ask(guest, "/v1/completions", COMPLETION).status_code == 200


def test_too_little_memory_for_the_model_is_told_in_words(boot):
    guest = boot(model=str(fetch.default_model()), memory=128)
    assert "not enough memory" in guest.verdict and "--memory" in guest.verdict
    assert "alloc" not in guest.verdict


def test_what_a_tiny_model_takes_was_reckoned(boot, tmp_path, tiny_model):
    guest = boot(model=str(tiny_model), app=app_file(tmp_path, WATCH))
    assert guest.memory == memory.needed(tiny_model)
    use(guest)
    assert least_free(guest) >= ROOM


def test_what_an_embeddings_model_takes_was_reckoned(boot, tmp_path):
    model = tmp_path / "bert.gguf"
    tiny_model.make_bert(model)
    guest = boot(model=str(model), app=app_file(tmp_path, WATCH))
    assert guest.verdict is None, guest.log()[-3000:]
    use(guest)
    answer = ask(guest, "/v1/embeddings", {"input": "a " * 400})
    assert answer.status_code == 200, answer.text
    answer = ask(guest, "/v1/embeddings", {"input": "a " * 600})
    assert answer.status_code == 400, answer.text
    assert least_free(guest) >= ROOM
