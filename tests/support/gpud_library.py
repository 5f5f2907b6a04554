"""libgpud.so through cffi: ucuda.h's client, and gpud's worker in this process or behind a socket.

Raw is the other end of the tests: it writes records as bytes, right ones and wrong ones.
"""

import contextlib
import re
import struct
import time

from cllm import TOP, gpud

HEADERS = ("ucuda/abi.h", "ucuda/transport.h", "ucuda/ucuda.h", "gpud/loop.h")
HEADER = struct.Struct("<IHHQII")
PAGE = 4096
STARTING, READY, FAILED, LOST = range(4)
WANT_CQE = 1


def declarations():
    """Return the headers as cffi takes them."""
    text = "".join((TOP / "native" / name).read_text() for name in HEADERS)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"static inline .*?^}", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^UCUDA_ASSERT.*$", "", text, flags=re.MULTILINE)
    kept = re.findall(r"^#define (\w+) (\d+)(?: //.*)?$", text, flags=re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    for name, value in kept:
        text = re.sub(rf"\b{name}\b", value, text)
    return text + "".join(f"\n#define {name} {value}" for name, value in kept)


def name_hash(name):
    """ucuda_name_hash()."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class Library:
    """Functions and types of libgpud.so: `so`, `ffi`."""

    def __init__(self, path=gpud.LIBRARY):
        import cffi

        self.ffi = cffi.FFI()
        self.ffi.cdef(declarations())
        self.so = self.ffi.dlopen(str(path))

    @contextlib.contextmanager
    def loop(self, *, quota=64 << 20, devices=1, compute=(6, 1), shared=4 << 20, upload=True,
             pack=None, windows=(), engine="ptx"):  # fmt: skip
        """A worker in this process; yields its transport. windows: (start, buffer, kind, flags)."""
        options = self.ffi.new("struct gpud_loop_options *")
        name = self.ffi.new("char[]", engine.encode())
        options.engine, options.quota, options.devices = name, quota, devices
        options.major, options.minor = compute
        options.shared_bytes, options.upload = shared, upload
        if pack is not None:
            kept = self.ffi.new("char[]", pack)
            options.pack, options.pack_bytes = kept, len(pack)
        ranges = self.ffi.new("struct gpud_window[]", max(1, len(windows)))
        buffers = [self.ffi.from_buffer(window[1]) for window in windows]
        for i, (start, data, kind, flags) in enumerate(windows):
            ranges[i] = (start, len(data), buffers[i], kind, flags)
        options.windows, options.n_windows = ranges, len(windows)
        transport = self.ffi.new("struct ucuda_transport *")
        why = self.ffi.new("char[256]")
        loop = self.so.gpud_loop_open(options, transport, why, 256)
        assert loop, self.ffi.string(why).decode()
        try:
            yield transport
        finally:
            self.so.gpud_loop_close(loop)

    @contextlib.contextmanager
    def socket(self, path):
        """A connection to a gpud that listens; yields its transport."""
        transport = self.ffi.new("struct ucuda_transport *")
        why = self.ffi.new("char[256]")
        made = self.so.gpud_socket_open(str(path).encode(), transport, why, 256)
        if not made:
            raise ConnectionError(self.ffi.string(why).decode())
        try:
            yield transport
        finally:
            self.so.gpud_socket_close(made)

    @contextlib.contextmanager
    def client(self, transport):
        """ucuda.h's client, opened; yields a Client."""
        code = self.so.ucuda_open_transport(transport)
        assert code == 0, (code, self.ffi.string(self.so.ucuda_fault()))
        try:
            yield Client(self)
        finally:
            self.so.ucuda_close()


class Failure(Exception):
    """A function of ucuda.h failed. code: its CUresult."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code


class Client:
    """ucuda.h with Python's types; each method raises Failure."""

    def __init__(self, library):
        self.ffi, self.so = library.ffi, library.so

    def call(self, name, *arguments):
        code = getattr(self.so, "ucuda_" + name)(*arguments)
        if code != 0:
            raise Failure(code, self.fault())

    def fault(self):
        return self.ffi.string(self.so.ucuda_fault()).decode()

    def stats(self):
        out = self.ffi.new("struct ucuda_stats *")
        self.so.ucuda_stats(out)
        return out

    def alloc(self, size, device=0):
        out = self.ffi.new("uint64_t *")
        self.call("alloc", device, size, out)
        return out[0]

    def free(self, address):
        self.call("free", address)

    def memory(self, device=0):
        free, total = self.ffi.new("uint64_t *"), self.ffi.new("uint64_t *")
        self.call("memory_info", device, free, total)
        return free[0], total[0]

    def device(self, device=0):
        out = self.ffi.new("struct ucuda_device *")
        self.call("device_info", device, out)
        return out

    def rect(self, size, rows=1, device_pitch=0, host_pitch=0):
        return self.ffi.new("struct ucuda_rect *", (size, rows, device_pitch, host_pitch))

    def write(self, address, data, device=0, stream=0):
        self.call("copy_to_device", device, stream, address, self.ffi.from_buffer(data),
                  self.rect(len(data)))  # fmt: skip

    def read(self, address, size, device=0, stream=0):
        out = bytearray(size)
        self.call("copy_from_device", device, stream, self.ffi.from_buffer(out), address,
                  self.rect(size))  # fmt: skip
        return bytes(out)

    def module(self, text, device=0):
        out = self.ffi.new("uint32_t *")
        self.call("module_text", device, text.encode(), len(text.encode()), out)
        return out[0]

    def kernel(self, module, name):
        handle, what = self.ffi.new("uint32_t *"), self.ffi.new("struct ucuda_kernel *")
        self.call("kernel", module, name.encode(), handle, what)
        return handle[0], what

    def launch(self, kernel, grid, block, parameters, *, shared=0, device=0, stream=0):
        self.call("launch", device, stream, kernel, list(grid), list(block), shared, parameters,
                  len(parameters), False)  # fmt: skip


class Raw:
    """A guest that keeps no rules: writes bytes into the ring, reads completions.

    transport: of Library.loop() or Library.socket().
    """

    def __init__(self, library, transport, timeout=10):
        self.ffi, self.transport, self.timeout = library.ffi, transport, timeout
        self.memory = self.ffi.buffer(transport.memory, transport.bytes)
        self.epoch = 0
        self.start(0)

    def start(self, epoch):
        """Wait for the worker of an epoch."""
        self.epoch = epoch
        self.tail = self.head = self.seq = 0
        self.wait(lambda: self.host("epoch") == epoch and self.host("state") != STARTING)
        info = self.ffi.cast("struct ucuda_info *", self.transport.memory)
        self.sq_off, self.sq_bytes = info.sq_off, info.sq_bytes
        self.cq_off, self.cq_count = info.cq_off, info.cq_count
        self.heap_off, self.heap_bytes = info.heap_off, info.heap_bytes
        self.info = info

    def reset(self):
        """Start another epoch."""
        base = self.ffi.cast("char *", self.transport.memory)
        guest = self.ffi.cast("struct ucuda_guest *", base + PAGE)
        guest.sq_tail = guest.cq_head = 0
        guest.epoch = self.epoch + 1
        self.ring()
        self.start(self.epoch + 1)

    def host(self, field):
        base = self.ffi.cast("char *", self.transport.memory)
        return getattr(self.ffi.cast("struct ucuda_host *", base + 2 * PAGE), field)

    def fault(self):
        return self.ffi.string(self.host("fault_text")).decode()

    def ring(self):
        self.transport.ring(self.transport.user)

    def wait(self, condition):
        deadline = time.monotonic() + self.timeout
        while not condition():
            assert time.monotonic() < deadline, self.fault()
            time.sleep(0.001)

    def put(self, data):
        """Write bytes at the tail, wherever that is, and tell gpud."""
        for i in range(0, len(data), 64):
            at = self.sq_off + (self.tail + i) % self.sq_bytes
            self.memory[at : at + 64] = data[i : i + 64].ljust(64, b"\0")
        self.set_tail(self.tail + -(-len(data) // 64) * 64)

    def set_tail(self, tail):
        self.tail = tail & 0xFFFFFFFF
        self.memory[PAGE : PAGE + 4] = struct.pack("<I", self.tail)
        self.ring()

    def record(self, op, body=b"", *, size=None, flags=WANT_CQE, seq=None, stream=0, device=0):
        """A record's bytes."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        length = max(64, -(-(HEADER.size + len(body)) // 64) * 64)
        size = length if size is None else size
        return (HEADER.pack(size, op, flags, seq, stream, device) + body).ljust(length, b"\0")

    def send(self, op, body=b"", **fields):
        self.put(self.record(op, body, **fields))

    def completion(self):
        """Wait for the next completion: (seq, result, op, ret0, ret1)."""
        self.wait(lambda: self.host("cq_tail") != self.head)
        at = self.cq_off + self.head % self.cq_count * 32
        self.head += 1
        self.memory[PAGE + 4 : PAGE + 8] = struct.pack("<I", self.head)
        seq, result, op, _, first, second = struct.unpack("<QiHHQQ", self.memory[at : at + 32])
        return seq, result, op, first, second

    def ask(self, op, body=b"", **fields):
        """Send a record and return its (result, ret0, ret1)."""
        self.send(op, body, **fields)
        seq, result, op_then, first, second = self.completion()
        assert (seq, op_then) == (self.seq, op)
        return result, first, second

    def call(self, op, *arguments, **fields):
        """Ask with up to five numbers: ask()'s answer."""
        padded = [*arguments, 0, 0, 0, 0, 0][:5]
        return self.ask(op, struct.pack("<5Q", *padded), **fields)

    def heap_write(self, offset, data):
        at = self.heap_off + offset
        self.memory[at : at + len(data)] = data

    def heap_read(self, offset, size):
        at = self.heap_off + offset
        return self.memory[at : at + size]
