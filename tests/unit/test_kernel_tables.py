"""kernel/boot/madt.c and kernel/cpu/frequency.c, compiled for the host.

Every table ends at a page that cannot be read, so that a look behind its end ends the test.
"""

import importlib.util
import random
import struct
from pathlib import Path

import cffi
import pytest

KERNEL = Path(__file__).resolve().parent.parent.parent / "kernel"

STRUCTS = """
    struct madt_input { uint32_t gsi; bool level, low; };
    struct madt {
        struct { uint32_t address, first; } ioapics[8];
        size_t n_ioapics;
        struct madt_input isa[16];
    };
"""

WRAPPERS = """
    #include <string.h>
    #include <sys/mman.h>
    #include "boot/madt.h"
    #include "cpu/frequency.h"

    #define PAGE 4096ul

    static struct madt parse(const void *table, size_t size) {
        struct madt madt;
        size_t mapped = (size + PAGE - 1) / PAGE * PAGE + PAGE;
        char *p = mmap(0, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(p + mapped - PAGE, PAGE, PROT_NONE);
        memcpy(p + mapped - PAGE - size, table, size);
        madt_parse(&madt, p + mapped - PAGE - size, size);
        munmap(p, mapped);
        return madt;
    }

    static struct madt_input input_of(struct madt madt, unsigned line) {
        return madt_input(&madt, line);
    }
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    ffi = cffi.FFI()
    ffi.cdef(
        STRUCTS
        + """
        struct madt parse(const void *table, size_t size);
        struct madt_input input_of(struct madt madt, unsigned line);
        uint64_t frequency_of_leaves(const uint32_t leaf15[4], const uint32_t leaf16[4]);
        uint64_t frequency_of_kvmclock(uint32_t multiplier, int8_t shift);
        """
    )
    ffi.set_source(
        "_kernel_tables",
        WRAPPERS,
        sources=[str(KERNEL / "boot" / "madt.c"), str(KERNEL / "cpu" / "frequency.c")],
        include_dirs=[str(KERNEL)],
        extra_compile_args=["-O2", "-Wall", "-Wextra"],
    )
    path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp("kernel_tables")))
    spec = importlib.util.spec_from_file_location("_kernel_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lib


def table(*entries):
    return b"APIC" + bytes(40) + b"".join(entries)


def ioapic(address, first):
    return struct.pack("<BBBBII", 1, 12, 0, 0, address, first)


def override(source, gsi, flags, bus=0):
    return struct.pack("<BBBBIH", 2, 10, bus, source, gsi, flags)


def input_of(native, madt, line):
    found = native.input_of(madt, line)
    return found.gsi, found.level, found.low


# ACPI 6.5, 5.2.12.3 and 5.2.12.5.
def test_ioapics_and_overrides(native):
    data = table(
        bytes([0, 8, 0, 0, 1, 0, 0, 0]),  # a processor
        ioapic(0xFEC00000, 0),
        ioapic(0xFEC10000, 24),
        override(0, 2, 0),
        override(9, 9, 0x0D),
        override(11, 11, 0x0F),
        override(5, 7, 0, bus=1),
    )
    madt = native.parse(data, len(data))
    found = [(madt.ioapics[i].address, madt.ioapics[i].first) for i in range(madt.n_ioapics)]
    assert found == [(0xFEC00000, 0), (0xFEC10000, 24)]
    assert input_of(native, madt, 0) == (2, False, False)
    assert input_of(native, madt, 9) == (9, True, False)
    assert input_of(native, madt, 11) == (11, True, True)
    assert input_of(native, madt, 5) == (5, False, False)  # of another bus than ISA
    assert input_of(native, madt, 47) == (47, False, False)


def test_more_ioapics_than_there_is_room_for(native):
    data = table(*[ioapic(0xFEC00000 + n * 0x1000, n * 24) for n in range(20)])
    assert native.parse(data, len(data)).n_ioapics == 8


@pytest.mark.parametrize(
    "entry", [b"\1", b"\1\0", b"\1\x0c\0", b"\1\1" * 8, b"\2\4\0\1", b"\xff\xff" + bytes(8)]
)
def test_an_entry_that_does_not_fit(native, entry):
    data = table(ioapic(0xFEC00000, 0), entry)
    assert native.parse(data, len(data)).n_ioapics == 1


def test_any_bytes(native):
    rng = random.Random(5)
    for _ in range(2000):
        data = table(ioapic(1, 0))[: rng.randrange(1, 57)] + rng.randbytes(rng.randrange(100))
        madt = native.parse(data, len(data))
        assert madt.n_ioapics <= 8


@pytest.mark.parametrize(
    "leaf15, leaf16, hz",
    [
        ((2, 216, 24_000_000, 0), (0, 0, 0, 0), 2_592_000_000),
        ((2, 176, 0, 0), (2100, 3800, 100, 0), 2_100_000_000),  # the crystal is not stated
        ((2, 176, 0, 0), (0, 0, 0, 0), 0),
        ((0, 0, 0, 0), (2100, 3800, 100, 0), 0),
        ((0, 216, 24_000_000, 0), (0, 0, 0, 0), 0),
        ((1, 1, 1000, 0), (0, 0, 0, 0), 0),  # no TSC runs at 1 kHz
        ((1, 0xFFFFFFFF, 0xFFFFFFFF, 0), (0, 0, 0, 0), 0),
    ],
)
def test_frequency_of_cpuid(native, leaf15, leaf16, hz):
    assert native.frequency_of_leaves(leaf15, leaf16) == hz


@pytest.mark.parametrize("hz", [800_000_000, 1_000_000_000, 2_300_000_000, 5_700_000_000])
def test_frequency_of_kvmclock(native, hz):
    # As KVM computes the factors: a shift that brings the frequency to between 1 and 2 GHz.
    shift = 0
    scaled = hz
    while scaled > 2_000_000_000:
        scaled >>= 1
        shift -= 1
    while scaled <= 1_000_000_000:
        scaled <<= 1
        shift += 1
    multiplier = (1_000_000_000 << 32) // scaled
    assert abs(native.frequency_of_kvmclock(multiplier, shift) - hz) < hz / 1_000_000


@pytest.mark.parametrize("multiplier, shift", [(0, 0), (1, 0), (1 << 31, 32), (1 << 31, -128)])
def test_factors_that_make_no_sense(native, multiplier, shift):
    assert native.frequency_of_kvmclock(multiplier, shift) == 0
