"""native/nvprobe/vbios.c on images that are built here, whole and damaged."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
import rom_images as rom
from cllm import TOP
from rom_images import BLOCK


@pytest.fixture
def parse(native):
    def parse_bytes(data):
        # A copy that ends where the ROM does, so that a sanitizer would see a read past it.
        memory = native.ffi.new("uint8_t[]", bytes(data))
        out = native.ffi.new("struct nvprobe_vbios *")
        found = native.lib.nvprobe_vbios(memory, len(data), out)
        assert found == (out.n_images != 0)
        return out

    return parse_bytes


def images(vbios):
    return [(i.start, i.bytes, i.code, i.last) for i in vbios.image[0 : vbios.n_images]]


def version(vbios):
    return bytes(vbios.version) if vbios.has_version else None


def test_a_chain_of_images(parse):
    vbios = parse(rom.whole())
    assert images(vbios) == [
        (0, 16 * BLOCK, rom.PC, False),
        (16 * BLOCK, 24 * BLOCK, rom.EFI, False),
        (40 * BLOCK, 8 * BLOCK, rom.FWSEC, False),
        (48 * BLOCK, 40 * BLOCK, rom.FWSEC, True),
    ]
    assert vbios.image[0].vendor == 0x10DE and vbios.image[0].device == 0x2204
    assert vbios.image[0].npde


def test_without_the_extension_the_standard_fields_count(parse):
    data = rom.image(rom.PC, 4, npde=False) + rom.image(rom.EFI, 2, npde=False, last=True)
    assert images(parse(data)) == [(0, 4 * BLOCK, 0, False), (4 * BLOCK, 2 * BLOCK, 3, True)]
    assert not parse(data).image[0].npde


def test_an_extension_of_no_length_is_none(parse):
    data = rom.image(rom.PC, 4, npde_blocks=0)
    assert images(parse(data)) == [(0, 4 * BLOCK, 0, True)]


def test_nothing_follows_a_notebook_image(parse):
    data = rom.image(rom.PC, 2) + rom.image(rom.NBSI, 2, npde=False) + rom.image(rom.EFI, 2)
    assert [code for _, _, code, _ in images(parse(data))] == [rom.PC, rom.NBSI]


def test_the_first_image_may_start_later(parse):
    lead = b"NVGI".ljust(3 * BLOCK, b"\xff")
    vbios = parse(rom.whole(lead=lead))
    assert vbios.image[0].start == 3 * BLOCK and version(vbios) == b"\x00\x94\x02\x26\x1c"
    ucode = vbios.ucode[0]
    assert ucode.descriptor == 3 * BLOCK + 48 * BLOCK + 0x200


@pytest.mark.parametrize(
    "change",
    [
        dict(signature=0x1234),
        dict(pcir_signature=b"PCIX"),
        dict(npde=False, pcir_blocks=0),
        dict(npde_blocks=5),  # longer than the ROM
        dict(npde=False, pcir_blocks=0xFFFF),
    ],
)
def test_an_image_that_is_none(parse, change):
    assert images(parse(rom.image(rom.PC, 4, **change))) == []
    # Those before it count.
    data = rom.image(rom.PC, 2) + rom.image(rom.EFI, 4, **change)
    assert len(images(parse(data))) == 1


def test_no_rom_at_all(parse):
    for data in (b"", b"\x55", b"\x55\xaa", b"\x55\xaa" + bytes(24), b"\xff" * 4096):
        assert images(parse(data)) == []


def test_a_long_chain_ends(parse):
    assert parse(rom.image(rom.EFI, 1) * 40).n_images == 16


def test_the_version_is_that_of_token_b(parse):
    vbios = parse(rom.whole(version=b"\x1c\x08\x26\x94\x01"))
    assert vbios.has_bit and version(vbios) == b"\x94\x26\x08\x1c\x01"


def test_a_table_with_a_wrong_sum_is_none(parse):
    data = bytearray(rom.whole())
    data[0x200 + 11] ^= 1
    vbios = parse(data)
    assert not vbios.has_bit and version(vbios) is None and vbios.n_ucodes == 0


def test_a_decoy_before_the_table_is_passed_over(parse):
    data = bytearray(rom.whole())
    data[0x180:0x186] = b"\xff\xb8BIT\0"
    assert parse(data).n_ucodes == 1


@pytest.mark.parametrize("token_size, entries", [(5, None), (0, None), (6, 255)])
def test_tables_of_odd_sizes(parse, token_size, entries):
    tokens = [(ord("B"), 2, 5, 0x300)]
    table = rom.bit(tokens, max(token_size, 6), entries)
    table = bytearray(table)
    table[9] = token_size
    table[11] = (table[11] + (6 - token_size if token_size < 6 else 0)) & 0xFF
    data = rom.image(rom.PC, 2, content=[(0x200, bytes(table)), (0x300, b"\1\2\3\4\5")], last=True)
    assert (version(parse(data)) is not None) == (token_size >= 6)


def test_firmware_of_version_3(parse, native):
    vbios = parse(rom.whole())
    assert vbios.n_ucodes == 1  # the other entry points nowhere
    ucode = native.lib.nvprobe_fwsec(vbios)
    start = 48 * BLOCK + 0x200
    size = 44 + 2 * rom.SIGNATURE
    assert (ucode.application, ucode.target, ucode.version) == (0x85, 7, 3)
    assert (ucode.descriptor, ucode.code, ucode.code_bytes) == (start, start + size, 0x600)
    assert (ucode.data, ucode.data_bytes) == (start + size + 0x600, 0x400)
    assert (ucode.code_base, ucode.data_base) == (0x200, 0x300)
    assert (ucode.interface, ucode.signature_place) == (0x40, 0x100)
    assert (ucode.engines, ucode.fuse) == (0x0400, 9)
    assert (ucode.signatures, ucode.signature_versions) == (2, 3)


def test_firmware_of_version_2(parse, native):
    vbios = parse(rom.whole(rom.descriptor_2(), application=rom.FWSEC_DEBUG))
    ucode = native.lib.nvprobe_fwsec(vbios)
    start = 48 * BLOCK + 0x200
    assert (ucode.application, ucode.version) == (0x45, 2)
    assert (ucode.code, ucode.code_bytes) == (start + 60, 0x400)
    assert (ucode.data, ucode.data_bytes) == (start + 60 + 0x400, 0x200)
    assert (ucode.code_base, ucode.data_base) == (0x100, 0x80)
    assert ucode.signatures == 0


def test_other_firmware_is_not_fwsec(parse, native):
    vbios = parse(rom.whole(application=0x02))
    assert vbios.n_ucodes == 1 and native.lib.nvprobe_fwsec(vbios) == native.ffi.NULL


@pytest.mark.parametrize(
    "descriptor",
    [
        rom.descriptor_3(code=0x8000),  # past the ROM's end
        rom.descriptor_3(code=0xFFFFFFFF),
        rom.descriptor_3(code=0),
        rom.descriptor_3(place=0x300),  # the signature would pass the data's end
        rom.descriptor_3(place=0xFFFFFFFF),
        rom.descriptor_3(interface=0x400),
        rom.descriptor_3(size=44),  # no room for its two signatures
        rom.descriptor_3(size=43, signatures=0),
        rom.descriptor_3(version=4),
        rom.descriptor_3(version=1),
        rom.descriptor_2(size=59),
        rom.descriptor_2(offset=0xFFFFFF00),
        rom.descriptor_2(data=0xFFFFFFFF),
        b"\0" * 44,
    ],
)
def test_a_descriptor_that_contradicts_itself_is_left_out(parse, descriptor):
    vbios = parse(rom.whole(descriptor))
    assert vbios.has_bit and vbios.n_ucodes == 0


def test_pointers_within_the_pc_image_and_without_fwsec(parse):
    table = rom.falcon_table([(0x85, 7, 0x500)], entry_size=8)
    content = [
        (0x200, rom.bit([(ord("p"), 2, 4, 0x320)])),
        (0x320, (0x400).to_bytes(4, "little")),
        (0x400, table),
        (0x500, rom.descriptor_3(signatures=1)),
    ]
    vbios = parse(rom.image(rom.PC, 16, content=content, last=True))
    assert [(u.application, u.descriptor) for u in vbios.ucode[0 : vbios.n_ucodes]] == [
        (0x85, 0x500)
    ]


def check(vbios, size):
    """Assert that everything reported lies in the ROM."""
    for image in vbios.image[0 : vbios.n_images]:
        assert image.bytes > 0 and image.start + image.bytes <= size
    assert vbios.n_ucodes <= 16
    for ucode in vbios.ucode[0 : vbios.n_ucodes]:
        assert ucode.code + ucode.code_bytes <= size and ucode.data + ucode.data_bytes <= size
        assert ucode.descriptor < size and ucode.interface < ucode.data_bytes


def test_every_truncation(parse):
    data = rom.whole()
    for size in list(range(0, 2048, 7)) + list(range(2048, len(data), 101)):
        check(parse(data[:size]), size)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_roms(parse, seed):
    """1500 ROMs each, with a few bytes changed where headers and tables lie."""
    choose = random.Random(seed)
    good = rom.whole(rom.descriptor_2() if seed % 2 else None)
    places = [0, 0x18, *range(0x40, 0x6F), *range(0x200, 0x220), *range(0x300, 0x324)]
    for start in (16, 40, 48):
        places += [start * BLOCK + offset for offset in (0, 1, 0x18, 0x19, *range(0x40, 0x6F))]
    places += [48 * BLOCK + offset for offset in (*range(0x100, 0x112), *range(0x200, 0x240))]
    survived = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(choose.randrange(1, 6)):
            value = choose.choice((0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)))
            data[choose.choice(places)] = value
        vbios = parse(data)
        check(vbios, len(data))
        survived += vbios.n_ucodes
    assert 0 < survived < 1500  # some damage matters and some does not


def test_a_hundred_thousand_damaged_roms_under_sanitizers(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler with sanitizers")
    program = tmp_path / "fuzz_vbios"
    folder = TOP / "native" / "nvprobe"
    built = subprocess.run(
        [compiler, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        + ["-I", str(folder), "-o", str(program), str(folder / "vbios.c")]
        + [str(Path(__file__).with_name("fuzz_vbios.c"))],
        capture_output=True,
        text=True,
    )
    if built.returncode != 0 and "asan" in built.stderr:
        pytest.skip("the C compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    roms = []
    for i, data in enumerate((rom.whole(), rom.whole(rom.descriptor_2(), lead=bytes(BLOCK)))):
        roms.append(str(tmp_path / f"{i}.rom"))
        Path(roms[-1]).write_bytes(data)
    done = subprocess.run([program, "50000", *roms], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000  # most damage leaves the way to the firmware
