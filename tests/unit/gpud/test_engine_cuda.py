"""gpud's engine `cuda` over a libcuda of the test's own (fake_libcuda.cpp): no card is needed.

It shows that calls are made with the right arguments and in the right order, as far as the fake
checks them. What a card makes of them it does not show.
"""

import os
import struct
import subprocess
from pathlib import Path

import pytest
from cllm import gpud
from cllm.build import TOOLS
from support.gpud_library import Failure
from test_launches import VECADD, N, Vectors

EIMAGE_OF_DRIVER, ENOTFOUND, ELAUNCH, ECAPTURE = 218, 500, 719, 900


@pytest.fixture(scope="module")
def fake(tmp_path_factory, library):
    """A folder with libcuda.so.1, for LD_LIBRARY_PATH."""
    folder = tmp_path_factory.mktemp("libcuda")
    subprocess.run(
        [
            TOOLS / "zig-c++", "-target", "x86_64-linux-gnu.2.28", "-std=c++17", "-O0", "-g0",
            "-fno-sanitize=undefined", "-shared", "-fPIC",
            Path(__file__).with_name("fake_libcuda.cpp"), "-o", folder / "libcuda.so.1",
        ],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def daemon(fake):
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = str(fake)
    try:
        with gpud.Daemon(engine="cuda", upload=True, memory=64, shared=4) as daemon:
            yield daemon
    finally:
        del os.environ["LD_LIBRARY_PATH"]
        if before is not None:
            os.environ["LD_LIBRARY_PATH"] = before


@pytest.fixture
def client(library, daemon):
    with library.socket(daemon.socket) as transport, library.client(transport) as client:
        yield client


def test_the_device(client):
    info = client.so.ucuda_info()
    assert client.ffi.string(info.name) == b"cuda" and info.n_devices == 2
    assert not info.features & 64  # not emulated
    device = client.device(1)
    assert client.ffi.string(device.name) == b"Fake 1"
    assert (device.major, device.minor, device.multiprocessors) == (8, 6, 84)
    assert device.memory == 64 << 20 and device.peers == 1


@pytest.mark.parametrize("device", [0, 1])
def test_vecadd(client, device):
    vectors = Vectors(client, device)
    assert vectors.what.param_bytes == 28 and vectors.what.registers == 16
    vectors.launch()
    vectors.check()


def test_fresh_memory_is_clear(client):
    assert client.read(client.alloc(5000), 5000) == bytes(5000)


def test_rows_and_sets(client):
    address = client.alloc(64 * 100)
    host = os.urandom(50 * 100)
    for unit, value in ((1, 7), (2, 0x0707), (4, 0x07070707)):
        client.call("set", 0, 0, address, 0, 1, 6400, 1, 0)
        client.call("set", 0, 0, address, value, unit, 40, 100, 64)
        assert client.read(address, 64) == b"\x07" * 40 + bytes(24)
    client.call("copy_to_device", 0, 0, address, client.ffi.from_buffer(host),
                client.rect(40, 100, 64, 50))  # fmt: skip
    other = client.alloc(40 * 100)
    client.call("copy_on_device", 0, 0, other, address, client.rect(40, 100, 40, 64))
    rows = [host[50 * row : 50 * row + 40] for row in range(100)]
    assert client.read(other, 4000) == b"".join(rows)


def test_a_graph_of_launches(client):
    vectors = Vectors(client)
    stream = client.ffi.new("uint32_t *")
    graph, made = client.ffi.new("uint32_t *"), client.ffi.new("uint32_t *")
    client.call("stream_create", 0, 1, stream)
    client.call("capture_begin", 0, stream[0], 2)
    vectors.launch(stream[0])
    client.call("capture_end", 0, stream[0], graph)
    client.call("graph_exec", graph[0], 0, made)
    client.call("graph_exec", graph[0], made[0], made)
    client.call("graph_free", graph[0])
    assert client.read(vectors.c, 4) == bytes(4)
    client.call("graph_launch", 0, stream[0], made[0])
    client.call("synchronize", 0, stream[0])
    vectors.check()
    client.call("graph_free", made[0])
    client.call("stream_destroy", 0, stream[0])


def test_copies_from_the_guest_are_not_captured(client):
    address = client.alloc(100)
    stream = client.ffi.new("uint32_t *")
    client.call("stream_create", 0, 1, stream)
    client.call("capture_begin", 0, stream[0], 0)
    client.write(address, b"x" * 100, stream=stream[0])
    with pytest.raises(Failure) as failure:
        client.memory()
    assert failure.value.code == ECAPTURE


def test_events(client):
    events = [client.ffi.new("uint32_t *") for _ in range(2)]
    for event in events:
        client.call("event_create", 0, 0, event)
        client.call("event_record", 0, 0, event[0])
    ms = client.ffi.new("float *")
    client.call("event_elapsed", events[0][0], events[1][0], ms)
    assert ms[0] == 1
    client.call("stream_wait", 0, 2, events[0][0])
    client.call("synchronize", 0, 2)
    for event in events:
        client.call("event_destroy", event[0])


def test_what_the_compiler_says_reaches_the_guest(client):
    with pytest.raises(Failure) as failure:
        client.module("this is no PTX")
    assert failure.value.code == EIMAGE_OF_DRIVER
    assert "ptxas: no version" in str(failure.value)
    with pytest.raises(Failure) as failure:
        client.kernel(client.module(VECADD), "vecsub")
    assert failure.value.code == ENOTFOUND


def test_a_failed_launch_is_a_fault_with_its_kernel(client):
    vectors = Vectors(client)
    vectors.launch(n=N + 1000)
    with pytest.raises(Failure) as failure:
        client.call("synchronize", 0, 0)
    assert failure.value.code == ELAUNCH
    assert "vecadd" in str(failure.value) and "LAUNCH_FAILED" in str(failure.value)
    client.call("reset")  # another process, another context
    vectors = Vectors(client)
    vectors.launch()
    vectors.check()


def test_attributes_and_occupancy(client):
    kernel, _ = client.kernel(client.module(VECADD), "vecadd")
    client.call("kernel_attribute", kernel, 8, 65536)
    with pytest.raises(Failure):
        client.call("kernel_attribute", kernel, 3, 1)
    blocks = client.ffi.new("uint32_t *")
    client.call("occupancy", kernel, 128, 0, blocks)
    assert blocks[0] == 6


def test_a_cooperative_launch(client):
    vectors = Vectors(client)
    parameters = struct.pack("<QQQI", vectors.a, vectors.b, vectors.c, N)
    client.call("launch", 0, 0, vectors.kernel, [8, 1, 1], [128, 1, 1], 0, parameters, 28, True)
    vectors.check()


def test_without_a_driver_the_guest_hears_why(library, monkeypatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)  # the fake's
    if any(Path(folder, "libcuda.so.1").exists() for folder in ("/lib", "/usr/lib", "/lib64")):
        pytest.skip("this machine has a driver")
    with (
        gpud.Daemon(engine="cuda", shared=4) as daemon,
        library.socket(daemon.socket) as transport,
    ):
        assert library.so.ucuda_open_transport(transport) == 46
        assert b"libcuda.so.1" in library.ffi.string(library.so.ucuda_fault())
