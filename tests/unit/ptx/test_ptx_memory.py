"""native/ptx: device memory, launches over a grid, and faults with their place."""

import re

import numpy as np
import pytest
from support.ptx_library import Device, PtxError

VECADD = """
.visible .entry vecadd(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<11>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r1, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r1, %r2;
    @%p1 bra $done;
    cvta.to.global.u64 %rd4, %rd1;
    mul.wide.s32 %rd5, %r1, 4;
    add.s64 %rd6, %rd4, %rd5;
    cvta.to.global.u64 %rd7, %rd2;
    add.s64 %rd8, %rd7, %rd5;
    ld.global.f32 %f1, [%rd8];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    cvta.to.global.u64 %rd9, %rd3;
    add.s64 %rd10, %rd9, %rd5;
    st.global.f32 [%rd10], %f3;
$done:
    ret;
}
"""


@pytest.fixture(scope="module")
def vecadd(device):
    return device.load(VECADD).kernel("vecadd")


def vectors(device, n):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n), np.float32)
    return a, b, device.put(a), device.put(b), device.alloc(4 * n)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "block"), [(1, 1), (1000, 128), (100_003, 256), (4096, 1024)])
def test_vecadd(device, vecadd, n, block, threads):
    a, b, at_a, at_b, at_c = vectors(device, n)
    vecadd(-(-n // block), block, at_a, at_b, at_c, n, threads=threads)
    assert np.array_equal(device.get(at_c, np.float32, n), a + b)


def test_a_kernel_describes_itself(vecadd):
    assert vecadd.parameters == [(0, 8), (8, 8), (16, 8), (24, 4)]
    assert (vecadd.parameter_bytes, vecadd.static_shared, vecadd.max_threads) == (28, 0, 1024)


def test_fresh_memory_is_poisoned_and_aligned(device):
    for size in (1, 100, 3 << 20):
        address = device.alloc(size)
        assert address % 256 == 0
        assert set(device.get(address, np.uint8, size)) == {0xA5}


def test_quota():
    device = Device(quota=1000)
    first = device.alloc(600)
    assert first and not device.alloc(401)
    assert device.alloc(400)
    assert device.lib.ptx_used(device.state) == 1000
    assert device.lib.ptx_free(device.state, first)
    assert not device.lib.ptx_free(device.state, first)
    assert not device.lib.ptx_free(device.state, first + 1)
    assert device.lib.ptx_used(device.state) == 400
    device.close()


def test_holds(device):
    address = device.alloc(100)
    holds = device.lib.ptx_holds
    assert holds(device.state, address, 100) and holds(device.state, address + 99, 1)
    assert not holds(device.state, address, 101)
    assert not holds(device.state, address - 1, 1)
    assert not holds(device.state, address + 1, 2**64 - 1)


def test_a_write_behind_the_buffer_is_a_fault_with_its_place(device, vecadd):
    n = 1000
    a, b, at_a, at_b, _ = vectors(device, n)
    short = device.alloc(4 * 900)
    with pytest.raises(PtxError, match=r"vecadd: block \(7,0,0\), thread \(4,0,0\)") as fault:
        vecadd(8, 128, at_a, at_b, short, n)
    assert fault.value.code == 700
    assert f"writes 4 bytes at {short + 3600:#x}" in str(fault.value)
    assert "0 bytes behind 3600 bytes" in str(fault.value)
    # What came before it stays.
    assert np.array_equal(device.get(short, np.float32, 896), (a + b)[:896])


def test_a_read_of_freed_memory_is_a_fault(device, vecadd):
    _, _, at_a, at_b, at_c = vectors(device, 64)
    device.lib.ptx_free(device.state, at_b)
    with pytest.raises(PtxError, match=rf"reads 4 bytes at {at_b:#x}") as fault:
        vecadd(1, 64, at_a, at_b, at_c, 64)
    assert fault.value.code == 700


def test_a_null_pointer_is_a_fault(device, vecadd):
    with pytest.raises(PtxError, match="at 0x0, which is not allocated") as fault:
        vecadd(1, 32, 0, 0, 0, 32)
    assert fault.value.code == 700


def test_a_misaligned_access_is_a_fault(device, vecadd):
    _, _, at_a, at_b, at_c = vectors(device, 64)
    with pytest.raises(PtxError, match="misaligned") as fault:
        vecadd(1, 32, at_a, at_b + 2, at_c, 32)
    assert fault.value.code == 716


@pytest.mark.parametrize(
    ("grid", "block", "code"), [(0, 32, 1), (1, 0, 1), (1, 1025, 1), ((1, 65536), 1, 1)]
)
def test_impossible_launches(device, vecadd, grid, block, code):
    with pytest.raises(PtxError) as fault:
        vecadd(grid, block, 0, 0, 0, 0)
    assert fault.value.code == code


def test_cooperative_launches_are_refused(device, vecadd):
    with pytest.raises(PtxError, match="cooperative") as fault:
        vecadd(1, 32, 0, 0, 0, 0, cooperative=True)
    assert fault.value.code == 801


def test_a_launch_can_be_stopped(device):
    import threading
    import time

    endless = device.load(".entry endless() { top: bra top; }").kernel("endless")
    timer = threading.Timer(0.2, device.lib.ptx_stop, (device.state, 1))
    start = time.monotonic()
    timer.start()
    try:
        with pytest.raises(PtxError, match="stopped") as fault:
            endless(4, 64, threads=2)
    finally:
        timer.join()
        device.lib.ptx_stop(device.state, 0)
    assert fault.value.code == 702
    assert time.monotonic() - start < 5


def test_globals(device):
    module = device.load("""
        .global .align 4 .u32 counter = 7;
        .const .align 4 .b8 table[8] = {1, 2, 0x03, 4, 255};
        .global .align 8 .u64 pointer[2] = {table, generic(counter)};
        .global .f32 numbers[3] = {0f3F800000, -2.5};
        .visible .entry copy(.param .u64 to)
        {
            .reg .b64 %rd<4>;
            .reg .b32 %r<3>;
            ld.param.u64 %rd1, [to];
            ld.global.u64 %rd2, [pointer+8];
            ld.u32 %r1, [%rd2];
            ld.const.u8 %r2, [table+2];
            st.global.v2.u32 [%rd1], {%r1, %r2};
        }
    """)
    out = device.alloc(8)
    module.kernel("copy")(1, 1, out)
    assert list(device.get(out, np.uint32, 2)) == [7, 3]
    address, size = module.global_("numbers")
    assert size == 12
    assert list(device.get(address, np.float32, 3)) == [1, -2.5, 0]
    table = module.global_("table")[0]
    assert list(device.get(table, np.uint8, 8)) == [1, 2, 3, 4, 255, 0, 0, 0]
    assert device.get(module.global_("pointer")[0], np.uint64, 1)[0] == table
    assert module.global_("nothing") is None
    before = device.lib.ptx_used(device.state)
    module.unload()
    assert device.lib.ptx_used(device.state) == before - 4 - 8 - 16 - 12


def test_lanes_are_counted(device, vecadd):
    _, _, at_a, at_b, at_c = vectors(device, 256)
    before = device.lib.ptx_lanes(device.state)
    vecadd(2, 128, at_a, at_b, at_c, 256)
    instructions = len(re.findall(r"^    [a-z@].*;", VECADD, re.MULTILINE))
    assert device.lib.ptx_lanes(device.state) - before == 256 * instructions


def test_a_long_name_leaves_room_for_the_place(device):
    """ucuda_host.fault_text has 200 bytes."""
    name = "_ZL" + "x" * 500
    kernel = device.load(VECADD.replace("vecadd", name)).kernel(name)
    _, _, at_a, at_b, _ = vectors(device, 64)
    short = device.alloc(64)
    with pytest.raises(PtxError, match=r"^_ZLx+\.\.\.: .*thread \(16,0,0\).*behind") as fault:
        kernel(1, 64, at_a, at_b, short, 64)
    assert len(str(fault.value)) < 200
