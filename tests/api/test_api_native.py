"""llama-server's own routes, access, metrics and health, with the real engine."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.api_server import ApiServer

TIMEOUT = 60


def post(server, path, **body):
    return requests.post(server.url + path, json=body, timeout=TIMEOUT)


def events(answer):
    return [
        json.loads(line[6:])
        for line in answer.content.decode().split("\n\n")
        if line.startswith("data: {")
    ]


def test_completion(server):
    options = dict(prompt="Hello world", n_predict=8, temperature=0, return_tokens=True, n_probs=2)
    whole = post(server, "/completion", **options).json()
    assert whole["stop"] is True and whole["stop_type"] == "limit"
    assert whole["tokens_predicted"] == len(whole["tokens"]) == 8
    assert len(whole["completion_probabilities"]) == 8
    assert whole["generation_settings"]["temperature"] == 0 and whole["prompt"] == "Hello world"
    parts = events(post(server, "/completion", stream=True, **options))
    assert [part["stop"] for part in parts] == [False] * 8 + [True]
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [part["tokens"][0] for part in parts[:-1]] == whole["tokens"]
    assert "timings" in parts[-1]


def test_response_fields(server):
    answer = post(
        server,
        "/completion",
        prompt="x",
        n_predict=1,
        response_fields=["content", "generation_settings/n_predict", "none/such"],
    ).json()
    assert set(answer) == {"content", "n_predict"}


def test_several_prompts(server):
    answer = post(server, "/completion", prompt=["a", [5, 6], ["b", 7]], n_predict=2).json()
    assert [item["index"] for item in answer] == [0, 1, 2]


def test_grammar(server):
    answer = post(
        server,
        "/completion",
        prompt="x",
        n_predict=20,
        temperature=1,
        grammar='root ::= ("yes" | "no") "!"',
    ).json()
    assert answer["content"] in ("yes!", "no!") and answer["stop_type"] == "eos"
    for bad in ("root ::= (", "nonsense", "root ::= root", "x ::= 1", "(" * 5000):
        status = post(server, "/completion", prompt="x", grammar=bad).status_code
        assert status == 400, bad


def test_json_schema(server):
    answer = post(
        server,
        "/completion",
        prompt="x",
        n_predict=100,
        temperature=1,
        json_schema={"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    ).json()
    assert len(json.loads(answer["content"])) == 2


def test_min_tokens_and_ignore_eos(server):
    bias = [[2, 50]]  # the end of a generation
    assert (
        post(server, "/completion", prompt="x", n_predict=9, logit_bias=bias).json()[
            "tokens_predicted"
        ]
        == 1
    )
    assert (
        post(server, "/completion", prompt="x", n_predict=9, logit_bias=bias, min_tokens=5).json()[
            "tokens_predicted"
        ]
        == 6
    )
    assert (
        post(server, "/completion", prompt="x", n_predict=9, ignore_eos=True).json()[
            "tokens_predicted"
        ]
        == 9
    )


SAMPLERS = [
    {"samplers": ["top_k", "temperature"]},
    {"samplers": "kt"},
    {"mirostat": 1},
    {"mirostat": 2},
    {"xtc_probability": 1, "xtc_threshold": 0.05},
    {"dry_multiplier": 0.8, "dry_base": 2},
    {"dry_multiplier": 1, "dry_sequence_breakers": ["\n", "a"]},
    {"typical_p": 0.2},
    {"top_n_sigma": 1.0},
    {"dynatemp_range": 0.5},
    {"adaptive_target": 0.5},
    {"repeat_penalty": 1.3, "frequency_penalty": 1, "presence_penalty": 1},
    {"min_keep": 5},
    {"temperature": 1e-38},
    {"temperature": 1e9},
    {"top_p": 0},
    {"top_k": 1},
    {"min_p": 1},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_samplers(server, options):
    answers = [
        post(server, "/completion", prompt="Hello", n_predict=6, seed=4, **options).json()
        for _ in range(2)
    ]
    assert answers[0]["content"] == answers[1]["content"]
    assert answers[0]["tokens_predicted"] == 6


def test_post_sampling_probs(server):
    answer = post(
        server,
        "/completion",
        prompt="Hello",
        n_predict=3,
        n_probs=3,
        top_k=3,
        temperature=1,
        post_sampling_probs=True,
    ).json()
    for entry in answer["completion_probabilities"]:
        assert 0 < entry["prob"] <= 1
        assert abs(sum(top["prob"] for top in entry["top_probs"]) - 1) < 1e-3


def test_infill_without_tokens_for_it(server):
    answer = post(server, "/infill", input_prefix="a", input_suffix="b")
    assert answer.status_code == 501 and answer.json()["error"]["type"] == "not_supported_error"


def test_tokens(server):
    tokens = post(server, "/tokenize", content="Hello world").json()["tokens"]
    assert post(server, "/detokenize", tokens=tokens).json()["content"] == "Hello world"
    assert post(server, "/tokenize", content=["Hello", 5]).json()["tokens"][-1] == 5
    pieces = post(server, "/tokenize", content="é", with_pieces=True).json()["tokens"]
    assert all(isinstance(piece["piece"], (str, list)) for piece in pieces)
    for content in ([1 << 20], [-1, "a"], [10**30, 5]):
        answer = post(server, "/tokenize", content=content, with_pieces=True)
        assert answer.status_code == 400 and "vocabulary" in answer.json()["error"]["message"]


def test_reasoning(tools_server):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 6, "temperature": 0}
    prompt = requests.post(tools_server.url + "/apply-template", json=body).json()["prompt"]
    assert prompt.endswith("assistant\n")
    body["chat_template_kwargs"] = {"enable_thinking": False}
    assert (
        "</think>"
        in requests.post(tools_server.url + "/apply-template", json=body).json()["prompt"]
    )


def test_props_and_slots(server):
    props = requests.get(server.url + "/props", timeout=TIMEOUT).json()
    assert props["total_slots"] == 4 and props["default_generation_settings"]["n_ctx"] == 2048
    slots = requests.get(server.url + "/slots?fail_on_no_slot=1", timeout=TIMEOUT).json()
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    assert not any(slot["is_processing"] for slot in slots)
    assert requests.get(server.url + "/tools", timeout=TIMEOUT).status_code == 403


def test_the_page_of_the_browser(server):
    answer = requests.get(server.url + "/", timeout=TIMEOUT)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    script = answer.text.split("<script>")[1].split("</script>")[0]
    # What it asks is there, and what it looks for in itself, too.
    for path in re.findall(r'fetch\("([^"]+)"', script):
        assert requests.options(server.url + path, timeout=TIMEOUT).status_code in (200, 204)
    assert set(re.findall(r'at\("(\w+)"\)', script)) <= set(re.findall(r'id="(\w+)"', answer.text))
    assert "innerHTML" not in script  # a model must not be able to write markup


def test_metrics(server):
    post(server, "/completion", prompt="count me", n_predict=4)
    answer = requests.get(server.url + "/metrics", timeout=TIMEOUT)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    values = {}
    for line in answer.text.splitlines():
        assert re.match(r"# (HELP|TYPE) llamacpp:|llamacpp:\w+(\{[^}]*\})? [-+.e\d]+$", line), line
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["llamacpp:tokens_predicted_total"] >= 4
    assert values["llamacpp:requests_processing"] == 0
    assert values["llamacpp:time_to_first_token_seconds_count"] >= 1
    assert values['llamacpp:inter_token_latency_seconds_bucket{le="+Inf"}'] >= 3


def test_health(server):
    assert requests.get(server.url + "/health", timeout=TIMEOUT).json() == {"status": "ok"}
    deep = requests.get(server.url + "/health?deep=1", timeout=TIMEOUT).json()
    assert deep["status"] == "ok" and deep["decode_ms"] > 0
    assert requests.head(server.url + "/health", timeout=TIMEOUT).status_code == 200


def test_options_and_cors(server):
    answer = requests.options(server.url + "/v1/chat/completions", timeout=TIMEOUT)
    assert answer.status_code == 204 and "POST" in answer.headers["Allow"]
    assert "Access-Control-Allow-Origin" not in answer.headers  # no browser asks
    for path in ("/health", "/nope"):
        headers = {"Origin": "https://a.example"}
        answer = requests.get(server.url + path, headers=headers, timeout=TIMEOUT)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


def test_keys(tiny, capsys):
    config = {"keys": ["one", "two"], "cors": "http://a.example", "access_log": True}
    with ApiServer(tiny, config) as server:
        url = server.url + "/v1/models"
        for headers in (
            {},
            {"Authorization": "Bearer three"},
            {"X-Api-Key": "on"},
            {"Authorization": "Basic one"},
            {"X-Api-Key": ""},
        ):
            headers["Origin"] = "http://a.example"
            answer = requests.get(url, headers=headers, timeout=TIMEOUT)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
            assert answer.headers["Access-Control-Allow-Origin"] == "http://a.example"
        for headers in ({"Authorization": "Bearer one"}, {"X-Api-Key": "two"}):
            assert requests.get(url, headers=headers, timeout=TIMEOUT).status_code == 200
        for public in ("/health", "/"):
            assert requests.get(server.url + public, timeout=TIMEOUT).status_code == 200
        assert requests.options(url, timeout=TIMEOUT).status_code == 204
    lines = re.findall(
        r'http method=\w+ target="[^"]*" status=\d+ ms=\d+ bytes=\d+ peer=\S+',
        capsys.readouterr().out,
    )
    assert len(lines) == 10 and 'status=401' in lines[0] and lines[-1].endswith("127.0.0.1")


def test_prefix_of_another_request_is_not_computed_again(tiny):
    with ApiServer(tiny) as server:
        shared = "The world is round and the sea is wide. " * 20
        first = post(server, "/completion", prompt=shared + "A", n_predict=4, temperature=0).json()
        second = post(
            server, "/completion", prompt=shared + "B", n_predict=4, temperature=0
        ).json()
        other = post(
            server, "/completion", prompt=shared + "B", n_predict=4, temperature=0, cache_salt="x"
        ).json()
        assert first["timings"]["cache_n"] == other["timings"]["cache_n"] == 0
        assert second["timings"]["cache_n"] > 0.9 * second["tokens_evaluated"]
        assert second["content"] == other["content"]
        metrics = requests.get(server.url + "/metrics", timeout=TIMEOUT).text
        assert f'cached_total {second["timings"]["cache_n"]}' in metrics


def greedy(server, prompt, n_predict):
    """Return (tokens, the number of first ones that no other batch could change).

    Where two tokens are nearly as likely, another batch may choose the other one, because it sums
    in another order and the cache rounds to 16 bits.
    """
    answer = post(
        server,
        "/completion",
        prompt=prompt,
        n_predict=n_predict,
        temperature=0,
        return_tokens=True,
        n_probs=2,
    ).json()
    tops = [entry["top_logprobs"] for entry in answer["completion_probabilities"]]
    close = [i for i, top in enumerate(tops) if top[0]["logprob"] - top[1]["logprob"] < 0.03]
    return answer["tokens"], min(close, default=len(answer["tokens"]))


def test_answers_do_not_depend_on_a_tiny_cache(tiny):
    """With preemption all the time, every answer is what it would be alone."""
    prompts = [f"Request number {i} of the sea" for i in range(8)]
    with ApiServer(tiny) as server:
        alone = [greedy(server, prompt, 100) for prompt in prompts]
    with ApiServer(tiny, {"model": {"n_ctx": 256, "n_batch": 16}}) as server:
        with ThreadPoolExecutor(len(prompts)) as pool:
            together = list(pool.map(lambda prompt: greedy(server, prompt, 100), prompts))
        assert server.scheduler.metrics.preemptions
        cache = server.scheduler.cache
        assert not cache.pinned
        cache.flush()
        assert cache.used == 0
    for (tokens, decided), (again, _) in zip(alone, together):
        assert again[:decided] == tokens[:decided]
    assert sum(decided for _, decided in alone) > 200


def test_drafts_change_no_greedy_answer(tiny):
    """Drafts by n-grams for a text that repeats: fewer decode calls for the same tokens."""
    prompt = "abcabcabcabcabcabc"
    texts, plain_decodes = [], None
    for speculate in (False, True):
        with ApiServer(tiny, {"model": {"speculate": speculate}}) as server:
            # Draft always: the policy measures whether drafts pay, which a busy host may change.
            server.scheduler.policy.draft_size = lambda right, most, *_: most
            answers = [
                post(
                    server,
                    "/completion",
                    prompt=prompt,
                    n_predict=60,
                    temperature=0,
                    return_tokens=True,
                    logit_bias=bias,
                ).json()
                for bias in ([], [["a", 30]])
            ]
            texts.append([a["tokens"] for a in answers])
            drafted = server.scheduler.metrics.drafted
            decodes = server.scheduler.metrics.n_decode
            assert bool(drafted) == speculate
            if speculate:
                assert server.scheduler.metrics.accepted and decodes < plain_decodes
                assert answers[1]["timings"]["draft_n"] > 0
                none = post(
                    server,
                    "/completion",
                    prompt=prompt,
                    n_predict=60,
                    temperature=0,
                    return_tokens=True,
                    **{"speculative.n_max": 0},
                ).json()
                assert "draft_n" not in none["timings"] and none["tokens"] == texts[0][0]
            plain_decodes = decodes
    assert texts[0] == texts[1]


def test_a_draft_model(tiny):
    with ApiServer(tiny) as server:
        plain = post(server, "/completion", prompt="Hello", n_predict=30, temperature=0).json()
    with ApiServer(tiny, {"model": {"draft": str(tiny)}}) as server:
        # It is no faster than what it drafts for, so no policy would use it.
        server.scheduler.policy.draft_size = lambda right, most, *_: most
        drafted = post(server, "/completion", prompt="Hello", n_predict=30, temperature=0).json()
        assert server.scheduler.metrics.accepted > 0
    assert drafted["content"] == plain["content"]


def test_a_client_that_leaves_frees_its_cells(tiny):
    with ApiServer(tiny) as server:
        scheduler = server.scheduler
        for body in (
            {"prompt": "x " * 500},
            {"prompt": "y", "n_predict": 1500},
            {"prompt": "z", "n_predict": 1500, "stream": True},
        ):
            data = json.dumps(dict(body, ignore_eos=True)).encode()
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                head = "POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                client.sendall((head % len(data)).encode() + data)
                until = time.monotonic() + 10
                while not scheduler.busy and time.monotonic() < until:
                    time.sleep(0.001)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            until = time.monotonic() + 10
            while scheduler.busy and time.monotonic() < until:
                time.sleep(0.01)
            assert not scheduler.busy and not scheduler.cache.pinned


def test_a_client_that_leaves_while_its_token_is_sampled(ascii_model):
    """Its slot and cells are free at once; its sampler ends by itself."""
    with ApiServer(ascii_model, {"limits": {"sample_ms": 60000}}) as server:
        scheduler = server.scheduler
        body = {"prompt": "x", "n_predict": 200, "grammar": DOUBLING}
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = "POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            client.sendall((head % len(data)).encode() + data)
            until = time.monotonic() + 30
            while time.monotonic() < until:
                slow = [s for s in scheduler.running if s.sampling and s.sampler.us() > 300_000]
                if slow:
                    break
                time.sleep(0.001)
            assert slow
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        began = time.monotonic()
        while scheduler.busy and time.monotonic() < began + 10:
            time.sleep(0.01)
        assert not scheduler.busy and not scheduler.cache.pinned
        quick = post(server, "/completion", prompt="x", n_predict=3, grammar="root ::= [a-z]+")
        assert quick.json()["tokens_predicted"] == 3


def test_others_go_on_while_a_token_is_sampled(ascii_model):
    """In the time of one token of an ambiguous grammar, a stream beside it has many, and so has a
    stream with a grammar that is not; and all of them the text that they have alone.
    """
    asks = {
        "free": dict(prompt="Hello", n_predict=800, n_probs=1),
        "quick": dict(prompt="Hello you", n_predict=800, grammar="root ::= [a-z ]+"),
        "slow": dict(prompt="x y", n_predict=13, grammar=DOUBLING),
    }
    settings = {"model": {"n_ctx": 8192}, "limits": {"sample_ms": 60000}}
    with ApiServer(ascii_model, settings) as server:
        scheduler = server.scheduler
        asks = {
            name: dict(ask, temperature=0, ignore_eos=True, cache_prompt=False)
            for name, ask in asks.items()
        }
        alone = {"slow": post(server, "/completion", **asks["slow"]).json()}
        order = []  # of tokens: (length of the request's prompt, microseconds that it took)
        accept = scheduler._accept

        def noted(sequence, *arguments):
            took = sequence.sampler.us() if sequence.sampler.constrained else 0
            order.append((sequence.n_prompt, took))
            accept(sequence, *arguments)

        scheduler._accept = noted
        with ThreadPoolExecutor(3) as pool:
            answers = {
                name: pool.submit(post, server, "/completion", **asks[name]) for name in asks
            }
            answers = {name: answer.result().json() for name, answer in answers.items()}
        scheduler._accept = accept
        prompts = {name: answer["tokens_evaluated"] for name, answer in answers.items()}
        assert len(set(prompts.values())) == 3
        slow = [i for i, (prompt, took) in enumerate(order) if prompt == prompts["slow"]]
        last = [prompt for prompt, _ in order[slow[-2] + 1 : slow[-1]]]
        assert order[slow[-1]][1] > 30_000
        assert last.count(prompts["free"]) > 5 and last.count(prompts["quick"]) > 5, last
        for name in ("free", "quick"):
            alone[name] = post(server, "/completion", **asks[name]).json()
        for name, answer in answers.items():
            assert answer["content"] == alone[name]["content"], name
            assert answer.get("completion_probabilities") == alone[name].get(
                "completion_probabilities"
            ), name


# Twice as many readings with every character.
DOUBLING = 'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"'


def test_an_ambiguous_grammar_is_its_own_requests_error(ascii_model):
    """Errors have the protocol's shape, also in a stream; others get their answers."""
    with ApiServer(ascii_model, {"limits": {"sample_ms": 100}}) as server:
        alone = post(server, "/completion", prompt="Hello", n_predict=40, temperature=0).json()
        answers = []
        others = threading.Thread(
            target=lambda: answers.append(
                post(server, "/completion", prompt="Hello", n_predict=40, temperature=0).json()
            )
        )
        others.start()
        whole = post(server, "/completion", prompt="x", n_predict=200, grammar=DOUBLING)
        assert whole.status_code == 400
        assert whole.json()["error"]["type"] == "invalid_request_error"
        assert "too ambiguous" in whole.json()["error"]["message"]
        messages = [{"role": "user", "content": "Hello"}]
        chat = post(
            server,
            "/v1/chat/completions",
            messages=messages,
            grammar=DOUBLING,
            max_tokens=200,
            stream=True,
        )
        events = [line[6:] for line in chat.text.split("\n") if line.startswith("data: ")]
        assert chat.status_code == 200 and len(events) > 2
        error = json.loads(events[-1])["error"]
        assert error["code"] == 400 and "too ambiguous" in error["message"]
        others.join()
        assert answers[0]["content"] == alone["content"]
        assert not server.scheduler.busy and not server.scheduler.cache.pinned
