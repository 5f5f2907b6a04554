"""Kernels through gpud: in this process, and by the daemon's socket."""

import random
import struct

import pytest
from cllm import gpud
from support.gpud_library import Failure

N = 1000
EINVAL, ENOTFOUND, EADDRESS = 1, 500, 700

VECADD = """.version 7.0
.target sm_61
.address_size 64

.global .align 4 .b8 scale[4] = {0, 0, 128, 63};

.visible .entry vecadd(
    .param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n
)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}

.visible .entry forever()
{
LOOP:
    bra LOOP;
}
"""


def floats(seed):
    numbers = random.Random(seed)
    return [float(numbers.randrange(-1000, 1000)) for _ in range(N)]


class Vectors:
    """Two vectors and their sum on the device."""

    def __init__(self, client, device=0):
        self.client, self.device = client, device
        self.x, self.y = floats(1), floats(2)
        self.a, self.b, self.c = (client.alloc(4 * N, device) for _ in range(3))
        client.write(self.a, struct.pack(f"{N}f", *self.x), device)
        client.write(self.b, struct.pack(f"{N}f", *self.y), device)
        module = client.module(VECADD, device)
        self.kernel, self.what = client.kernel(module, "vecadd")

    def launch(self, stream=0, n=N):
        self.client.launch(self.kernel, (-(-n // 128), 1, 1), (128, 1, 1),
                           struct.pack("<QQQI", self.a, self.b, self.c, n),
                           stream=stream, device=self.device)  # fmt: skip

    def check(self):
        got = struct.unpack(f"{N}f", self.client.read(self.c, 4 * N, self.device))
        assert list(got) == [x + y for x, y in zip(self.x, self.y)]


@pytest.fixture
def client(library):
    with library.loop(devices=2) as transport, library.client(transport) as client:
        yield client


@pytest.fixture(scope="module")
def daemon(library):
    with gpud.Daemon(upload=True, memory=64, shared=4, time_limit=1) as daemon:
        yield daemon


@pytest.fixture
def over_socket(library, daemon):
    with library.socket(daemon.socket) as transport, library.client(transport) as client:
        yield client


def test_vecadd(client):
    vectors = Vectors(client)
    assert vectors.what.n_params == 4 and vectors.what.param_bytes == 28
    assert [(p.offset, p.size) for p in vectors.what.param[0:4]] == [
        (0, 8), (8, 8), (16, 8), (24, 4),
    ]  # fmt: skip
    vectors.launch()
    vectors.check()


def test_vecadd_on_the_second_device(client):
    vectors = Vectors(client, 1)
    vectors.launch()
    vectors.check()


def test_vecadd_over_the_socket(over_socket):
    vectors = Vectors(over_socket)
    vectors.launch()
    vectors.check()


def test_many_launches_are_one_round_trip(over_socket):
    vectors = Vectors(over_socket)
    out = bytearray(4 * N)
    before = over_socket.stats()
    for _ in range(576):
        vectors.launch()
    over_socket.call("copy_from_device_later", 0, 0, over_socket.ffi.from_buffer(out), vectors.c,
                     over_socket.rect(4 * N))  # fmt: skip
    over_socket.call("synchronize", 0, 0)
    after = over_socket.stats()
    assert after.waits - before.waits == 1
    assert after.launches - before.launches == 576
    assert after.doorbells - before.doorbells <= 4
    assert struct.unpack(f"{N}f", out)[0] == vectors.x[0] + vectors.y[0]


def test_a_graph_of_launches(client):
    vectors = Vectors(client)
    stream = client.ffi.new("uint32_t *")
    graph, made = client.ffi.new("uint32_t *"), client.ffi.new("uint32_t *")
    client.call("stream_create", 0, 0, stream)
    client.call("capture_begin", 0, stream[0], 2)
    for _ in range(3):
        vectors.launch(stream[0])
    client.call("capture_end", 0, stream[0], graph)
    client.call("graph_exec", graph[0], 0, made)
    assert client.read(vectors.c, 4) == b"\xa5" * 4
    before = client.stats().records
    client.call("graph_launch", 0, stream[0], made[0])
    assert client.stats().records == before + 1
    client.call("synchronize", 0, stream[0])
    vectors.check()


def test_an_access_outside_is_a_fault_with_its_place(client):
    vectors = Vectors(client)
    vectors.launch(n=N + 100)
    with pytest.raises(Failure) as failure:
        client.call("synchronize", 0, 0)
    assert failure.value.code == EADDRESS
    for word in ("vecadd", "block", "thread"):
        assert word in str(failure.value)
    client.call("reset")
    vectors = Vectors(client)
    vectors.launch()
    vectors.check()


@pytest.mark.parametrize(
    "grid, block, shared",
    [
        ((0, 1, 1), (1, 1, 1), 0), ((1, 65536, 1), (1, 1, 1), 0), ((1, 1, 65536), (1, 1, 1), 0),
        ((1, 1, 1), (0, 1, 1), 0), ((1, 1, 1), (1025, 1, 1), 0), ((1, 1, 1), (1, 1, 65), 0),
        ((1, 1, 1), (1 << 31, 1 << 31, 4), 0), ((1, 1, 1), (1, 1, 1), 49153),
        ((1, 1, 1), (1, 1, 1), 0xFFFFFFFF),
    ],
)  # fmt: skip
def test_a_launch_is_within_the_devices_limits(client, grid, block, shared):
    vectors = Vectors(client)
    parameters = struct.pack("<QQQI", vectors.a, vectors.b, vectors.c, 1)
    client.launch(vectors.kernel, grid, block, parameters, shared=shared)
    with pytest.raises(Failure) as failure:
        client.call("synchronize", 0, 0)
    assert failure.value.code == EINVAL


@pytest.mark.parametrize("size", [0, 27, 32, 4096])
def test_a_launch_has_the_kernels_parameters(client, size):
    vectors = Vectors(client)
    client.launch(vectors.kernel, (1, 1, 1), (1, 1, 1), bytes(size))
    with pytest.raises(Failure) as failure:
        client.call("synchronize", 0, 0)
    assert failure.value.code == EINVAL
    assert "parameters" in str(failure.value)


def test_kernels_and_globals_by_name(client):
    module = client.module(VECADD)
    assert client.kernel(module, "vecadd")[0] == client.kernel(module, "vecadd")[0]
    with pytest.raises(Failure) as failure:
        client.kernel(module, "vecsub")
    assert failure.value.code == ENOTFOUND
    address, size = client.ffi.new("uint64_t *"), client.ffi.new("uint64_t *")
    client.call("global", module, b"scale", address, size)
    assert size[0] == 4
    assert client.read(address[0], 4) == struct.pack("<f", 1.0)
    with pytest.raises(Failure):
        client.free(address[0])


def test_events(client):
    vectors = Vectors(client)
    first, second = client.ffi.new("uint32_t *"), client.ffi.new("uint32_t *")
    for event in (first, second):
        client.call("event_create", 0, 0, event)
    before = client.stats().waits
    client.call("event_record", 0, 0, first[0])
    client.call("event_synchronize", first[0])  # nothing was pending
    assert client.stats().waits == before
    vectors.launch()
    client.call("event_record", 0, 0, second[0])
    client.call("event_synchronize", second[0])
    assert client.stats().waits == before + 1
    ms = client.ffi.new("float *")
    client.call("event_elapsed", first[0], second[0], ms)
    assert 0 < ms[0] < 10000


def test_a_kernel_that_does_not_end_is_ended(over_socket):
    module = over_socket.module(VECADD)
    kernel, _ = over_socket.kernel(module, "forever")
    over_socket.launch(kernel, (1, 1, 1), (1, 1, 1), b"")
    with pytest.raises(Failure) as failure:
        over_socket.call("synchronize", 0, 0)
    assert failure.value.code == 46
    assert "forever" in str(failure.value) and "longer than 1 s" in str(failure.value)
    over_socket.call("reset")
    vectors = Vectors(over_socket)
    vectors.launch()
    vectors.check()
