"""The engine with a GPU: tokens, memory, loss, and what comes after.

Each test runs on two devices: a fake one, which needs the image's archives only, and gpud with the
interpreter of PTX below ggml-cuda, which needs `cllm build --gpu`.
"""

import json
import re

import gguf
import numpy
import pytest
from support import gpu_parts, gpu_program, small_models
from support.gpu_program import GpuFailure

PROMPT = list(range(40, 60))
ENOMEM, ELOST, EFAIL = -4, -7, -2
BY_LAYER, NONE, BY_TENSOR = range(3)  # ENGINE_SPLIT_*
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
    if reason := gpu_parts.missing(device.missing):
        pytest.skip(reason)
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


@pytest.fixture
def two(device, request):
    """The program with two devices."""
    if not isinstance(device, gpu_program.Real):
        pytest.skip("the fake is one device")
    with device.start(devices=2) as program:
        yield program


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("split", [BY_LAYER, BY_TENSOR])
def test_two_devices_share_a_model(two, models, of_cpu, split, kind):
    assert two.open(models[kind], split=split) == small_models.N_LAYER + 1
    assert two.generate(N_TOKENS, PROMPT) == of_cpu[kind]
    assert gpu_of(two)["devices"] == 2
    two.send("close")
    assert gpu_of(two)["used"] == 0


def test_shares_and_the_main_device(two, models, of_cpu):
    weights = {}
    for name, options in {
        "even": {"shares": (1, 1)},
        "all on the first": {"shares": (1, 0)},
        "all on the second": {"split": NONE, "main": 1},
        "uneven": {"split": BY_TENSOR, "shares": (3, 1)},
    }.items():
        two.open(models["F32"], **options)
        assert two.generate(N_TOKENS, PROMPT) == of_cpu["F32"], name
        weights[name] = set(re.findall(r"(\S+) model buffer", two.send("buffers")))
        two.send("close")
    assert {"CUDA0", "CUDA1"} <= weights["even"]
    assert "CUDA0" in weights["all on the first"] and "CUDA1" not in weights["all on the first"]
    assert "CUDA1" in weights["all on the second"] and "CUDA0" not in weights["all on the second"]
    assert any("Meta" in name for name in weights["uneven"]), weights  # both, and a part each
    for options, words in (
        ({"split": NONE, "main": 2}, "main_gpu is 2, and there are 2 GPUs"),
        ({"shares": (1, 1, 1)}, "more shares than there are GPUs"),
        ({"shares": (-1, 1)}, "no number from 0 on"),
        ({"split": 3}, "no such split_mode"),
    ):
        with pytest.raises(GpuFailure, match=words):
            two.open(models["F32"], **options)


def test_two_devices_are_lost_together(device, two, models, of_cpu):
    two.open(models["F32"], split=BY_TENSOR)
    assert two.generate(2, PROMPT) == of_cpu["F32"][:2]
    device.lose()
    with pytest.raises(GpuFailure) as failure:
        two.generate(2, PROMPT)
    assert failure.value.code == ELOST
    two.send("close")
    device.restore()
    two.open(models["F32"], split=BY_TENSOR)
    assert two.generate(N_TOKENS, PROMPT) == of_cpu["F32"]


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


def test_what_was_loaded_never_runs_out_of_memory(device, models):
    """The largest batch is computed once at loading: later ones have their memory."""
    if not isinstance(device, gpu_program.Real):
        pytest.skip("the fake takes memory for each batch")
    long = list(range(40, 104))
    with device.start() as program:
        program.open(models["Q8_0"])
        short, last = program.generate(N_TOKENS, PROMPT[:1]), program.generate(1, long)
        program.send("close")
        program.open(models["Q8_0"])
        program.send("fill", 0)
        for _ in range(2):
            assert program.generate(1, long) == last
            assert program.generate(N_TOKENS, PROMPT[:1]) == short
        assert gpu_of(program)["fault"] == ""


def test_memory_for_the_largest_batch_is_missed_at_loading(device, models, of_cpu):
    if not isinstance(device, gpu_program.Real):
        pytest.skip("the fake takes memory for each batch")
    with device.start() as program:
        program.open(models["F32"])
        used = gpu_of(program)["used"]
        program.send("close")
        program.send("fill", used - 1024)
        with pytest.raises(GpuFailure, match="too little memory"):
            program.open(models["F32"])
        assert gpu_of(program)["losses"] == 0


def test_memory_that_runs_out_while_decoding(device, models):
    if isinstance(device, gpu_program.Real):
        pytest.skip("the largest batch was computed when the model was loaded")
    long = list(range(40, 100))
    with device.start() as program:
        program.open(models["Q8_0"])
        short = program.generate(N_TOKENS, PROMPT[:1])
        program.send("fill", device.spare)  # more tokens take more beside the buffers
        for _ in range(2):
            with pytest.raises(GpuFailure, match="memory is used up") as failure:
                program.generate(1, long)
            assert failure.value.code == ENOMEM
        found = gpu_of(program)
        assert found["losses"] == 0 and found["fault"] == ""
        assert program.generate(N_TOKENS, PROMPT[:1]) == short
        with pytest.raises(GpuFailure, match="memory is used up"):
            program.generate(1, long)
        assert program.generate(N_TOKENS, PROMPT[:1]) == short
        program.send("close")
        with pytest.raises(GpuFailure, match="too little memory for a batch of 64 tokens"):
            program.open(models["Q8_0"])
        program.send("fill", 64 << 20)
        program.open(models["Q8_0"])
        assert program.generate(N_TOKENS, PROMPT[:1]) == short
