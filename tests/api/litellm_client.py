"""litellm, unmodified, against frozen/serve; test_api_clients.py runs it in build/clients.

litellm_client.py URL URL_WITH_TOOLS TOOLS_EXTRA_BODY
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the internet on import

import litellm

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": ["Paris", "Oslo"]}},
            "required": ["place"],
        },
    },
}


def chat(options):
    answer = litellm.completion(**options)
    assert answer.usage.completion_tokens == 6
    chunks = list(litellm.completion(**options, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason == "length"


def text_completion(options):
    answer = litellm.text_completion(
        model="text-completion-openai/m",
        prompt="Hello",
        max_tokens=6,
        temperature=0,
        api_base=options["api_base"],
        api_key="x",
    )
    assert answer.usage.completion_tokens == 6


def structured(options):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    answer = litellm.completion(
        **{**options, "max_tokens": 40},
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["yes"], bool)


def tools(options, extra):
    options = {
        **options,
        "max_tokens": 40,
        "tools": [TOOL],
        "tool_choice": "required",
        "extra_body": extra,
    }
    message = litellm.completion(**options).choices[0].message
    call = message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments) == {"place": "Paris"}
    whole = litellm.stream_chunk_builder(list(litellm.completion(**options, stream=True)))
    call = whole.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments) == {"place": "Paris"}


def embeddings(options):
    answer = litellm.embedding(
        model="openai/m", input=["Hello", "world"], api_base=options["api_base"], api_key="x"
    )
    assert [len(item["embedding"]) for item in answer.data] == [64, 64]


def anthropic(url):
    answer = litellm.completion(
        model="anthropic/m", api_base=url, api_key="x", messages=HELLO, max_tokens=6
    )
    assert answer.usage.completion_tokens == 6 and answer.choices[0].message.content


def errors(options):
    try:
        litellm.completion(**{**options, "messages": []})
    except litellm.BadRequestError as exc:
        assert exc.status_code == 400
    else:
        raise AssertionError("no messages, and no error")


def main(url, tools_url, extra):
    options = dict(
        model="openai/m",
        api_base=url + "/v1",
        api_key="x",
        messages=HELLO,
        max_tokens=6,
        temperature=0,
        num_retries=0,
    )
    chat(options)
    text_completion(options)
    structured(options)
    tools({**options, "api_base": tools_url + "/v1"}, json.loads(extra))
    embeddings(options)
    anthropic(url)
    errors(options)


main(*sys.argv[1:])
