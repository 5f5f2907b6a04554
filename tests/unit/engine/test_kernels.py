"""native/kernels against float64 with ggml's own error as the measure, or to its last bit."""

import numpy as np
import pytest
from support.engine_library import Engine, EngineFailure
from support.ggml_library import Ggml

gguf = pytest.importorskip("gguf")

Type = gguf.GGMLQuantizationType
TYPES = [
    Type.Q4_0,
    Type.Q4_1,
    Type.Q5_0,
    Type.Q5_1,
    Type.Q8_0,
    Type.Q4_K,
    Type.Q5_K,
    Type.Q6_K,
    Type.F16,
    Type.BF16,
]
GGML, TCG, EXACT = 1, 2, 3
# kernels::mode
BY_GGML, FAST, EXACTLY, EXACTLY_EMULATED = range(4)


@pytest.fixture(scope="module", params=[1, 2, 3])
def ggml(request, library, tiny):
    """ggml with a number of threads."""
    with Engine(library, tiny):  # the first engine registers the kernels
        pass
    ggml = Ggml(request.param)
    if "CPU_TCG" not in ggml.buffer_types():
        pytest.skip("this machine has no AVX2")
    yield ggml
    ggml.close()


def columns_of(kind, least):
    """The least number of columns >= least that the type's blocks divide."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return -(-least // max(32, block)) * max(32, block)


def errors(ggml, kind, weights, x):
    """Root mean square of (ours, ggml's) error, relative to that of the product."""
    data = ggml.quantize(kind, weights)
    exact = gguf.quants.dequantize(np.frombuffer(data, np.uint8).reshape(len(weights), -1), kind)
    expected = x.astype(np.float64) @ exact.astype(np.float64).T
    size = np.sqrt(np.mean(expected**2)) or 1
    types = ggml.buffer_types()
    made = [ggml.mul_mat(types[name], kind, data, weights.shape, x) for name in ("CPU_TCG", "CPU")]
    return [np.sqrt(np.mean((y - expected) ** 2)) / size for y in made]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_error_is_no_larger_than_ggmls(ggml, kind, n):
    random = np.random.default_rng(n)
    weights = random.normal(0, 0.05, (72, columns_of(kind, 576)))
    x = random.normal(0, 1, (n, weights.shape[1]))
    ours, theirs = errors(ggml, kind, weights, x)
    assert ours < 0.01
    assert ours <= theirs * 1.1 + 2e-4


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "rows, least",
    [(8, 32), (16, 64), (24, 96), (40, 160), (8, 256), (96, 320), (8, 1536), (16, 5120)],
)
def test_shapes(ggml, kind, rows, least):
    random = np.random.default_rng(rows)
    weights = random.normal(0, 1, (rows, columns_of(kind, least)))
    x = random.normal(0, 1, (3, weights.shape[1]))
    ours, theirs = errors(ggml, kind, weights, x)
    assert ours <= theirs * 1.2 + 2e-4


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_outliers(ggml, kind):
    """A few activations a thousand times as large as the rest, rows and blocks of all sizes."""
    random = np.random.default_rng(5)
    weights = random.normal(0, 1, (64, columns_of(kind, 1024)))
    weights *= np.exp(random.normal(0, 2, (64, 1)))
    weights *= np.repeat(np.exp(random.normal(0, 1, (64, weights.shape[1] // 32))), 32, axis=1)
    x = random.normal(0, 1, (4, weights.shape[1]))
    x[:, ::300] *= 1000
    ours, theirs = errors(ggml, kind, weights, x)
    assert ours <= theirs * 1.1 + 2e-4


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_largest_values_do_not_overflow(ggml, kind):
    """All weights and activations as large as they can be, of one sign or of alternating ones."""
    n = columns_of(kind, 512)
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    weights = np.stack([np.ones(n), -np.ones(n), signs, -signs] * 4)
    weights[:, ::32] *= 1.01  # so that every block has a largest one
    x = np.stack([np.ones(n), -np.ones(n), signs])
    ours, theirs = errors(ggml, kind, weights, x)
    assert ours <= theirs * 1.1 + 1e-3


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q8_0, Type.F16], ids=lambda kind: kind.name)
def test_zeros_and_what_is_no_number(ggml, kind):
    types = ggml.buffer_types()
    weights = np.random.default_rng(0).normal(0, 1, (8, 512))
    weights[3] = 0
    data = ggml.quantize(kind, weights)
    x = np.ones((5, 512), np.float32)
    x[1] = 0
    x[2, 300] = np.nan
    x[3, 5] = np.inf
    x[4] = 1e-38
    y = ggml.mul_mat(types["CPU_TCG"], kind, data, weights.shape, x)
    assert np.isfinite(y[0]).all() and y[0, 3] == 0 and y[0, 0] != 0
    assert (y[1] == 0).all()
    assert np.isnan(y[2]).all()
    assert not np.isfinite(y[3]).any()
    assert (np.abs(y[4]) < 1e-30).all()


def test_columns_of_several_matrices(ggml):
    """The right-hand side may be a stack of matrices."""
    random = np.random.default_rng(1)
    weights = random.normal(0, 1, (24, 128))
    x = random.normal(0, 1, (2, 3, 5, 128))
    ours, theirs = errors(ggml, Type.Q4_1, weights, x)
    assert ours <= theirs * 1.1


@pytest.mark.parametrize(
    "kind, rows, columns",
    [
        (Type.Q4_1, 12, 64),
        (Type.Q4_1, 1, 64),
        (Type.F16, 8, 40),
        (Type.Q2_K, 8, 256),
        (Type.F32, 8, 64),
    ],
)
def test_others_are_left_to_ggml(ggml, kind, rows, columns):
    weights = np.ones((rows, columns), np.float32)
    data = weights.tobytes() if kind == Type.F32 else ggml.quantize(kind, weights)
    buffer_type = ggml.buffer_types()["CPU_TCG"]
    assert ggml.mul_mat(buffer_type, kind, data, weights.shape, weights[:1]) is None


@pytest.fixture
def ours(library, tiny):
    """From the last decode on, ggml leaves the nodes to us that we take, or not: call it."""

    def choose(kernels):
        with Engine(library, tiny, kernels=kernels) as engine:
            engine.decode([1], [0], [0], [1])

    yield choose
    choose(GGML)


def attention(q, k, v, mask, scale):
    """In float64, of what is left of k and v as halves."""
    group = len(q) // len(k)
    k, v = (np.repeat(a.astype(np.float16).astype(np.float64), group, axis=0) for a in (k, v))
    scores = scale * q @ k.transpose(0, 2, 1)
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return ((weights / weights.sum(axis=-1, keepdims=True)) @ v).transpose(1, 0, 2)


def attention_errors(ggml, ours, *inputs):
    expected = attention(*inputs)
    made = []
    for kernels in (TCG, GGML):
        ours(kernels)
        made.append(ggml.attention(*inputs))
    assert not np.array_equal(*made)
    size = np.sqrt(np.mean(expected**2))
    return [np.sqrt(np.mean((y - expected) ** 2)) / size for y in made]


@pytest.mark.parametrize("heads, kv_heads, width", [(9, 3, 64), (4, 4, 32), (15, 1, 96)])
@pytest.mark.parametrize("n, keys", [(1, 1), (1, 13), (1, 256), (5, 77), (17, 300)])
@pytest.mark.parametrize("spread", [0.1, 1, 3])
def test_attention(ggml, ours, heads, kv_heads, width, n, keys, spread):
    random = np.random.default_rng(keys)
    q = random.normal(0, spread, (heads, n, width))
    k = random.normal(0, 1, (kv_heads, keys, width)) * np.exp(random.normal(0, 1, (1, keys, 1)))
    v = random.normal(0, 0.3, (kv_heads, keys, width))
    errors = attention_errors(ggml, ours, q, k, v, None, width**-0.5)
    assert errors[0] <= errors[1] + 5e-4


def test_attention_behind_masks(ggml, ours):
    """A causal prompt, then queries of sequences that share nothing, in one batch."""
    random = np.random.default_rng(0)
    keys, n = 200, 24
    q = random.normal(0, 1, (6, n, 64))
    k, v = random.normal(0, 1, (2, 2, keys, 64))
    mask = np.full((n, keys), -np.inf)
    for i in range(16):
        mask[i, : 50 + i] = 0
    for i in range(16, n):
        mask[i, 66 + 10 * (i - 16) : 76 + 10 * (i - 16)] = 0
    mask[3, 7] = -1.5
    errors = attention_errors(ggml, ours, q, k, v, mask, 0.125)
    assert errors[0] <= errors[1] + 5e-4


@pytest.mark.parametrize("parts", [1, 2])
def test_swiglu(ggml, ours, parts):
    random = np.random.default_rng(parts)
    x, gate = random.normal(0, 5, (2, 7, 96)).astype(np.float32)
    x[0, :6] = 0, -0.0, 1e-30, -100, 100, 1e30
    inputs = (x, gate) if parts == 2 else (np.concatenate([x, gate], axis=1),)
    expected = x / (1 + np.exp(-x.astype(np.float64))) * gate
    ours(TCG)
    made = ggml.swiglu(*inputs)
    ours(GGML)
    assert not np.array_equal(made, ggml.swiglu(*inputs))
    assert np.allclose(made, expected, rtol=1e-4, atol=1e-20)


def test_an_engine_says_its_kernels(library, tiny):
    names = {0: b"exact", GGML: b"ggml", TCG: b"tcg", EXACT: b"exact"}
    for kernels, name in names.items():
        with Engine(library, tiny, kernels=kernels) as engine:
            assert library.ffi.string(engine.info.kernels) == name
    with pytest.raises(EngineFailure, match="no such kernels"):
        Engine(library, tiny, kernels=4)


@pytest.fixture
def mode(ggml):
    """mode(number): as kernels::mode, who computes the nodes of the next graphs."""
    set_mode = ggml.so.cllm_kernels().set_mode
    yield set_mode
    set_mode(BY_GGML)


def by_all(ggml, mode, kind, data, shape, x):
    """The product by ggml, a column at a time, and by us in vectors for a real and for an emulated
    processor.
    """
    cpu = ggml.buffer_types()["CPU"]
    mode(BY_GGML)
    columns = [
        ggml.mul_mat(cpu, kind, data, shape, column[None]) for column in x.reshape(-1, x.shape[-1])
    ]
    made = [np.concatenate(columns).reshape(*x.shape[:-1], -1)]
    for number in (EXACTLY, EXACTLY_EMULATED):
        mode(number)
        made.append(ggml.mul_mat(cpu, kind, data, shape, x))
    return [array.view(np.uint32) for array in made]


EXACT_TYPES = [*TYPES, Type.F32, Type.Q2_K, Type.Q3_K, Type.IQ4_NL, Type.IQ4_XS, Type.IQ3_S]
LARGE = [kind for kind in EXACT_TYPES if gguf.GGML_QUANT_SIZES[kind][0] == 256]


@pytest.mark.parametrize("kind", EXACT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "rows, columns, n",
    [
        (1, 32, 2),
        (7, 64, 1),
        (48, 576, 1),
        (48, 576, 2),
        (33, 1536, 3),
        (100, 576, 4),
        (16, 96, 5),
        (129, 288, 8),
        (17, 2048, 13),
        (64, 576, 64),
    ],
)
def test_exact_products_are_ggmls_to_the_last_bit(ggml, mode, kind, rows, columns, n):
    columns *= 8 if kind in LARGE else 1
    random = np.random.default_rng(rows)
    weights = random.normal(0, 0.05, (rows, columns)) * np.exp(random.normal(0, 1, (rows, 1)))
    x = random.normal(0, 1, (n, columns)) * np.exp(random.normal(0, 1, (1, columns)))
    data = ggml.quantize(kind, weights)
    expected, real, emulated = by_all(ggml, mode, kind, data, weights.shape, x)
    assert np.array_equal(real, expected)
    assert np.array_equal(emulated, expected)
    assert expected.any()


@pytest.mark.parametrize("kind", EXACT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [1, 5, 8])
def test_exact_products_of_any_bits(ggml, mode, kind, n):
    """Scales that are tiny, huge, infinite or no numbers, weights and activations at their ends."""
    random = np.random.default_rng(3)
    shape = (256, 512)
    data = bytearray(ggml.quantize(kind, np.zeros(shape)))
    data[:] = random.bytes(len(data))
    if kind == Type.F16:  # or else no row would be of numbers only
        halves = np.frombuffer(data, np.uint16).reshape(shape)
        halves[::2] &= 0xBFFF
    x = random.normal(0, 1, (8, shape[1])).astype(np.float32)
    x[0, ::7] = 1e-30
    x[1] = 0
    x[2, ::3] = 3e38
    x[3] = np.where(random.random(shape[1]) < 0.5, 127, -127)
    x[4] *= 1e-12
    if kind == Type.F16:
        x[2, ::3] = 60000
    if kind in (Type.F32, Type.BF16):
        x[2, ::3] = 1e20
    for some in (x[:n], x[-n:]):
        expected, real, emulated = by_all(ggml, mode, kind, bytes(data), shape, some)
        nan = np.isnan(expected.view(np.float32))  # which NaN it is, is nobody's business
        assert np.array_equal(np.isnan(real.view(np.float32)), nan)
        assert np.array_equal(np.isnan(emulated.view(np.float32)), nan)
        assert np.array_equal(real[~nan], expected[~nan])
        assert np.array_equal(emulated[~nan], expected[~nan])
        assert 0.001 < nan.mean() < 0.999


def test_exact_products_of_several_matrices(ggml, mode):
    random = np.random.default_rng(1)
    weights = random.normal(0, 1, (24, 128))
    x = random.normal(0, 1, (2, 3, 5, 128))
    data = ggml.quantize(Type.Q4_1, weights)
    expected, real, emulated = by_all(ggml, mode, Type.Q4_1, data, weights.shape, x)
    assert np.array_equal(real, expected) and np.array_equal(emulated, expected)


def by_both(mode, compute):
    """A node by ggml and by us for an emulated processor."""
    made = []
    for number in (BY_GGML, EXACTLY_EMULATED):
        mode(number)
        made.append(compute())
    return made


@pytest.fixture(scope="module")
def alone():
    """ggml with one thread."""
    ggml = Ggml(1)
    yield ggml
    ggml.close()


def attention_by_all(ggml, alone, mode, q, k, v, mask, scale, **more):
    """Attention by ggml, a query at a time, and by us for a real and for an emulated processor."""
    mode(BY_GGML)
    rows = [
        alone.attention(
            q[:, i : i + 1], k, v, None if mask is None else mask[i : i + 1], scale, **more
        )
        for i in range(q.shape[1])
    ]
    made = [np.concatenate(rows)]
    for number in (EXACTLY, EXACTLY_EMULATED):
        mode(number)
        made.append(ggml.attention(q, k, v, mask, scale, **more))
    # ggml adds a zero to what all of a large cache gives, so it has none below.
    return [array + np.float32(0) for array in made]


def same_bits(ours, expected):
    nan = np.isnan(expected)
    return np.array_equal(np.isnan(ours), nan) and np.array_equal(
        ours.view(np.uint32)[~nan], expected.view(np.uint32)[~nan]
    )


@pytest.mark.parametrize("parts", [1, 2])
def test_exact_swiglu(ggml, mode, parts):
    random = np.random.default_rng(parts)
    x, gate = random.normal(0, 5, (2, 7, 96)).astype(np.float32)
    x[1] *= 10
    x[2] *= 30
    x[0, :12] = 0, -0.0, 1e-30, -100, 100, 1e30, -1e30, 87.5, -87.5, 133, -133, np.inf
    x[0, 13:15] = np.nan, -np.inf
    inputs = (x, gate) if parts == 2 else (np.concatenate([x, gate], axis=1),)
    expected, ours = by_both(mode, lambda: ggml.swiglu(*inputs))
    assert same_bits(ours, expected)


@pytest.mark.parametrize(
    "heads, kv_heads, width",
    [(9, 3, 64), (4, 4, 32), (15, 1, 96), (32, 1, 128), (2, 1, 80), (3, 3, 20)],
)
@pytest.mark.parametrize("n, keys", [(1, 1), (1, 256), (5, 77), (1, 700), (64, 64), (70, 600)])
@pytest.mark.parametrize("masked", [False, True])
def test_exact_attention(ggml, alone, mode, heads, kv_heads, width, n, keys, masked):
    random = np.random.default_rng(keys)
    q = random.normal(0, 1, (heads, n, width))
    k = random.normal(0, 1, (kv_heads, keys, width)) * np.exp(random.normal(0, 1, (1, keys, 1)))
    v = random.normal(0, 0.3, (kv_heads, keys, width)) * np.exp(
        random.normal(-6, 6, (1, 1, width))
    )
    mask = None
    if masked:
        mask = np.where(random.random((n, keys)) < 0.3, -np.inf, random.normal(0, 1, (n, keys)))
        mask[0] = -np.inf  # sees nothing
        mask[:, keys // 2 :] = -np.inf
    expected, *ours = attention_by_all(ggml, alone, mode, q, k, v, mask, width**-0.5)
    assert all(same_bits(made, expected) for made in ours)
    assert masked or expected.any()


@pytest.mark.parametrize("max_bias, softcap", [(8, 0), (0, 3), (8, 3)])
@pytest.mark.parametrize("n, heads", [(1, 4), (9, 6), (64, 4)])
def test_exact_attention_with_slopes_and_caps(ggml, alone, mode, n, heads, max_bias, softcap):
    random = np.random.default_rng(n)
    keys = 150
    q = random.normal(0, 1, (heads, n, 64))
    k, v = random.normal(0, 1, (2, 2, keys, 64))
    distance = np.arange(keys) - np.arange(keys - n, keys)[:, None]
    mask = np.where(distance > 0, -np.inf, distance)
    expected, *ours = attention_by_all(
        ggml, alone, mode, q, k, v, mask, 0.125, max_bias=max_bias, softcap=softcap
    )
    assert all(same_bits(made, expected) for made in ours)


def test_exact_attention_of_sequences_that_share_nothing(ggml, alone, mode):
    """A causal prompt, then queries of others, in one batch."""
    random = np.random.default_rng(0)
    keys, n = 200, 24
    q = random.normal(0, 1, (6, n, 64))
    k, v = random.normal(0, 1, (2, 2, keys, 64))
    mask = np.full((n, keys), -np.inf)
    for i in range(16):
        mask[i, : 50 + i] = 0
    for i in range(16, n):
        mask[i, 66 + 10 * (i - 16) : 76 + 10 * (i - 16)] = 0
    mask[3, 7] = -1.5
    expected, *ours = attention_by_all(ggml, alone, mode, q, k, v, mask, 0.125)
    assert all(same_bits(made, expected) for made in ours)


@pytest.mark.parametrize("n, keys", [(1, 40), (3, 40), (1, 500)])
def test_exact_attention_of_any_bits(ggml, alone, mode, n, keys):
    """Halves: subnormal, at their limits, infinite, NaN; sums that no half can hold."""
    random = np.random.default_rng(n)
    for case in range(6):
        q = random.normal(0, 1, (6, n, 64))
        k, v = random.normal(0, 1, (2, 2, keys, 64))
        if case == 0:
            v *= 3e-6
        elif case == 1:
            v[:, :, :32] = 65504
        elif case == 2:
            v[:, 5, 7], v[:, 7, 8] = np.inf, np.nan
        elif case == 3:
            k[:, 3, 7] = np.inf
        elif case == 4:
            q[0, 0, 0] = 1e6
        else:
            k, v = (
                random.integers(0, 1 << 16, k.shape).astype(np.uint16).view(np.float16)
                for _ in range(2)
            )
        expected, *ours = attention_by_all(ggml, alone, mode, q, k, v, None, 0.125)
        assert all(same_bits(made, expected) for made in ours), case
