"""native/ptx: mma, ldmatrix, cp.async and redux, which kernels for sm_75 and later have."""

import numpy as np
import pytest
from support.ptx_library import HEAD, PtxError

LANES = np.arange(32)


def run(device, body, values, outputs, threads=32):
    """Run a body with %x<i> loaded from word i of each lane's values; return outputs %y<i>."""
    n = values.shape[1]
    lines = [f"ld.global.b32 %x{i}, [%rd2+{4 * i}];" for i in range(n)]
    lines.append(body)
    lines += [f"st.global.b32 [%rd3+{4 * i}], %y{i};" for i in range(outputs)]
    text = (
        HEAD.replace("sm_61", "sm_80")
        + f"""
        .shared .align 16 .b8 room[1024];
        .visible .entry test(.param .u64 in, .param .u64 out)
        {{
            .reg .b32 %x<20>; .reg .b32 %y<20>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
            .reg .pred %p<4>;
            ld.param.u64 %rd0, [in];
            ld.param.u64 %rd1, [out];
            mov.u32 %r0, %tid.x;
            mad.wide.u32 %rd2, %r0, {4 * n}, %rd0;
            mad.wide.u32 %rd3, %r0, {4 * outputs}, %rd1;
            {" ".join(lines)}
        }}
    """
    )
    module = device.load(text)
    out = device.put(np.zeros((threads, outputs), np.uint32))
    module.kernel("test")(1, threads, device.put(values.astype(np.uint32)), out)
    got = device.get(out, np.uint32, threads * outputs).reshape(threads, outputs)
    module.unload()
    return got


def fragment(matrix, registers):
    """A's or B's registers of each lane; a row is a row of A or a column of B."""
    per_word = 4 // matrix.itemsize
    out = np.zeros((32, registers), np.uint32)
    halves = matrix.shape[0] // 8
    for lane in LANES:
        for r in range(registers):
            row = lane // 4 + 8 * (r % halves)
            column = lane % 4 * per_word + r // halves * 4 * per_word
            out[lane, r] = matrix[row, column : column + per_word].copy().view(np.uint32)[0]
    return out


def accumulator(matrix):
    """C's registers of each lane, and D's back again."""
    rows = matrix.shape[0]
    words = rows // 4 if matrix.itemsize == 4 else rows // 8
    out = np.zeros((32, words), np.uint32)
    for lane in LANES:
        for r in range(words):
            column = lane % 4 * 2
            if matrix.itemsize == 4:
                one = matrix[lane // 4 + 8 * (r // 2), column + r % 2]
                out[lane, r] = one.reshape(1).view(np.uint32)[0]
            else:
                pair = matrix[lane // 4 + 8 * r, column : column + 2].copy()
                out[lane, r] = pair.view(np.uint32)[0]
    return out


def registers(first, count):
    return "{" + ", ".join(f"%x{first + i}" for i in range(count)) + "}"


@pytest.mark.parametrize(
    ("shape", "types", "element", "result"),
    [
        ("m16n8k8", "f32.f16.f16.f32", np.float16, np.float32),
        ("m16n8k16", "f32.f16.f16.f32", np.float16, np.float32),
        ("m16n8k16", "f16.f16.f16.f16", np.float16, np.float16),
        ("m16n8k8", "f32.tf32.tf32.f32", np.float32, np.float32),
        ("m16n8k4", "f32.tf32.tf32.f32", np.float32, np.float32),
        ("m16n8k16", "s32.s8.s8.s32", np.int8, np.int32),
        ("m16n8k32", "s32.s8.s8.s32", np.int8, np.int32),
        ("m8n8k16", "s32.s8.s8.s32", np.int8, np.int32),
    ],
)
def test_mma(device, shape, types, element, result):
    rows, depth = int(shape[1 : shape.index("n")]), int(shape[shape.index("k") + 1 :])
    rng = np.random.default_rng(1)
    a = rng.integers(-9, 9, (rows, depth)).astype(element)
    b = rng.integers(-9, 9, (8, depth)).astype(element)
    c = rng.integers(-9, 9, (rows, 8)).astype(result)
    size = np.dtype(element).itemsize
    n_a, n_b = rows * depth * size // 128, 8 * depth * size // 128
    in_c = accumulator(c)
    n_c = in_c.shape[1]
    words = np.concatenate([fragment(a, n_a), fragment(b, n_b), in_c], 1)
    outputs = "{" + ", ".join(f"%y{i}" for i in range(n_c)) + "}"
    text = f"mma.sync.aligned.{shape}.row.col.{types} {outputs}, {registers(0, n_a)}, "
    text += f"{registers(n_a, n_b)}, {registers(n_a + n_b, n_c)};"
    got = run(device, text, words, n_c)
    want = a.astype(np.int64) @ b.astype(np.int64).T + c.astype(np.int64)
    assert np.array_equal(got, accumulator(want.astype(result)))


@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_ldmatrix(device, transposed):
    body = f"""
        mov.u32 %r1, room;
        mad.lo.u32 %r2, %r0, 16, %r1;
        st.shared.v4.b32 [%r2], {{%x0, %x1, %x2, %x3}};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{%y0, %y1, %y2, %y3}}, [%r2];
    """
    matrices = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    got = run(device, body, matrices.reshape(32, 8).view(np.uint32), 4)
    if transposed:
        matrices = matrices.transpose(0, 2, 1)
    want = np.ascontiguousarray(matrices).reshape(4, 32, 2).view(np.uint32).reshape(4, 32)
    assert np.array_equal(got, want.T)
    with pytest.raises(PtxError, match="ldmatrix reads outside") as fault:
        run(device, body.replace("[%r2];\n    ", "[%r2+1000];\n    "), np.zeros((32, 4)), 4)
    assert fault.value.code == 700


def test_movmatrix(device):
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    body = "movmatrix.sync.aligned.m8n8.trans.b16 %y0, %x0;"
    got = run(device, body, matrix.reshape(32, 2).view(np.uint32), 1)
    assert np.array_equal(got.ravel(), matrix.T.copy().reshape(32, 2).view(np.uint32).ravel())


def test_asynchronous_copies(device):
    body = """
        mov.u32 %r1, room;
        mad.lo.u32 %r2, %r0, 16, %r1;
        cp.async.cg.shared.global.L2::128B [%r2], [%rd2], 16;
        cp.async.ca.shared.global [%r2+512], [%rd2+4], 4, 2;
        cp.async.commit_group;
        cp.async.wait_group 0;
        ld.shared.v2.b32 {%y0, %y1}, [%r2+8];
        ld.shared.b32 %y2, [%r2+512];
    """
    values = np.random.default_rng(2).integers(0, 2**32, (32, 4), np.uint32)
    got = run(device, body, values, 3)
    assert np.array_equal(got[:, :2], values[:, 2:])
    assert np.array_equal(got[:, 2], values[:, 1] & 0xFFFF)
    with pytest.raises(PtxError, match=r"thread \(31,0,0\).*cp.async leaves") as fault:
        run(device, body.replace("[%rd2+4]", "[%rd2+16]"), values, 3)
    assert fault.value.code == 700


@pytest.mark.parametrize(
    ("name", "function"), [("add", np.add), ("min", np.minimum), ("max", np.maximum)]
)
def test_redux(device, name, function):
    values = np.random.default_rng(3).integers(-1000, 1000, (64, 1)).astype(np.int32)
    body = f"redux.sync.{name}.s32 %y0, %x0, -1;"
    got = run(device, body, values.view(np.uint32), 1, threads=64).view(np.int32)
    for warp in (slice(0, 32), slice(32, 64)):
        assert set(got[warp, 0]) == {function.reduce(values[warp, 0])}
