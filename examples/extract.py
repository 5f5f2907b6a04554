"""Structured output: the model can answer only in the form of the schema.

curl http://127.0.0.1:8080/rate -d 'The soup was cold and the waiter was rude.'
"""
# SPDX-License-Identifier: MIT

import json

from cllm import app, llm

SCHEMA = {
    "type": "object",
    "properties": {"stars": {"enum": [1, 2, 3, 4, 5]}, "angry": {"type": "boolean"}},
    "required": ["stars", "angry"],
    "additionalProperties": False,
}


@app.post("/rate")
async def rate(request):
    text = await llm.chat(
        "Rate this review: " + request.text(), json_schema=SCHEMA, max_tokens=60, temperature=0
    )
    return json.loads(text)
