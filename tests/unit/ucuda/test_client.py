"""ucuda.h's client over gpud's worker in this process: memory, copies, waits, failures."""

import os
import struct
import threading

import pytest
from support.gpud_library import FAILED, PAGE, Failure, Raw

KIB, MIB = 1 << 10, 1 << 20
EINVAL, ENOMEM, ENOTSUPPORTED, ELOST = 1, 2, 801, 46


@pytest.fixture
def client(library):
    with library.loop() as transport, library.client(transport) as client:
        yield client


def test_device_and_memory(client):
    device = client.device()
    assert client.ffi.string(device.name) == b"PTX interpreter 0"
    assert (device.major, device.minor, device.warp) == (6, 1, 32)
    assert client.memory() == (64 * MIB, 64 * MIB)
    address = client.alloc(1000)
    assert client.memory() == (64 * MIB - 1024, 64 * MIB)
    assert client.read(address, 1000) == b"\xa5" * 1000  # poisoned
    client.free(address)
    assert client.memory() == (64 * MIB, 64 * MIB)


@pytest.mark.parametrize("size", [1, 63, 32 * KIB, 32 * KIB + 1, 300 * KIB, 3 * MIB + 5])
def test_copies_of_all_sizes(client, size):
    # Records end where they may: 32 KiB go inline, more through a heap of 2 MiB, in parts.
    data = os.urandom(size)
    address = client.alloc(size)
    client.write(address, data)
    assert client.read(address, size) == data


def test_rows_with_pitches(client):
    host = os.urandom(50 * 100)
    address = client.alloc(64 * 100)
    zero = client.ffi.cast("uint32_t", 0)
    client.call("set", 0, 0, address, zero, 4, 6400, 1, 0)
    client.call("copy_to_device", 0, 0, address, client.ffi.from_buffer(host),
                client.rect(40, 100, 64, 50))  # fmt: skip
    on_device = client.read(address, 6400)
    for row in range(100):
        assert on_device[64 * row : 64 * row + 64] == host[50 * row : 50 * row + 40] + bytes(24)
    back = bytearray(5000)
    client.call("copy_from_device", 0, 0, client.ffi.from_buffer(back), address,
                client.rect(40, 100, 64, 50))  # fmt: skip
    assert all(back[50 * r : 50 * r + 40] == host[50 * r : 50 * r + 40] for r in range(100))


def test_set_and_copy_on_device(client):
    address = client.alloc(1024)
    client.call("set", 0, 0, address, 0x1234, 2, 512, 1, 0)
    client.call("copy_on_device", 0, 0, address + 512, address, client.rect(512))
    assert client.read(address, 1024) == struct.pack("<H", 0x1234) * 512


def test_a_synchronize_with_nothing_to_wait_for_is_free(client):
    address = client.alloc(64 * KIB)
    before = client.stats().waits
    for _ in range(100):
        client.call("synchronize", 0, 0)
        client.write(address, b"x" * 1000)
        client.call("synchronize", 0, 0)
        client.write(address, b"x" * 64 * KIB)
        client.call("synchronize_device", 0)
    assert client.stats().waits == before
    client.call("set", 0, 0, address, 0, 1, 10, 1, 0)
    client.call("synchronize", 0, 0)
    assert client.stats().waits == before + 1


def test_a_later_copy_and_its_synchronize_are_one_round_trip(client):
    data = os.urandom(100 * KIB)
    address = client.alloc(len(data))
    client.write(address, data)
    before = client.stats().waits
    out = bytearray(len(data))
    client.call("copy_from_device_later", 0, 0, client.ffi.from_buffer(out), address,
                client.rect(len(data)))  # fmt: skip
    assert out == bytes(len(data))
    client.call("synchronize", 0, 0)
    assert out == data
    assert client.stats().waits == before + 1


def test_later_copies_of_more_than_the_heap(client):
    data = os.urandom(8 * MIB)
    address = client.alloc(len(data))
    client.write(address, data)
    out = bytearray(len(data))
    view = client.ffi.from_buffer(out)
    for at in range(0, len(data), MIB // 4):
        client.call("copy_from_device_later", 0, 0, view + at, address + at,
                    client.rect(MIB // 4))  # fmt: skip
    client.call("synchronize_device", 0)
    assert out == data


def test_the_ring_wraps(client):
    # 200 records of 32 KiB in a ring of 1 MiB, of sizes that leave gaps at its end.
    address = client.alloc(64 * KIB)
    for i in range(200):
        data = bytes([i]) * (30 * KIB + i)
        client.write(address, data)
        if i % 50 == 0:
            assert client.read(address, len(data)) == data
    assert client.stats().records > 200


def test_the_quota_is_an_error_of_that_request_only(client):
    with pytest.raises(Failure) as failure:
        client.alloc(64 * MIB + 1)
    assert failure.value.code == ENOMEM
    assert "out of memory" in str(failure.value)
    with pytest.raises(Failure) as failure:
        client.alloc((1 << 64) - 1)
    assert failure.value.code == ENOMEM
    client.free(client.alloc(64 * MIB))


def test_a_queued_failure_sticks_until_the_reset(client):
    address = client.alloc(256)
    client.call("set", 0, 0, address + 200, 0, 1, 100, 1, 0)  # 44 bytes too far
    with pytest.raises(Failure) as failure:
        client.call("synchronize", 0, 0)
    assert failure.value.code == EINVAL
    assert "not in an allocation" in str(failure.value)
    with pytest.raises(Failure):
        client.alloc(1)
    client.free(address)  # to free what there is
    assert client.so.ucuda_status() == EINVAL
    client.call("reset")
    assert client.so.ucuda_status() == 0
    assert client.memory() == (64 * MIB, 64 * MIB)
    assert client.stats().used_bytes == 0


def test_windows(library):
    memory = bytearray(os.urandom(2 * MIB))
    file = os.urandom(2 * MIB)
    windows = [(0x100000, memory, 1, 1), (0x40000000, file, 2, 0)]
    with library.loop(windows=windows) as transport:
        bases = {int(library.ffi.cast("uintptr_t", library.ffi.from_buffer(b))): (start, len(b))
                 for start, b, _, _ in windows}  # fmt: skip

        @library.ffi.callback("size_t(void *, const void *, size_t, uint64_t *)")
        def physical(_, at, size, address):
            for base, (start, length) in bases.items():
                offset = int(library.ffi.cast("uintptr_t", at)) - base
                if 0 <= offset < length:
                    address[0] = start + offset
                    return min(size, length - offset)
            return 0

        transport.physical = physical
        with library.client(transport) as client:
            address = client.alloc(2 * MIB)
            before = client.stats().records
            waits = client.stats().waits
            client.write(address, file)
            assert client.stats().records == before + 1  # gpud reads it by itself
            assert client.stats().waits == waits
            assert client.read(address, MIB) == file[:MIB]
            client.call("copy_from_device", 0, 0, library.ffi.from_buffer(memory), address,
                        client.rect(2 * MIB))  # fmt: skip
            assert memory == file
            memory[:] = os.urandom(2 * MIB)
            client.write(address, memory)
            assert client.read(address, 2 * MIB) == memory


def test_a_beat_that_stands_still_is_a_loss(library):
    with library.loop() as transport, library.client(transport) as client:
        now = [0]
        assert client.so.ucuda_status() == 0
        # No supervisor beats here: the page is one of the test's own.
        copy = bytearray(transport.bytes)
        copy[:] = library.ffi.buffer(transport.memory, transport.bytes)[:]
        client.so.ucuda_close()
        struct.pack_into("<II", copy, 2 * PAGE + 8, 1, 1)  # epoch, ready
        struct.pack_into("<I", copy, PAGE + 8, 0)

        @library.ffi.callback("uint64_t(void *)")
        def now_ms(_):
            now[0] += 100
            return now[0]

        @library.ffi.callback("void(void *, unsigned)")
        def pause(_, turn):
            pass

        still = library.ffi.new("struct ucuda_transport *", transport[0])
        still.memory = library.ffi.from_buffer(copy)
        still.now_ms, still.pause = now_ms, pause
        assert client.so.ucuda_open_transport(still) == 0
        with pytest.raises(Failure) as failure:
            client.alloc(1)
        assert failure.value.code == ELOST
        assert "does not answer" in str(failure.value)
        assert 5000 <= now[0] < 6000
        assert client.so.ucuda_status() == ELOST


def test_a_broken_ring_is_a_loss_and_a_reset_mends_it(library):
    with library.loop() as transport, library.client(transport) as client:
        raw = Raw.__new__(Raw)
        raw.ffi, raw.transport, raw.timeout = library.ffi, transport, 10
        raw.memory = library.ffi.buffer(transport.memory, transport.bytes)
        raw.set_tail(17)
        raw.wait(lambda: raw.host("state") == FAILED)
        with pytest.raises(Failure) as failure:
            client.alloc(1)
        assert failure.value.code == ELOST
        assert "tail" in client.fault()
        client.call("reset")
        client.free(client.alloc(1))


def test_text_is_refused_without_upload(library):
    with library.loop(upload=False) as transport, library.client(transport) as client:
        with pytest.raises(Failure) as failure:
            client.module("")
        assert failure.value.code == ENOTSUPPORTED


def test_threads_take_turns(client):
    failures = []

    def work(seed):
        try:
            for i in range(20):
                data = bytes([seed * 20 + i]) * (1000 * (seed + 1) * (i + 1))
                address = client.alloc(len(data))
                client.write(address, data)
                assert client.read(address, len(data)) == data
                client.free(address)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures
    assert client.memory()[0] == 64 * MIB
