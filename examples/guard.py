"""Middleware around the built-in routes: refuses some prompts, gives all chats a system prompt,
and counts. Errors of the handlers inside come back as responses, so they are counted, too.
"""
# SPDX-License-Identifier: MIT

from cllm import app
from httpd import HttpError

BANNED = ("password", "secret")
SYSTEM = {"role": "system", "content": "Answer in one sentence."}

counts = {}


@app.middleware
async def guard(request, handler):
    if request.path == "/v1/chat/completions":
        body = request.json()
        messages = body.get("messages") if isinstance(body, dict) else None
        if isinstance(messages, list):
            for message in messages:
                text = str(message).lower()
                if any([word in text for word in BANNED]):
                    raise HttpError(403, "this prompt is not for me")
            body["messages"] = [SYSTEM] + messages
            request.set_json(body)
    response = await handler(request)
    counts[response.status] = counts.get(response.status, 0) + 1
    return response


@app.get("/counts")
def tell(request):
    return counts
