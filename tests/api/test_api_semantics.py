"""What the APIs' documents promise for any model and template, with the real engine."""

import json
from pathlib import Path

import anthropic
import openai
import pytest
import requests
from support import tiny_model
from support.api_server import ApiServer

HELLO = [{"role": "user", "content": "Hello"}]
BEGUN = {"role": "assistant", "content": "one, two, "}
PLACES = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/place"}},
    "required": ["place"],
    "additionalProperties": False,
    "$defs": {"place": {"enum": ["Paris", "Oslo"]}},
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTIONS = {"weather": PLACES, "clock": NOTHING}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "x", "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]
CLAUDE_TOOLS = [{"name": name, "input_schema": schema} for name, schema in FUNCTIONS.items()]


def post(server, path, **body):
    return requests.post(server.url + path, json=body, timeout=60)


@pytest.fixture(scope="module", params=["none", "tools"])
def any_server(request, server, tools_server):
    """Two servers: one whose template has no tools, one with tools and reasoning."""
    return server if request.param == "none" else tools_server


@pytest.fixture(scope="module")
def client(any_server):
    return openai.OpenAI(base_url=any_server.url + "/v1", api_key="x", max_retries=0, timeout=60)


def check(name, arguments):
    """Check that a call is of one of FUNCTIONS, with arguments of its schema."""
    assert name in FUNCTIONS
    if name == "clock":
        assert arguments == {}
    else:
        assert arguments in ({"place": "Paris"}, {"place": "Oslo"})


@pytest.mark.parametrize("seed", range(4))
def test_a_call_is_forced(client, seed):
    options = dict(
        model="m",
        messages=HELLO,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=400,
        seed=seed,
        temperature=1.0,
        parallel_tool_calls=False,
    )
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    (call,) = choice.message.tool_calls
    check(call.function.name, json.loads(call.function.arguments))
    with client.chat.completions.stream(**options) as stream:
        pieces = [event for event in stream if event.type.startswith("tool_calls.function.arg")]
        final = stream.get_final_completion().choices[0]
    assert len(pieces) > 1 and final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.name == call.function.name
    assert final.message.tool_calls[0].function.arguments == call.function.arguments


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_function_is_forced(client, name):
    choice = client.chat.completions.create(
        model="m",
        messages=HELLO,
        tools=TOOLS,
        max_tokens=300,
        temperature=1.0,
        seed=5,
        tool_choice={"type": "function", "function": {"name": name}},
    ).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [call.function.name for call in choice.message.tool_calls] == [name]
    check(name, json.loads(choice.message.tool_calls[0].function.arguments))


def test_several_calls_are_forced(client):
    message = (
        client.chat.completions.create(
            model="m",
            messages=HELLO,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=True,
            max_tokens=1000,
            temperature=1.0,
            seed=3,
        )
        .choices[0]
        .message
    )
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls) >= 1
    for call in message.tool_calls[:-1]:
        check(call.function.name, json.loads(call.function.arguments))


def test_a_forced_call_in_a_response(client):
    options = dict(
        model="m",
        input="Hello",
        tools=FLAT_TOOLS,
        tool_choice="required",
        max_output_tokens=400,
        temperature=1.0,
        parallel_tool_calls=False,
        extra_body={"seed": 1},
    )
    (item,) = client.responses.create(**options).output
    assert item.type == "function_call" and item.status == "completed"
    check(item.name, json.loads(item.arguments))
    with client.responses.stream(**options) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output[0].arguments == item.arguments
    options["tool_choice"] = {"type": "function", "name": "clock"}
    (item,) = client.responses.create(**options).output
    assert (item.name, json.loads(item.arguments)) == ("clock", {})


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_forced_call_for_claude(any_server, choice):
    claude = anthropic.Anthropic(base_url=any_server.url, api_key="x", max_retries=0, timeout=60)
    options = dict(
        model="m",
        messages=HELLO,
        tools=CLAUDE_TOOLS,
        max_tokens=400,
        tool_choice={**choice, "disable_parallel_tool_use": True},
        extra_body={"seed": 2, "temperature": 1.0},
    )
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        final = stream.get_final_message()
    for message in (whole, final):
        assert message.stop_reason == "tool_use"
        (block,) = message.content
        assert block.type == "tool_use" and block.name == choice.get("name", block.name)
        check(block.name, block.input)


def test_a_forced_call_after_calls(client):
    messages = HELLO + [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    choice = client.chat.completions.create(
        model="m",
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=400,
        temperature=1.0,
        seed=1,
    ).choices[0]
    assert choice.finish_reason == "tool_calls"


def test_a_forced_call_in_a_begun_answer(any_server):
    answer = post(
        any_server,
        "/v1/chat/completions",
        messages=[*HELLO, BEGUN],
        tools=TOOLS,
        tool_choice="required",
        max_tokens=400,
        parallel_tool_calls=False,
        seed=1,
    ).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls" and not choice["message"]["content"].strip()


def test_tools_that_may_be_called_leave_the_model_free(server):
    # The template has no tools, so prompt and answer lack them, as in llama-server.
    plain = post(server, "/apply-template", messages=HELLO).json()
    assert post(server, "/apply-template", messages=HELLO, tools=TOOLS).json() == plain
    forced = post(server, "/apply-template", messages=HELLO, tools=TOOLS, tool_choice="required")
    for name in FUNCTIONS:
        assert name in forced.json()["prompt"]


def test_an_answer_is_continued(any_server):
    messages = [*HELLO, BEGUN]
    prompt = post(any_server, "/apply-template", messages=messages).json()["prompt"]
    assert prompt.endswith(BEGUN["content"])
    options = dict(messages=messages, max_tokens=6, temperature=0)
    text = post(any_server, "/completion", prompt=prompt, n_predict=6, temperature=0).json()
    answer = post(any_server, "/v1/chat/completions", **options).json()
    assert answer["choices"][0]["message"]["content"] == text["content"]  # and nothing begun
    assert answer["usage"]["prompt_tokens"] == text["tokens_evaluated"]
    claude = post(any_server, "/v1/messages", **options).json()
    assert claude["content"][0]["text"] == text["content"]
    count = post(any_server, "/v1/messages/count_tokens", messages=messages).json()
    assert count["input_tokens"] == text["tokens_evaluated"]
    response = post(
        any_server, "/v1/responses", input=messages, max_output_tokens=6, temperature=0
    ).json()
    assert response["output"][0]["content"][0]["text"] == text["content"]
    streamed = requests.post(
        any_server.url + "/v1/chat/completions", timeout=60, json=dict(options, stream=True)
    ).content.decode()
    pieces = [
        json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")
    ]
    assert (
        "".join([piece["choices"][0]["delta"].get("content") or "" for piece in pieces])
        == text["content"]
    )


def test_a_new_answer_can_be_asked_for(any_server):
    prompt = post(
        any_server, "/apply-template", messages=[*HELLO, BEGUN], continue_final_message=False
    ).json()["prompt"]
    assert prompt.rstrip().endswith("assistant") and BEGUN["content"] in prompt
    empty = {"role": "assistant", "content": ""}
    plain = post(any_server, "/apply-template", messages=HELLO).json()
    assert post(any_server, "/apply-template", messages=[*HELLO, empty]).json() == plain
    two = post(any_server, "/apply-template", messages=[*HELLO, BEGUN, BEGUN])
    assert two.status_code == 400 and "2 or more" in two.text
    calls = [{"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]
    called = {"role": "assistant", "content": "x", "tool_calls": calls}
    answer = post(any_server, "/v1/chat/completions", messages=[*HELLO, called], max_tokens=1)
    assert answer.status_code == 400 and "tool calls" in answer.text


def test_tool_results_stand_behind_their_call(any_server):
    use = {"type": "tool_use", "id": "t", "name": "clock", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "NOON"}
    text = {"type": "text", "text": "REMINDER"}
    history = [*HELLO, {"role": "assistant", "content": [use]}]
    counts = set()
    for blocks in ([result, text], [text, result]):
        body = dict(
            messages=[*history, {"role": "user", "content": blocks}],
            max_tokens=1,
            tools=CLAUDE_TOOLS,
        )
        usage = post(any_server, "/v1/messages", **body).json()["usage"]
        counts.add(usage["input_tokens"] + usage["cache_read_input_tokens"])
    assert len(counts) == 1
    assert usage["cache_read_input_tokens"] > 0.8 * max(counts)  # the second is the first


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": 'root ::= "a"', "ignore_eos": True},
        {"grammar": 'root ::= "a"', "min_tokens": 10},
        {"grammar": 'root ::= "a"', "logit_bias": [["a", False]]},
        {"grammar": 'root ::= "abcdefgh"', "logit_bias": [["e", False]], "stream": True},
        {"json_schema": {"const": 1}, "ignore_eos": True},
    ],
)
def test_constraints_that_cannot_go_on(server, fields):
    answer = post(server, "/completion", prompt="x", n_predict=16, **fields)
    if answer.status_code == 200:  # it had begun, so it ends in an event
        error = json.loads(answer.text.strip().split("\n\n")[-1][6:])["error"]
    else:
        error = answer.json()["error"]
    assert error["code"] == 400 and "constraints" in error["message"], error
    assert requests.get(server.url + "/health", timeout=60).status_code == 200


def test_every_alternative_is_there(server):
    logprobs = post(
        server, "/v1/completions", prompt="hello", max_tokens=4, temperature=0, logprobs=20
    ).json()["choices"][0]["logprobs"]
    assert [len(top) for top in logprobs["top_logprobs"]] == [20] * 4
    for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"]):
        assert token in top


def test_seeds_of_64_bits(server):
    texts = set()
    for seed in (2**63 - 1, -(2**63), 2**62):
        answers = [
            post(
                server,
                "/v1/chat/completions",
                messages=HELLO,
                max_tokens=8,
                seed=seed,
                temperature=1.5,
            ).json()["choices"][0]["message"]["content"]
            for _ in range(2)
        ]
        assert answers[0] == answers[1]
        texts.add(answers[0])
    assert len(texts) == 3


def test_forms_of_structured_output(server):
    schema = {
        "type": "object",
        "properties": {"only": {"const": 1}},
        "required": ["only"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "schema": schema}
    texts = [
        post(
            server, "/v1/chat/completions", messages=HELLO, max_tokens=80, response_format=form
        ).json()["choices"][0]["message"]["content"],
        post(server, "/v1/completions", prompt="x", max_tokens=80, response_format=form).json()[
            "choices"
        ][0]["text"],
        post(
            server, "/v1/messages", messages=HELLO, max_tokens=80, output_config={"format": form}
        ).json()["content"][0]["text"],
        post(
            server, "/v1/responses", input="x", max_output_tokens=80, text={"format": form}
        ).json()["output"][0]["content"][0]["text"],
    ]
    assert [json.loads(text) for text in texts] == [{"only": 1}] * 4


def test_one_beginning_of_a_text(tmp_path, tiny):
    path = tmp_path / "bos.gguf"
    tiny_model.make(path, add_bos=True)
    with ApiServer(path) as server:
        bos = tiny_model.BOS
        for content in ("name", ["name", 5, "name"], "<|im_start|>name"):
            tokens = post(server, "/tokenize", content=content, add_special=True).json()["tokens"]
            assert tokens[0] == bos and tokens.count(bos) == 1
        answer = post(
            server, "/completion", prompt=["name", 5, "name"], n_predict=1, return_tokens=True
        ).json()
        count = len(post(server, "/tokenize", content=["name", 5, "name"]).json()["tokens"])
        assert answer["tokens_evaluated"] == count + 1
        # A template that writes the token itself.
        prompt = post(server, "/apply-template", messages=HELLO).json()["prompt"]
        answer = post(server, "/v1/chat/completions", messages=HELLO, max_tokens=1).json()
        tokens = post(server, "/tokenize", content=prompt, add_special=True).json()["tokens"]
        assert answer["usage"]["prompt_tokens"] == len(tokens) and tokens[:2] != [bos, bos]


def test_a_template_that_is_no_utf8(tmp_path, tiny):
    path = tmp_path / "bytes.gguf"
    tiny_model.make(path, template="{{ messages[0].content }}@@@@")
    path.write_bytes(path.read_bytes().replace(b"@@@@", b"\xff\xed\xa0\x80"))
    with ApiServer(path) as server:
        answer = requests.get(server.url + "/props", timeout=60)
        assert answer.status_code == 200
        assert answer.json()["chat_template"] == "{{ messages[0].content }}" + "\ufffd" * 4
        answer = post(server, "/v1/chat/completions", messages=HELLO, max_tokens=2)
        answer.content.decode()
        assert answer.status_code == 200


def test_tokens_that_are_long(tmp_path, tiny):
    path = tmp_path / "long.gguf"
    tiny_model.make(path, words=["x" * 1000000])
    with ApiServer(path) as server:
        answer = post(server, "/v1/completions", prompt="a")
        assert answer.status_code == 503
        assert "longer than 4096 bytes" in answer.json()["error"]["message"]
    tiny_model.make(path, words=["x" * 4000])
    with ApiServer(path) as server:
        token = len(tiny_model.vocabulary()[0])
        answer = post(
            server,
            "/v1/completions",
            prompt="a",
            max_tokens=2,
            logprobs=20,
            logit_bias=[[token, 1000]],
        )
        assert answer.status_code == 200
        logprobs = answer.json()["choices"][0]["logprobs"]
        assert len(json.dumps(logprobs)) < 100000
        pieces = post(server, "/tokenize", content="x" * 10, with_pieces=True)
        assert pieces.status_code == 200


def test_a_control_token_stops(server):
    fields = {"logit_bias": [[1, 100], [0, -100]], "temperature": 0, "max_tokens": 5}
    answer = post(server, "/v1/completions", prompt="x", **fields).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    answer = post(server, "/v1/completions", prompt="x", stop="<|im_start|>", **fields).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 1


TEMPLATES = sorted((Path(__file__).parents[2] / "llama.cpp/src/models/templates").glob("*.jinja"))


@pytest.mark.skipif(not TEMPLATES, reason="llama.cpp is not unpacked")
def test_a_call_is_forced_with_any_template(tmp_path, tiny):
    """Check each template of llama.cpp's, though the model is another."""
    failed = []
    options = dict(messages=HELLO, tools=TOOLS, max_tokens=700, temperature=1, seed=4)
    for template in TEMPLATES:
        path = tmp_path / "model.gguf"
        tiny_model.make(path, template=template.read_text(), ascii_only=True)
        choice = "required" if len(template.name) % 2 else {"function": {"name": "weather"}}
        with ApiServer(path, {"model": {"n_ctx": 8192}}) as server:
            answer = post(
                server,
                "/v1/chat/completions",
                tool_choice=choice,
                parallel_tool_calls=False,
                **options,
            ).json()
        try:
            (choice,) = answer["choices"]
            (call,) = choice["message"]["tool_calls"]
            check(call["function"]["name"], json.loads(call["function"]["arguments"]))
            assert choice["finish_reason"] == "tool_calls" and not choice["message"]["content"]
        except (AssertionError, KeyError, ValueError):
            failed.append((template.name, answer))
    assert not failed
