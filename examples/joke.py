"""A route of your own around the model.

cllm run --model smollm2 --app examples/joke.py
curl http://127.0.0.1:8080/joke/penguins
"""
# SPDX-License-Identifier: MIT

from cllm import app, llm


@app.get("/joke/<subject>")
async def joke(request, subject):
    return {"joke": await llm.chat("Tell me a joke about " + subject, max_tokens=40)}
