"""ggml-cuda over native/cudart, native/ucuda, gpud and its interpreter, in a program for Linux."""

import re

import gguf
import numpy
import pytest
from support import small_models, tiny_model

# What ggml-cuda rounds activations for is hidden by upstream's bound, not by this one.
EXACT = 1e-6
# For these ggml-cuda divides a block's whole sum by 8, 4 or 2, and drops the remainder.
ROUNDED = {"iq2_xxs": 2e-4, "iq2_xs": 2e-4, "iq2_s": 2e-4, "iq3_xxs": 2e-4}
# Types that the issue names, and the rest of ggml's.
TYPES = (
    "f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K iq1_s iq1_m iq2_xxs iq2_xs "
    "iq2_s iq3_xxs iq3_s iq4_nl iq4_xs"
).split()
# Those whose kernel for many columns is in the subset that CI builds.
MANY_COLUMNS = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl")

# Cases of test-backend-ops: (operation, a regular expression for its parameters).
OPERATIONS = (
    ("ADD", r"ne=\[10,5,4,3\]"),
    ("MUL", r"ne=\[10,5,4,3\]"),
    ("RMS_NORM", r"ne=\[64,5,4,3\]"),
    ("NORM", r"ne=\[64,5,4,3\]"),
    ("ROPE", r"type=f32,ne_a=\[128,32,2,1\],n_dims=128.*ff=0,v=0"),
    ("SOFT_MAX", r"ne=\[16,16,1,1\]"),
    ("GET_ROWS", r"type=(f32|f16|q4_0|q8_0),n=256,m=5,r=4,be1=1,be2=1,v=0"),
    ("CPY", r"type_src=f32,type_dst=(f16|f32|q8_0|q4_0).*ne_src=\[256,4,4,4\]"),
    ("SWIGLU", r"type=f32,ne_a=\[128,2,2,2\]"),
    ("ARGSORT", r"ne=\[16,10,10,10\]"),
    ("MUL_MAT", r"type_a=(f32|f16|q4_0|q4_1|q5_0|q5_1|q8_0|iq4_nl).*m=16,n=[18],k=256,bs=\[1,1\]"),
)


def test_the_shim_by_itself(run):
    lines, _ = run("shim")
    assert len(lines) > 30
    assert [line for line in lines if not line.startswith("ok ")] == []


@pytest.mark.parametrize("columns, types", [(1, TYPES), (3, TYPES), (32, MANY_COLUMNS)])
def test_products_for_exact_activations(run, columns, types):
    lines, _ = run("exact", columns, *(() if types == TYPES else [",".join(types)]))
    errors = {word: float(error) for word, error in map(str.split, lines)}
    assert set(errors) == set(types)
    wrong = {
        word: error for word, error in errors.items() if not 0 <= error <= ROUNDED.get(word, EXACT)
    }
    assert wrong == {}


def test_upstreams_own_bound(run):
    """test-backend-ops compares with the CPU backend, and says which of its cases passed."""
    names = ",".join(name for name, _ in OPERATIONS)
    wanted = "|".join(parameters for _, parameters in OPERATIONS)
    lines, _ = run("ops", "test", "-b", "CUDA0", "-o", names, "-p", wanted)
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))
    passed, count = map(int, re.search(r"(\d+)/(\d+) tests passed", text).groups())
    assert passed == count >= 150, text
    assert "Backend CUDA0: OK" in text
    for name, _ in OPERATIONS:
        assert re.search(rf"^\s*{name}\(.*: OK$", text, re.MULTILINE), name


def quantized(kind, rows):
    return gguf.quants.quantize(rows.astype(numpy.float32), kind).tobytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_model.make(folder / "f32.gguf", exact=True)
    kinds = gguf.GGMLQuantizationType
    # Both round activations to 8 bits, in other places: with this seed no two logits are so near
    # that it matters.
    small_models.make(folder / "q8_0.gguf", "llama", kinds.Q8_0, quantized, seed=2)
    return folder


def numbers_of(stderr):
    (line,) = re.findall(r"^launches=.*$", stderr, re.MULTILINE)
    return {name: int(value) for name, value in (word.split("=") for word in line.split())}


@pytest.mark.parametrize("name", ["f32", "q8_0"])
def test_a_model_gives_the_cpus_tokens(run, models, name):
    prompt = "Once upon a time there was a small machine"
    arguments = ("tokens", models / f"{name}.gguf", prompt, 8)
    cpu, quiet = run(*arguments, 0)
    gpu, stderr = run(*arguments, 99)
    assert [line.split()[0] for line in gpu] == [line.split()[0] for line in cpu]
    assert len(set(gpu)) > 1
    assert numbers_of(quiet)["launches"] == 0
    assert numbers_of(stderr)["launches"] > 8 * 20


def test_graphs_are_captured_and_replayed(run, models):
    """From compute capability 7.0 on upstream replays its graphs; the kernels stay those of 6.1."""
    arguments = ("tokens", models / "f32.gguf", "Once upon a time", 12, 99)
    plain, stderr_plain = run(*arguments)
    replayed, stderr = run(*arguments, capability="7.0")
    # Sums of halves are made in another order there, so logits differ in the fourth digit.
    assert [line.split()[0] for line in replayed] == [line.split()[0] for line in plain]
    numbers, before = numbers_of(stderr), numbers_of(stderr_plain)
    assert numbers["graph_launches"] >= 6 and before["graph_launches"] == 0
    assert numbers["launches"] < before["launches"]


def test_one_wait_for_each_token(run, models):
    """Beyond loading, a token costs one fence: the copy of its logits."""
    waits = []
    for count in (8, 24):
        _, stderr = run("tokens", models / "f32.gguf", "Once upon a time", count, 99)
        waits.append(numbers_of(stderr)["fences"])
    assert waits[1] - waits[0] == 24 - 8


def test_an_instance_left_out_says_its_name(run, backend):
    """The `ci` profile has no kernel for Q2_K and many columns: it names it, and ends."""
    if "mmq_q2_k" in (backend / "ptx.txt").read_text():
        pytest.skip("this is the full profile")
    _, stderr = run("exact", 32, "q2_K", status=-6)
    assert "not in this build of the CUDA backend" in stderr and "mul_mat_q_case" in stderr
