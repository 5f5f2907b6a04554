"""kernel/boot/multiboot2.c, compiled for the host: tags of loaders, and spoilt ones.

The structure ends at a page that cannot be read, so that a look behind its end ends the test.
"""

import importlib.util
import random
import struct
from pathlib import Path

import cffi
import pytest

KERNEL = Path(__file__).resolve().parent.parent.parent / "kernel"
BIOS, EFI = "multiboot2", "multiboot2, UEFI"

WRAPPERS = """
    #define _GNU_SOURCE
    #include <string.h>
    #include <sys/mman.h>
    #include "boot/bootinfo.h"
    #include "boot/multiboot2.h"
    #include "boot/reach.h"

    #define PAGE 4096ul

    static int parse(const void *tags, size_t size) {
        size_t mapped = (size + PAGE - 1) / PAGE * PAGE + PAGE;
        uint8_t *p = mmap(0, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint8_t *at = p + mapped - PAGE - size;
        mprotect(p + mapped - PAGE, PAGE, PROT_NONE);
        memcpy(at, tags, size);
        memset(&bootinfo, 0, sizeof(bootinfo));
        bool whole = multiboot2_parse(at, size);
        munmap(p, mapped);
        return whole;
    }
    static const char *protocol(void) { return bootinfo.protocol; }
    static const char *cmdline(void) { return bootinfo.cmdline; }
    static int n_ram(void) { return bootinfo.n_ram; }
    static uint64_t ram(int i, int end) {
        return end ? bootinfo.ram[i].start + bootinfo.ram[i].size : bootinfo.ram[i].start;
    }
    static int n_modules(void) { return bootinfo.n_modules; }
    static const char *module(int i) { return bootinfo.modules[i].name; }
    static uint64_t module_at(int i) { return bootinfo.modules[i].start; }
    static uint64_t module_size(int i) { return bootinfo.modules[i].size; }
    static const void *rsdp(void) { return bootinfo.rsdp; }
    static struct boot_framebuffer framebuffer(void) { return bootinfo.framebuffer; }
    static int is_ram(uint64_t start, uint64_t size) { return bootinfo_is_ram(start, size); }

    uint64_t boot_pdpt[512];
    static uint64_t mapping(uint64_t at) { // where the boot tables lead to
        uint64_t table = boot_pdpt[at >> 30] & ~4095ul;
        return table ? ((uint64_t *)table)[at >> 21 & 511] : 0;
    }
"""

DECLARED = """
    struct boot_framebuffer {
        uint64_t address;
        uint32_t pitch, width, height;
        uint8_t bits, shift[3], size[3];
    };
    int parse(const void *tags, size_t size);
    const char *protocol(void);
    const char *cmdline(void);
    int n_ram(void);
    uint64_t ram(int i, int end);
    int n_modules(void);
    const char *module(int i);
    uint64_t module_at(int i);
    uint64_t module_size(int i);
    const void *rsdp(void);
    struct boot_framebuffer framebuffer(void);
    int is_ram(uint64_t start, uint64_t size);
    bool boot_reach(uint64_t start, uint64_t size);
    uint64_t mapping(uint64_t at);
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    ffi = cffi.FFI()
    ffi.cdef(DECLARED)
    ffi.set_source(
        "_multiboot2",
        WRAPPERS,
        sources=[
            str(KERNEL / "boot" / name) for name in ("multiboot2.c", "bootinfo.c", "reach.c")
        ],
        include_dirs=[str(KERNEL)],
        extra_compile_args=["-O2", "-Wall", "-Wextra"],
    )
    path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp("multiboot2")))
    spec = importlib.util.spec_from_file_location("_multiboot2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def native(compiled):
    return compiled.lib


def text(compiled, pointer):
    return compiled.ffi.string(pointer).decode()


def tag(kind, body, size=None):
    size = 8 + len(body) if size is None else size
    return (struct.pack("<II", kind, size) + body).ljust((8 + len(body) + 7) // 8 * 8, b"\0")


def information(*tags, total=None, end=True):
    body = b"".join(tags) + (tag(0, b"") if end else b"")
    return struct.pack("<II", 8 + len(body) if total is None else total, 0) + body


def memory_map(*entries, entry=24):
    body = struct.pack("<II", entry, 0)
    for start, size, kind in entries:
        body += struct.pack("<QQII", start, size, kind, 0)[:entry].ljust(entry, b"\0")
    return tag(6, body)


def efi_map(*entries, entry=48):
    body = struct.pack("<II", entry, 1)
    for kind, start, pages in entries:
        body += struct.pack("<IIQQQQ", kind, 0, start, 0, pages, 15).ljust(entry, b"\0")
    return tag(17, body)


def screen(address=0xC000_0000, pitch=5120, width=1280, height=800, bits=32, kind=1, fields=None):
    fields = (16, 8, 8, 8, 0, 8) if fields is None else fields
    return tag(8, struct.pack("<QIIIBBH6B", address, pitch, width, height, bits, kind, 0, *fields))


RSDP_OLD = b"RSD PTR \0CLLM  \0" + struct.pack("<I", 0x1234)
RSDP_NEW = b"RSD PTR \0CLLM  \2" + struct.pack("<IIQI", 0x1234, 36, 0x1_2345_6789, 0)


def parse(native, *tags, **more):
    data = information(*tags, **more)
    return native.parse(data, len(data))


def ranges(native):
    return [(native.ram(i, 0), native.ram(i, 1)) for i in range(native.n_ram())]


def test_what_grub_says_on_uefi(compiled, native):
    assert parse(
        native,
        tag(1, b"crash=exit nmi=crash\0"),
        tag(2, b"GRUB 2.06\0"),
        tag(3, struct.pack("<II", 0x3000000, 0x3000123) + b"dir/a b/model.gguf\0"),
        tag(3, struct.pack("<II", 0x4000000, 0x4000001) + b"config.json\0"),
        memory_map((0x1000, 0x9F000, 1), (0x100000, 0x700000, 1), (0x800000, 0x8000, 4)),
        screen(),
        tag(12, struct.pack("<Q", 0x1F9EE018)),
        tag(14, RSDP_OLD),
        tag(15, RSDP_NEW),
    )
    assert text(compiled, native.protocol()) == EFI
    assert text(compiled, native.cmdline()) == "crash=exit nmi=crash"
    names = [text(compiled, native.module(i)) for i in range(native.n_modules())]
    assert names == ["model.gguf", "config.json"]
    assert (native.module_at(0), native.module_size(0)) == (0x3000000, 0x123)
    assert ranges(native) == [(0x1000, 0xA0000), (0x100000, 0x800000)]
    assert bytes(compiled.ffi.buffer(native.rsdp(), 36)) == RSDP_NEW
    f = native.framebuffer()
    assert (f.address, f.pitch, f.width, f.height, f.bits) == (0xC000_0000, 5120, 1280, 800, 32)
    assert list(f.shift) == [16, 8, 0] and list(f.size) == [8, 8, 8]


def test_a_bios_has_the_old_rsdp_and_no_system_table(compiled, native):
    assert parse(native, tag(14, RSDP_OLD), tag(4, struct.pack("<II", 639, 0x1000)))
    assert text(compiled, native.protocol()) == BIOS
    assert bytes(compiled.ffi.buffer(native.rsdp(), 20)) == RSDP_OLD
    assert ranges(native) == [(0, 639 << 10), (1 << 20, (1 << 20) + (0x1000 << 10))]


def test_the_new_rsdp_counts_wherever_it_stands(compiled, native):
    assert parse(native, tag(15, RSDP_NEW), tag(14, RSDP_OLD))
    assert bytes(compiled.ffi.buffer(native.rsdp(), 20)) == RSDP_NEW[:20]


def test_efis_own_map_is_the_second_choice(native):
    efi = efi_map((7, 0x100000, 16), (6, 0x110000, 1), (4, 0x200000, 1), (11, 0x300000, 9))
    assert parse(native, efi, tag(4, struct.pack("<II", 639, 0x1000)))
    assert ranges(native) == [(0x100000, 0x110000), (0x200000, 0x201000)]
    assert parse(native, efi, memory_map((0, 4096, 1)))
    assert ranges(native) == [(0, 4096)]


def test_neighbours_are_one_range(native):
    pieces = [(i << 12, 4096, 1) for i in range(400)]
    assert parse(native, memory_map(*pieces))
    assert ranges(native) == [(0, 400 << 12)]
    assert native.is_ram(0, 400 << 12) and native.is_ram(4096, 1)
    assert not native.is_ram(0, (400 << 12) + 1) and not native.is_ram(400 << 12, 1)
    assert parse(native, memory_map(*[(i << 13, 4096, 1) for i in range(400)]))
    assert native.n_ram() == 128


@pytest.mark.parametrize(
    "tags",
    [
        [tag(1, b"x" * 3000)],  # no NUL, and longer than there is room for
        [tag(3, struct.pack("<II", 9, 5) + b"ends before it starts\0")],
        [tag(3, struct.pack("<I", 9))],
        [tag(6, b"")],
        [memory_map((0, 4096, 1), entry=0)],
        [memory_map((0, 4096, 1), entry=8)],
        [tag(6, struct.pack("<II", 0xFFFFFFF8, 0) + bytes(64))],
        [tag(17, struct.pack("<II", 4, 1) + bytes(64))],
        [efi_map((7, 0, 1 << 60))],
        [tag(14, b"RSD PTR "), tag(15, RSDP_NEW[:30])],
        [tag(8, bytes(20))],
        [screen(bits=16)],
        [screen(bits=15)],
        [screen(kind=2)],
        [screen(kind=0)],
        [screen(pitch=4 * 1280 - 1)],
        [screen(address=0)],
        [screen(address=(1 << 64) - 4096)],
        [screen(width=0)],
        [screen(height=0)],
        [screen(pitch=0xFFFFFFFF, width=0xFFFFFFFF)],
        [screen(fields=(16, 8, 8, 8, 0, 0))],
        [screen(fields=(25, 8, 8, 8, 0, 8))],
    ],
)
def test_what_is_malformed_is_left_out(compiled, native, tags):
    assert parse(native, *tags, tag(2, b"after\0"))
    assert not native.rsdp() and not native.framebuffer().address
    assert native.n_modules() == 0 and native.n_ram() == 0
    assert len(text(compiled, native.cmdline())) < 1024


def test_a_range_ends_with_the_address_space(native):
    assert parse(native, memory_map((1 << 63, (1 << 64) - 1, 1)))
    assert ranges(native) == [(1 << 63, (1 << 64) - 1)]


@pytest.mark.parametrize("total", [0, 4, 8, 15, 1 << 30, 0xFFFFFFFF])
def test_a_list_that_is_none(native, total):
    assert not parse(native, tag(1, b"x\0"), total=total)
    assert not native.parse(b"", 0) and not native.parse(b"\x10\0\0", 3)


def test_a_list_without_an_end_and_tags_that_run_over_it(compiled, native):
    assert parse(native, tag(1, b"first\0"), end=False)
    assert text(compiled, native.cmdline()) == "first"
    for size in (0, 7, 1000, 0xFFFFFFFF):
        assert parse(native, tag(1, b"first\0"), tag(1, b"second\0", size=size))
        assert text(compiled, native.cmdline()) == "first"


def test_spoilt_bytes_do_no_harm(native):
    whole = information(
        tag(1, b"crash=exit\0"),
        tag(3, struct.pack("<II", 0x3000000, 0x3000123) + b"m\0"),
        memory_map((0, 1 << 20, 1), (1 << 20, 1 << 28, 1)),
        efi_map((7, 1 << 20, 99)),
        screen(),
        tag(15, RSDP_NEW),
    )
    rng = random.Random(2)
    for _ in range(20_000):
        data = bytearray(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(6)):
            if data:
                at = rng.randrange(len(data))
                data[at] = rng.choice((0, 1, 7, 8, 255, rng.randrange(256)))
        native.parse(bytes(data), len(data))
        assert native.n_ram() <= 128 and native.n_modules() <= 16


def test_the_boot_tables_reach_above_4_gib(native):
    assert not native.boot_reach(0, 0)
    assert not native.boot_reach((1 << 64) - 1, 2)
    assert not native.boot_reach(512 << 30, 1)
    assert native.boot_reach((5 << 30) - 8, 16)  # over the edge of a GiB
    assert native.mapping((4 << 30) + (2 << 21)) == (4 << 30) + (2 << 21) | 0x83
    assert native.mapping(5 << 30) == 5 << 30 | 0x83
    assert native.boot_reach(5 << 30, 4096)
    assert native.boot_reach(100 << 30, 4096) and native.boot_reach(200 << 30, 4096)
    assert not native.boot_reach(300 << 30, 4096)  # no table left
    assert native.boot_reach((201 << 30) - 1, 1)
