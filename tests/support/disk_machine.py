"""A machine in QEMU that boots from a disk, by SeaBIOS or by UEFI's OVMF, not by -kernel.

machine = DiskMachine("out.img", controller="nvme", firmware="uefi", port=8080, memory=512)
"""

import os
import shutil

from cllm import debs, qemu

OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
CONTROLLERS = {
    "virtio": ["virtio-blk-pci,drive=disk"],
    "nvme": ["nvme,drive=disk,serial=cllm"],
    "ahci": ["ich9-ahci,id=sata", "ide-hd,drive=disk,bus=sata.0"],
    "usb": ["qemu-xhci", "usb-storage,drive=disk"],
    "cd": ["ich9-ahci,id=sata", "ide-cd,drive=disk,bus=sata.0"],
}


def ovmf():
    """Return the paths of UEFI's code and empty variables. Raises CllmError without them."""
    packages = debs.ensure(("ovmf",), "the test of UEFI", OVMF)
    return [packages.file(path) for path in OVMF]


class DiskMachine(qemu.Guest):
    """A Guest whose kernel is on a disk. The disk's content stays as it is.

    controller: a key of CONTROLLERS. firmware: "bios" or "uefi". board: QEMU's machine. options: of
    qemu.Guest.
    """

    def __init__(
        self, disk, *, controller="virtio", firmware="bios", board="q35", form="raw", **options
    ):
        super().__init__(disk, **options)
        self.controller = controller
        self.firmware = firmware
        self.board = board
        self.form = form
        self.variables = None

    def start(self):
        """Boot; see qemu.Guest.start()."""
        if self.firmware == "uefi":
            self.variables = f"{self.image}.{os.getpid()}.{self.port}.vars"
            shutil.copy(ovmf()[1], self.variables)
        super().start()

    def stop(self):
        """Switch it off; see qemu.Guest.stop()."""
        super().stop()
        if self.variables:
            os.unlink(self.variables)
            self.variables = None

    def boot_arguments(self):
        """Return the options for firmware, memory and disk."""
        line = ["-machine", self.board, "-m", f"{self.memory}M", "-no-reboot"]
        if self.firmware == "uefi":
            for unit, file in enumerate((ovmf()[0], self.variables)):
                readonly = ",readonly=on" if unit == 0 else ""
                line += ["-drive", f"if=pflash,format=raw,unit={unit},file={file}{readonly}"]
        file = str(self.image.resolve()).replace(",", ",,")
        media = ",media=cdrom" if self.controller == "cd" else ",snapshot=on"
        line += ["-drive", f"if=none,id=disk,format={self.form},file={file}{media}"]
        *others, drive = CONTROLLERS[self.controller]
        for device in [*others, f"{drive},bootindex=0"]:
            line += ["-device", device]
        return line
