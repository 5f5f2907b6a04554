# Handlers of the guest that bench/layers.py profiles. They put clocks around the functions by which
# one layer calls the next; GET /layers returns the time of each layer since the last such request.
# Coroutines have no such function: their time is the rest.
import time

from cllm import app
from drivers import e1000, virtio_net
from httpd import parser, router
from net import host, stack
from serve.apis import reply, sse
from serve.scheduling import scheduler
from serve.service import service

took = {}  # layer -> [calls, microseconds without those of the functions that it called]
inner = [0]  # for each depth of calls: microseconds of the functions called from there
since = [time.ticks_us(), 0]


def clocked(layer, function):
    entry = took.setdefault(layer, [0, 0])
    ticks, diff = time.ticks_us, time.ticks_diff

    def wrapper(*args, **kwargs):
        inner.append(0)
        began = ticks()
        try:
            return function(*args, **kwargs)
        finally:
            spent = diff(ticks(), began)
            entry[0] += 1
            entry[1] += spent - inner.pop()
            inner[-1] += spent

    return wrapper


def clock(layer, owner, *names):
    for name in names:
        setattr(owner, name, clocked(layer, getattr(owner, name)))


for card in (e1000.Card, virtio_net.Card):
    clock(
        "driver",
        card,
        "receive",
        "tx_alloc",
        "tx_commit",
        "tx_alloc_large",
        "tx_commit_large",
        "interrupt",
    )
clock("TCP/IP", stack.Stack, "input", "input_segment", "poll")
clock("between interrupt and stack", host, "pump", "enter", "leave")
clock("HTTP", parser.Parser, "feed", "head", "begin_body", "body")
clock("HTTP", router.App, "find", "finish", "report")
clock("HTTP", router.Response, "head")
clock("scheduler", scheduler.Scheduler, "step", "submit")
clock("text and events", reply.Reply, "take")
clock("text and events", sse.Writer, "start", "finish")


class Engine:
    """The engine with a clock around decode()."""

    def __init__(self, engine):
        self._engine = engine
        self.decode = clocked("engine", engine.decode)

    def __getattr__(self, name):
        return getattr(self._engine, name)


@app.get("/layers")
async def layers(request):
    if service.scheduler and not isinstance(service.scheduler.engine, Engine):
        service.scheduler.engine = Engine(service.scheduler.engine)
    now = time.ticks_us()
    answer = {
        "us": time.ticks_diff(now, since[0]),
        "layers": {k: list(v) for k, v in took.items()},
    }
    for entry in took.values():
        entry[0] = entry[1] = 0
    since[0] = now
    return answer
