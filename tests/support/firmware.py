"""A machine that starts as a real one does: firmware, then GRUB from a disk, then the image.

folder = tmp_path / "disk"; (folder / "cllm.elf").symlink_to(IMAGE)
guest = FirmwareGuest(folder, "multiboot2 /cllm.elf", firmware="uefi", port=free_port())

The disk is QEMU's FAT view of a folder, so files need not be copied. GRUB is one file with all its
modules. missing() names what this machine lacks for it.
"""

import os
import shutil
import subprocess
from pathlib import Path

from cllm import qemu

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
GRUB = Path("/usr/lib/grub")
NEEDED = {
    "uefi": (OVMF, GRUB / "x86_64-efi" / "moddep.lst"),
    "bios": (GRUB / "i386-pc" / "boot.img",),
}
MODULES = "part_msdos part_gpt fat search search_fs_file multiboot2 serial all_video echo normal"
# The first disk that has the file. GRUB's own words go to the screen as well.
CONFIG = """\
serial --unit=0 --speed=115200
terminal_output serial console
search --file /cllm.elf --set=root
{commands}
boot
"""


def missing(firmware):
    """Return what is missing to boot by "uefi" or "bios", "" for nothing."""
    lacking = [str(path) for path in NEEDED[firmware] if not path.exists()]
    if not shutil.which("grub-mkimage"):
        lacking.append("grub-mkimage")
    return ", ".join(lacking)


class FirmwareGuest(qemu.Guest):
    """A Guest whose image GRUB loads. Args: folder: the disk's files, `cllm.elf` among them;
    commands: GRUB's, up to `boot`; firmware: "uefi" or "bios"; devices: further options of QEMU.
    """

    def __init__(self, folder, commands, *, firmware, devices=(), **options):
        super().__init__(folder / "cllm.elf", **options)
        self.disk = Path(folder)
        self.firmware = firmware
        self.devices = devices
        self._made = self.disk.with_name(self.disk.name + "-" + firmware)
        self._make(CONFIG.format(commands=commands))

    def _make(self, config):
        self._made.mkdir(exist_ok=True)
        early = self._made / "early.cfg"
        early.write_text(config)
        if self.firmware == "uefi":
            target = self.disk / "EFI" / "BOOT" / "BOOTX64.EFI"
            target.parent.mkdir(parents=True, exist_ok=True)
            self._grub("x86_64-efi", target, early, "efi_gop")
            shutil.copy(VARIABLES, self._made / "variables.fd")
            os.chmod(self._made / "variables.fd", 0o600)
        else:
            core = self._made / "core.img"
            self._grub("i386-pc", core, early, "biosdisk", "vbe")
            # boot.img loads what follows it: by its own default from sector 1 on.
            data = (GRUB / "i386-pc" / "boot.img").read_bytes() + core.read_bytes()
            (self._made / "grub.img").write_bytes(data + bytes(-len(data) % (1 << 20)))

    def _grub(self, target, output, early, *modules):
        command = ["grub-mkimage", "-O", target, "-o", output, "-c", early, "-p", "/"]
        subprocess.run([*command, *MODULES.split(), *modules], check=True)

    def boot_arguments(self):
        """Return the options for the machine, its firmware and its disks."""
        line = ["-machine", "q35", "-m", f"{self.memory}M", "-no-reboot", *self.devices]
        first = []
        if self.firmware == "uefi":
            flash = ((OVMF, ",readonly=on"), (self._made / "variables.fd", ""))
            for unit, (path, more) in enumerate(flash):
                line += ["-drive", f"if=pflash,format=raw,unit={unit},file={path}{more}"]
        else:
            first = [(f"file={self._made / 'grub.img'}", ",snapshot=on")]
        disks = [*first, (f"file=fat:{self.disk}", ",readonly=on")]
        for number, (drive, more) in enumerate(disks):
            line += ["-drive", f"if=none,id=disk{number},format=raw,{drive}{more}"]
            line += ["-device", f"virtio-blk-pci,drive=disk{number},bootindex={number}"]
        return line
