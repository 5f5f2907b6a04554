"""native/nvprobe/qmd.c: every field's place, and launches read back by another decoder."""

import random

import pytest
from qmd import BANKS, LAYOUTS, NAMES, OF_GENERATION, VERSIONS, decode

# How long the arrays are whose indices are not banks, by the start of their names.
ARRAY_LENGTHS = {"RELEASE": 3, "DEPENDENT_QMD": 2, "TPC_DISABLE_MASK": 3}


def bits_of(layout, name):
    high, low, stride = layout.fields[name]
    length = next((n for start, n in ARRAY_LENGTHS.items() if name.startswith(start)), BANKS)
    for index in range(length if stride else 1):
        yield from range(low + index * stride, high + index * stride + 1)


@pytest.fixture
def make(native):
    """make(generation) -> (layout in C, words, function that returns their integer)."""

    def start(generation):
        number = getattr(native.lib, "NVPROBE_" + generation)
        layout = native.lib.nvprobe_qmd_layout(number)
        words = native.ffi.new("uint32_t[]", 96)
        return layout, words, lambda: int.from_bytes(native.ffi.buffer(words), "little")

    return start


def field(native, name):
    return getattr(native.lib, "NVPROBE_QMD_" + name)


def test_the_headers_fields_do_not_overlap():
    for version in VERSIONS:
        layout = LAYOUTS[version]
        seen = {}
        for name in layout.fields:
            for bit in bits_of(layout, name):
                assert bit < layout.bits, (version, name)
                assert bit not in seen, (version, name, seen[bit])
                seen[bit] = name


def test_every_field_of_the_builder_has_a_name(native):
    fields = [name for name in dir(native.lib) if name.startswith("NVPROBE_QMD_")]
    assert {name.removeprefix("NVPROBE_QMD_") for name in fields} - {"FIELDS"} == set(NAMES)


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_each_field_alone_sets_exactly_its_bits(native, make, generation):
    layout = LAYOUTS[OF_GENERATION[generation]]
    set_field = native.lib.nvprobe_qmd_set
    assert native.lib.nvprobe_qmd_layout(0) == native.ffi.NULL
    for name, names in NAMES.items():
        number = field(native, name)
        c_layout, words, value = make(generation)
        if layout.has(*names) is None:
            assert not set_field(c_layout, words, number, 0, 0)
            continue
        high, low, stride = layout.fields[layout.has(*names)]
        assert low // 32 == high // 32, name
        for index in range(BANKS if stride and not name.startswith("RELEASE") else 1):
            c_layout, words, value = make(generation)
            ones = (1 << high - low + 1) - 1
            assert set_field(c_layout, words, number, index, ones)
            assert value() == layout.mask(*names, index=index), name
            assert set_field(c_layout, words, number, index, 1)
            assert value() == 1 << low + index * stride, name
            assert not set_field(c_layout, words, number, index, ones + 1)
            assert value() == 1 << low + index * stride, name
        assert not set_field(c_layout, words, number, BANKS if stride else 1, 0)


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_the_metadata_is_as_long_as_the_headers_say(make, generation):
    c_layout, _, _ = make(generation)
    version = OF_GENERATION[generation]
    assert c_layout.words * 32 == LAYOUTS[version].bits
    assert f"{c_layout.major:02}.{c_layout.minor:02}" == version


def random_launch(choose, generation):
    hopper = generation == "HOPPER"
    old = generation in ("MAXWELL", "PASCAL")
    top = 1 << (40 if generation == "MAXWELL" else 49)
    banks = {
        i: (choose.randrange(1, top >> 6) << 6, choose.randrange(1, 4096) << 4)
        for i in choose.sample(range(BANKS), choose.randrange(BANKS))
    }
    region = choose.randrange(1 << 40) & ~0xFF if old else 0
    return {
        "grid": tuple(choose.randrange(1, limit) for limit in (1 << 31, 65536, 65536)),
        "block": tuple(choose.randrange(1, limit) for limit in (1025, 1025, 65)),
        "program": region + (choose.randrange(1 << 32) if old else choose.randrange(1 << 49)),
        "region": region,
        "shared": choose.randrange(48 * 1024 + 1),
        "local": choose.randrange(1 << 20),
        "registers": choose.randrange(16, 256),
        "barriers": choose.randrange(17),
        "banks": banks,
        "release": (choose.randrange(1, 1 << 38) << 2, choose.randrange(1 << 32))
        if choose.random() < 0.5
        else None,
        "hopper": hopper,
    }


def fill(native, launch):
    c = native.ffi.new("struct nvprobe_launch *")
    c.grid, c.block = launch["grid"], launch["block"]
    c.program, c.program_region = launch["program"], launch["region"]
    c.shared, c.local = launch["shared"], launch["local"]
    c.registers, c.barriers = launch["registers"], launch["barriers"]
    for i, (address, size) in launch["banks"].items():
        c.bank[i].address, c.bank[i].bytes = address, size
    if launch["release"]:
        c.release, c.payload = launch["release"]
    return c


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_launches_read_back(native, make, generation):
    number = getattr(native.lib, "NVPROBE_" + generation)
    choose = random.Random(generation)
    for _ in range(300):
        launch = random_launch(choose, generation)
        _, words, value = make(generation)
        words[0 : len(words)] = [0xFFFFFFFF] * len(words)  # what was there does not matter
        assert native.lib.nvprobe_qmd_build(number, fill(native, launch), words), launch
        qmd = value() & (1 << LAYOUTS[OF_GENERATION[generation]].bits) - 1
        got = decode(generation, qmd)
        assert "%02d.%02d" % got["version"] == OF_GENERATION[generation]
        for key in ("grid", "block", "registers", "barriers", "banks", "release"):
            assert got[key] == launch[key], key
        assert got["program"] == launch["program"] - launch["region"]
        assert got["shared"] == -(-launch["shared"] // 256) * 256
        assert got["local"] == -(-launch["local"] // 16) * 16


PLAIN = {
    "grid": (1, 1, 1),
    "block": (32, 1, 1),
    "program": 0x1000,
    "region": 0,
    "shared": 0,
    "local": 0,
    "registers": 32,
    "barriers": 0,
    "banks": {0: (0x10000, 0x400)},
    "release": None,
}


@pytest.mark.parametrize(
    "change",
    [
        dict(grid=(1, 65536, 1)),
        dict(grid=(0, 1, 1)),
        dict(block=(65536, 1, 1)),
        dict(block=(32, 0, 1)),
        dict(barriers=32),
        dict(registers=512),
        dict(local=1 << 24),
        dict(shared=256 * 1024),
        dict(release=(0x1002, 1)),
        dict(release=(1 << 60, 1)),
        dict(banks={7: (1 << 60, 0x400)}),
        dict(banks={7: (0x1000, 1 << 17)}),
    ],
)
@pytest.mark.parametrize("generation", OF_GENERATION)
def test_what_does_not_fit_is_refused(native, make, generation, change):
    number = getattr(native.lib, "NVPROBE_" + generation)
    _, words, _ = make(generation)
    assert native.lib.nvprobe_qmd_build(number, fill(native, PLAIN), words)
    assert not native.lib.nvprobe_qmd_build(number, fill(native, {**PLAIN, **change}), words)


@pytest.mark.parametrize(
    "generation, shared, least, most",
    [
        ("VOLTA", 0, 8, 96),
        ("VOLTA", 8193, 16, 96),
        ("TURING", 1, 32, 64),
        ("AMPERE", 65 * 1024, 100, 164),
        ("ADA", 100 * 1024, 100, 100),
        ("HOPPER", 227 * 1024, 228, 228),
    ],
)
def test_the_share_of_the_l1_cache(native, make, generation, shared, least, most):
    _, words, value = make(generation)
    number = getattr(native.lib, "NVPROBE_" + generation)
    launch = fill(native, {**PLAIN, "shared": shared})
    assert native.lib.nvprobe_qmd_build(number, launch, words)
    layout = LAYOUTS[OF_GENERATION[generation]]
    for name, kib in (("SHARED_MIN", least), ("SHARED_TARGET", least), ("SHARED_MAX", most)):
        assert layout.get(value(), *NAMES[name]) == kib // 4 + 1


def test_maxwell_divides_its_cache_in_thirds(native, make):
    layout = LAYOUTS["01.07"]
    for shared, setting in ((0, 1), (16384, 1), (16385, 2), (32769, 3), (49152, 3)):
        _, words, value = make("MAXWELL")
        launch = fill(native, {**PLAIN, "shared": shared})
        assert native.lib.nvprobe_qmd_build(native.lib.NVPROBE_MAXWELL, launch, words)
        assert layout.get(value(), "L1_CONFIGURATION") == setting
    launch = fill(native, {**PLAIN, "shared": 49153})
    assert not native.lib.nvprobe_qmd_build(native.lib.NVPROBE_MAXWELL, launch, words)


def test_a_program_outside_of_its_region(native, make):
    for generation in ("MAXWELL", "PASCAL"):
        number = getattr(native.lib, "NVPROBE_" + generation)
        _, words, _ = make(generation)
        for program in (0xFFF, 0x1000 + (1 << 32)):
            launch = fill(native, {**PLAIN, "program": program, "region": 0x1000})
            assert not native.lib.nvprobe_qmd_build(number, launch, words)


def test_hopper_wants_aligned_banks(native, make):
    _, words, _ = make("HOPPER")
    for bank in ((0x10020, 0x400), (0x10000, 0x408)):
        launch = fill(native, {**PLAIN, "banks": {0: bank}})
        assert not native.lib.nvprobe_qmd_build(native.lib.NVPROBE_HOPPER, launch, words)
