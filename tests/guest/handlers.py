# Handlers that the guest tests add with `cllm run --app`; also an example of what such a file holds.
from cllm import app, llm

PIECE = bytes(range(256)) * 16


@app.post("/echo")
def echo(request):
    return request.body


@app.get("/stream/<int:size>")
async def stream(request, size):
    for at in range(0, size, len(PIECE)):
        yield PIECE[: size - at]


@app.get("/fail")
def fail(request):
    raise RuntimeError("a handler that always fails")


@app.post("/count")
async def count(request):
    return {"tokens": len(await llm.tokenize(request.text()))}
