"""A model that a GPU computes, in a guest: gpud and its interpreter of PTX stand in for a card."""

import json
import threading
import time
from urllib import error, request

import gguf
import numpy
import pytest
from support import gpu_parts, small_models
from support.engine_library import LIBRARY, Engine, Library

PROMPT = list(range(40, 60))
N_TOKENS = 8
PATIENCE = 240  # two emulators on a busy machine
LOSS_SECONDS = 6

MISSING = gpu_parts.missing((*gpu_parts.ALL, LIBRARY))
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def quantize(kind, rows):
    return gguf.quants.quantize(rows.astype(numpy.float32), kind).tobytes()


def ask(guest, path, body=None, timeout=PATIENCE):
    """Return (status, JSON) of a request."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with request.urlopen(request.Request(guest.url + path, data), timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except error.HTTPError as exc:
        return exc.code, json.loads(exc.read())


def generate(guest, prompt=PROMPT):
    """Return N_TOKENS greedy tokens after a prompt."""
    body = {
        "prompt": prompt,
        "speculative.n_max": 0,
        "n_predict": N_TOKENS,
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    status, answer = ask(guest, "/completion", body)
    assert status == 200, answer
    return answer["tokens"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """(path of a model, the CPU's tokens) by type of weights."""
    folder = tmp_path_factory.mktemp("gpu")
    library = Library(LIBRARY)
    found = {}
    for name in ("F32", "Q8_0"):
        path = folder / f"{name}.gguf"
        small_models.make(path, "llama", gguf.GGMLQuantizationType[name], quantize)
        with Engine(library, path) as engine:
            params = json.dumps({"temperature": 0, "ignore_eos": True})
            found[name] = path, engine.generate(PROMPT, N_TOKENS, params)
    return found


def test_a_q8_0_model(boot, cases):
    path, tokens = cases["Q8_0"]
    guest = boot(model=str(path), gpu="ptx", gpu_memory=64)
    assert guest.verdict is None
    assert generate(guest) == tokens
    status, props = ask(guest, "/props")
    assert status == 200 and props["kernels"] == "exact"
    assert props["gpu"]["layers"] == small_models.N_LAYER + 1
    assert props["gpu"]["kernels"] == "ggml-cuda" and props["gpu"]["kind"] == "ptx"
    assert props["gpu"]["devices"] == 1
    # A token costs one wait for gpud, once its kernels are loaded.
    waits = []
    for _ in range(3):
        generate(guest, PROMPT[:1])
        waits.append(ask(guest, "/props")[1]["gpu"]["round_trips"])
    assert 0 < waits[2] - waits[1] <= N_TOKENS + 1, waits
    memory_runs_out(guest, tokens)


def memory_runs_out(guest, tokens):
    """A script takes what is left of the quota: who needs more gets an error, and nobody else."""
    short = generate(guest, PROMPT[:1])
    serial = guest.serial
    serial.send("\r")
    serial.expect(">>> ")
    serial.run("import gpu; s = gpu.stats(); left = (s['quota'] - s['used']) // 256 * 256")
    serial.run("held = []; n = left")
    serial.run(
        "exec('while n > 64:\\n try: held.append(gpu.alloc(n))\\n except MemoryError: n //= 2')"
    )
    assert int(serial.run("len(held)")) > 0
    long = {"prompt": list(range(40, 100)), "n_predict": 1, "cache_prompt": False}
    answers = []
    for path, body in (("/completion", long), ("/v1/embeddings", {"input": "one two"})):
        answers.append(ask(guest, path, body))
    # The largest batch was computed at loading. Embeddings need a context of their own.
    assert answers[0][0] == 200, answers
    assert answers[1][0] == 503 and "memory" in answers[1][1]["error"]["message"], answers
    assert ask(guest, "/health")[0] == 200 and generate(guest, PROMPT[:1]) == short
    serial.run("[m.close() for m in held] and None")
    assert generate(guest) == tokens
    assert ask(guest, "/props")[1]["gpu"]["losses"] == 0


def test_gpud_dies_while_a_model_answers(boot, cases):
    path, tokens = cases["F32"]
    guest = boot(model=str(path), gpu="ptx")
    assert generate(guest) == tokens
    told = []

    def stream():
        body = {"prompt": PROMPT, "n_predict": 1500, "temperature": 0, "stream": True}
        data = json.dumps({**body, "ignore_eos": True}).encode()
        asked = request.Request(guest.url + "/completion", data)
        with request.urlopen(asked, timeout=PATIENCE) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    told.append((time.monotonic(), json.loads(line[6:])))

    thread = threading.Thread(target=stream)
    thread.start()
    until = time.monotonic() + PATIENCE
    while len(told) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    guest.gpu.kill()
    killed = time.monotonic()
    thread.join(PATIENCE)
    when, last = told[-1]
    assert last["error"]["code"] == 503 and "the GPU is lost" in last["error"]["message"]
    assert when - killed < LOSS_SECONDS
    # What needs no model is served, and all else has the reason.
    with request.urlopen(guest.url + "/", timeout=PATIENCE) as page:
        assert page.status == 200
    for path_, body in (("/health", None), ("/completion", {"prompt": PROMPT})):
        status, answer = ask(guest, path_, body)
        assert status == 503 and "the GPU is lost" in answer["error"]["message"]
    # A new gpud.
    guest.gpu.start()
    assert ask(guest, "/models/load", {}) == (200, {"success": True})
    until = time.monotonic() + PATIENCE
    while ask(guest, "/health")[0] != 200 and time.monotonic() < until:
        time.sleep(0.2)
    assert generate(guest) == tokens
    assert ask(guest, "/props")[1]["gpu"]["losses"] == 1
