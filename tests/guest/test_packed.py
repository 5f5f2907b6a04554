"""The image that unpacks itself: every kind of block of RFC 1951, and what is damaged."""

import io
import random
import struct

import pytest
from cllm import build, image, qemu
from cllm.steps import Steps

LOAD = 1 << 20
WORDS = ["sea", "stone", "light", "wind", "house", "river", "night", "road", "fire", "bird"]
RANDOM = random.Random(1)
CONTENTS = {
    "stored": RANDOM.randbytes(200_000),
    "fixed": b"abcabcabcabd",
    "dynamic": " ".join(RANDOM.choices(WORDS, k=60_000)).encode(),
    "one byte": b"x" * 500_000,
    "skewed": bytes(min(255, int(RANDOM.expovariate(0.05))) for _ in range(300_000)),
    "mixed": b"".join(
        RANDOM.randbytes(RANDOM.randrange(3000)) + b"-" * RANDOM.randrange(3000)
        for _ in range(100)
    ),
}
RIGHT, WRONG = 0x4B, 0x4E  # values for QEMU's exit device, whose exit status is n << 1 | 1


def program(data):
    """Return a Multiboot image that ends QEMU with RIGHT if `data` arrived intact."""
    data += bytes(-len(data) % 4)
    total = 0
    for (word,) in struct.iter_unpack("<I", data):
        total = (total + word) & 0xFFFFFFFF
        total = (total << 1 | total >> 31) & 0xFFFFFFFF
    start = LOAD + 128
    code = b"\xbe" + struct.pack("<I", start) + b"\xb9" + struct.pack("<I", len(data) // 4)
    code += b"\x31\xd2"  # xor edx, edx
    code += b"\xad\x01\xc2\xd1\xc2\x49\x75\xf8"  # lodsd; add edx, eax; rol edx; dec ecx; jnz
    code += b"\x81\xfa" + struct.pack("<I", total)  # cmp edx
    code += bytes([0xB0, WRONG, 0x75, 2, 0xB0, RIGHT])  # mov al; jne over the other mov al
    code += b"\x66\xba\xf4\x00\xee\xf4"  # mov dx, 0xf4; out dx, al; hlt
    flags = 1 << 16 | 3
    end = start + len(data)
    header = struct.pack(
        "<8I",
        0x1BADB002,
        flags,
        -(0x1BADB002 + flags) & 0xFFFFFFFF,
        LOAD,
        LOAD,
        end,
        end,
        LOAD + 32,
    )
    return (header + code).ljust(128, b"\x90") + data


@pytest.fixture
def packed(tmp_path):
    """packed(DATA) -> the path of program(DATA), packed."""

    def make(data):
        made = tmp_path / "image"
        made.write_bytes(program(data))
        steps = Steps(tmp_path / "log", io.StringIO())
        image.pack(steps, build.zig(), made, tmp_path / "packed.elf")
        return tmp_path / "packed.elf"

    return make


def ended(path):
    guest = qemu.Guest(path, port=qemu.free_port(), memory=64)
    guest.start()
    try:
        assert guest.ended.wait(60), guest.log()
        return guest.status() >> 1
    finally:
        guest.stop()


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_was_packed_comes_out(packed, kind):
    assert ended(packed(CONTENTS[kind])) == RIGHT


def test_the_program_of_this_test_notices_a_difference(tmp_path):
    made = tmp_path / "image"
    made.write_bytes(program(b"abcd" * 100)[:-1] + b"x")
    assert ended(made) == WRONG


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_damaged_image_says_so_or_was_not_hit(packed, part):
    made = packed(CONTENTS["dynamic"])
    data = bytearray(made.read_bytes())
    payload = made.parent / "packed" / "payload"
    begin = data.index(payload.read_bytes())
    size = payload.stat().st_size
    at = begin + int(part * size)
    data[at : at + 400] = bytes(b ^ 0x5A for b in data[at : at + 400])
    made.write_bytes(data)
    guest = qemu.Guest(made, port=qemu.free_port(), memory=64)
    said = bytearray()
    guest.listeners.append(said.extend)
    guest.start()
    try:
        for _ in range(600):
            if guest.ended.wait(0.1) or b"cllm: the image is damaged\r\n" in said:
                break
        # 400 bytes may decode to as many others, by accident; then the program has noticed.
        assert b"damaged" in said or guest.ended.is_set() and guest.status() >> 1 == WRONG
    finally:
        guest.stop()
