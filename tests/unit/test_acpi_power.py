"""kernel/boot/acpi_power.c, compiled for the host: tables of firmware, and spoilt ones.

Every table ends at a page that cannot be read, so that a look behind its end ends the test.
"""

import importlib.util
import random
import struct
from pathlib import Path

import cffi
import pytest

KERNEL = Path(__file__).resolve().parent.parent.parent / "kernel"

STRUCT = """
    struct acpi_power {
        uint16_t status[2], enable[2], control[2], gpe[2];
        uint8_t gpe_bytes[2];
        uint16_t timer, smi_port;
        uint8_t smi_acpi_on, sci;
        bool button, can_sleep;
        uint8_t reset_space, reset_value;
        uint64_t reset;
        uint8_t sleep_type[2];
    };
"""

WRAPPERS = """
    #define _GNU_SOURCE
    #include <string.h>
    #include <sys/mman.h>
    #include "boot/acpi_power.h"

    #define PAGE 4096ul

    static uint8_t *guarded(const void *table, size_t size, size_t *mapped) {
        *mapped = (size + PAGE - 1) / PAGE * PAGE + PAGE;
        uint8_t *p = mmap(0, *mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(p + *mapped - PAGE, PAGE, PROT_NONE);
        memcpy(p + *mapped - PAGE - size, table, size);
        return p;
    }

    static struct acpi_power parse(const void *fadt, size_t size) {
        struct acpi_power power = {0};
        size_t mapped;
        uint8_t *p = guarded(fadt, size, &mapped);
        acpi_power_fadt(&power, p + mapped - PAGE - size, size);
        acpi_power_dsdt(p + mapped - PAGE - size, size);
        munmap(p, mapped);
        return power;
    }

    static int s5(const void *table, size_t size) {
        struct acpi_power power = {0};
        size_t mapped;
        uint8_t *p = guarded(table, size, &mapped);
        bool found = acpi_power_s5(&power, p + mapped - PAGE - size, size);
        munmap(p, mapped);
        return found ? power.sleep_type[0] << 8 | power.sleep_type[1] : -1;
    }
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    ffi = cffi.FFI()
    ffi.cdef(
        STRUCT
        + """
        struct acpi_power parse(const void *fadt, size_t size);
        int s5(const void *table, size_t size);
        uint64_t acpi_power_dsdt(const void *fadt, size_t size);
        """
    )
    ffi.set_source(
        "_acpi_power",
        WRAPPERS,
        sources=[str(KERNEL / "boot" / "acpi_power.c")],
        include_dirs=[str(KERNEL)],
        extra_compile_args=["-O2", "-Wall", "-Wextra"],
    )
    path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp("acpi_power")))
    spec = importlib.util.spec_from_file_location("_acpi_power", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lib


def fadt(size=276, **fields):
    """A FADT like QEMU's i440FX; `fields` are its fields by offset, (format, value)."""
    table = bytearray(276)
    known = {
        40: ("I", 0x7FE0040),
        46: ("H", 9),
        48: ("I", 0xB2),
        52: ("B", 0xF1),
        56: ("I", 0x600),
        64: ("I", 0x604),
        80: ("I", 0xAFE0),
        88: ("B", 4),
        89: ("B", 2),
        92: ("B", 4),
        112: ("I", 0x80A5),
    }
    known.update({int(name[1:]): value for name, value in fields.items()})
    for offset, (kind, value) in known.items():
        struct.pack_into("<" + kind, table, offset, value)
    return bytes(table[:size])


def generic(address, space=1):
    """A generic address, as a field of 12 bytes."""
    return struct.pack("<BBBBQ", space, 16, 0, 0, address)


def test_the_registers_of_an_i440fx(native):
    power = native.parse(fadt(), 276)
    assert list(power.status) == [0x600, 0] and list(power.enable) == [0x602, 0]
    assert list(power.control) == [0x604, 0]
    assert list(power.gpe) == [0xAFE2, 0] and list(power.gpe_bytes) == [2, 0]
    assert (power.smi_port, power.smi_acpi_on, power.sci) == (0xB2, 0xF1, 9)
    assert power.button and not power.can_sleep


def test_the_first_revision_is_shorter(native):
    power = native.parse(fadt(116), 116)
    assert power.button and power.control[0] == 0x604
    assert native.acpi_power_dsdt(fadt(116), 116) == 0x7FE0040


@pytest.mark.parametrize(
    "address, space, where",
    [
        (generic(0xCF9), 1 << 10, (1, 0xCF9)),
        (generic(0xFED0_0000_0000, 0), 1 << 10, (3, 0xFED0_0000_0000)),
        (generic(0x1F_0003_0040, 2), 1 << 10, (2, 0x1F_0003_0040)),
        (generic(0xCF9), 0, (0, 0)),  # the flag says that there is none
        (generic(0), 1 << 10, (0, 0)),
        (generic(0x10000), 1 << 10, (0, None)),
        (generic(0x20_0003_0040, 2), 1 << 10, (0, None)),
        (generic(0x1F_0008_0040, 2), 1 << 10, (0, None)),
        (generic(0x1F_0003_0100, 2), 1 << 10, (0, None)),
        (generic(0xCF9, 3), 1 << 10, (0, None)),  # an embedded controller
    ],
)
def test_the_reset_register(native, address, space, where):
    table = fadt(f112=("I", 0x80A5 | space), f116=("12s", address), f128=("B", 0x0F))
    power = native.parse(table, 276)
    assert power.reset_space == where[0]
    if where[0]:
        assert (power.reset, power.reset_value) == (where[1], 0x0F)
    assert native.parse(table[:128], 128).reset_space == 0  # ends before the value


def test_later_revisions_have_wide_addresses(native):
    wide = fadt(f56=("I", 0), f148=("12s", generic(0x400)), f140=("Q", 0x1_0000_0000))
    assert list(native.parse(wide, 276).status) == [0x400, 0]
    assert native.acpi_power_dsdt(wide, 276) == 0x1_0000_0000
    # Registers in memory are not ours to use.
    assert native.parse(fadt(f56=("I", 0), f148=("12s", generic(0x400, 0))), 276).status[0] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"f112": ("I", 1 << 4)},  # the button is a device of the name space
        {"f112": ("I", 1 << 20)},  # hardware-reduced: there are no fixed registers
        {"f56": ("I", 0)},
        {"f56": ("I", 0x10000)},
        {"f56": ("I", 0xFFFE)},
        {"f88": ("B", 0)},
        {"f46": ("H", 16)},
        {"f46": ("H", 4)},
        {"f46": ("H", 2)},
        {"f46": ("H", 0)},
    ],
)
def test_without_a_register_or_a_line_there_is_no_button(native, fields):
    assert not native.parse(fadt(**fields), 276).button


def name(*values, op=b"\x12", root=b"", elements=None, length=b"\x06"):
    body = b"".join(
        bytes([v])
        if v < 2
        else b"\x0a" + bytes([v])
        if v < 256
        else b"\x0b" + struct.pack("<H", v)
        for v in values
    )
    count = len(values) if elements is None else elements
    return b"\x08" + root + b"_S5_" + op + length + bytes([count]) + body


@pytest.mark.parametrize(
    "aml, types",
    [
        (name(0, 0, 0, 0), 0x000),
        (name(5, 5, 0, 0), 0x505),
        (name(7, 1), 0x701),
        (name(5, 5, root=b"\\"), 0x505),
        (name(3), 0x300),
        (name(5, 6, 0, 0, length=b"\x4a\x00"), 0x506),  # a length of two bytes
        (name(5, op=b"\x11") + name(4, 4), 0x404),  # the first is a buffer
        (b"_S5_" + name(2, 3), 0x203),  # the first is a use of the name
    ],
)
def test_the_sleep_types_are_found(native, aml, types):
    aml = b"\x10\x20\\" + aml + b"\x5b\x80"
    assert native.s5(aml, len(aml)) == types


@pytest.mark.parametrize(
    "aml",
    [
        b"",
        b"_S5_",
        b"\x08_S5_",
        name(0, 0)[:7],
        name(0, 0)[:8],
        name(elements=0),
        name(8, 8),
        name(5, 0x1234),
        name(5, 5)[:9],
        name(5, 5)[:11],
        name(5, 5, length=b"\xc6"),
        name(5, 5, op=b"\x0e"),
    ],
)
def test_what_is_no_package_of_types_is_none(native, aml):
    assert native.s5(aml, len(aml)) == -1


def test_spoilt_tables(native):
    chance = random.Random(5)
    whole = fadt()
    for _ in range(3000):
        table = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(6)):
            if table:
                value = chance.choice([0, 1, 255, chance.randrange(256)])
                table[chance.randrange(len(table))] = value
        power = native.parse(bytes(table), len(table))
        for i in range(2):
            assert not power.status[i] or power.status[i] < power.enable[i] <= 0xFFFE
            assert not power.gpe[i] or power.gpe[i] + power.gpe_bytes[i] <= 0x10000
    for _ in range(3000):
        aml = bytearray(b"\x00" * chance.randrange(4) + name(5, 5, 0, 0) + b"\x00" * 4)
        for _ in range(chance.randrange(4)):
            aml[chance.randrange(len(aml))] = chance.choice([0, 8, 0x12, 0xC0, 255, ord("_")])
        del aml[chance.randrange(len(aml) + 1) :]
        assert native.s5(bytes(aml), len(aml)) <= 0x707
