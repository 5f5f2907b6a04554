"""GET /openapi.json: an OpenAPI 3.1 document, made of the table of routes (table.py), the sampler's
ranges (sampler_ranges.py) and the schemas below. tests/api/test_api_openapi.py checks it against
the server.
"""
# SPDX-License-Identifier: MIT

from .info import release
from .sampler_ranges import INT32, RANGES

_STRING = {"type": "string"}
_FLAG = {"type": ["boolean", "null"]}
_OBJECT = {"type": "object"}
_ANY = {}


def _optional(kind, **more):
    more["type"] = [kind, "null"]
    return more


def _list(items, **more):
    more["type"] = "array"
    more["items"] = items
    return more


def _object(required=(), **properties):
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema


def _generation():
    # Fields of every generation.
    fields = {}
    for name, limits in RANGES.items():
        field = _optional("integer" if limits.whole else "number")
        if not limits.clamps:
            field["minimum"] = limits.least
            field["maximum"] = limits.most
        fields[name] = field
    for name in (
        "stream", "timings_per_token", "return_tokens", "return_progress", "verbose", "ignore_eos",
        "cache_prompt", "post_sampling_probs",
    ):  # fmt: skip
        fields[name] = _FLAG
    for name in ("n_predict", "max_tokens", "max_completion_tokens"):
        fields[name] = _optional("integer", minimum=-1, maximum=INT32)
    fields["n"] = _optional("integer", minimum=1)
    fields["seed"] = _optional("integer")
    fields["priority"] = _optional("integer", minimum=-1000, maximum=1000)
    fields["cache_salt"] = _optional("string", maxLength=256)
    fields["stop"] = {"type": ["string", "array", "null"], "items": _STRING}
    fields["stream_options"] = _optional("object")
    fields["grammar"] = _optional("string")
    fields["json_schema"] = _optional("object")
    fields["response_format"] = _optional("object")
    fields["lora"] = {"type": ["array", "null"], "items": _object((), id=_ANY, scale=_ANY)}
    return fields


def _with(required, fields, **more):
    properties = dict(fields)
    properties.update(more)
    return {"type": "object", "required": required, "properties": properties}


_PROMPT = {"type": ["string", "array", "object"]}
_MESSAGES = _list(_object(("role",), role=_STRING, content=_ANY), minItems=1)
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_USAGE = _object((), prompt_tokens=_INTEGER, total_tokens=_INTEGER)


def schemas():
    """Return the schemas by name."""
    fields = _generation()
    same = {name: fields[name] for name in ("stream", "temperature", "top_p", "top_k")}
    think = {"type": ["boolean", "string", "null"]}
    form = {"type": ["string", "object", "null"]}
    ollama = {"model": _optional("string"), "stream": _FLAG, "options": _optional("object")}
    return {
        "Any": _ANY,
        "Object": _OBJECT,
        "Array": _list(_ANY),
        "Error": _object(("error",), error=_ANY),
        "Health": _object(("status",), status=_STRING),
        "Success": _object(("success",), success={"type": "boolean"}),
        "ModelName": _object((), model=_optional("string")),
        "ModelSource": _object(
            (),
            model=_optional("string"),
            url=_optional("string"),
            file=_optional("string"),
            sha256=_optional("string"),
            wait=_optional("boolean"),
        ),
        "Model": _object(("id", "object"), id=_STRING, object={"const": "model"}),
        "Models": _object(("data", "object"), data=_list(_OBJECT), object={"const": "list"}),
        "Completion": _with(["prompt"], fields, prompt=_PROMPT),
        "Infill": _with(
            ["input_prefix", "input_suffix"], fields, input_prefix=_STRING, input_suffix=_STRING,
            prompt=_optional("string"), input_extra=_optional("array"),
        ),
        "Chat": _with(
            ["messages"], fields, messages=_MESSAGES, tools=_optional("array"),
            tool_choice={"type": ["string", "object", "null"]}, logprobs=_FLAG,
            top_logprobs=_optional("integer", minimum=0, maximum=1000),
            reasoning_effort=_optional("string"), chat_template_kwargs=_optional("object"),
        ),
        "Choices": _object(
            ("choices", "usage"), choices=_list(_OBJECT), usage=_USAGE, id=_STRING, model=_STRING
        ),
        "Responses": _with(
            ["input"], same, input={"type": ["string", "array"]}, instructions=_optional("string"),
            max_output_tokens=_optional("integer"), store=_FLAG,
            previous_response_id=_optional("string"), text=_optional("object"),
            reasoning=_optional("object"), tools=_optional("array"),
        ),
        "Response": _object(
            ("id", "object", "status", "output"), id=_STRING, object={"const": "response"},
            status=_STRING, output=_list(_OBJECT),
        ),
        "ItemList": _object(("data", "has_more"), data=_list(_OBJECT), has_more=_FLAG),
        "Messages": _with(
            ["messages"], same, messages=_list(_object(("role",), role=_STRING, content=_ANY)),
            system={"type": ["string", "array", "null"]}, max_tokens=_optional("integer"),
            tools=_optional("array"), stop_sequences=_optional("array"),
        ),
        "Message": _object(
            ("id", "type", "role", "content", "usage"), content=_list(_OBJECT), usage=_OBJECT
        ),
        "InputTokens": _object(("input_tokens",), input_tokens=_INTEGER),
        "Embeddings": _object(
            (), input=_PROMPT, content=_PROMPT, dimensions=_optional("integer", minimum=1),
            embd_normalize=_optional("integer", minimum=-1, maximum=32),
            encoding_format={"enum": ["float", "base64", None]},
        ),
        # An array where the request has `content`, llama-server's own shape.
        "EmbeddingList": {"type": ["object", "array"]},
        "Rerank": _object(
            ("query",), query=_STRING, documents=_optional("array"), texts=_optional("array"),
            top_n=_optional("integer", minimum=0), return_documents=_FLAG, return_text=_FLAG,
        ),
        "Tokenize": _object(
            (), content=_ANY, add_special=_FLAG, parse_special=_FLAG, with_pieces=_FLAG
        ),
        "Tokens": _object(("tokens",), tokens=_list(_ANY)),
        "Detokenize": _object((), tokens={"type": ["array", "null"], "items": _INTEGER}),
        "Content": _object(("content",), content=_STRING),
        "Prompt": _object(("prompt",), prompt=_STRING),
        "Adapters": _list(_object((), id=_INTEGER, scale=_NUMBER)),
        "SlotFile": _object((), filename=_STRING),
        "Control": _object(("id", "action"), id=_STRING, action={"const": "reasoning_end"}),
        "Lookup": _object((), conversation_ids=_optional("array")),
        "Predict": _object(("instances",), instances=_list(_OBJECT, maxItems=128)),
        "Predictions": _object(("predictions",), predictions=_list(_ANY)),
        "Version": _object(("version",), version=_STRING),
        "OllamaModels": _object(("models",), models=_list(_OBJECT)),
        "OllamaShow": _object((), model=_optional("string")),
        "OllamaChat": _with(
            ["messages"], ollama, messages=_list(_object(("role",), role=_STRING, content=_STRING)),
            tools=_optional("array"), format=form, think=think,
        ),
        "OllamaGenerate": _with(
            ["prompt"], ollama, prompt=_STRING, system=_optional("string"),
            suffix=_optional("string"), raw=_FLAG, format=form, think=think,
        ),
        "OllamaAnswer": _object(("done",), done={"type": "boolean"}, model=_STRING),
        "OllamaEmbed": _object((), input={"type": ["string", "array"]}, prompt=_STRING),
        "OllamaEmbeddings": _object(("embeddings",), embeddings=_list(_list(_NUMBER))),
    }  # fmt: skip


def _ref(name):
    return {"$ref": "#/components/schemas/" + name}


_KINDS = {"str": "string", "path": "string", "int": "integer"}


def _path(pattern):
    # Returns (OpenAPI's path, the parameters in it) of one of httpd's patterns.
    parts = []
    parameters = []
    for part in pattern.split("/"):
        if part.startswith("<"):
            kind, _, name = part[1:-1].rpartition(":")
            schema = {"type": _KINDS[kind or "str"]}
            if schema["type"] == "string":
                schema["minLength"] = 1
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
            part = "{" + name + "}"
        parts.append(part)
    return "/".join(parts), parameters


def _operation(entry, parameters):
    about = entry.about
    gives = about["gives"]
    for name, schema in about.get("query", {}).items():
        parameters.append({"name": name, "in": "query", "schema": schema})
    error = {"description": "An error", "content": {"application/json": {"schema": _ref("Error")}}}
    good = {"description": about["says"]}
    if "/" in gives:
        good["content"] = {gives: {}}
    elif gives != "none":
        good["content"] = {"application/json": {"schema": _ref(gives)}}
        if about.get("events"):
            good["content"]["text/event-stream"] = {}
        if about.get("lines"):
            good["content"]["application/x-ndjson"] = {}
    responses = {"204" if gives == "none" else "200": good}
    for code in (400, 401, 404, 429, 503) + about.get("codes", ()):
        responses[str(code)] = error
    operation = {"summary": about["says"], "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if "takes" in about:
        body = {"content": {"application/json": {"schema": _ref(about["takes"])}}}
        body["required"] = True
        operation["requestBody"] = body
    return operation


def document(service, version):
    """Return the OpenAPI document of the service's routes."""
    paths = {}
    for entry in service.api.entries:
        for pattern in entry.paths:
            path, parameters = _path(pattern)
            operation = _operation(entry, parameters)
            paths.setdefault(path, {})[entry.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "cllm", "version": version or "0"},
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def install(service):
    """Add the route to the service's application."""

    @service.api.get("/openapi.json", gives="Object", says="This document")
    def openapi(request):
        return document(service, release())
