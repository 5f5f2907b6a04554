# Handler of the guest that bench/serving.py measures: what a decode of n tokens costs.
import time

from cllm import app
from serve.service import service

_BEFORE = 128  # tokens in the cache
_LONG = "The quick brown fox jumps over the lazy dog near the river bank. "


@app.get("/batch/<n>")
async def batch(request, n):
    """Milliseconds of a decode of n tokens of one sequence, all with logits, and of sampling one."""
    scheduler = service.scheduler
    engine = scheduler.engine
    if scheduler.busy:
        return {"error": "requests are running"}, 503
    n = int(n)
    scheduler.cache.flush()  # now all cells and sequences are free
    tokens = engine.tokenize(_LONG * 30, True, True)[:_BEFORE]
    sampler = engine.sampler({"temperature": 0})
    try:
        for i in range(0, _BEFORE, 32):
            part = tokens[i : i + 32]
            engine.decode(part, list(range(i, i + 32)), [0] * 32, [False] * 31 + [True])
        began = time.ticks_us()
        engine.decode(tokens[:n], list(range(_BEFORE, _BEFORE + n)), [0] * n, [True] * n)
        decoded = time.ticks_us()
        sampler.sample(n - 1)
        sampled = time.ticks_us()
    finally:
        engine.seq_rm(0, -1, -1)
        sampler.close()
    return {
        "decode_ms": time.ticks_diff(decoded, began) / 1000,
        "sample_ms": time.ticks_diff(sampled, decoded) / 1000,
    }
