"""Chat requests of three APIs as the engine gets them, on CPython and on MicroPython."""

import pytest
from httpd import jsonio
from serve.apis import anthropic, responses
from serve.apis.chat import conversation_of
from serve.apis.params import Params
from serve.scheduling.errors import RequestError

USER = {"role": "user", "content": "Hello"}
BEGUN = {"role": "assistant", "content": "one, two, "}
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
NAMES = ("weather", "clock")
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
CLAUDE_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
FLAT_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]


def chat(*messages, **fields):
    return conversation_of(dict(fields, messages=list(messages)))


def claude(*messages, **fields):
    return conversation_of(anthropic.chat_of(dict(fields, messages=list(messages))))


def response(items="Hello", **fields):
    return conversation_of(responses.chat_of(dict(fields, input=items)))


def refused(function, *arguments, **fields):
    with pytest.raises(RequestError) as info:
        function(*arguments, **fields)
    assert info.value.status == 400
    return info.value.message


def names(request):
    return [tool["function"]["name"] for tool in request["tools"]]


# A last message of the assistant.


@pytest.mark.parametrize("make", [chat, claude])
def test_an_answer_that_was_begun_is_continued(make):
    request = make(USER, BEGUN)
    assert request["continue_final_message"] is True
    assert request["add_generation_prompt"] is False
    assert request["messages"] == [USER, BEGUN]
    parts = {"role": "assistant", "content": [{"type": "text", "text": "one"}]}
    assert make(USER, parts)["continue_final_message"] is True
    request = make(USER)
    assert "continue_final_message" not in request and "add_generation_prompt" not in request


def test_a_response_that_was_begun_is_continued():
    items = [USER, {"role": "assistant", "content": [{"type": "output_text", "text": "one"}]}]
    request = response(items)
    assert request["continue_final_message"] is True
    assert request["add_generation_prompt"] is False


def test_a_client_can_say_whether_to_continue():
    assert chat(USER, BEGUN, continue_final_message=False)["continue_final_message"] is False
    request = chat(USER, BEGUN, continue_final_message=True, add_generation_prompt=False)
    assert request["continue_final_message"] is True
    # As in llama-server, an answer that was begun is continued whatever the other flag says.
    for flag in (True, False):
        assert chat(USER, BEGUN, add_generation_prompt=flag)["add_generation_prompt"] is False
    assert chat(USER, add_generation_prompt=False)["add_generation_prompt"] is False


def test_two_answers_cannot_be_continued():
    assert "2 or more assistant messages" in refused(chat, USER, BEGUN, BEGUN)
    assert "2 or more assistant messages" in refused(claude, USER, BEGUN, BEGUN)
    assert chat(BEGUN, BEGUN, USER)["messages"] == [BEGUN, BEGUN, USER]


@pytest.mark.parametrize("content", ["", None, []])
def test_an_empty_answer_is_not_begun(content):
    request = chat(USER, {"role": "assistant", "content": content})
    assert request["messages"] == [USER]
    assert "continue_final_message" not in request and "add_generation_prompt" not in request


# Anthropic's blocks.


def test_tool_results_come_before_the_text_of_their_turn():
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "SUNNY"}
    other = {
        "type": "tool_result",
        "tool_use_id": "t2",
        "content": [{"type": "text", "text": "B"}],
    }
    text = {"type": "text", "text": "REMINDER"}
    for blocks in ([result, text, other], [text, result, other], [result, other, text]):
        request = claude(
            USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": blocks}
        )
        assert [message["role"] for message in request["messages"]] == [
            "user", "assistant", "tool", "tool", "user",
        ]  # fmt: skip
        assert [message["content"] for message in request["messages"][2:]] == [
            "SUNNY", "B", [text],
        ]  # fmt: skip
        assert [message["tool_call_id"] for message in request["messages"][2:4]] == ["t1", "t2"]


# tool_choice.


@pytest.mark.parametrize(
    "make, tools, choice",
    [
        (chat, TOOLS, "required"),
        (claude, CLAUDE_TOOLS, {"type": "any"}),
        (response, FLAT_TOOLS, "required"),
    ],
)
def test_a_call_of_any_tool_can_be_required(make, tools, choice):
    request = make(USER) if make is not response else make()
    assert "tool_choice" not in request
    arguments = () if make is response else (USER,)
    request = make(*arguments, tools=tools, tool_choice=choice)
    assert request["tool_choice"] == "required" and names(request) == list(NAMES)
    assert "parallel_tool_calls" not in request
    # Without a tool there is nothing to call.
    assert "tool_choice" in refused(make, *arguments, tool_choice=choice)
    assert "tool_choice" in refused(make, *arguments, tools=[], tool_choice=choice)


@pytest.mark.parametrize(
    "make, tools, choice",
    [
        (chat, TOOLS, {"type": "function", "function": {"name": "clock"}}),
        (chat, TOOLS, {"function": {"name": "clock"}}),
        (claude, CLAUDE_TOOLS, {"type": "tool", "name": "clock"}),
        (response, FLAT_TOOLS, {"type": "function", "name": "clock"}),
    ],
)
def test_a_tool_by_name_is_called_once(make, tools, choice):
    arguments = () if make is response else (USER,)
    request = make(*arguments, tools=tools, tool_choice=choice)
    assert request["tool_choice"] == "required" and names(request) == ["clock"]
    assert request["parallel_tool_calls"] is False
    assert "clock" in refused(make, *arguments, tools=tools[:1], tool_choice=choice)
    assert "tool_choice" in refused(make, *arguments, tool_choice=choice)


def test_allowed_tools():
    wanted = [{"type": "function", "function": {"name": "clock"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": wanted}}
    request = chat(USER, tools=TOOLS, tool_choice=choice)
    assert request["tool_choice"] == "auto" and names(request) == ["clock"]
    flat = [{"type": "function", "name": "clock"}, {"type": "web_search"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": flat}
    request = response(tools=FLAT_TOOLS, tool_choice=choice)
    assert request["tool_choice"] == "required" and names(request) == ["clock"]
    assert "parallel_tool_calls" not in request


@pytest.mark.parametrize(
    "choice",
    [
        "any", "", 1, True, [], {"type": "any"}, {"type": "function"},
        {"type": "function", "name": 1},
        {"type": "custom", "custom": {"name": "clock"}}, {"type": "web_search_preview"},
        {"type": "allowed_tools"}, {"type": "allowed_tools", "mode": "none", "tools": FLAT_TOOLS},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
        {"type": "allowed_tools", "mode": "auto", "tools": ["clock"]},
    ],
)  # fmt: skip
def test_choices_that_are_none(choice):
    assert "tool_choice" in refused(chat, USER, tools=TOOLS, tool_choice=choice)


def test_claude_choices():
    assert claude(USER, tools=CLAUDE_TOOLS)["tool_choice"] == "auto"
    request = claude(USER, tools=CLAUDE_TOOLS, tool_choice={"type": "none"})
    assert request["tool_choice"] == "none"
    request = claude(
        USER, tools=CLAUDE_TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert request["tool_choice"] == "required" and request["parallel_tool_calls"] is False
    for choice in ({"type": "required"}, {}, {"type": "tool"}, {"type": "tool", "name": "x"}):
        assert "tool_choice" in refused(claude, USER, tools=CLAUDE_TOOLS, tool_choice=choice)


def test_a_call_that_is_a_must_is_not_a_structured_answer():
    form = {"type": "json_schema", "schema": SCHEMA}
    request = chat(USER, tools=TOOLS, tool_choice="required", response_format=form)
    assert "json_schema" not in request
    request = chat(USER, tools=TOOLS, tool_choice="auto", response_format=form)
    assert request["json_schema"] == SCHEMA
    grammar = "root ::= \"a\""
    assert "grammar" in refused(chat, USER, tools=TOOLS, tool_choice="required", grammar=grammar)


def test_thoughts_leave_room_for_a_call():
    request = chat(USER, tools=TOOLS, tool_choice="required", max_tokens=100)
    assert request["reasoning_budget_tokens"] == 50
    request = chat(
        USER, tools=TOOLS, tool_choice="required", max_tokens=100, reasoning_budget_tokens=7
    )
    assert request["reasoning_budget_tokens"] == 7
    assert "reasoning_budget_tokens" not in chat(USER, tools=TOOLS, max_tokens=100)


# Structured answers.


def test_schemas_of_each_api():
    assert (
        response(text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}})[
            "json_schema"
        ]
        == SCHEMA
    )
    assert "json_schema" not in response(text={"format": {"type": "text"}})
    assert "json_schema" not in response(text={})
    form = {"type": "json_schema", "schema": SCHEMA}
    assert claude(USER, output_config={"format": form})["json_schema"] == SCHEMA
    assert claude(USER, output_format=form)["json_schema"] == SCHEMA
    assert claude(USER, json_schema=SCHEMA)["json_schema"] == SCHEMA
    assert "json_schema" not in claude(USER, output_config={"effort": "low"})


def test_schemas_that_are_missing():
    for form in ({"type": "json_schema", "name": "n"}, {"type": "json"}, "json_schema", []):
        assert refused(response, text={"format": form})
    for form in ({"type": "json_schema"}, {"type": "json_object"}, {}, "json_schema"):
        assert refused(claude, USER, output_config={"format": form})
        assert refused(claude, USER, output_format=form)


# Probabilities.


def test_top_logprobs_of_nothing():
    for value in (0, None):
        assert chat(USER, logprobs=False, top_logprobs=value)
        assert chat(USER, top_logprobs=value)
    assert "logprobs" in refused(chat, USER, top_logprobs=1)
    assert "logprobs" in refused(chat, USER, logprobs=False, top_logprobs=1)


def test_top_logprobs_of_responses():
    def n_probs(**fields):
        return Params(responses.chat_of(dict(fields, input="x"))).n_probs

    wanted = ["message.output_text.logprobs"]
    assert response(top_logprobs=0) and response(top_logprobs=5)
    assert n_probs() is None and n_probs(top_logprobs=5) is None
    assert n_probs(include=["reasoning.encrypted_content"], top_logprobs=5) is None
    assert n_probs(include=wanted) == 0
    assert n_probs(include=wanted, top_logprobs=5) == 5
    for value in (-1, 21, "1", 1.5):
        assert "top_logprobs" in refused(response, top_logprobs=value)


# What a client reads of a call.


class Answer:
    def __init__(self, arguments, finish_reason="stop"):
        self.finish_reason = finish_reason
        function = {"name": "w", "arguments": arguments}
        self.message = {"tool_calls": [{"id": "1", "function": function}]}
        self.sequence = self


@pytest.mark.parametrize(
    "arguments, given",
    [
        ('{"p":"\\ud83d\\ude00"}', {"p": "\U0001f600"}),
        ('{"a":{"b":[1,2.5,null]}}', {"a": {"b": [1, 2.5, None]}}),
        ("{}", {}),
        ("", {}),
        ('{"p":', {"raw_arguments": '{"p":'}),
        ("[1]", {"raw_arguments": "[1]"}),
        ("Oslo", {"raw_arguments": "Oslo"}),
    ],
)
def test_a_calls_input_is_an_object(arguments, given):
    (block,) = anthropic._content(Answer(arguments))
    assert block["input"] == given
    if given == {"raw_arguments": arguments}:
        # What was cut off may be anything.
        assert anthropic._content(Answer(arguments, "length"))[0]["input"] == {}


def test_a_calls_input_has_no_infinities():
    try:
        jsonio.loads("1e999")
        pytest.skip("jsonio takes numbers beyond a double")
    except ValueError:
        pass
    (block,) = anthropic._content(Answer('{"p":1e999}'))
    assert block["input"] == {"raw_arguments": '{"p":1e999}'}
