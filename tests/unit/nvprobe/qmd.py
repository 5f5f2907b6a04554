"""An independent reading of NVIDIA's tables of queue metadata (qmd_fields.txt).

It decodes what native/nvprobe/qmd.c and push.c write, by the headers' own names and with Python's
integers, so that both sides agree only if both are right about the headers.
"""

from pathlib import Path

VERSIONS = ("01.07", "02.01", "02.02", "02.03", "03.00", "04.00")
BANKS = 8


class Layout:
    """The fields of one version: {name: (high, low, stride)}."""

    def __init__(self, fields, version):
        self.fields = fields
        self.version = version
        self.bits = 3072 if version == "04.00" else 2048

    def has(self, *names):
        """Return the first of `names` that this version has, or None."""
        return next((name for name in names if name in self.fields), None)

    def get(self, qmd, *names, index=0):
        """Return a field's value of `qmd`, an integer of all bits."""
        name = self.has(*names)
        high, low, stride = self.fields[name]
        return qmd >> low + index * stride & (1 << high - low + 1) - 1

    def mask(self, *names, index=0):
        high, low, stride = self.fields[self.has(*names)]
        return (1 << high - low + 1) - 1 << low + index * stride


def read_layouts():
    tables = {version: {} for version in VERSIONS}
    for line in Path(__file__).with_name("qmd_fields.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, *cells = line.split()
        for version, cell in zip(VERSIONS, cells):
            if cell != "-":
                place, _, stride = cell.partition("+")
                high, low = place.split(":")
                tables[version][name] = (int(high), int(low), int(stride or 0))
    return {version: Layout(fields, version) for version, fields in tables.items()}


LAYOUTS = read_layouts()
OF_GENERATION = {
    "MAXWELL": "01.07",
    "PASCAL": "02.01",
    "VOLTA": "02.02",
    "TURING": "02.03",
    "AMPERE": "03.00",
    "ADA": "03.00",
    "HOPPER": "04.00",
}

# nvprobe.h's name: the headers', of which a version has at most one, or the first one counts.
NAMES = {
    "MAJOR": ("QMD_MAJOR_VERSION",),
    "MINOR": ("QMD_VERSION", "QMD_MINOR_VERSION"),
    "TYPE": ("QMD_TYPE",),
    "GLOBAL_CACHING": ("SM_GLOBAL_CACHING_ENABLE",),
    "DROP_TEXTURE_HEADERS": ("INVALIDATE_TEXTURE_HEADER_CACHE",),
    "DROP_TEXTURE_SAMPLERS": ("INVALIDATE_TEXTURE_SAMPLER_CACHE",),
    "DROP_TEXTURE_DATA": ("INVALIDATE_TEXTURE_DATA_CACHE",),
    "DROP_SHADER_DATA": ("INVALIDATE_SHADER_DATA_CACHE",),
    "DROP_INSTRUCTIONS": ("INVALIDATE_INSTRUCTION_CACHE",),
    "DROP_CONSTANTS": ("INVALIDATE_SHADER_CONSTANT_CACHE",),
    "CALL_LIMIT": ("API_VISIBLE_CALL_LIMIT",),
    "SAMPLER_INDEX": ("SAMPLER_INDEX",),
    "MEMBAR": ("CWD_MEMBAR_TYPE",),
    "GRID_X": ("CTA_RASTER_WIDTH", "GRID_WIDTH"),
    "GRID_Y": ("CTA_RASTER_HEIGHT", "GRID_HEIGHT"),
    "GRID_Z": ("CTA_RASTER_DEPTH", "GRID_DEPTH"),
    "BLOCK_X": ("CTA_THREAD_DIMENSION0",),
    "BLOCK_Y": ("CTA_THREAD_DIMENSION1",),
    "BLOCK_Z": ("CTA_THREAD_DIMENSION2",),
    "PROGRAM_LOW": ("PROGRAM_ADDRESS_LOWER", "PROGRAM_OFFSET"),
    "PROGRAM_HIGH": ("PROGRAM_ADDRESS_UPPER",),
    "SHARED": ("SHARED_MEMORY_SIZE",),
    "L1": ("L1_CONFIGURATION",),
    "SHARED_MIN": ("MIN_SM_CONFIG_SHARED_MEM_SIZE",),
    "SHARED_MAX": ("MAX_SM_CONFIG_SHARED_MEM_SIZE",),
    "SHARED_TARGET": ("TARGET_SM_CONFIG_SHARED_MEM_SIZE",),
    # Volta and Turing have both; the second has 8 bits, too few for 256 registers.
    "REGISTERS": ("REGISTER_COUNT_V", "REGISTER_COUNT"),
    "BARRIERS": ("BARRIER_COUNT",),
    "LOCAL_LOW": ("SHADER_LOCAL_MEMORY_LOW_SIZE",),
    "LOCAL_HIGH": ("SHADER_LOCAL_MEMORY_HIGH_SIZE",),
    "CALL_STACK": ("SHADER_LOCAL_MEMORY_CRS_SIZE",),
    "CONSTANT_VALID": ("CONSTANT_BUFFER_VALID",),
    "CONSTANT_LOW": ("CONSTANT_BUFFER_ADDR_LOWER", "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6"),
    "CONSTANT_HIGH": ("CONSTANT_BUFFER_ADDR_UPPER", "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6"),
    "CONSTANT_SIZE": ("CONSTANT_BUFFER_SIZE_SHIFTED4", "CONSTANT_BUFFER_SIZE"),
    "CONSTANT_DROP": ("CONSTANT_BUFFER_INVALIDATE",),
    "RELEASE": ("RELEASE0_ENABLE", "SEMAPHORE_RELEASE_ENABLE0", "RELEASE_ENABLE"),
    "RELEASE_LOW": ("RELEASE0_ADDRESS_LOWER", "RELEASE_SEMAPHORE0_ADDR_LOWER"),
    "RELEASE_HIGH": ("RELEASE0_ADDRESS_UPPER", "RELEASE_SEMAPHORE0_ADDR_UPPER"),
    "RELEASE_SIZE": ("RELEASE0_STRUCTURE_SIZE", "RELEASE_STRUCTURE_SIZE"),
    "RELEASE_MEMBAR": ("RELEASE0_MEMBAR_TYPE", "RELEASE_MEMBAR_TYPE"),
    "RELEASE_PAYLOAD": (
        "RELEASE0_PAYLOAD",
        "RELEASE0_PAYLOAD_LOWER",
        "RELEASE_SEMAPHORE0_PAYLOAD_LOWER",
    ),
}


def decode(generation, qmd):
    """Return what a card would launch, as a dict; `qmd` is the metadata as an integer."""
    layout = LAYOUTS[OF_GENERATION[generation]]

    def get(name, index=0):
        return layout.get(qmd, *NAMES[name], index=index)

    hopper = layout.version == "04.00"
    shift, size_shift = (6 if hopper else 0), (0 if layout.version == "01.07" else 4)
    banks = {}
    for i in range(BANKS):
        if get("CONSTANT_VALID", i):
            address = get("CONSTANT_HIGH", i) << 32 | get("CONSTANT_LOW", i)
            banks[i] = (address << shift, get("CONSTANT_SIZE", i) << size_shift)
    launch = {
        "version": (get("MAJOR"), get("MINOR")),
        "grid": tuple(get("GRID_" + axis) for axis in "XYZ"),
        "block": tuple(get("BLOCK_" + axis) for axis in "XYZ"),
        "program": get("PROGRAM_LOW"),
        "shared": get("SHARED"),
        "local": get("LOCAL_HIGH") << 24 | get("LOCAL_LOW"),
        "registers": get("REGISTERS"),
        "barriers": get("BARRIERS"),
        "banks": banks,
        "release": None,
    }
    if layout.has(*NAMES["PROGRAM_HIGH"]):
        launch["program"] |= get("PROGRAM_HIGH") << 32
    if get("RELEASE"):
        assert get("RELEASE_SIZE") == 1  # one word
        launch["release"] = (
            get("RELEASE_HIGH") << 32 | get("RELEASE_LOW"),
            get("RELEASE_PAYLOAD"),
        )
    return launch
