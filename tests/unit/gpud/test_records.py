"""gpud's worker against records as bytes: which it takes, which it refuses, and with what.

The other end writes the ring by itself (support.gpud_library.Raw), so nothing here depends on what
ucuda's client would send.
"""

import os
import struct

import pytest
from support.gpud_library import FAILED, HEADER, READY, Raw, name_hash

(NOP, HELLO, DEVICE_INFO, MEM_INFO, ALLOC, FREE, COPY, SET, MODULE, KERNEL, KERNEL_ATTR, OCCUPANCY,
 LAUNCH, STREAM_CREATE, STREAM_DESTROY, STREAM_WAIT, EVENT_CREATE, EVENT_DESTROY, EVENT_RECORD,
 FENCE, CAPTURE_BEGIN, CAPTURE_END, GRAPH_EXEC, GRAPH_LAUNCH, GRAPH_FREE, GLOBAL, GEMM, RESET,
 ELAPSED, HOST_PIN) = range(30)  # fmt: skip
EINVAL, ENOMEM, EIMAGE, EHANDLE, ENOTFOUND, EADDRESS, ENOTSUPPORTED, ECAPTURE = (
    1, 2, 200, 400, 500, 700, 801, 900)  # fmt: skip
INLINE, FROM_HEAP, FROM_WINDOW, TO_HEAP, TO_WINDOW, ON_DEVICE = range(1, 7)
QUOTA = 1 << 20
RAM, FILE = 0x100000, 0x40000000
WINDOW = 64 << 10


@pytest.fixture(scope="module")
def transport(library):
    windows = [(RAM, bytearray(WINDOW), 1, 1), (FILE, os.urandom(WINDOW), 2, 0)]
    with library.loop(quota=QUOTA, devices=2, windows=windows) as transport:
        transport_and_windows = transport, windows
        yield transport_and_windows


@pytest.fixture
def raw(library, transport):
    raw = Raw.__new__(Raw)
    raw.ffi, raw.transport, raw.timeout = library.ffi, transport[0], 10
    raw.memory = library.ffi.buffer(transport[0].memory, transport[0].bytes)
    raw.epoch = raw.host("epoch")
    raw.reset()
    return raw


def copy(device, host, size, kind, rows=1, device_pitch=0, host_pitch=0):
    return struct.pack("<QQQIIII", device, host, size, kind, rows, device_pitch, host_pitch)


def fill(address, size, value=0, unit=1, rows=1, pitch=0):
    return struct.pack("<QQIIII", address, size, value, unit, rows, pitch)


def alloc(raw, size, device=0):
    code, address, _ = raw.call(ALLOC, size, device=device)
    assert code == 0 and address
    return address


def test_the_first_page(raw):
    assert raw.info.magic == 0x315550474D4C4C43
    assert (raw.info.abi_major, raw.info.n_devices, raw.info.quota) == (1, 2, QUOTA)
    assert raw.ffi.string(raw.info.name) == b"ptx"
    assert raw.info.features & 1 and raw.info.features & 2 and raw.info.features & 64
    windows = [(w.start, w.size, w.kind, w.flags) for w in raw.info.window[0:3]]
    assert windows == [(RAM, WINDOW, 1, 1), (FILE, WINDOW, 2, 0), (0, 0, 0, 0)]


def test_hello(raw):
    assert raw.call(HELLO, 1)[0] == 0
    assert raw.call(HELLO, 2)[0] == ENOTSUPPORTED


@pytest.mark.parametrize(
    "size, tail",
    [(0, 64), (1, 64), (63, 64), (96, 128), (128, 64), (65600, 65600), (0xFFFFFFC0, 64)],
)
def test_a_record_of_a_wrong_size_ends_the_ring(raw, size, tail):
    raw.put(raw.record(NOP, size=size).ljust(tail, b"\0"))
    raw.wait(lambda: raw.host("state") == FAILED)
    assert "size" in raw.fault()
    raw.reset()
    assert raw.host("state") == READY
    assert raw.call(HELLO, 1)[0] == 0


@pytest.mark.parametrize("tail", [1, 63, (1 << 20) + 64, 1 << 31, 0xFFFFFFC0])
def test_a_tail_that_cannot_be_ends_the_ring(raw, tail):
    raw.set_tail(tail)
    raw.wait(lambda: raw.host("state") == FAILED)
    assert "tail" in raw.fault()


@pytest.mark.parametrize("seq", [0, 2, 1 << 63])
def test_records_are_numbered(raw, seq):
    raw.send(NOP, seq=seq)
    raw.wait(lambda: raw.host("state") == FAILED)
    assert "follows" in raw.fault()


def test_a_record_may_not_wrap(raw):
    for _ in range((1 << 20) // 65536 - 1):
        raw.send(NOP, b"\0" * (65536 - HEADER.size), flags=0)
    raw.send(NOP, b"\0" * (65536 - 64 - HEADER.size))
    assert raw.completion()[1] == 0
    raw.put(raw.record(NOP, b"\0" * 100))  # 128 bytes, 64 are left
    raw.wait(lambda: raw.host("state") == FAILED)


def test_a_guest_that_takes_no_completions_waits_for_itself_only(raw):
    count = raw.cq_count + 10
    for _ in range(count):
        raw.send(NOP)
    raw.wait(lambda: raw.host("cq_tail") == raw.cq_count)
    assert [raw.completion()[0] for _ in range(count)] == list(range(1, count + 1))


def test_a_head_that_cannot_be_ends_the_ring(raw):
    raw.memory[4096 + 4 : 4096 + 8] = struct.pack("<I", 5000)
    raw.send(NOP)
    raw.wait(lambda: raw.host("state") == FAILED)


@pytest.mark.parametrize("op", [30, 31, 255, 65535])
def test_there_are_no_other_commands(raw, op):
    assert raw.call(op)[0] == EINVAL


def test_flags_and_devices_are_checked(raw):
    assert raw.call(NOP, flags=3)[0] == 0  # whatever fills the ring
    assert raw.call(ALLOC, 100, flags=3)[0] == EINVAL
    for op in (
        DEVICE_INFO,
        MEM_INFO,
        ALLOC,
        COPY,
        SET,
        MODULE,
        STREAM_CREATE,
        EVENT_CREATE,
        FENCE,
    ):
        assert raw.call(op, device=2)[0] == EINVAL


def test_device_info_goes_into_the_heap_only(raw):
    assert raw.call(DEVICE_INFO, raw.heap_bytes - 256, device=1)[0] == 0
    assert raw.heap_read(raw.heap_bytes - 256, 17) == b"PTX interpreter 1"
    for offset in (raw.heap_bytes - 255, raw.heap_bytes, 1 << 63, (1 << 64) - 1):
        assert raw.call(DEVICE_INFO, offset)[0] == EINVAL


def test_the_quota_is_of_all_devices(raw):
    assert raw.call(MEM_INFO) == (0, QUOTA, QUOTA)
    first = alloc(raw, QUOTA // 2)
    alloc(raw, QUOTA // 2 - 300, device=1)
    assert raw.call(MEM_INFO) == (0, 256, QUOTA)
    for size in (257, QUOTA, 1 << 63, (1 << 64) - 1):
        assert raw.call(ALLOC, size)[0] == ENOMEM
        assert "out of memory" in raw.fault()
    assert raw.call(ALLOC, 0)[0] == EINVAL
    assert raw.call(FREE, first)[0] == 0
    assert raw.host("used_bytes") == QUOTA // 2 - 256
    alloc(raw, QUOTA // 2)


def test_free_takes_what_alloc_gave(raw):
    address = alloc(raw, 1000)
    for wrong in (0, 1, address + 1, address + 256, (1 << 64) - 1):
        assert raw.call(FREE, wrong)[0] == EINVAL
    assert raw.call(FREE, address)[0] == 0
    assert raw.call(FREE, address)[0] == EINVAL


def test_copies_stay_in_one_allocation(raw):
    address = alloc(raw, 1000)  # 1024, by the granule
    raw.heap_write(0, bytes(range(256)) * 4)
    assert raw.ask(COPY, copy(address, 0, 1024, FROM_HEAP))[0] == 0
    assert raw.ask(COPY, copy(address + 1023, 5000, 1, TO_HEAP))[0] == 0
    assert raw.heap_read(5000, 1) == b"\xff"
    wrong = [
        (address, 1025), (address - 1, 1), (address + 1024, 1), (0, 1), (address, 1 << 63),
        (address + 1, (1 << 64) - 1), (address, 0),
    ]  # fmt: skip
    for device, size in wrong:
        for kind in (FROM_HEAP, TO_HEAP, FROM_WINDOW, TO_WINDOW, ON_DEVICE):
            host = {ON_DEVICE: address, FROM_WINDOW: RAM, TO_WINDOW: RAM}.get(kind, 0)
            assert raw.ask(COPY, copy(device, host, size, kind))[0] == EINVAL
            if kind == ON_DEVICE:
                assert raw.ask(COPY, copy(address, device, size, kind))[0] == EINVAL


def test_rows_are_part_of_the_range(raw):
    address = alloc(raw, 1024)
    assert raw.ask(COPY, copy(address, 0, 64, FROM_HEAP, 8, 128, 64))[0] == 0
    assert raw.ask(COPY, copy(address, 0, 64, FROM_HEAP, 9, 120, 64))[0] == 0
    wrong = [
        (9, 128, 64), (8, 63, 64), (8, 128, 63), (0, 128, 64), (0xFFFFFFFF, 0xFFFFFFFF, 64),
        (2, 128, 0xFFFFFFFF),
    ]  # fmt: skip
    for rows, device_pitch, host_pitch in wrong:
        body = copy(address, 0, 64, FROM_HEAP, rows, device_pitch, host_pitch)
        assert raw.ask(COPY, body)[0] == EINVAL
    assert raw.ask(COPY, copy(address, 0, 1 << 40, TO_HEAP, 2, 0, 0))[0] == EINVAL


def test_the_heap_ends(raw):
    address = alloc(raw, 1024)
    end = raw.heap_bytes
    assert raw.ask(COPY, copy(address, end - 1024, 1024, FROM_HEAP))[0] == 0
    for offset in (end - 1023, end, (1 << 64) - 512, 1 << 32):
        assert raw.ask(COPY, copy(address, offset, 1024, FROM_HEAP))[0] == EINVAL
        assert raw.ask(COPY, copy(address, offset, 1024, TO_HEAP))[0] == EINVAL


def test_windows_end_and_a_file_is_read_only(raw, transport):
    ram, file = transport[1][0][1], transport[1][1][1]
    address = alloc(raw, 1024)
    assert raw.ask(COPY, copy(address, FILE + WINDOW - 1024, 1024, FROM_WINDOW))[0] == 0
    assert raw.ask(COPY, copy(address, RAM + 512, 1024, TO_WINDOW))[0] == 0
    assert ram[512:1536] == file[-1024:]
    assert raw.ask(COPY, copy(address, FILE, 1024, TO_WINDOW))[0] == EINVAL
    for start in (RAM - 1, RAM + WINDOW - 1023, RAM + WINDOW, FILE - 1, 0, (1 << 64) - 512):
        assert raw.ask(COPY, copy(address, start, 1024, FROM_WINDOW))[0] == EINVAL
        assert raw.ask(COPY, copy(address, start, 1024, TO_WINDOW))[0] == EINVAL


def test_inline_data_are_in_the_record(raw):
    address = alloc(raw, 1024)
    data = os.urandom(100)
    body = copy(address, 0, 100, INLINE).ljust(40, b"\0") + data
    assert raw.ask(COPY, body)[0] == 0
    assert raw.ask(COPY, copy(address, 0, 100, TO_HEAP))[0] == 0
    assert raw.heap_read(0, 100) == data
    assert raw.ask(COPY, copy(address, 0, 129, INLINE).ljust(40, b"\0") + data)[0] == EINVAL
    assert raw.ask(COPY, copy(address, 0, 1, INLINE))[0] == EINVAL  # a record without data
    for kind in (0, 7, 0xFFFFFFFF):
        assert raw.ask(COPY, copy(address, 0, 1, kind))[0] == EINVAL


def test_set(raw):
    address = alloc(raw, 1024)
    assert raw.ask(SET, fill(address, 1024, 0x01020304, 4))[0] == 0
    assert raw.ask(SET, fill(address + 2, 2, 0xFFFF, 2, 4, 128))[0] == 0
    assert raw.ask(COPY, copy(address, 0, 132, TO_HEAP))[0] == 0
    assert raw.heap_read(0, 4) == raw.heap_read(128, 4) == b"\x04\x03\xff\xff"
    for wrong in (
        fill(address, 1025), fill(address, 1024, 0, 3), fill(address, 1023, 0, 2),
        fill(address + 1, 4, 0, 4), fill(address, 4, 0, 4, 2, 6), fill(address, 8, 0, 1, 2, 4),
        fill(address, 0), fill(0, 1), fill(address, 8, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF),
        fill(address, 8, 0, 0),
    ):  # fmt: skip
        assert raw.ask(SET, wrong)[0] == EINVAL


def test_streams_and_events_are_of_their_tables(raw):
    stream = raw.call(STREAM_CREATE, device=1)[1]
    event = raw.call(EVENT_CREATE, device=1)[1]
    assert stream == 3 and event == 1
    for good in (0, 1, 2, stream):
        assert raw.call(FENCE, stream=good, device=1)[0] == 0
        assert raw.call(EVENT_RECORD, event, stream=good, device=1)[0] == 0
        assert raw.call(STREAM_WAIT, event, stream=good, device=1)[0] == 0
    assert raw.call(FENCE, stream=stream)[0] == EHANDLE  # of the other device
    assert raw.call(EVENT_RECORD, event)[0] == EHANDLE
    for op in (FENCE, COPY, SET, LAUNCH, STREAM_DESTROY, EVENT_RECORD, CAPTURE_BEGIN):
        assert raw.call(op, event, stream=4, device=1)[0] == EHANDLE
    for op in (EVENT_RECORD, STREAM_WAIT, EVENT_DESTROY, ELAPSED):
        assert raw.call(op, 2, device=1)[0] == EHANDLE
        assert raw.call(op, (1 << 64) - 1, device=1)[0] == EHANDLE
    assert raw.call(ELAPSED, event, event)[0] == 0
    assert raw.call(STREAM_DESTROY, stream=0)[0] == EHANDLE
    assert raw.call(STREAM_DESTROY, stream=stream, device=1)[0] == 0
    assert raw.call(FENCE, stream=stream, device=1)[0] == EHANDLE
    assert raw.call(EVENT_DESTROY, event)[0] == 0
    assert raw.call(EVENT_DESTROY, event)[0] == EHANDLE


def test_there_are_not_more_streams_than_the_table_has(raw):
    codes = [raw.call(STREAM_CREATE)[0] for _ in range(1025)]
    assert codes == [0] * 1024 + [ENOMEM]


def test_modules_and_kernels_are_of_their_tables(raw):
    assert raw.call(MODULE, 0, 0)[0] == ENOTFOUND  # no pack
    for offset, size in ((raw.heap_bytes, 1), (0, raw.heap_bytes + 1), ((1 << 64) - 1, 2)):
        assert raw.call(MODULE, 0, 0, offset, size)[0] == EINVAL
    raw.heap_write(0, b"this is no PTX")
    assert raw.call(MODULE, 0, 0, 0, 14)[0] == EIMAGE
    for handle in (0, 1, 99, 1 << 32, (1 << 64) - 1):
        assert raw.call(KERNEL, handle, name_hash("fill"), 0)[0] == EHANDLE
        assert raw.call(GLOBAL, handle, 0)[0] == EHANDLE
        assert raw.call(KERNEL_ATTR, handle, 8, 1, 1)[0] == EHANDLE
        assert raw.call(OCCUPANCY, handle, 32, 0)[0] == EHANDLE
        assert raw.call(GRAPH_EXEC, handle)[0] == EHANDLE
        assert raw.call(GRAPH_LAUNCH, handle)[0] == EHANDLE
        assert raw.call(GRAPH_FREE, handle)[0] == EHANDLE
    launch = struct.pack("<I3I3IIII", 1, 1, 1, 1, 1, 1, 1, 0, 0, 0)
    assert raw.ask(LAUNCH, launch)[0] == EHANDLE
    assert raw.ask(LAUNCH, launch[:-8] + struct.pack("<II", 1, 0))[0] == EINVAL  # no parameters
    assert raw.call(GEMM)[0] == ENOTSUPPORTED


def test_a_kernel_of_a_shared_variables_name_is_no_memory(raw):
    text = b""".version 8.5 .target sm_61 .address_size 64
    .shared .b8 same[4294967295]; .visible .entry same() { ret; }"""
    raw.heap_write(0, text)
    code, module, _ = raw.call(MODULE, 0, 0, 0, len(text))
    assert code == 0
    assert raw.call(GLOBAL, module, name_hash("same"))[0] == ENOTFOUND
    assert raw.ask(COPY, copy(0x200000, 0, 64, TO_HEAP))[0] == EINVAL


def test_host_pin_is_of_a_window(raw):
    assert raw.call(HOST_PIN, RAM, WINDOW)[0] == 0
    assert raw.call(HOST_PIN, RAM, WINDOW + 1)[0] == EINVAL


def test_a_failure_that_nobody_waits_for_sticks(raw):
    address = alloc(raw, 256)
    raw.send(SET, fill(address, 257), flags=0)
    bad = raw.seq
    raw.send(SET, fill(address, 1), flags=0)
    assert raw.completion()[:3] == (bad, EINVAL, SET)
    assert raw.call(FENCE)[0] == EINVAL
    assert (raw.host("sticky"), raw.host("fault_seq")) == (EINVAL, bad)
    assert "not in an allocation" in raw.fault()
    assert raw.call(ALLOC, 1)[0] == EINVAL
    assert raw.call(FREE, address)[0] == 0
    assert raw.call(RESET)[0] == 0
    assert raw.host("sticky") == 0
    alloc(raw, 1)


def test_a_new_epoch_starts_with_nothing(raw):
    address = alloc(raw, 1000)
    stream = raw.call(STREAM_CREATE)[1]
    raw.send(SET, fill(0, 1), flags=0)
    raw.reset()
    assert (raw.host("sticky"), raw.host("used_bytes"), raw.fault()) == (0, 0, "")
    assert raw.call(FREE, address)[0] == EINVAL
    assert raw.call(FENCE, stream=stream)[0] == EHANDLE


def test_graphs_repeat_copies_and_sets(raw):
    stream = raw.call(STREAM_CREATE)[1]
    a, b = alloc(raw, 256), alloc(raw, 256)
    assert raw.call(CAPTURE_BEGIN, 3, stream=stream)[0] == EINVAL
    assert raw.call(CAPTURE_BEGIN, 0, stream=0)[0] == ECAPTURE
    assert raw.call(CAPTURE_END, stream=stream)[0] == ECAPTURE
    assert raw.call(CAPTURE_BEGIN, 0, stream=stream)[0] == 0
    assert raw.ask(SET, fill(a, 256, 7), stream=stream)[0] == 0
    assert raw.ask(COPY, copy(b, a, 256, ON_DEVICE), stream=stream)[0] == 0
    assert raw.ask(COPY, copy(a, 0, 1, FROM_HEAP), stream=stream)[0] == ECAPTURE
    assert raw.call(FENCE, stream=stream)[0] == ECAPTURE
    code, graph, _ = raw.call(CAPTURE_END, stream=stream)
    assert code == 0
    assert raw.call(GRAPH_LAUNCH, graph, stream=stream)[0] == EHANDLE  # not executable
    code, made, _ = raw.call(GRAPH_EXEC, graph)
    assert code == 0
    raw.ask(COPY, copy(b, 0, 256, TO_HEAP))
    assert raw.heap_read(0, 256) == b"\xa5" * 256
    assert raw.call(GRAPH_LAUNCH, made, stream=stream)[0] == 0
    raw.ask(COPY, copy(b, 0, 256, TO_HEAP))
    assert raw.heap_read(0, 256) == b"\x07" * 256
    assert raw.call(GRAPH_EXEC, graph, made) == (0, made, 0)
    assert raw.call(GRAPH_FREE, graph)[0] == 0
    # The graph remembers an address that is free now: not to be written.
    assert raw.call(FREE, a)[0] == 0
    assert raw.call(GRAPH_LAUNCH, made, stream=stream)[0] == EADDRESS
    assert raw.host("sticky") == EADDRESS
    assert raw.call(RESET)[0] == EADDRESS  # as on a card, nothing helps but a new epoch


def test_a_stream_joins_a_capture_by_an_event(raw):
    first, second = (raw.call(STREAM_CREATE)[1] for _ in range(2))
    event, a = raw.call(EVENT_CREATE)[1], alloc(raw, 256)
    raw.call(CAPTURE_BEGIN, 0, stream=first)
    raw.call(EVENT_RECORD, event, stream=first)
    raw.call(STREAM_WAIT, event, stream=second)
    assert raw.ask(SET, fill(a, 256, 9), stream=second)[0] == 0
    graph = raw.call(CAPTURE_END, stream=first)[1]
    raw.ask(COPY, copy(a, 0, 256, TO_HEAP))
    assert raw.heap_read(0, 1) == b"\xa5"
    made = raw.call(GRAPH_EXEC, graph)[1]
    assert raw.call(GRAPH_LAUNCH, made, stream=first)[0] == 0
    raw.ask(COPY, copy(a, 0, 256, TO_HEAP))
    assert raw.heap_read(0, 1) == b"\x09"
    assert raw.ask(SET, fill(a, 256, 8), stream=second)[0] == 0  # runs again at once
    raw.ask(COPY, copy(a, 0, 256, TO_HEAP))
    assert raw.heap_read(0, 1) == b"\x08"
