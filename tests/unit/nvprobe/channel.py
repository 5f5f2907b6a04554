"""A mock of a card's channel: it takes apart what native/nvprobe/push.c writes.

It knows the formats from open-gpu-doc's class headers (clb06f.h, clc56f.h, clb1c0.h, clc6c0.h) by
their names there, and nothing from push.c. It proves that encoder and decoder agree, no more: what
it accepts, a card might not.
"""

import struct

import qmd

CLASSES = {
    "MAXWELL": (0xB0C0, 0xB1C0),
    "PASCAL": (0xC0C0, 0xC1C0),
    "VOLTA": (0xC3C0,),
    "TURING": (0xC5C0,),
    "AMPERE": (0xC6C0, 0xC7C0),
    "ADA": (0xC9C0,),
    "HOPPER": (0xCBC0,),
}
NEW_SEMAPHORES = ("VOLTA", "TURING", "AMPERE", "ADA", "HOPPER")
INC_METHOD, NON_INC_METHOD, IMMD_DATA_METHOD, ONE_INC = 1, 3, 4, 5
ACQUIRED = {"ACQ_GEQ": lambda have, want: have - want & 0xFFFFFFFF < 1 << 31}


class Fault(Exception):
    """What a card would report as a fault of the channel."""


class Channel:
    """One channel of a card of `generation`.

    `run(launch)` computes a kernel; launch is what qmd.decode() returns, with "constants" added:
    the bytes of bank 0. Memory is mapped at addresses of the card's own by map().
    """

    def __init__(self, generation, run):
        self.generation = generation
        self.run = run
        self.mapped = {}
        self.ring, self.taken = [], 0
        self.bound, self.state = {}, {}
        self.inline = None  # (address, data so far, length)
        self.launches = 0
        self.waiting = None  # iterator over the rest of a push buffer

    # --- Memory

    def map(self, address, memory):
        self.mapped[address] = memory

    def place(self, address, size):
        for start, memory in self.mapped.items():
            if start <= address and address + size <= start + len(memory):
                return memory, address - start
        raise Fault(f"no memory at {address:#x}")

    def read(self, address, size):
        memory, offset = self.place(address, size)
        return bytes(memory[offset : offset + size])

    def write(self, address, data):
        memory, offset = self.place(address, len(data))
        memory[offset : offset + len(data)] = data

    def word(self, address):
        return struct.unpack("<I", self.read(address, 4))[0]

    # --- The ring and the push buffers

    def submit(self, entry):
        self.ring.append(entry)

    def go(self):
        """Work until the ring is empty (True) or a semaphore has to be waited for (False)."""
        while self.waiting is not None or self.taken < len(self.ring):
            if self.waiting is None:
                self.waiting = self.methods(self.ring[self.taken])
                self.taken += 1
            for subchannel, method, value in self.waiting:
                if self.execute(subchannel, method, value) is False:
                    return False
            self.waiting = None
        return True

    def methods(self, entry):
        low, high = entry & 0xFFFFFFFF, entry >> 32
        if low & 3 or high & 0x300 or high >> 31:  # GP_ENTRY0_FETCH, reserved, LEVEL, SYNC
            raise Fault(f"ring entry {entry:#x}")
        address, length = low | (high & 0xFF) << 32, high >> 10 & 0x1FFFFF
        words = struct.unpack(f"<{length}I", self.read(address, 4 * length))
        at = 0
        while at < length:
            header = words[at]
            operation, count = header >> 29, header >> 16 & 0x1FFF
            subchannel, method = header >> 13 & 7, (header & 0xFFF) * 4
            at += 1
            if operation == IMMD_DATA_METHOD:
                yield subchannel, method, count
                continue
            if operation not in (INC_METHOD, NON_INC_METHOD, ONE_INC) or header >> 12 & 1:
                raise Fault(f"header {header:#x}")
            if at + count > length:
                raise Fault("a method runs past the push buffer's end")
            for i in range(count):
                step = {INC_METHOD: i, NON_INC_METHOD: 0, ONE_INC: min(i, 1)}[operation]
                yield subchannel, method + 4 * step, words[at + i]
            at += count

    # --- Methods

    def execute(self, subchannel, method, value):
        if method == 0x0000:  # SET_OBJECT
            if value not in CLASSES[self.generation]:
                raise Fault(f"class {value:#x}")
            self.bound[subchannel] = value
        elif method < 0x100:
            return self.host(method, value)
        elif subchannel not in self.bound:
            raise Fault(f"method {method:#x} of subchannel {subchannel}, which has no class")
        elif method == 0x01B4:
            self.load_inline(value)
        else:
            self.state[method] = value
            if method == 0x01B0:  # LAUNCH_DMA: pitch linear, flush
                if value & 0x33 != 0x11 or self.state[0x184] != 1:
                    raise Fault(f"LAUNCH_DMA {value:#x}")
                to = self.state[0x188] << 32 | self.state[0x18C]
                self.inline = (to, bytearray(), self.state[0x180])
            elif method == 0x02BC:  # SEND_SIGNALING_PCAS_B: INVALIDATE, SCHEDULE
                if value != 3:
                    raise Fault(f"SEND_SIGNALING_PCAS_B {value:#x}")
                self.launch(self.state[0x2B4] << 8)
        return None

    def load_inline(self, value):
        if self.inline is None:
            raise Fault("inline data without LAUNCH_DMA")
        to, data, length = self.inline
        data += struct.pack("<I", value)
        if len(data) >= length:
            self.write(to, data[:length])
            self.inline = None

    def host(self, method, value):
        self.state[method] = value
        new = self.generation in NEW_SEMAPHORES
        if method == 0x1C and not new:  # SEMAPHORED
            address = self.state[0x10] << 32 | self.state[0x14]
            payload, operation = self.state[0x18], value & 0x1F
            if operation == 2:
                # RELEASE_WFI_EN is 0; 4-byte release
                if value >> 20 & 1 or not value >> 24 & 1:
                    raise Fault(f"SEMAPHORED {value:#x}")
                self.write(address, struct.pack("<I", payload))
                return None
            if operation == 4:
                return self.acquire(address, payload)
        elif method == 0x6C and new:  # SEM_EXECUTE
            address = self.state[0x60] << 32 | self.state[0x5C]
            payload, operation = self.state[0x64], value & 7
            if operation == 1:
                # RELEASE_WFI_EN is 1; 32-bit payload, no timestamp
                if not value >> 20 & 1 or value >> 24 & 3:
                    raise Fault(f"SEM_EXECUTE {value:#x}")
                self.write(address, struct.pack("<I", payload))
                return None
            if operation == 3:
                return self.acquire(address, payload)
        elif method in ((0x5C, 0x60, 0x64, 0x68) if new else (0x10, 0x14, 0x18)):
            return None
        raise Fault(f"method {method:#x} of the channel: {value:#x}")

    def acquire(self, address, payload):
        if ACQUIRED["ACQ_GEQ"](self.word(address), payload):
            return None
        # Comes back to the same method, as the ring's reader does.
        rest, last = self.waiting, 0x6C if self.generation in NEW_SEMAPHORES else 0x1C
        self.waiting = _before((0, last, self.state[last]), rest)
        return False

    def launch(self, address):
        layout = qmd.LAYOUTS[qmd.OF_GENERATION[self.generation]]
        launch = qmd.decode(
            self.generation, int.from_bytes(self.read(address, layout.bits // 8), "little")
        )
        if "%02d.%02d" % launch["version"] != layout.version:
            raise Fault(f"metadata of version {launch['version']}")
        if not layout.has("PROGRAM_ADDRESS_LOWER"):  # SET_PROGRAM_REGION_A, B
            launch["program"] += self.state[0x1608] << 32 | self.state[0x160C]
        launch["constants"] = self.read(*launch["banks"][0]) if 0 in launch["banks"] else b""
        self.launches += 1
        self.run(launch)
        if launch["release"]:
            to, payload = launch["release"]
            self.write(to, struct.pack("<I", payload))


def _before(first, rest):
    yield first
    yield from rest
