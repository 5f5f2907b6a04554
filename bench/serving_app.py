# Handler of the guest that bench/serving.py measures: it times decodes of n tokens.
import time

from cllm import app
from serve.service import service

_BEFORE = 128  # tokens in the cache
_LONG = "The quick brown fox jumps over the lazy dog near the river bank. "


@app.get("/batch/<sizes>")
async def batch(request, sizes):
    """Time decodes of n tokens of one sequence, all with logits, and the sampling of one token.

    sizes: values of n, as "1,2,8". Returns milliseconds.
    """
    scheduler = service.scheduler
    engine = scheduler.engine
    if scheduler.busy:
        return {"error": "requests are running"}, 503
    scheduler.cache.flush()  # frees all cells and sequences
    tokens = engine.tokenize(_LONG * 30, True, True)[:_BEFORE]
    sampler = engine.sampler({"temperature": 0})
    decoding = {}
    try:
        for i in range(0, _BEFORE, 32):
            part = tokens[i : i + 32]
            engine.decode(part, list(range(i, i + 32)), [0] * 32, [False] * 31 + [True])
        # Nothing is awaited from here on, so no request comes in between.
        for n in [int(size) for size in sizes.split(",")]:
            began = time.ticks_us()
            engine.decode(tokens[:n], list(range(_BEFORE, _BEFORE + n)), [0] * n, [True] * n)
            decoded = time.ticks_us()
            sampler.sample(n - 1)
            sampling = time.ticks_diff(time.ticks_us(), decoded) / 1000
            decoding[n] = time.ticks_diff(decoded, began) / 1000
            engine.seq_rm(0, _BEFORE, -1)
    finally:
        engine.seq_rm(0, -1, -1)
        sampler.close()
    return {"decode_ms": [[n, decoding[n]] for n in decoding], "sample_ms": sampling}
