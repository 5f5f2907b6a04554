# Handlers that the guest tests add with `cllm run --app`; also an example of what such a file
# holds.
import asyncio
import time

from cllm import app, llm

PIECE = bytes(range(256)) * 16


@app.post("/echo")
def echo(request):
    return request.body


@app.get("/stream/<int:size>")
async def stream(request, size):
    for at in range(0, size, len(PIECE)):
        yield PIECE[: size - at]


@app.post("/print/<int:lines>")
def shout(request, lines):
    for _ in range(lines):
        print("z" * 1022)


@app.get("/fail")
def fail(request):
    raise RuntimeError("a handler that always fails")


@app.get("/hold")
async def hold(request):
    yield b"x"
    await asyncio.sleep(60)


class Watch:
    """Longest time in microseconds that the event loop kept a task waiting."""

    def __init__(self):
        self.worst = 0
        self.task = None

    async def run(self):
        last = time.ticks_us()
        while True:
            await asyncio.sleep(0)
            now = time.ticks_us()
            self.worst = max(self.worst, now - last)
            last = now


watch = Watch()


@app.get("/watch")
async def worst(request):
    if watch.task is None:
        watch.task = asyncio.create_task(watch.run())
    found = watch.worst
    watch.worst = 0
    return {"worst_us": found}


@app.delete("/watch")
def stop(request):
    watch.task.cancel()
    watch.task = None


@app.post("/json")
def length(request):
    return {"length": len(request.json())}


@app.post("/same")
def same(request):
    return request.json()


@app.post("/count")
async def count(request):
    return {"tokens": len(await llm.tokenize(request.text()))}
