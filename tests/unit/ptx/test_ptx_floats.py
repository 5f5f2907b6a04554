"""native/ptx: floats of 16, 32 and 64 bits, approximations and conversions against NumPy."""

import warnings

import numpy as np
import pytest
from support.ptx_kernels import apply

N = 192
F32, F64, F16 = np.float32, np.float64, np.float16

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def floats(dtype, seed, scale=10.0):
    rng = np.random.default_rng(seed)
    out = (rng.standard_normal(N) * scale).astype(dtype)
    out[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5]
    return rng.permutation(out)


def same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[got.itemsize]
    both_nan = np.isnan(got) & np.isnan(want)
    return bool(np.all(both_nan | (got.view(bits) == want.astype(got.dtype).view(bits))))


BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.fmin,
    "max": np.fmax,
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("kind", "dtype"), [("f32", F32), ("f64", F64)])
def test_binary(device, name, kind, dtype):
    a, b = floats(dtype, 1), floats(dtype, 2)
    zeros = (a == 0) & (b == 0)
    a[zeros] = 1  # the sign of min(-0, +0) is PTX's own, see below
    rounding = ".rn" if name == "div" else ""
    got = apply(
        device, f"{name}{rounding}.{kind} {{d}}, {{a}}, {{b}};", [a, b], [kind] * 2, kind, dtype
    )
    assert same(got, BINARY[name](a, b))


def test_min_and_max_of_zeros(device):
    a, b = np.array([[0.0, -0.0], [-0.0, 0.0]], F32)
    low = apply(device, "min.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    high = apply(device, "max.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    assert list(np.signbit(low)) == [True, True] and list(np.signbit(high)) == [False, False]


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_fma_rounds_once(device, kind):
    dtype = F32 if kind == "f32" else F64
    a, b = floats(dtype, 1), floats(dtype, 2)
    c = -(a * b)
    got = apply(
        device, f"fma.rn.{kind} {{d}}, {{a}}, {{b}}, {{c}};", [a, b, c], [kind] * 3, kind, dtype
    )
    if kind == "f32":
        assert same(got, (a.astype(F64) * b - (a * b).astype(F64)).astype(F32))
    good = np.isfinite(c)
    assert np.any(got[good] != 0)  # what the product's rounding lost
    # Two operations lose it.
    text = f".reg .{kind} %t; mul.{kind} %t, {{a}}, {{b}}; add.{kind} {{d}}, %t, {{c}};"
    got = apply(device, text, [a, b, c], [kind] * 3, kind, dtype)
    assert np.all(got[good] == 0)


def test_rounding_modes(device):
    a, b = np.full(N, 1, F32), np.geomspace(1e-12, 1e-8, N).astype(F32)
    up = apply(device, "add.rp.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    down = apply(device, "add.rm.f32 {d}, {a}, {b};", [a, -b], ["f32"] * 2, "f32", F32)
    cut = apply(device, "add.rz.f32 {d}, {a}, {b};", [-a, b], ["f32"] * 2, "f32", F32)
    assert np.all(up == np.nextafter(F32(1), F32(2)))
    assert np.all(down == np.nextafter(F32(1), F32(0)))
    assert np.all(cut == np.nextafter(F32(-1), F32(0)))


def test_denormals_with_and_without_ftz(device):
    a = np.full(N, 1e-39, F32)
    b = np.full(N, 0.5, F32)
    kept = apply(device, "mul.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    flushed = apply(device, "mul.ftz.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    assert same(kept, a * b) and np.all(flushed == 0)
    wide = apply(
        device,
        "mul.f64 {d}, {a}, {b};",
        [a.astype(F64) * 1e-280, b.astype(F64)],
        ["f64"] * 2,
        "f64",
        F64,
    )
    assert np.all(wide != 0)


def test_saturation(device):
    a, b = floats(F32, 1, 1), floats(F32, 2, 1)
    got = apply(device, "add.sat.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    assert np.array_equal(got, np.nan_to_num(np.clip(a + b, 0, 1), nan=0))


APPROXIMATE = {
    "rcp.approx.f32": (lambda x: 1 / x, 1e-7),
    "rcp.rn.f64": (lambda x: 1 / x, 0),
    "sqrt.rn.f32": (np.sqrt, 0),
    "sqrt.rn.f64": (np.sqrt, 0),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 2e-7),
    "ex2.approx.ftz.f32": (np.exp2, 2e-7),
    "lg2.approx.ftz.f32": (np.log2, 4e-7),
    "tanh.approx.f32": (np.tanh, 2e-7),
}


@pytest.mark.parametrize("opcode", APPROXIMATE)
def test_functions(device, opcode):
    function, bound = APPROXIMATE[opcode]
    kind = opcode[-3:]
    dtype = F32 if kind == "f32" else F64
    for scale in (1, 100):
        a = floats(dtype, 5, scale)
        got = apply(device, opcode + " {d}, {a};", [a], [kind], kind, dtype)
        want = function(a.astype(F64)).astype(dtype)
        if not bound:
            assert same(got, want)
            continue
        finite = np.isfinite(want) & (np.abs(want) > 1e-37)
        assert np.allclose(
            got[finite], want[finite], rtol=bound, atol=3e-7 if "lg2" in opcode else 0
        )
        rest = ~np.isfinite(want)
        assert np.array_equal(got[rest], want[rest], equal_nan=True)


@pytest.mark.parametrize(("name", "function"), [("sin", np.sin), ("cos", np.cos)])
def test_waves(device, name, function):
    for scale in (1, 30, 1e5):
        a = floats(F32, 6, scale)
        got = apply(device, name + ".approx.ftz.f32 {d}, {a};", [a], ["f32"], "f32", F32)
        want = function(a.astype(F64))
        finite = np.isfinite(want)
        assert np.max(np.abs(got[finite] - want[finite])) < 2e-7
        assert np.all(np.isnan(got[~finite]))


HALVES = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@pytest.mark.parametrize("name", HALVES)
def test_halves(device, name):
    a, b = floats(F16, 1), floats(F16, 2)
    got = apply(device, f"{name}.f16 {{d}}, {{a}}, {{b}};", [a, b], ["f16"] * 2, "f16", F16)
    assert same(got, HALVES[name](a, b))
    pairs = apply(
        device,
        f"{name}.f16x2 {{d}}, {{a}}, {{b}};",
        [a.view(np.uint32), b.view(np.uint32)],
        ["f16x2"] * 2,
        "f16x2",
        np.uint32,
    )
    assert same(pairs.view(F16), HALVES[name](a, b))


def test_fma_of_pairs(device):
    a, b, c = (floats(F16, seed, 2) for seed in (1, 2, 3))
    got = apply(
        device,
        "fma.rn.f16x2 {d}, {a}, {b}, {c};",
        [x.view(np.uint32) for x in (a, b, c)],
        ["f16x2"] * 3,
        "f16x2",
        np.uint32,
    )
    assert same(got.view(F16), (a.astype(F64) * b + c).astype(F16))
    got = apply(device, "neg.f16x2 {d}, {a};", [a.view(np.uint32)], ["f16x2"], "f16x2", np.uint32)
    assert same(got.view(F16), -a)
    got = apply(device, "max.f16 {d}, {a}, {b};", [a, b], ["f16"] * 2, "f16", F16)
    assert np.array_equal(got, np.fmax(a, b), equal_nan=True)


def brain(x):
    """To bf16 and back, rounded to even."""
    bits = x.astype(F32).view(np.uint32).astype(np.uint64)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def unbrain(x):
    return (x.astype(np.uint32) << 16).view(F32)


def test_bf16(device):
    a = floats(F32, 1)[~np.isnan(floats(F32, 1))]
    got = apply(device, "cvt.rn.bf16.f32 {d}, {a};", [a], ["f32"], "bf16", np.uint16)
    assert np.array_equal(got, brain(a))
    back = apply(device, "cvt.f32.bf16 {d}, {a};", [got], ["bf16"], "f32", F32)
    assert np.array_equal(back, unbrain(got))
    finite = got[np.isfinite(back)]
    sums = apply(device, "fma.rn.bf16 {d}, {a}, {a}, {a};", [finite], ["bf16"], "bf16", np.uint16)
    x = unbrain(finite).astype(F64)
    assert np.allclose(unbrain(sums), x * x + x, rtol=2**-8, atol=1e-2)


FLOATS = {"f16": F16, "f32": F32, "f64": F64}


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_between_floats(device, source, target):
    if source == target:
        return
    a = floats(FLOATS[source], 7, 30000)
    rounding = ".rn" if FLOATS[target]().itemsize < FLOATS[source]().itemsize else ""
    got = apply(
        device,
        f"cvt{rounding}.{target}.{source} {{d}}, {{a}};",
        [a],
        [source],
        target,
        FLOATS[target],
    )
    assert same(got, a.astype(FLOATS[target]))


def test_pair_of_floats(device):
    a, b = floats(F32, 1), floats(F32, 2)
    got = apply(device, "cvt.rn.f16x2.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f16x2", np.uint32)
    assert same(got.view(F16)[0::2], b.astype(F16)) and same(got.view(F16)[1::2], a.astype(F16))


INTEGERS = {
    f"{sign}{bits}": np.dtype(f"{sign.replace('s', 'i')}{bits // 8}")
    for sign in "su"
    for bits in (8, 16, 32, 64)
}
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", FLOATS)
def test_to_integers(device, source, target):
    info = np.iinfo(INTEGERS[target])
    for seed, scale in ((1, 5), (2, 1e3), (3, 3e9), (4, 3e19)):
        if source == "f16" and scale > 1e5:
            continue
        a = floats(FLOATS[source], seed, scale)
        for how, function in ROUND.items():
            got = apply(
                device,
                f"cvt.{how}.{target}.{source} {{d}}, {{a}};",
                [a],
                [source],
                target,
                INTEGERS[target],
            )
            want = [
                0
                if np.isnan(x)
                else max(info.min, min(info.max, int(function(F64(x)))))
                if np.isfinite(x)
                else info.max
                if x > 0
                else info.min
                for x in a
            ]
            assert [int(x) for x in got] == want, how


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", FLOATS)
def test_from_integers(device, source, target):
    info = np.iinfo(INTEGERS[source])
    a = np.random.default_rng(8).integers(info.min, info.max, N, INTEGERS[source], endpoint=True)
    a[:3] = [0, info.min, info.max]
    got = apply(
        device, f"cvt.rn.{target}.{source} {{d}}, {{a}};", [a], [source], target, FLOATS[target]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(got, a.astype(FLOATS[target]))


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", INTEGERS)
def test_between_integers(device, source, target):
    info, limits = np.iinfo(INTEGERS[source]), np.iinfo(INTEGERS[target])
    a = np.random.default_rng(9).integers(info.min, info.max, N, INTEGERS[source], endpoint=True)
    a[:3] = [0, info.min, info.max]
    got = apply(
        device, f"cvt.{target}.{source} {{d}}, {{a}};", [a], [source], target, INTEGERS[target]
    )
    assert np.array_equal(got, a.astype(INTEGERS[target]))
    got = apply(
        device, f"cvt.sat.{target}.{source} {{d}}, {{a}};", [a], [source], target, INTEGERS[target]
    )
    assert [int(x) for x in got] == [max(limits.min, min(limits.max, int(x))) for x in a]


def test_to_integral_floats(device):
    a = floats(F32, 1)
    for how, function in ROUND.items():
        got = apply(device, f"cvt.{how}.f32.f32 {{d}}, {{a}};", [a], ["f32"], "f32", F32)
        assert np.array_equal(got, function(a), equal_nan=True)


COMPARE = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: (x < y) | (x > y),
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "equ": lambda x, y: ~((x < y) | (x > y)),
    "neu": lambda x, y: x != y,
    "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y),
    "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "num": lambda x, y: ~(np.isnan(x) | np.isnan(y)),
    "nan": lambda x, y: np.isnan(x) | np.isnan(y),
}


@pytest.mark.parametrize("name", COMPARE)
def test_setp(device, name):
    for kind in ("f32", "f64", "f16"):
        dtype = FLOATS[kind]
        a, b = floats(dtype, 1), floats(dtype, 2)
        b[::3] = a[::3]
        b[np.isinf(b)] = 7
        got = apply(
            device,
            f"setp.{name}.{kind} {{d}}, {{a}}, {{b}};",
            [a, b],
            [kind] * 2,
            "pred",
            np.uint8,
        )
        want = COMPARE[name](a, b)
        assert np.array_equal(got, want.astype(np.uint8)), kind


def test_testp_and_copysign(device):
    a, b = floats(F32, 1), floats(F32, 2)
    a[0] = 1e-40
    for name, function in (
        ("finite", np.isfinite),
        ("infinite", np.isinf),
        ("notanumber", np.isnan),
        ("subnormal", lambda x: (x != 0) & (np.abs(x) < 1e-38)),
    ):
        got = apply(device, f"testp.{name}.f32 {{d}}, {{a}};", [a], ["f32"], "pred", np.uint8)
        assert np.array_equal(got, function(a).astype(np.uint8)), name
    got = apply(device, "copysign.f32 {d}, {a}, {b};", [a, b], ["f32"] * 2, "f32", F32)
    assert same(got, np.copysign(b, a))
