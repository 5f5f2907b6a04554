"""Builds video BIOS images byte by byte, after the layouts that native/nvprobe/vbios.c names.

No vendor's ROM is in this repository; these hold zeros where one would have code.
"""

import struct

BLOCK = 512
PC, EFI, NBSI, FWSEC = 0x00, 0x03, 0x70, 0xE0
FWSEC_PROD, FWSEC_DEBUG = 0x85, 0x45
SIGNATURE = 384  # bytes


def image(code, blocks, last=False, npde=True, content=(), pcir=0x40, device=0x2204, **changes):
    """Return an image of `blocks` * 512 bytes; `content` is (offset, bytes) pairs.

    changes: signature, pcir_signature, vendor, pcir_blocks, npde_blocks replace what is right.
    """
    data = bytearray(blocks * BLOCK)
    signature = changes.get("signature", {FWSEC: 0x4E56}.get(code, 0xAA55))
    struct.pack_into("<H", data, 0, signature)
    struct.pack_into("<H", data, 0x18, pcir)
    size = changes.get("pcir_blocks", blocks)
    struct.pack_into(
        "<4sHHHHB3sHHBBH",
        data,
        pcir,
        changes.get("pcir_signature", b"PCIR"),
        changes.get("vendor", 0x10DE),
        device,
        0,
        0x18,
        3,
        b"\0\0\3",
        size,
        1,
        code,
        # Where there is an extension, the standard's flag ends the chain early.
        0x80 if last or npde else 0,
        0,
    )
    if npde:
        at = (pcir + 0x18 + 15) & ~15
        struct.pack_into(
            "<4sHHHB",
            data,
            at,
            b"NPDE",
            0x100,
            0x14,
            changes.get("npde_blocks", blocks),
            0x80 if last else 0,
        )
    for offset, part in content:
        data[offset : offset + len(part)] = part
    return bytes(data)


def bit(tokens, token_size=6, entries=None):
    """Return a BIOS Information Table; tokens: (id, version, data size, data pointer)."""
    head = struct.pack(
        "<H4sHBBB",
        0xB8FF,
        b"BIT\0",
        0x100,
        12,
        token_size,
        len(tokens) if entries is None else entries,
    )
    head += bytes([-sum(head) & 0xFF])
    body = b"".join(struct.pack("<BBHH", *token).ljust(token_size, b"\0") for token in tokens)
    return head + body


def falcon_table(entries, entry_size=6, version=1):
    """Return a table of firmware; entries: (application, target, pointer to descriptor)."""
    head = struct.pack("<BBBBBB", version, 6, entry_size, len(entries), 3, 44)
    return head + b"".join(
        struct.pack("<BBI", *entry).ljust(entry_size, b"\0") for entry in entries
    )


def descriptor_2(code=0x400, data=0x200, offset=0x400, interface=0x40, size=60):
    return struct.pack(
        "<15I",
        size << 16 | 2 << 8 | 1,
        (code + data) & 0xFFFFFFFF,
        (code + data) & 0xFFFFFFFF,
        0,
        interface,
        0x100,  # code's base
        code,
        0,
        0,
        code // 2,
        offset,
        0x80,  # data's base
        data,
        0,
        0,
    )


def descriptor_3(code=0x600, data=0x400, signatures=2, place=0x100, interface=0x40, **changes):
    size = 44 + signatures * SIGNATURE
    head = struct.pack(
        "<9IHBBHH",
        changes.get("size", size) << 16 | changes.get("version", 3) << 8 | 1,
        (code + data) & 0xFFFFFFFF,
        place,
        interface,
        0x200,  # code's base
        code,
        0,
        0x300,  # data's base
        data,
        0x0400,  # engines
        9,
        signatures,
        0x0003,
        0,
    )
    return head + b"\x5a" * (signatures * SIGNATURE)


def whole(descriptor=None, application=FWSEC_PROD, version=b"\x26\x02\x94\x00\x1c", lead=b""):
    """Return a ROM as Turing and later have it: PC, EFI and two FWSEC images.

    The PC image's pointers count on into the FWSEC images as if the EFI image were not there.
    """
    descriptor = descriptor_3() if descriptor is None else descriptor
    pc_bytes, first_bytes = 16 * BLOCK, 8 * BLOCK
    table_place = pc_bytes + first_bytes + 0x100
    descriptor_place = pc_bytes + first_bytes + 0x200
    table = falcon_table([(0x01, 7, 0xFFFFFFF0), (application, 7, descriptor_place)])
    tokens = bit([(ord("B"), 2, 5, 0x300), (ord("p"), 2, 4, 0x320), (ord("x"), 1, 2, 0x310)])
    pc = image(
        PC,
        16,
        content=[(0x200, tokens), (0x300, version), (0x320, struct.pack("<I", table_place))],
    )
    efi = image(EFI, 24)
    first = image(FWSEC, 8)
    second = image(
        FWSEC, 40, last=True, content=[(0x100, table), (0x200, descriptor)], pcir_blocks=2
    )
    return lead + pc + efi + first + second
