"""Official clients, unmodified, against frozen/serve with the real engine."""

import json
import subprocess
from pathlib import Path

import anthropic
import openai
import pytest
from cllm.extras import CLIENTS
from support import tiny_model

TOOL = {
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["place"],
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["yes", "kind"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def tools_client(tools_server):
    return openai.OpenAI(base_url=tools_server.url + "/v1", api_key="x", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def claude(tools_server):
    return anthropic.Anthropic(base_url=tools_server.url, api_key="x", max_retries=0, timeout=60)


def test_chat(client):
    answer = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.refusal is None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens == 8
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.logprob == token.top_logprobs[0].logprob  # greedy
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


def test_several_answers_share_a_prompt(server, client):
    before = server.scheduler.metrics.prompt_tokens
    messages = [{"role": "user", "content": "Tell me of the sea. " * 20}]
    answer = client.chat.completions.create(
        model="m", messages=messages, n=4, max_tokens=6, seed=7, temperature=1.5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) > 1
    computed = server.scheduler.metrics.prompt_tokens - before
    # Once, and of the three others only what is behind the last shared block.
    assert computed <= answer.usage.prompt_tokens + 3 * 16
    again = client.chat.completions.create(
        model="m", messages=messages, n=4, max_tokens=6, seed=7, temperature=1.5
    )
    texts = [[c.message.content for c in a.choices] for a in (answer, again)]
    assert texts[0] == texts[1]


def test_streams_of_several_answers(client):
    options = dict(model="m", messages=HELLO, n=2, max_tokens=6, seed=3, temperature=1)
    whole = client.chat.completions.create(**options)
    texts = ["", ""]
    reasons = {}
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == {0: "length", 1: "length"}


def test_text_logprobs(client):
    answer = client.completions.create(
        model="m", prompt=["Hello", "world"], max_tokens=4, temperature=0, logprobs=2
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 4
        assert len(logprobs.top_logprobs) == len(logprobs.text_offset) == 4


def test_logit_bias(client):
    answer = client.completions.create(
        model="m", prompt="Hello", max_tokens=5, temperature=0, logit_bias={"70": 100}
    )
    assert len(set(answer.choices[0].text)) == 1


def test_structured_output(client):
    answer = client.chat.completions.create(
        model="m",
        messages=HELLO,
        max_tokens=60,
        temperature=1,
        seed=2,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    )
    assert answer.choices[0].finish_reason == "stop"
    data = json.loads(answer.choices[0].message.content)
    assert isinstance(data["yes"], bool) and data["kind"] in "ab"


def test_structured_output_streamed(client):
    with client.chat.completions.stream(
        model="m",
        messages=HELLO,
        max_tokens=60,
        temperature=1,
        seed=2,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert set(json.loads(message.content)) == {"yes", "kind"}


def call_options():
    return dict(
        model="m",
        messages=HELLO,
        tools=[{"type": "function", "function": TOOL}],
        tool_choice="required",
        max_tokens=40,
        extra_body=tiny_model.saying(tiny_model.CALL, tiny_model.WORDS),
    )


def test_tools(tools_client):
    answer = tools_client.chat.completions.create(**call_options())
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.id and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"place": "Paris"}


def test_reasoning(tools_client):
    options = dict(
        model="m",
        messages=HELLO,
        max_tokens=40,
        extra_body=tiny_model.saying(tiny_model.THOUGHT, tiny_model.WORDS),
    )
    message = tools_client.chat.completions.create(**options).choices[0].message
    assert (message.reasoning_content, message.content) == ("I see", "Good day there")
    parts = {"reasoning_content": "", "content": ""}
    for chunk in tools_client.chat.completions.create(**options, stream=True):
        for name in parts:
            parts[name] += getattr(chunk.choices[0].delta, name, None) or ""
    assert parts == {"reasoning_content": "I see", "content": "Good day there"}


def test_tools_streamed(tools_client):
    whole = tools_client.chat.completions.create(**call_options())
    arguments = ""
    names = []
    pieces = 0
    for chunk in tools_client.chat.completions.create(**call_options(), stream=True):
        for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            if call.function.name:
                names.append(call.function.name)
            if call.function.arguments:
                arguments += call.function.arguments
                pieces += 1
    calls = whole.choices[0].message.tool_calls
    assert names == [call.function.name for call in calls]
    assert arguments == "".join(call.function.arguments for call in calls) and pieces > 1


def test_a_tool_by_name(tools_client):
    options = call_options()
    options["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    answer = tools_client.chat.completions.create(**options)
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    options["tool_choice"]["function"]["name"] = "other"
    with pytest.raises(openai.BadRequestError, match="no such tool"):
        tools_client.chat.completions.create(**options)


def test_a_conversation_with_tool_results(tools_client):
    messages = HELLO + [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"place": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    answer = tools_client.chat.completions.create(
        model="m",
        messages=messages,
        max_tokens=4,
        temperature=0,
        tools=[{"type": "function", "function": TOOL}],
    )
    assert answer.usage.completion_tokens == 4


def test_embeddings(client):
    answer = client.embeddings.create(model="m", input=["Hello world", "Hello world", "Bye"])
    vectors = [item.embedding for item in answer.data]
    assert len(vectors[0]) == 64 and vectors[0] == vectors[1] != vectors[2]
    assert abs(sum(x * x for x in vectors[0]) - 1) < 1e-3
    plain = client.embeddings.create(model="m", input="Hello world", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)


def test_responses(client):
    answer = client.responses.create(
        model="m", input="Hello", instructions="Be brief", max_output_tokens=8, temperature=0
    )
    assert answer.status == "incomplete" and answer.output[0].type == "message"
    assert answer.usage.output_tokens == 8 and answer.output_text
    events = []
    with client.responses.stream(
        model="m", input="Hello", instructions="Be brief", max_output_tokens=8, temperature=0
    ) as stream:
        events = [event.type for event in stream]
    assert events[:2] == ["response.created", "response.in_progress"]
    assert events[-1] == "response.incomplete"
    text = "".join(
        event.delta
        for event in client.responses.create(
            model="m",
            input="Hello",
            instructions="Be brief",
            max_output_tokens=8,
            temperature=0,
            stream=True,
        )
        if event.type == "response.output_text.delta"
    )
    assert text == answer.output_text


def test_responses_tools(tools_client):
    options = dict(
        model="m",
        input="Hello",
        max_output_tokens=40,
        tool_choice="required",
        tools=[{"type": "function", "strict": True, **TOOL}],
        extra_body=tiny_model.saying(tiny_model.CALL, tiny_model.WORDS),
    )
    call = tools_client.responses.create(**options).output[-1]
    assert call.type == "function_call" and call.name == "weather"
    assert json.loads(call.arguments) == {"place": "Paris"}
    with tools_client.responses.stream(**options) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.status == "completed" and final.output[-1].arguments == call.arguments


def test_responses_reasoning(tools_client):
    answer = tools_client.responses.create(
        model="m",
        input="Hello",
        max_output_tokens=40,
        extra_body=tiny_model.saying(tiny_model.THOUGHT, tiny_model.WORDS),
    )
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "I see" and answer.output_text == "Good day there"


def test_errors(client):
    with pytest.raises(openai.BadRequestError) as info:
        client.chat.completions.create(model="m", messages=[])
    assert info.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="image"):
        client.chat.completions.create(
            model="m",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
                    ],
                }
            ],
        )
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_anthropic(claude):
    answer = claude.messages.create(
        model="m", max_tokens=8, messages=HELLO, system="Be brief", extra_body={"temperature": 0}
    )
    assert answer.role == "assistant" and answer.stop_reason == "max_tokens"
    assert answer.content[0].type == "text" and answer.usage.output_tokens == 8
    with claude.messages.stream(
        model="m", max_tokens=8, messages=HELLO, system="Be brief", extra_body={"temperature": 0}
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text and final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 8
    count = claude.messages.count_tokens(model="m", messages=HELLO, system="Be brief")
    assert count.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens


def test_anthropic_tools(claude):
    tool = {"name": TOOL["name"], "description": "x", "input_schema": TOOL["parameters"]}
    options = dict(
        model="m",
        max_tokens=40,
        messages=HELLO,
        tools=[tool],
        tool_choice={"type": "any"},
        extra_body=tiny_model.saying(tiny_model.CALL, tiny_model.WORDS),
    )
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        final = stream.get_final_message()
    for message in (whole, final):
        assert message.stop_reason == "tool_use"
        block = message.content[-1]
        assert block.type == "tool_use" and block.name == "weather"
        assert block.input == {"place": "Paris"}


def test_anthropic_thinking(claude):
    options = dict(
        model="m",
        max_tokens=40,
        messages=HELLO,
        extra_body=tiny_model.saying(tiny_model.THOUGHT, tiny_model.WORDS),
    )
    with claude.messages.stream(**options) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "I see" and final.content[1].text == "Good day there"
    assert final.stop_reason == "end_turn"


def test_anthropic_errors(claude):
    with pytest.raises(anthropic.BadRequestError) as info:
        claude.messages.create(model="m", max_tokens=8, messages=[])
    assert info.value.body["type"] == "error"
    assert info.value.body["error"]["type"] == "invalid_request_error"


def test_litellm(server, tools_server):
    """litellm runs in an environment of its own, because it pins an older openai."""
    if not CLIENTS.is_current():
        pytest.skip("no build/clients: `cllm test` makes it where PyPI can be reached")
    program = Path(__file__).with_name("litellm_client.py")
    extra = json.dumps(tiny_model.saying(tiny_model.CALL, tiny_model.WORDS))
    command = [CLIENTS.python, program, server.url, tools_server.url, extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
