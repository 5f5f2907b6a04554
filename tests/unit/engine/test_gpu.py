"""The engine with a GPU: tokens, memory, loss, and what comes after.

Each test runs on two devices: a fake one, which needs the image's archives only, and ggml-cuda over
gpud's worker with the interpreter of PTX, which needs `cllm build --gpu`.
"""

import json

import gguf
import numpy
import pytest
from support import gpu_program, small_models
from support.gpu_program import GpuFailure, GpuProgram

PROMPT = list(range(40, 60))
ENOMEM, ELOST, EFAIL = -4, -6, -2
DEVICES = ("fake", "loop")
N_TOKENS = 8


def quantize(kind, rows):
    return gguf.quants.quantize(rows.astype(numpy.float32), kind).tobytes()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Paths of one model by its type of weights."""
    folder = tmp_path_factory.mktemp("gpu")
    paths = {}
    for name in ("F32", "Q8_0"):
        paths[name] = folder / f"{name}.gguf"
        small_models.make(paths[name], "llama", gguf.GGMLQuantizationType[name], quantize)
    return paths


@pytest.fixture(scope="session", params=DEVICES)
def start(request):
    """A function that starts the program: start(quota=..., ...)."""
    libs = gpu_program.LIBS if request.param == "fake" else gpu_program.GPU_LIBS
    if not libs.exists():
        pytest.skip(f"no {libs}: " + ("cllm build" if request.param == "fake" else "--gpu"))
    program, options = gpu_program.program(request.param)
    return lambda **more: GpuProgram(program, **options, **more)


def gpu_of(program):
    return json.loads(program.send("gpu"))


@pytest.fixture(scope="session")
def of_cpu(start, models):
    """Tokens that the CPU generates, by type."""
    found = {}
    with start() as program:
        for name, path in models.items():
            assert program.open(path, 0) == 0
            assert gpu_of(program) is None, "a model on the CPU looks for no GPU"
            found[name] = program.generate(N_TOKENS, PROMPT)
            program.send("close")
    return found


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_tokens_are_the_cpus(start, models, of_cpu, kind):
    with start() as program:
        assert program.open(models[kind]) == small_models.N_LAYER + 1
        before = gpu_of(program)
        assert program.generate(N_TOKENS, PROMPT) == of_cpu[kind]
        after = gpu_of(program)
        assert after["launches"] > before["launches"] and after["fault"] == ""
        assert 0 < after["used"] <= after["memory"]
        program.send("close")
        assert gpu_of(program)["used"] == 0, "everything is freed"


def test_some_layers(start, models, of_cpu):
    with start() as program:
        assert program.open(models["F32"], 1, 2) == 1
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_no_gpu_is_the_cpu(start, models, of_cpu):
    with start(quota=0) as program:
        assert program.open(models["F32"]) == 0
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]
        program.send("close")
        # A model in the CPU's care does not see a GPU that comes later; the next one does.
        program.send("quota", 1 << 30)
        assert program.open(models["F32"]) == small_models.N_LAYER + 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("how", ["lose", "fault"])
def test_a_loss_and_a_new_device(start, models, of_cpu, how, threads):
    words = {"lose": "gpud", "fault": "0x10"}[how]
    with start() as program:
        program.open(models["F32"], -1, threads)
        assert program.generate(2, PROMPT) == of_cpu["F32"][:2]
        program.send(how)
        for _ in range(2):
            with pytest.raises(GpuFailure, match=words) as failure:
                program.generate(2, PROMPT)
            assert failure.value.code == ELOST
        assert words in gpu_of(program)["fault"]
        assert program.send("tokenize", "hello"), "what needs no GPU works"
        program.send("close")
        assert program.open(models["F32"], -1, threads) == small_models.N_LAYER + 1
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]
        assert gpu_of(program)["losses"] == 1 and gpu_of(program)["fault"] == ""


def test_a_loss_while_nothing_is_open(start, models, of_cpu):
    with start() as program:
        program.open(models["F32"])
        program.send("close")
        program.send("lose")
        program.open(models["F32"])
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_a_lost_model_may_be_closed_after_the_next_is_open(start, models, of_cpu):
    with start() as program:
        program.open(models["F32"])
        program.send("lose")
        program.send("keep")  # what "close" closes later
        program.open(models["F32"])
        program.send("close_kept")
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_no_new_device(start, models, of_cpu):
    with start() as program:
        program.open(models["F32"])
        program.send("lose")
        program.send("close")
        program.send("quota", 0)
        with pytest.raises(GpuFailure, match="no other one") as failure:
            program.open(models["F32"])
        assert failure.value.code == ELOST
        assert program.open(models["F32"], 0) == 0, "the CPU is asked for by name"
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]
        program.send("close")
        program.send("quota", 1 << 30)
        program.open(models["F32"])
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_another_device_is_refused(start, models):
    with start() as program:
        program.open(models["F32"])
        program.send("lose")
        program.send("close")
        program.send("shown 7 0")
        with pytest.raises(GpuFailure, match="another GPU"):
            program.open(models["F32"])


def test_a_model_that_does_not_fit(start, models, of_cpu):
    with start(quota=1 << 20) as program:
        with pytest.raises(GpuFailure, match=r"too little memory: .* MiB more .* of 1.0 MiB"):
            program.open(models["F32"])
        assert gpu_of(program)["losses"] == 0
        assert program.open(models["F32"], 0) == 0
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_memory_that_runs_out_while_decoding(start, models, of_cpu):
    with start() as program:
        program.open(models["F32"])
        used = gpu_of(program)["used"]
    # A prompt takes more beside the buffers than a token does.
    with start(quota=used + 6 * 1024) as program:
        program.open(models["F32"])
        for _ in range(2):
            with pytest.raises(GpuFailure, match="memory is used up") as failure:
                program.generate(2, PROMPT)
            assert failure.value.code == ENOMEM
        found = gpu_of(program)
        assert found["losses"] == 0 and found["fault"] == ""
