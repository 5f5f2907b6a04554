"""native/ptx: integer, bit, comparing and moving instructions against NumPy and Python."""

import numpy as np
import pytest
from support.ptx_kernels import apply

N = 192
DTYPES = {
    "u16": np.uint16,
    "s16": np.int16,
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
}


def numbers(kind, seed):
    """Random numbers of a type, its limits among them."""
    info = np.iinfo(DTYPES[kind])
    rng = np.random.default_rng(seed)
    out = rng.integers(info.min, info.max, N, DTYPES[kind], endpoint=True)
    out[:6] = [0, 1, info.max, info.min, 2, info.max - 1]
    out[6:60] = rng.integers(0, 50, 54)
    return rng.permutation(out)


def wrap(values, kind):
    """Python integers modulo the type's range."""
    bits = 8 * np.dtype(DTYPES[kind]).itemsize
    return np.array([int(v) & ((1 << bits) - 1) for v in values], f"u{bits // 8}").view(
        DTYPES[kind]
    )


def quotient(x, y):
    q = abs(x) // abs(y)
    return q if (x < 0) == (y < 0) else -q


BINARY = {
    "add.{}": lambda x, y, bits: x + y,
    "sub.{}": lambda x, y, bits: x - y,
    "mul.lo.{}": lambda x, y, bits: x * y,
    "mul.hi.{}": lambda x, y, bits: x * y >> bits,
    "div.{}": lambda x, y, bits: quotient(x, y),
    "rem.{}": lambda x, y, bits: x - y * quotient(x, y),
    "min.{}": lambda x, y, bits: min(x, y),
    "max.{}": lambda x, y, bits: max(x, y),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", DTYPES)
def test_binary(device, name, kind):
    a, b = numbers(kind, 1), numbers(kind, 2)
    if name[:3] in ("div", "rem"):
        b[b == 0] = 3
    opcode = name.format(kind)
    got = apply(device, opcode + " {d}, {a}, {b};", [a, b], [kind, kind], kind, DTYPES[kind])
    bits = int(kind[1:])
    want = [BINARY[name](int(x), int(y), bits) for x, y in zip(a, b, strict=True)]
    assert np.array_equal(got, wrap(want, kind))


def test_a_division_by_zero_is_no_fault(device):
    for kind in ("s32", "u64"):
        a = numbers(kind, 3)
        for opcode in ("div", "rem"):
            text = f"{opcode}.{kind} {{d}}, {{a}}, 0;"
            apply(device, text, [a], [kind], kind, DTYPES[kind])


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide(device, kind):
    wide = kind[0] + str(2 * int(kind[1:]))
    a, b, c = numbers(kind, 1), numbers(kind, 2), numbers(wide, 3)
    types = [kind, kind, wide]
    text = f"mad.wide.{kind} {{d}}, {{a}}, {{b}}, {{c}};"
    got = apply(device, text, [a, b, c], types, wide, DTYPES[wide])
    want = [int(x) * int(y) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    assert np.array_equal(got, wrap(want, wide))
    text = f"mul.wide.{kind} {{d}}, {{a}}, 7;"
    got = apply(device, text, [a], [kind], wide, DTYPES[wide])
    assert np.array_equal(got, wrap([int(x) * 7 for x in a], wide))


def sign8(x):
    return [(x >> 8 * k & 255) - (x >> 8 * k & 128) * 2 for k in range(4)]


TERNARY = {
    "mad.lo.s32": lambda x, y, z: x * y + z,
    "mad.hi.s32": lambda x, y, z: (sign(x) * sign(y) >> 32) + z,
    "mad.hi.u32": lambda x, y, z: (x * y >> 32) + z,
    "sad.u32": lambda x, y, z: abs(x - y) + z,
    "mad24.lo.u32": lambda x, y, z: (x & 0xFFFFFF) * (y & 0xFFFFFF) + z,
    "dp4a.s32.s32": lambda x, y, z: (
        sum(p * q for p, q in zip(sign8(x), sign8(y), strict=True)) + z
    ),
    "dp4a.u32.s32": lambda x, y, z: sum((x >> 8 * k & 255) * sign8(y)[k] for k in range(4)) + z,
    "dp2a.lo.s32.s32": lambda x, y, z: half(x) * sign8(y)[0] + half(x >> 16) * sign8(y)[1] + z,
    "dp2a.hi.s32.s32": lambda x, y, z: half(x) * sign8(y)[2] + half(x >> 16) * sign8(y)[3] + z,
    "vsub4.u32.u32.u32": lambda x, y, z: sum(
        ((x >> 8 * k) - (y >> 8 * k) & 255) << 8 * k for k in range(4)
    ),
    "vset4.u32.u32.ne": lambda x, y, z: sum(
        ((x >> 8 * k & 255) != (y >> 8 * k & 255)) << 8 * k for k in range(4)
    ),
    "vabsdiff4.u32.u32.u32.add": lambda x, y, z: (
        z + sum(abs((x >> 8 * k & 255) - (y >> 8 * k & 255)) for k in range(4))
    ),
    "prmt.b32": lambda x, y, z: permuted(x, y, z),
    "prmt.b32.rc16": lambda x, y, z: (x & 0xFFFF) * 0x10001 if not z & 1 else (x >> 16) * 0x10001,
    "shf.l.wrap.b32": lambda x, y, z: ((y << 32 | x) << (z & 31)) >> 32,
    "shf.r.wrap.b32": lambda x, y, z: (y << 32 | x) >> (z & 31),
    "shf.r.clamp.b32": lambda x, y, z: (y << 32 | x) >> min(z, 32),
    "shf.l.clamp.b32": lambda x, y, z: ((y << 32 | x) << min(z, 32)) >> 32,
    "bfe.u32": lambda x, y, z: (x >> (y & 255)) & ((1 << (z & 255)) - 1),
}


def sign(x):
    return x - (x >> 31 << 32)


def half(x):
    return (x & 0xFFFF) - ((x & 0x8000) << 1)


def permuted(x, y, selector):
    out = 0
    for k in range(4):
        s = selector >> 4 * k & 15
        byte = (y << 32 | x) >> 8 * (s & 7) & 255
        out |= (byte if s < 8 else 255 * (byte >> 7)) << 8 * k
    return out


@pytest.mark.parametrize("opcode", TERNARY)
def test_ternary(device, opcode):
    a, b, c = (numbers("u32", seed) for seed in (4, 5, 6))
    text = opcode + " {d}, {a}, {b}, {c};"
    got = apply(device, text, [a, b, c], ["b32"] * 3, "b32", np.uint32)
    want = [TERNARY[opcode](int(x), int(y), int(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert np.array_equal(got, wrap(want, "u32"))


@pytest.mark.parametrize("selector", [0x3210, 0x7531, 0x0F26, 0x4444])
def test_prmt_with_a_known_selector(device, selector):
    a, b = numbers("u32", 4), numbers("u32", 5)
    text = f"prmt.b32 {{d}}, {{a}}, {{b}}, {selector:#x};"
    got = apply(device, text, [a, b], ["b32"] * 2, "b32", np.uint32)
    want = [permuted(int(x), int(y), selector) for x, y in zip(a, b, strict=True)]
    assert np.array_equal(got, wrap(want, "u32"))


def test_lop3_by_its_table(device):
    a, b, c = (numbers("u32", seed) for seed in (4, 5, 6))
    text = "lop3.b32 {d}, {a}, {b}, {c}, 0x6a;"
    got = apply(device, text, [a, b, c], ["b32"] * 3, "b32", np.uint32)
    assert np.array_equal(got, (a & b) ^ c)


@pytest.mark.parametrize("kind", ["s32", "s64", "u64"])
def test_fields(device, kind):
    bits = int(kind[1:])
    a, b = numbers(kind, 1), numbers(kind, 2)
    rng = np.random.default_rng(3)
    start = rng.integers(0, bits, N).astype(np.uint32)
    length = rng.integers(0, bits + 1, N).astype(np.uint32)
    text = f"bfe.{kind} {{d}}, {{a}}, {{b}}, {{c}};"
    types = [kind, "u32", "u32"]
    got = apply(device, text, [a, start, length], types, kind, DTYPES[kind])
    want = []
    for x, s, n in zip(a, start, length, strict=True):
        x, s, n = int(x) & ((1 << bits) - 1), int(s), int(n)
        field = x >> s & ((1 << n) - 1)
        last = min(s + n - 1, bits - 1)
        if kind[0] == "s" and n and x >> last & 1:
            field |= -1 << min(n, bits - s)
        want.append(field)
    assert np.array_equal(got, wrap(want, kind))
    text = f"bfi.b{bits} {{d}}, {{a}}, {{b}}, {{c}}, 8;"
    got = apply(device, text, [a, b, start], [kind, kind, "u32"], kind, DTYPES[kind])
    want = []
    for x, y, s in zip(a, b, start, strict=True):
        mask = 255 << int(s)
        want.append((int(y) & ~mask) | (int(x) << int(s) & mask))
    assert np.array_equal(got, wrap(want, kind))


@pytest.mark.parametrize("bits", [32, 64])
def test_counting(device, bits):
    kind = f"u{bits}"
    a = numbers(kind, 7)
    text = [f"{int(x):0{bits}b}" for x in a]
    for opcode, want in (
        (f"clz.b{bits}", [bits - len(t.lstrip("0")) for t in text]),
        (f"popc.b{bits}", [t.count("1") for t in text]),
        (f"bfind.u{bits}", [len(t.lstrip("0")) - 1 for t in text]),
    ):
        got = apply(device, opcode + " {d}, {a};", [a], [kind], "u32", np.uint32)
        assert np.array_equal(got, wrap(want, "u32")), opcode
    got = apply(device, f"brev.b{bits} {{d}}, {{a}};", [a], [kind], kind, DTYPES[kind])
    assert list(got) == [int(t[::-1], 2) for t in text]


@pytest.mark.parametrize("kind", DTYPES)
def test_shifts_clamp(device, kind):
    bits = int(kind[1:])
    a = numbers(kind, 8)
    by = np.random.default_rng(9).integers(0, bits + 20, N).astype(np.uint32)
    got = apply(device, f"shl.b{bits} {{d}}, {{a}}, {{b}};", [a, by], [kind, "u32"], kind, a.dtype)
    assert np.array_equal(got, wrap([int(x) << int(n) for x, n in zip(a, by, strict=True)], kind))
    got = apply(device, f"shr.{kind} {{d}}, {{a}}, {{b}};", [a, by], [kind, "u32"], kind, a.dtype)
    assert np.array_equal(got, wrap([int(x) >> int(n) for x, n in zip(a, by, strict=True)], kind))


COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@pytest.mark.parametrize("name", COMPARE)
@pytest.mark.parametrize("kind", DTYPES)
def test_setp(device, name, kind):
    a, b = numbers(kind, 1), numbers(kind, 2)
    b[::3] = a[::3]
    text = f"setp.{name}.{kind} {{d}}, {{a}}, {{b}};"
    got = apply(device, text, [a, b], [kind, kind], "pred", np.uint8)
    assert np.array_equal(got, eval(f"a {COMPARE[name]} b").astype(np.uint8))


@pytest.mark.parametrize("combine", ["and", "or", "xor"])
def test_setp_combined_with_both_results(device, combine):
    a, b = numbers("s32", 1), numbers("s32", 2)
    c = np.arange(N, dtype=np.uint8) % 2
    less = (a < b).astype(np.uint8)
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[combine]
    text = f"""
        .reg .pred %q, %p;
        setp.lt.{combine}.s32 %p|%q, {{a}}, {{b}}, !{{c}};
        selp.u32 {{d}}, 1, 0, %p;
        @%q add.u32 {{d}}, {{d}}, 2;
    """
    got = apply(device, text, [a, b, c], ["s32", "s32", "pred"], "u32", np.uint32)
    assert np.array_equal(got, function(less, 1 - c) + 2 * function(1 - less, 1 - c))


def test_parts_of_registers(device):
    a = numbers("u64", 1)
    text = """
        .reg .b16 %h<4>;
        .reg .b32 %w<4>;
        mov.b64 {{%h0, %h1, %h2, %h3}}, {a};
        mov.b64 {{%w0, %w1}}, {a};
        mov.b32 %w2, {{%h3, %h0}};
        xor.b32 %w2, %w2, %w1;
        mov.b64 {d}, {{%w2, %w0}};
    """
    got = apply(device, text, [a], ["u64"], "u64", np.uint64)
    w2 = (a >> np.uint64(48) | (a & np.uint64(0xFFFF)) << np.uint64(16)) ^ a >> np.uint64(32)
    assert np.array_equal(got, w2 | (a & np.uint64(0xFFFFFFFF)) << np.uint64(32))


def test_sums_of_128_bits(device):
    a, b, c = (numbers("u64", seed) for seed in (1, 2, 3))
    text = """
        .reg .b64 %low, %high;
        mul.lo.u64 %low, {a}, {b};
        mul.hi.u64 %high, {a}, {b};
        add.cc.u64 %low, %low, {c};
        addc.u64 %high, %high, {a};
        sub.cc.u64 %low, %low, {b};
        subc.u64 {d}, %high, 0;
    """
    got = apply(device, text, [a, b, c], ["u64"] * 3, "u64", np.uint64)
    want = [
        int(x) * int(y) + int(z) + (int(x) << 64) - int(y) >> 64
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert np.array_equal(got, wrap(want, "u64"))


def test_guards_of_single_instructions(device):
    a = numbers("s32", 1)
    text = """
        .reg .pred %p;
        setp.lt.s32 %p, {a}, 10;
        mov.b32 {d}, 1;
        @%p mov.b32 {d}, 2;
        @!%p add.s32 {d}, {d}, 5;
    """
    got = apply(device, text, [a], ["s32"], "s32", np.int32)
    assert np.array_equal(got, np.where(a < 10, 2, 6))


def test_slct_and_set(device):
    a, b, c = (numbers("s32", seed) for seed in (1, 2, 3))
    text = "slct.b32.s32 {d}, {a}, {b}, {c};"
    got = apply(device, text, [a, b, c], ["s32"] * 3, "s32", np.int32)
    assert np.array_equal(got, np.where(c >= 0, a, b))
    got = apply(device, "set.lt.u32.s32 {d}, {a}, {b};", [a, b], ["s32"] * 2, "u32", np.uint32)
    assert np.array_equal(got, np.where(a < b, 0xFFFFFFFF, 0))
