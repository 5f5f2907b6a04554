"""A streamed answer: each piece that the handler yields is sent at once. If the client goes away,
the generation ends with the handler.

    curl -N http://127.0.0.1:8080/story?about=the+sea
"""
# SPDX-License-Identifier: MIT

from cllm import app, llm


@app.get("/story")
async def story(request):
    about = request.query.get("about", "a cat")
    pieces = llm.stream("Once upon a time there was " + about + ".", max_tokens=60)
    try:
        async for piece in pieces:
            yield piece.text
    finally:
        pieces.cancel()
