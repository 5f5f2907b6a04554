"""Kernels of ggml-cuda, as clang made PTX of them, in the interpreter against NumPy.

CLLM_PTX_TEXTS names the folder of the .ptx files; the default is where `make cuda` leaves them.
Skipped where there are none.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from cllm import TOP
from support import gpu_parts

TEXTS = Path(os.environ.get("CLLM_PTX_TEXTS", TOP / "build/cuda/ptx"))
DIVIDE_BY_1 = struct.pack("<3I", 1, 0, 1)  # init_fastdiv_values(1)


def fast_division(divisor):
    """What init_fastdiv_values() gives."""
    shift = (divisor - 1).bit_length()
    return struct.pack("<3I", (1 << 32) * ((1 << shift) - divisor) // divisor + 1, shift, divisor)


@pytest.fixture(scope="module")
def kernel(device):
    """A function that finds the kernel whose mangled name begins so."""
    texts = sorted(TEXTS.glob("*.sm_61.ptx"))
    if not texts:
        pytest.skip(gpu_parts.missing((TEXTS / "mmvq.sm_61.ptx",)))
    modules = {}

    def find(prefix):
        for path in texts:
            if prefix.encode() not in path.read_bytes():
                continue
            if path not in modules:
                modules[path] = device.load(path.read_bytes())
            for name in modules[path].kernels():
                if name.startswith(prefix):
                    return modules[path].kernel(name)
        pytest.skip(f"no kernel {prefix}")

    yield find
    for module in modules.values():
        module.unload()


def error(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def test_every_kernel_decodes(device):
    texts = sorted(TEXTS.glob("*.ptx"))
    if not texts:
        pytest.skip(gpu_parts.missing((TEXTS / "mmvq.sm_61.ptx",)))
    for path in texts:
        module = device.load(path.read_bytes())
        for name in module.kernels():
            module.kernel(name)  # PtxError for an instruction that is not known
        module.unload()


@pytest.mark.parametrize("threads", [1, 2])
def test_rms_norm(device, kernel, threads):
    rows, columns = 7, 576
    x = np.random.default_rng(1).standard_normal((rows, columns), np.float32)
    out = device.alloc(x.nbytes)
    norm = kernel("_ZL12rms_norm_f32ILi256ELb0ELb0")
    nothing = [0, 0, 0, 0, *[DIVIDE_BY_1] * 4]
    values = [device.put(x), out, columns, columns, 0, 0, np.float32(1e-5), *nothing, *nothing]
    values += [np.float32(1)] * (len(norm.parameters) - len(values))
    norm((rows, 1, 1), 256, *values, shared=128, threads=threads)
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-5)
    assert error(device.get(out, np.float32, x.size).reshape(x.shape), want) < 2e-7


@pytest.mark.parametrize("columns", [64, 300])
def test_soft_max(device, kernel, columns):
    rows = 5
    x = np.random.default_rng(2).standard_normal((rows, columns), np.float32) * 3
    out = device.alloc(x.nbytes)
    block = 64 if columns == 64 else 320
    soft_max = kernel(
        f"_ZL12soft_max_f32ILb1ELi{columns}ELi{block}EfE"
        if columns == 64
        else "_ZL12soft_max_f32ILb1ELi0ELi0EfE"
    )
    numbers = struct.pack("<qI4x", 1, 1) + struct.pack(
        "<12q", columns, rows, rows, columns, rows, 1, 1, 4 * columns, 0, 0, 1, 1
    )
    parameters = numbers + struct.pack("<4f", 0.5, 0, 1, 1)
    soft_max((rows, 1, 1), block, device.put(x), 0, 0, out, parameters, shared=4 * (columns + 64))
    e = np.exp(0.5 * (x - x.max(1, keepdims=True)).astype(np.float64))
    want = e / e.sum(1, keepdims=True)
    assert error(device.get(out, np.float32, x.size).reshape(x.shape), want) < 5e-7


def test_rope(device, kernel):
    heads, tokens, size = 3, 4, 64
    x = np.random.default_rng(3).standard_normal((tokens, heads, size), np.float32)
    at = np.array([0, 5, 1000, 31000], np.int32)
    out = device.alloc(x.nbytes)
    scale = np.float32(10000.0 ** (-2 / size))
    values = [device.put(x), out, size, heads, tokens, size, heads * size, heads * tokens * size]
    values += [size, heads * size, heads * tokens * size, size, 0, device.put(at)]
    values += [np.float32(1), np.float32(0), np.float32(1), struct.pack("<2f", 0, 0), scale]
    values += [0, 0, 0, 0]
    rope = kernel("_ZL9rope_neoxILb1ELb0EffE")
    rope((heads * tokens, 1, 1), (1, 256, 1), *values)
    theta = at[:, None] * np.float64(scale) ** np.arange(size // 2)
    cos, sin = np.cos(theta)[:, None], np.sin(theta)[:, None]
    low, high = x[..., : size // 2], x[..., size // 2 :]
    want = np.concatenate([low * cos - high * sin, low * sin + high * cos], -1)
    # powf() of two units of the last place, times a position of 31000.
    assert error(device.get(out, np.float32, x.size).reshape(x.shape), want) < 2e-3


def q8_0(w):
    """Quantise rows; return the blocks' bytes and what they stand for."""
    blocks = w.reshape(-1, 32)
    d = (np.abs(blocks).max(1) / 127).astype(np.float16)
    q = np.round(blocks / d.astype(np.float32)[:, None]).astype(np.int8)
    raw = np.concatenate([d.view(np.uint8).reshape(-1, 2), q.view(np.uint8)], 1)
    return raw, (q * d.astype(np.float32)[:, None]).reshape(w.shape)


def quantised(device, kernel, x):
    """Return the address of x as q8_1 blocks, by ggml's own kernel."""
    out = device.alloc(x.size // 32 * 36)
    quantize = kernel("_ZL13quantize_q8_1")
    n = x.size
    quantize((-(-n // 256), 1, 1), 256, device.put(x), out, n, n, n, n, n, 1, DIVIDE_BY_1)
    return out


def test_quantize(device, kernel):
    x = np.random.default_rng(4).standard_normal(512).astype(np.float32)
    raw = device.get(quantised(device, kernel, x), np.uint8, 16 * 36).reshape(16, 36)
    d = raw[:, :2].copy().view(np.float16).astype(np.float32)
    got = raw[:, 4:].view(np.int8) * d
    assert np.abs(got - x.reshape(16, 32)).max() <= 0.51 * d.max()


def test_matrix_by_vector(device, kernel):
    """With activations that Q8 holds exactly, nothing but sums of floats can differ."""
    rows, columns = 96, 1024
    rng = np.random.default_rng(5)
    raw, w = q8_0(rng.standard_normal((rows, columns), np.float32))
    x = rng.integers(-126, 127, columns).astype(np.float32)
    x[::32] = 127
    out = device.alloc(4 * rows)
    matvec = kernel("_ZL13mul_mat_vec_qIL9ggml_type8ELi1ELb0ELb0ELb0E")
    per_row = columns // 32
    values = [device.put(raw), quantised(device, kernel, x), 0, bytes(48), out]
    values += [columns, DIVIDE_BY_1, per_row, per_row, rows, DIVIDE_BY_1, rows * per_row]
    values += [per_row, rows, DIVIDE_BY_1, rows * per_row, per_row, rows, 0]
    matvec((rows, 1, 1), (32, 4, 1), *values)
    want = w.astype(np.float64) @ x
    assert error(device.get(out, np.float32, rows), want) < 1e-6


@pytest.mark.parametrize("arch", [61, 80])
def test_matrix_by_matrix(device, arch):
    """For sm_80 with mma; activations are given as blocks, so only sums of floats can differ."""
    path = TEXTS / f"mmq_q8_0.sm_{arch}.ptx"
    if not path.exists():
        pytest.skip(f"no {path}")
    rows, columns, depth = 128, 64, 512
    rng = np.random.default_rng(7)
    raw, w = q8_0(rng.standard_normal((rows, depth), np.float32))
    q = rng.integers(-127, 128, (columns, depth // 32, 32)).astype(np.int8)
    d = rng.random((columns, depth // 32), np.float32)
    # block_q8_1_mmq: four scales and 128 values; the blocks of all columns, then the next ones.
    blocks = np.concatenate(
        [d.reshape(columns, -1, 4).view(np.uint8), q.reshape(columns, -1, 128).view(np.uint8)], 2
    )
    room = bytes(4096)  # whole tiles are read
    y = np.frombuffer(blocks.swapaxes(0, 1).tobytes() + room, np.uint8)
    x = np.frombuffer(raw.tobytes() + room, np.uint8)
    out = device.put(np.zeros(rows * columns, np.float32))
    module = device.load(path.read_bytes())
    prefix = f"_ZL9mul_mat_qIL9ggml_type8ELi{columns}ELb0E"
    matmul = module.kernel(next(name for name in module.kernels() if name.startswith(prefix)))
    values = [device.put(x), device.put(y), 0, 0, out, 0, 0, fast_division(depth // 32), rows]
    values += [columns, depth // 32, columns, rows, DIVIDE_BY_1, DIVIDE_BY_1, 0, 0, 0]
    values += [DIVIDE_BY_1, DIVIDE_BY_1, 0, 0, 0, DIVIDE_BY_1]
    blocks_of_rows = 2 if arch == 61 else 1
    threads = matmul.max_threads // 32
    matmul((blocks_of_rows, 1, 1), (32, threads, 1), *values, shared=96 << 10)
    module.unload()
    want = (q * d[..., None]).reshape(columns, depth).astype(np.float64) @ w.T
    assert error(device.get(out, np.float32, want.size).reshape(want.shape), want) < 1e-6


def test_flash_attention(device, kernel):
    size, heads, cells, queries = 64, 2, 256, 2
    rng = np.random.default_rng(6)
    q = rng.standard_normal((heads, queries, size), np.float32)
    k, v = rng.standard_normal((2, heads, cells, size), np.float32).astype(np.float16)
    out = device.alloc(4 * queries * heads * size)
    attention = kernel("_ZL15flash_attn_tileILi64ELi64ELi2ELi1ELb0E")
    scale = np.float32(size**-0.5)
    values = [device.put(q), device.put(k), device.put(v), 0, 0, 0, out, 0]
    values += [scale, np.float32(0), np.float32(1), np.float32(1), 1, np.float32(0)]
    values += [size, fast_division(queries), heads, 1]
    values += [4 * size, 4 * size * queries, 4 * size * queries * heads]
    values += [size, cells, heads, 1]
    row = 2 * size
    values += [row, row * cells, row * cells * heads, row, row * cells, row * cells * heads]
    values += [0, 1, 1, 0, 0, 0]
    attention((1, 1, heads), (32, attention.max_threads // 32, 1), *values)
    scores = np.einsum("hqd,hkd->hqk", q, k.astype(np.float32)) * scale
    e = np.exp(scores - scores.max(-1, keepdims=True))
    want = np.einsum("hqk,hkd->qhd", e / e.sum(-1, keepdims=True), v.astype(np.float32))
    got = device.get(out, np.float32, want.size).reshape(want.shape)
    assert error(got, want) < 5e-3
