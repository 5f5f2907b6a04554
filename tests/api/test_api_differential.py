"""The same requests to frozen/serve and to llama.cpp's own server, built from the same tree.

Status, shape and types of the JSON, and text at temperature 0 must agree. Where cllm differs on
purpose, OURS, THEIRS and STATUS say so, with the reason.
"""

import json
import random

import requests

COUNT = 300
TIMEOUT = 60

# Members that only cllm's answers have.
OURS = {
    "refusal": "OpenAI's schema requires it in a message, and in logprobs",
    "logprobs": "OpenAI's schema requires it in a chat choice; null",
    "tokens": "OpenAI's lists beside llama-server's `content` of a completion's logprobs",
    "token_logprobs": "as above",
    "top_logprobs": "as above",
    "text_offset": "as above",
    **dict.fromkeys(
        ["type", "display_name", "created_at", "has_more", "first_id", "last_id"],
        "Anthropic's clients read these of models",
    ),
    **dict.fromkeys(
        [
            "cache_creation",
            "inference_geo",
            "server_tool_use",
            "service_tier",
            "container",
            "stop_details",
            "citations",
            "caller",
        ],
        "Anthropic's schema requires it",
    ),
    "output_tokens_details": "OpenAI's schema requires it in a response's usage",
    "cache_creation_input_tokens": "Anthropic's usage has it",
    "error": "an Anthropic error is {type, error} as Anthropic's clients read it",
    **dict.fromkeys(
        [
            "incomplete_details",
            "instructions",
            "metadata",
            "parallel_tool_calls",
            "temperature",
            "top_p",
            "tool_choice",
            "tools",
            "max_output_tokens",
            "top_logprobs",
            "text",
            "reasoning",
            "max_tool_calls",
            "previous_response_id",
            "prompt_cache_key",
            "safety_identifier",
            "truncation",
            "store",
            "background",
            "user",
            "presence_penalty",
            "frequency_penalty",
        ],
        "OpenAI's response object requires it, and its typed client reads it",
    ),
    **dict.fromkeys(
        ["draft_n", "draft_n_accepted"],
        "llama-server's names in `timings` where it drafts; cllm drafts by default",
    ),
    **dict.fromkeys(
        ["kernels", "cpu_variant"],
        "in /props, what computes: an image has several builds; llama-server logs what it has",
    ),
}
# Members that only llama-server's answers have.
THEIRS = {
    "media_marker": "there are no media",
    "chat_template_caps": "in /props, for llama-server's web page, which is not here",
    **dict.fromkeys(
        [
            "generation_prompt",
            "chat_format",
            "reasoning_format",
            "reasoning_in_content",
            "grammar_lazy",
            "grammar_triggers",
            "preserved_tokens",
        ],
        "the state of its chat parser in generation_settings; no client can use it",
    ),
    **dict.fromkeys(
        ["backend_sampling", "speculative.types"],
        "settings of parts that cllm does not have: sampling on a GPU, kinds of drafts by request",
    ),
    **dict.fromkeys(
        ["dry_sequence_breakers"],
        "an echo of the request in generation_settings, which may be long",
    ),
    **dict.fromkeys(
        ["code", "message", "n_prompt_tokens", "n_ctx"],
        "beside Anthropic's {type, error} llama-server has its own error; ours is inside",
    ),
}
# Where llama-server says 200 or 500 and cllm 400: its words, and why.
STRICTER = {
    "invalid JSON": "a client's mistake is a 400, not a 500",
    "must be a JSON object": "the body of a request is an object",
    "each message must have one": "a client's mistake is a 400, not a 500",
    "'messages' must not be empty": "OpenAI's schema wants at least one",
    "type must be": "OpenAI's schema has no true where a number is wanted",
    "must be an integer": "a part of a token cannot be had",
    "must be a string or an array of strings": "llama-server ignores a `stop` of another type",
    "not an array of strings": "llama-server ignores `samplers` of another type",
    "out of range": "a value that makes infinities of logits",
    "Expected each of": "a client's mistake is a 400, not a 500",
    "logit_bias: neither": "llama-server ignores it",
    "input is not supported": "a client's mistake is a 400, not a 500",
    "must not be empty": "llama-server takes an empty list for an answer of no choices",
    "must be a boolean": "llama-server takes 1 and null for a flag; OpenAI's schema does not",
    "Value must be between": "a number out of range is a 400 for every field, not for some",
    "constraints of the request": "a grammar that cannot go on: not a 500, which SDKs ask again",
    "integer outside": "a token that no vocabulary has: the client's mistake, not a 500",
}
SKIPPED = {"/slots": "what a slot shows depends on what it did"}


def hangs(body):
    """Return whether llama-server never answers: it has no state of an empty prompt to copy."""
    return isinstance(body, dict) and body.get("prompt") == "" and body.get("n") == 2


def may_differ(path, body):
    """Return whether two good answers may differ in everything."""
    if path in SKIPPED:
        return True
    if not isinstance(body, dict):
        return False
    # An empty grammar is none; llama-server then ignores the schema, too, and answers anything.
    schema_counts = body.get("grammar") == "" and "json_schema" in body
    # An empty stop string is none; llama-server finds it before the first token.
    no_stop = body.get("stop") == ""
    # Only the sampler of that name makes anything of a temperature.
    samplers = body.get("samplers")
    is_random = isinstance(samplers, (list, str)) and "temperature" not in samplers
    temperature = body.get("temperature", 0)
    is_random |= temperature is None or isinstance(temperature, float) and temperature > 0
    return schema_counts or no_stop or is_random


HELLO = [{"role": "user", "content": "Hello"}]
BAD = [None, True, -1, 0, 1.5, 1e30, "x", "", [], [1], {}, {"a": 1}]


def field(rng):
    """Return (name, value) of a field for sampling or scheduling, mostly a valid one."""
    good = [
        ("temperature", 0),
        ("top_k", 5),
        ("top_k", 0),
        ("top_p", 0.5),
        ("min_p", 0.1),
        ("typical_p", 0.9),
        ("top_n_sigma", 1.0),
        ("xtc_probability", 0),
        ("repeat_penalty", 1.1),
        ("repeat_last_n", 16),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("dry_multiplier", 0.5),
        ("mirostat", 0),
        ("min_keep", 1),
        ("seed", 42),
        ("seed", -1),
        ("stop", "e"),
        ("stop", ["xyz", "a"]),
        ("stop", []),
        ("logit_bias", {"70": 5}),
        ("logit_bias", [[70, -3.5], ["a", 2], [71, False]]),
        ("ignore_eos", True),
        ("samplers", ["top_k", "temperature"]),
        ("cache_prompt", False),
        ("n", 2),
        ("timings_per_token", True),
        ("id_slot", -1),
        ("user", "someone"),
        ("n_probs", 2),
        ("t_max_predict_ms", 100000),
        ("dry_sequence_breakers", ["x"]),
    ]
    name, value = rng.choice(good)
    if rng.random() < 0.25:
        value = rng.choice(BAD)
    return name, value


MESSAGES = [
    HELLO,
    HELLO,
    HELLO,
    [],
    None,
    "x",
    [1],
    [{"role": "user"}],
    [{"content": "x"}],
    [{"role": "system", "content": "Be good"}, *HELLO],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
]
PROMPTS = [
    "Hello",
    "The sea",
    [5, 6, 7],
    ["a", "b"],
    [[5], "x"],
    "",
    [],
    None,
    7,
    {"x": 1},
    [5, "mixed"],
    [-1],
    [100000],
    "word " * 3000,
    {"prompt_string": "Hi"},
]
OTHERS = [
    ("/tokenize", {"content": "Hello world"}),
    ("/tokenize", {}),
    ("/tokenize", {"content": "é", "with_pieces": True}),
    ("/tokenize", {"content": "<|im_end|>", "parse_special": False}),
    ("/tokenize", {"content": "a", "add_special": True}),
    ("/detokenize", {"tokens": [70, 71]}),
    ("/detokenize", {}),
    ("/detokenize", []),
    ("/apply-template", {"messages": HELLO}),
    ("/apply-template", {}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 3, "temperature": 0}),
    (
        "/v1/messages",
        {
            "messages": HELLO,
            "max_tokens": 3,
            "temperature": 0,
            "system": "Be good",
            "stop_sequences": ["zz"],
        },
    ),
    ("/v1/messages/count_tokens", {"messages": HELLO}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 3, "temperature": 0}),
    (
        "/v1/responses",
        {"input": HELLO, "instructions": "x", "max_output_tokens": 3, "temperature": 0},
    ),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ("/v1/chat/completions", "{"),
    ("/v1/completions", ""),
    ("/nope", {}),
    ("/props", None),
    ("/v1/models", None),
    ("/health", None),
    ("/slots", None),
]


def request(rng):
    """Return (path, body) of a random request."""
    body = {"temperature": 0, "max_tokens": rng.randrange(1, 12)}
    kind = rng.randrange(9)
    if kind <= 2:
        path = "/v1/chat/completions"
        body["messages"] = rng.choice(MESSAGES)
        if rng.random() < 0.3:
            body["response_format"] = rng.choice(
                [
                    {"type": "text"},
                    {"type": "json_object"},
                    {"type": "poem"},
                    {},
                    {"type": "json_schema", "json_schema": {"schema": {"type": "boolean"}}},
                ]
            )
        if rng.random() < 0.2:
            body["logprobs"] = True
            body["top_logprobs"] = rng.choice([1, 3])
    elif kind <= 5:
        path = rng.choice(["/v1/completions", "/completion"])
        body["prompt"] = rng.choice(PROMPTS)
        if rng.random() < 0.2:
            body["grammar"] = rng.choice(['root ::= "yes"', "root ::= (", ""])
        if rng.random() < 0.2:
            body["json_schema"] = rng.choice([{"type": "null"}, {"const": 5}])
    else:
        return rng.choice(OTHERS)
    for _ in range(rng.randrange(3)):
        name, value = field(rng)
        body[name] = value
    if rng.random() < 0.3:
        body["stream"] = True
    return path, body


def ask(url, path, body):
    if body is None:
        return requests.get(url + path, timeout=TIMEOUT)
    data = body if isinstance(body, str) else json.dumps(body)
    return requests.post(url + path, data=data, timeout=TIMEOUT)


def parse(answer):
    """Return the JSON of an answer; of a stream, its pieces put together.

    Where pieces begin and end depends on the server.
    """
    if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        return answer.json()
    events = []
    for line in answer.content.decode().split("\n"):
        if line.startswith("data: "):
            events.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
    done = events[-1] == "[DONE]"
    if done:
        events.pop()
    texts, last = {}, {}
    events = [event for event in events if event]  # llama-server's first may be null
    for event in events:
        for choice in event.get("choices", [event]):
            number = choice.get("index", 0)
            part = choice.get("delta", choice)
            texts[number] = texts.get(number, "") + (part.get("content") or part.get("text") or "")
            last[number] = choice
    names = [sorted(event) for event in (events[0], events[-1])]
    return {
        "done": done,
        "content": [texts[i] for i in sorted(texts)],
        "last": [last[i] for i in sorted(last)],
        "names": names,
    }


def kind(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {int: "number", float: "number", str: "string"}.get(type(value)) or type(value).__name__


def differences(ours, theirs, path=""):
    """Yield the differences in keys, types, and values that must agree."""
    if kind(ours) != kind(theirs):
        yield f"{path}: {kind(ours)}, theirs {kind(theirs)}"
    elif isinstance(ours, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in theirs:
                if name not in OURS:
                    yield f"{path}.{name}: only ours"
            elif name not in ours:
                if name not in THEIRS:
                    yield f"{path}.{name}: only theirs"
            else:
                yield from differences(ours[name], theirs[name], f"{path}.{name}")
    elif isinstance(ours, list):
        if len(ours) != len(theirs):
            yield f"{path}: {len(ours)} items, theirs {len(theirs)}"
        for i, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{path}[{i}]")
    else:
        name = path.rsplit(".", 1)[-1].split("[")[0]
        compared = (
            "text",
            "content",
            "finish_reason",
            "prompt",
            "tokens",
            "stop_type",
            "type",
            "done",
            "names",
        )
        if name in compared and ours != theirs and "error" not in path:
            yield f"{path}: {ours!r}, theirs {theirs!r}"


def compare(ours, theirs, path, body):
    """Return what differs between two answers to one request, as a list of str."""
    if ours.status_code != theirs.status_code:
        stricter = ours.status_code == 400 and any(word in ours.text for word in STRICTER)
        one, other = (f"{reply.status_code} {reply.text[:200]}" for reply in (ours, theirs))
        return [] if stricter else [f"{one}, theirs {other}"]
    if ours.status_code == 200 and may_differ(path, body):
        return []
    if ours.status_code == 200:
        return list(differences(parse(ours), parse(theirs)))
    # For a request with two mistakes, either may be reported.
    error, other = ours.json()["error"], theirs.json()["error"]
    fine = error["type"] == other["type"] or "invalid_request_error" in (
        error["type"],
        other["type"],
    )
    return [] if fine else [f"{error}, theirs {other}"]


def test_same_answers(differential, reference):
    rng = random.Random(1)
    found = []
    for number in range(COUNT):
        path, body = request(rng)
        if hangs(body):
            continue
        ours, theirs = ask(differential.url, path, body), ask(reference.url, path, body)
        for line in compare(ours, theirs, path, body):
            found.append(f"{number} {path} {json.dumps(body)[:300]}\n    {line}")
    assert not found, "\n".join(found[:40])
