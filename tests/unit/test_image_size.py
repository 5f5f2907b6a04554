"""What GPUs cost the image that has none: their backend is a second product."""

from cllm.build import BUILD, DEBUG_IMAGE
from elftools.elf.elffile import ELFFile

PORT = BUILD / "port"
MOST = 64 << 10  # bytes that an image without ggml-cuda may spend on GPUs
ALLOCATED = 2  # SHF_ALLOC


def loaded_bytes(path):
    """Return the bytes of an object that are in memory, without what is zero at first."""
    with open(path, "rb") as file:
        sections = ELFFile(file).iter_sections()
        return sum(
            section["sh_size"]
            for section in sections
            if section["sh_flags"] & ALLOCATED and section["sh_type"] != "SHT_NOBITS"
        )


def test_the_driver_interface_the_module_and_the_probe_are_small():
    objects = [*PORT.glob("gpu/*.o"), *PORT.rglob("ucuda/*.o"), *PORT.rglob("nvprobe/*.o")]
    names = {path.name for path in objects}
    assert {"modgpu.o", "ring.o", "copies.o", "find.o", "vbios.o"} <= names
    assert sum(map(loaded_bytes, objects)) < MOST


def test_the_image_without_gpus_holds_nothing_of_the_backend():
    with open(DEBUG_IMAGE, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        names = {symbol.name for symbol in table.iter_symbols()}
    assert "ucuda_open" in names  # so the table is complete
    assert not [name for name in names if "ggml_cuda" in name or name.startswith("cuda")]
