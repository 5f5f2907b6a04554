"""GRUB for the images of `cllm image`: its programs from modules, and what its menu runs.

Everything that GRUB needs is linked into one file for BIOS and one for UEFI, so a disk holds no
modules of it.
"""

import struct
import subprocess
import tempfile
from pathlib import Path

from . import CllmError, debs
from .gpt import SECTOR

PACKAGES = ("grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "mtools")
PRESENT = (
    "grub-mkimage",
    "mformat",
    "mcopy",
    "/usr/lib/grub/i386-pc/boot.img",
    "/usr/lib/grub/x86_64-efi/moddep.lst",
)
# What both need to find the files and load them; `progress` shows how far a large one is.
COMMON = (
    "boot configfile echo fat gzio halt iso9660 ls minicmd multiboot multiboot2 normal part_gpt "
    "progress reboot regexp search serial sleep test true"
).split()
BIOS = [*COMMON, "biosdisk"]
# A framebuffer is the only screen without a BIOS.
UEFI = [*COMMON, "all_video", "efi_gop", "part_msdos"]

# Offsets in GRUB's boot.img, the code of sector 0.
KERNEL_SECTOR, BOOT_DRIVE, DRIVE_CHECK = 0x5C, 0x64, 0x66
CODE = 440  # bytes of sector 0 that are not the partition table's
# Offset in diskboot.img, the first sector of a core image, of the list of blocks to load: first
# sector, number of sectors, segment.
BLOCK_LIST, SEGMENT = SECTOR - 12, 0x820

# Multiboot2 2.0, 3.1.1 and 3.1.2: the header is in the first 32 KiB, on a multiple of 8.
MULTIBOOT2, MULTIBOOT2_REACH = 0xE85250D6, 32768

MENU = """\
# What GRUB does when it starts this disk. It hands over the files of the volume CLLM, so what is to
# be changed is there, not here: cllm.json, apps/*.py, models/*.gguf.
set timeout=0
set default=0
set enable_progress_indicator=1
if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
fi
# The volume is the first partition of GRUB's own disk; a CD has no partitions.
if [ -z "$volume" ]; then
    if regexp --set=1:disk '^([^,]+),' "$root"; then
        set volume="($disk,gpt1)"
    else
        set volume="($root)"
    fi
fi
if [ "$grub_platform" = efi ]; then
    set gfxpayload=1024x768x32,1024x768,800x600,auto
else
    set gfxpayload=text
fi

function hand_over {
    if @MODULE@ "$1" "$2"; then
        true
    else
        echo "cllm: $1 could not be loaded: it is damaged, or larger than this machine's free"
        echo "cllm: memory below 4 GiB. The machine starts without it."
        sleep 5
    fi
}

menuentry "cllm" {
    @LOADER@ "($root)/cllm.elf.gz"
    if [ -f "$volume/cllm.json" ]; then
        hand_over "$volume/cllm.json" config.json
    fi
    for file in "$volume"/apps/*.py "$volume"/models/*.gguf; do
        # macOS leaves files whose names begin with "._" beside those that it copies.
        if regexp --set=1:name '/([^./][^/]*)$' "$file"; then
            if [ -f "$file" ]; then
                hand_over "$file" "$name"
            fi
        fi
    done
    boot
}

menuentry "cllm without the files of the volume CLLM" {
    @LOADER@ "($root)/cllm.elf.gz"
    boot
}
"""


def ensure() -> debs.Packages:
    """Return the packages that this module needs."""
    return debs.ensure(PACKAGES, "cllm image", PRESENT)


def has_multiboot2(kernel: Path) -> bool:
    """Return whether a kernel has a Multiboot2 header."""
    with open(kernel, "rb") as file:
        data = file.read(MULTIBOOT2_REACH)
    for at in range(0, len(data) - 15, 8):
        magic, architecture, length, checksum = struct.unpack_from("<4I", data, at)
        if magic == MULTIBOOT2 and not (magic + architecture + length + checksum) % (1 << 32):
            return True
    return False


def menu(kernel: Path) -> bytes:
    """Return grub.cfg for a kernel."""
    two = "2" if has_multiboot2(kernel) else ""
    text = MENU.replace("@MODULE@", f"module{two}").replace("@LOADER@", f"multiboot{two}")
    return text.encode()


def program(packages: debs.Packages, target: str, prefix: str, early: str = "") -> bytes:
    """Return GRUB's core image, with all that it needs inside.

    target: "i386-pc", "i386-pc-eltorito" or "x86_64-efi". prefix: where grub.cfg is; with "(,gpt2)"
    in front on that partition of the disk that the image is started from. early: commands to run
    before grub.cfg is looked for.
    """
    modules = UEFI if target == "x86_64-efi" else BIOS
    folder = packages.file(f"/usr/lib/grub/{target.removesuffix('-eltorito')}/moddep.lst").parent
    with tempfile.TemporaryDirectory(prefix="cllm-") as temporary:
        output = Path(temporary) / "core"
        command = [packages.program("grub-mkimage"), "-O", target, "-d", str(folder)]
        command += ["-p", prefix, "-o", str(output)]
        if early:
            script = Path(temporary) / "early.cfg"
            script.write_text(early)
            command += ["-c", str(script)]
        command += modules
        ended = subprocess.run(
            command, env=packages.environment(), capture_output=True, text=True, errors="replace"
        )
        if ended.returncode != 0:
            raise CllmError(f"grub-mkimage failed: {ended.stderr.strip()}")
        return output.read_bytes()


def bios_code(packages: debs.Packages, core: bytes, first: int) -> tuple[bytes, bytes]:
    """Return (code for sector 0, the core image) for a core image at sector `first` of a disk.

    It is what grub-bios-setup does, which wants root and a device.
    """
    boot = bytearray(packages.file("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    struct.pack_into("<Q", boot, KERNEL_SECTOR, first)
    boot[BOOT_DRIVE] = 0xFF  # the drive that the BIOS names
    # Two NOPs let it correct the drive of a BIOS that names a diskette's.
    boot[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    padded = bytearray(core.ljust(-(-len(core) // SECTOR) * SECTOR, b"\0"))
    sectors = len(padded) // SECTOR - 1
    struct.pack_into("<QHH", padded, BLOCK_LIST, first + 1, sectors, SEGMENT)
    return bytes(boot[:CODE]), bytes(padded)
