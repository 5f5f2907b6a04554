"""The engine with a GPU: tokens, memory, loss, and what comes after.

Each test runs on two devices: a fake one, which needs the image's archives only, and gpud with the
interpreter of PTX below ggml-cuda, which needs `cllm build --gpu`.
"""

import json

import gguf
import numpy
import pytest
from support import gpu_program, small_models
from support.gpu_program import GpuFailure

PROMPT = list(range(40, 60))
ENOMEM, ELOST, EFAIL = -4, -7, -2
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


@pytest.fixture(scope="session", params=["fake", "real"])
def made(request):
    device = {"fake": gpu_program.Fake, "real": gpu_program.Real}[request.param]
    for path in device.missing:
        if not path.exists():
            pytest.skip(f"there is no {path}: `cllm build --gpu` makes it")
    return device()


@pytest.fixture
def device(made):
    """A gpu_program.Fake or Real."""
    yield made
    made.stop()


def gpu_of(program):
    return json.loads(program.send("gpu"))


@pytest.fixture(scope="session")
def of_cpu(made, models):
    """Tokens that the CPU generates, by type."""
    found = {}
    with made.start(0) as program:
        for name, path in models.items():
            assert program.open(path, 0) == 0
            assert gpu_of(program) is None, "a model on the CPU looks for no GPU"
            found[name] = program.generate(N_TOKENS, PROMPT)
            program.send("close")
    return found


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_tokens_are_the_cpus(device, models, of_cpu, kind):
    with device.start() as program:
        assert program.open(models[kind]) == small_models.N_LAYER + 1
        before = gpu_of(program)
        assert program.generate(N_TOKENS, PROMPT) == of_cpu[kind]
        after = gpu_of(program)
        assert after["launches"] > before["launches"] and after["fault"] == ""
        assert 0 < after["used"] <= after["memory"]
        program.send("close")
        assert gpu_of(program)["used"] == 0, "everything is freed"


def test_some_layers(device, models, of_cpu):
    with device.start() as program:
        assert program.open(models["F32"], 1, 2) == 1
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_no_gpu_is_the_cpu(device, models, of_cpu):
    with device.start(0) as program:
        assert program.open(models["F32"]) == 0
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("how", ["lose", "fault"])
def test_a_loss_and_a_new_device(device, models, of_cpu, how, threads):
    words = {"lose": "gpud", "fault": "0x10"}[how]
    with device.start() as program:
        program.open(models["F32"], -1, threads)
        assert program.generate(2, PROMPT) == of_cpu["F32"][:2]
        if how == "lose":
            device.lose()
        else:
            program.send("fault")
        for _ in range(2):
            with pytest.raises(GpuFailure, match=words) as failure:
                program.generate(2, PROMPT)
            assert failure.value.code == ELOST
        assert words in gpu_of(program)["fault"]
        assert program.send("tokenize", "hello"), "what needs no GPU works"
        program.send("close")
        if how == "lose":
            device.restore()
        assert program.open(models["F32"], -1, threads) == small_models.N_LAYER + 1
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]
        assert gpu_of(program)["losses"] == 1 and gpu_of(program)["fault"] == ""


def test_a_loss_while_nothing_is_open(device, models, of_cpu):
    with device.start() as program:
        program.open(models["F32"])
        program.send("close")
        device.lose()
        device.restore()
        program.open(models["F32"])
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_a_lost_model_may_be_closed_after_the_next_is_open(device, models, of_cpu):
    with device.start() as program:
        program.open(models["F32"])
        device.lose()
        program.send("keep")
        device.restore()
        program.open(models["F32"])
        program.send("close_kept")
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_no_new_device(device, models, of_cpu):
    with device.start() as program:
        program.open(models["F32"])
        device.lose()
        device.remove()
        program.send("close")
        with pytest.raises(GpuFailure, match="no other one") as failure:
            program.open(models["F32"])
        assert failure.value.code == ELOST
        assert program.open(models["F32"], 0) == 0, "the CPU is asked for by name"
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]
        program.send("close")
        device.restore()
        program.open(models["F32"])
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_another_device_is_refused(device, models):
    if isinstance(device, gpu_program.Real):
        pytest.skip("gpud shows the same device again")
    with device.start() as program:
        program.open(models["F32"])
        device.lose()
        program.send("close")
        program.send("shown 7 0")
        with pytest.raises(GpuFailure, match="another GPU"):
            program.open(models["F32"])


def test_a_model_that_does_not_fit(device, models, of_cpu):
    with device.start(1) as program:
        with pytest.raises(GpuFailure, match=r"too little memory: .* MiB more .* of 1.0 MiB"):
            program.open(models["F32"])
        assert gpu_of(program)["losses"] == 0
        assert program.open(models["F32"], 0) == 0
        assert program.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


def test_memory_that_runs_out_while_decoding(device, models):
    long = list(range(40, 100))
    with device.start() as program:
        program.open(models["Q8_0"])
        program.generate(1, long)  # loads the kernels, which stay
        program.send("close")
        program.open(models["Q8_0"])
        short = program.generate(N_TOKENS, PROMPT[:1])
        program.send("fill", device.spare)  # more tokens take more beside the buffers
        for _ in range(2):
            with pytest.raises(GpuFailure, match="memory is used up") as failure:
                program.generate(1, long)
            assert failure.value.code == ENOMEM
        found = gpu_of(program)
        assert found["losses"] == 0 and found["fault"] == ""
        program.send("close")
        program.open(models["Q8_0"])
        assert program.generate(N_TOKENS, PROMPT[:1]) == short
