"""Device drivers. One file each, with no knowledge of the protocols above.

docs/drivers.md says what a driver of a network card offers and how to add one.
"""

import _x86
import pci
from micropython import const

# (vendor, device): the module here that drives it. A module is imported for a card it drives only.
NETWORK = {
    (0x1AF4, 0x1041): "virtio_net",  # virtio 1.1, 4.1.2 and 5.1.1
    (0x1AF4, 0x1000): "virtio_net",  # transitional
    (0x8086, 0x100E): "e1000",  # 82540EM
    (0x8086, 0x100F): "e1000",  # 82545EM
    (0x8086, 0x10D3): "e1000",  # 82574L, QEMU's e1000e
    (0x15AD, 0x07B0): "vmxnet3",
}

# Likewise for disks, by their ids and by class, subclass and programming interface.
DISKS = {
    (0x1AF4, 0x1042): "disk_virtio",  # virtio 1.1, 4.1.2 and 5.2.1
    (0x1AF4, 0x1001): "disk_virtio",  # transitional
}
# PCI Code and ID Assignment 1.11, 1.2.
DISK_CLASSES = {0x010601: "disk_ahci", 0x010802: "disk_nvme"}

# Virtio 1.1, 5: ids of devices that are not on the PCI bus (drivers.virtio_mmio).
_VIRTIO_NETWORK = const(1)
_VIRTIO_DISK = const(2)

# PCI Code and ID Assignment 1.11, 1.2 and 1.3: mass storage, where IDE and floppy disks are no
# news; network controller.
_CLASS_STORAGE = const(0x01)
_UNUSED_STORAGE = (0x01, 0x02)
_CLASS_NETWORK = const(0x02)


def find_cards(wanted=None):
    """Return [(module's name, where)] of the network cards that a driver knows, in the bus's order.

    Args: wanted: a module's name, or an address as address_text() writes it, to have these alone.
    """
    found = []
    for bdf, vendor, device, _ in pci.devices():
        name = NETWORK.get((vendor, device))
        if name:
            found.append((name, bdf))
    found += [("virtio_net", slot) for slot in _slots(_VIRTIO_NETWORK)]
    return [card for card in found if wanted in (None, card[0], address_text(card[1]))]


def unknown_cards():
    """Return [text] of the network cards that no driver knows: "10ec:8168 at 02:00.0"."""
    return [
        "%04x:%04x at %s" % (vendor, device, address_text(bdf))
        for bdf, vendor, device, class24 in pci.devices()
        if class24 >> 16 == _CLASS_NETWORK and (vendor, device) not in NETWORK
    ]


def find_disks():
    """Return [(module's name, where)] of the disk controllers that a driver knows, in the bus's
    order.
    """
    found = []
    for bdf, vendor, device, class24 in pci.devices():
        name = DISKS.get((vendor, device)) or DISK_CLASSES.get(class24)
        if name:
            found.append((name, bdf))
    return found + [("disk_virtio", slot) for slot in _slots(_VIRTIO_DISK)]


def unknown_disks():
    """Return [text] of the disk controllers that no driver knows, as unknown_cards()."""
    return [
        "%04x:%04x at %s" % (vendor, device, address_text(bdf))
        for bdf, vendor, device, class24 in pci.devices()
        if class24 >> 16 == _CLASS_STORAGE
        and class24 >> 8 & 0xFF not in _UNUSED_STORAGE
        and (vendor, device) not in DISKS
        and class24 not in DISK_CLASSES
    ]


def _slots(kind):
    """Return the slots of virtio_mmio that have a device of this kind. Few machines have slots, so
    import late.
    """
    if "virtio_mmio.device=" not in _x86.cmdline():
        return []
    from drivers import virtio_mmio

    return [slot for found, slot in virtio_mmio.devices() if found == kind]


def open_card(name, where):
    """Return the running Card of a driver's module. Raises OSError where it does not start."""
    return _module(name).Card(where)


def open_disks(name, where, number):
    """Return [Disk] behind a controller; `number` of the same kind came before it. Raises OSError
    where it does not start.
    """
    return _module(name).open_disks(where, "%s%d" % (name.split("_")[1], number))


def _module(name):
    return getattr(__import__("drivers." + name), name)


def address_text(where):
    """Return a function's bus address as lspci writes it, bus:device.function, or the address of a
    slot of virtio_mmio in hexadecimal.
    """
    if isinstance(where, tuple):
        return "%x" % where[0]
    bdf = where
    return "%02x:%02x.%x" % (bdf >> 8, bdf >> 3 & 31, bdf & 7)
