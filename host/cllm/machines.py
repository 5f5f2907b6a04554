"""QEMU's machines for --machine: what each has, and where its memory lies."""

from dataclasses import dataclass

from . import CllmError
from .disks import Disk

MIB = 1 << 20
# microvm_devices_init() of QEMU 7.2: 24 slots for virtio devices, whose interrupts are the inputs
# of the second I/O APIC. Slot 0 stays empty: QEMU's I/O APICs take their input 0 for input 2
# (ioapic_set_irq()).
SLOT_BASE, SLOT_SIZE, SLOTS, SLOT_IRQ = 0xFEB00000, 512, 24, 24
FIRST_SLOT = 1


@dataclass(frozen=True)
class Machine:
    """One of QEMU's machines.

    name: QEMU's. large, low: RAM of `large` MiB or more is split, with `low` MiB at address 0, as
    its pc_memory_init() has it. has_pci: else virtio devices are in slots, nothing can be mapped
    as persistent memory, and there is no screen.
    """

    name: str
    large: int
    low: int
    has_pci: bool = True

    def low_memory(self, mib: int) -> int:
        """Return the bytes of RAM at physical address 0 of a machine with `mib` MiB."""
        return min(mib, self.low if mib >= self.large else mib) * MIB

    def check(self, nic: str, disks: list[Disk], gpu: bool) -> None:
        """Raise CllmError for a device that the machine cannot have."""
        if self.has_pci:
            return
        wrong = [f"--nic {nic}"] if nic not in ("auto", "virtio") else []
        wrong += [f"--disk {disk.file}:{disk.kind}" for disk in disks if disk.kind != "virtio"]
        wrong += ["--gpu"] if gpu else []
        if wrong:
            raise CllmError(f"--machine {self.name} has no PCI, only virtio devices: {wrong[0]}")
        room = SLOTS - FIRST_SLOT - 1  # and a network card
        if len(disks) > room:
            raise CllmError(f"--machine {self.name} has room for {room} disks")

    def bus(self, number: int) -> str:
        """Return QEMU's name of the bus of device `number`, "" on a machine with PCI."""
        return "" if self.has_pci else f"virtio-mmio-bus.{FIRST_SLOT + number}"

    def slot_words(self, devices: int) -> list[str]:
        """Return words for the guest's command line that name the slots of so many devices."""
        if self.has_pci:
            return []
        return [
            f"virtio_mmio.device={SLOT_SIZE}@{SLOT_BASE + SLOT_SIZE * slot:#x}:{SLOT_IRQ + slot}"
            for slot in range(FIRST_SLOT, FIRST_SLOT + devices)
        ]

    def options(self) -> list[str]:
        """Return QEMU's options that go with the machine."""
        # QEMU's slots have virtio's first version otherwise.
        return [] if self.has_pci else ["-global", "virtio-mmio.force-legacy=false"]


MACHINES = {
    "pc": Machine("pc", 3584, 3072),
    "q35": Machine("q35", 2816, 2048),
    "microvm": Machine("microvm", 3072, 3072, has_pci=False),
}
MACHINES["auto"] = MACHINES["pc"]
NAMES = ("auto", "pc", "q35", "microvm")
