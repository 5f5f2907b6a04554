"""Virtio: what all of its devices share, and its modern layout over PCI.

Numbers are sections of Virtual I/O Device (VIRTIO) Version 1.1 (OASIS, 11 April 2019).
"""
# SPDX-License-Identifier: MIT

import time

import _x86
import pci
import uctypes
from drivers import dma, messages
from machine import mem8, mem16, mem32
from micropython import const

# PCI Local Bus 3.0, 6.2.2, 6.2.4, 6.7: command, status, first capability; a capability's id, next.
_COMMAND = const(0x04)
_COMMAND_MASTER = const(1 << 2)
_STATUS = const(0x06)
_STATUS_CAPABILITIES = const(1 << 4)
_CAPABILITIES = const(0x34)
_MOST_CAPABILITIES = const(48)
_VENDOR_SPECIFIC = const(0x09)

# 4.1.4, types of a vendor-specific capability.
_COMMON = const(1)
_NOTIFY = const(2)
_ISR = const(3)
_DEVICE = const(4)

# 4.1.4.3, common configuration.
_DEVICE_FEATURE_SELECT = const(0x00)
_DEVICE_FEATURE = const(0x04)
_DRIVER_FEATURE_SELECT = const(0x08)
_DRIVER_FEATURE = const(0x0C)
_CONFIG_MSIX_VECTOR = const(0x10)
_DEVICE_STATUS = const(0x14)
_CONFIG_GENERATION = const(0x15)
_QUEUE_SELECT = const(0x16)
_QUEUE_SIZE = const(0x18)
_QUEUE_MSIX_VECTOR = const(0x1A)
_QUEUE_ENABLE = const(0x1C)
_QUEUE_NOTIFY_OFF = const(0x1E)
_QUEUE_DESC = const(0x20)
_QUEUE_DRIVER = const(0x28)
_QUEUE_DEVICE = const(0x30)

# 2.1, device status.
_ACKNOWLEDGE = const(1)
_DRIVER = const(2)
_DRIVER_OK = const(4)
_FEATURES_OK = const(8)
_FAILED = const(128)

# 6, feature bit of all devices.
_F_VERSION_1 = const(1 << 32)

# 4.1.4.5: the configuration changed.
_ISR_CONFIG = const(1 << 1)

# 2.6.7: no interrupt, please.
_NO_INTERRUPT = const(1)

_RESET_TIMEOUT = const(1000)


class Ring:
    """A split virtqueue (2.6): the descriptors, what is available, what was used.

    Args: key: the device's, for dma.block(); size: descriptors, a power of two.
    """

    def __init__(self, key, name, size):
        # 2.6: alignments 16, 2 and 4.
        self.size = size
        self.descriptors = dma.block(key, name + " descriptors", 16 * size)
        self.available = dma.block(key, name + " available", 6 + 2 * size)
        self.used = dma.block(key, name + " used", 6 + 8 * size)
        for part in (self.descriptors, self.available, self.used):
            part[:] = bytes(len(part))
        # What this side has made available and taken back, modulo 2^16.
        self.next = 0
        self.last = 0
        self.used_at = uctypes.addressof(self.used)
        self.available_at = uctypes.addressof(self.available)
        self.notify = 0  # address of the queue's notification register
        self.number = 0

    def give(self, index):
        """Make a descriptor available; the device may see it after publish()."""
        mem16[self.available_at + 4 + 2 * (self.next & (self.size - 1))] = index
        self.next = (self.next + 1) & 0xFFFF

    def publish(self):
        """Let the device see what it was given (2.6.13.3), and tell it."""
        # The device sees x86's stores in program order (SDM 3A 8.2.2). The device's flag "no
        # notification" is ignored, because the processor may read it before the store is visible.
        mem16[self.available_at + 2] = self.next
        mem16[self.notify] = self.number

    def interrupts(self, wanted):
        """Ask the device to interrupt when it has used descriptors, or not to."""
        mem16[self.available_at] = 0 if wanted else _NO_INTERRUPT


def transport(where, name):
    """Return the device at a bus address, or in a slot of virtio_mmio; see Pci."""
    if isinstance(where, tuple):
        from drivers.virtio_mmio import Mmio

        return Mmio(where, name)
    return Pci(where, name)


class Pci:
    """A function on the PCI bus, reset after construction.

    Args: bdf: its bus address; name: for messages. Raises OSError where the device does not
    answer, or not as version 1 of virtio.

    config: address of the device's own configuration; irq: the line that it interrupts, see
    drivers.messages; key: for dma.block(). The order of calls is 3.1.1's: accept(), start_queue(),
    start().
    """

    def __init__(self, bdf, name):
        self.key = bdf
        self._bdf = bdf
        self._name = name
        regions = self._regions()
        self._common = regions[_COMMON][0]
        self._isr = regions[_ISR][0]
        self.config = regions[_DEVICE][0]
        self._notify, self._multiplier = regions[_NOTIFY]
        self.reset()
        self.irq, self._by_message = messages.take(bdf)
        self._generation = 0
        self._set_status(_ACKNOWLEDGE)
        self._set_status(_DRIVER)

    def error(self, text):
        """Return an OSError that names the device."""
        return OSError("%s: %s" % (self._name, text))

    def _regions(self):
        """Return {type of configuration: (address, notify_off_multiplier)} (4.1.4)."""
        bdf = self._bdf
        found = {}
        mapped = {}
        at = 0
        if pci.read(bdf, _STATUS, 2) & _STATUS_CAPABILITIES:
            at = pci.read(bdf, _CAPABILITIES, 1) & 0xFC
        for _ in range(_MOST_CAPABILITIES):  # a list may be a circle
            if not at:
                break
            if pci.read(bdf, at, 1) == _VENDOR_SPECIFIC:
                kind, bar = pci.read(bdf, at + 3, 1), pci.read(bdf, at + 4, 1)
                # 4.1.4.1: the first of each type, and no value of `bar` above 5.
                if kind in (_COMMON, _NOTIFY, _ISR, _DEVICE) and kind not in found and bar < 6:
                    if bar not in mapped:
                        mapped[bar] = self._map(bar)
                    base, size = mapped[bar]
                    offset, length = pci.read(bdf, at + 8, 4), pci.read(bdf, at + 12, 4)
                    if base and offset + length <= size:
                        multiplier = pci.read(bdf, at + 16, 4) if kind == _NOTIFY else 0
                        found[kind] = base + offset, multiplier
            at = pci.read(bdf, at + 1, 1) & 0xFC
        if len(found) < 4:
            raise self.error("no modern configuration")
        return found

    def _map(self, bar):
        address, size, is_io = pci.bar(self._bdf, bar)
        if is_io or not size:
            return 0, 0
        return _x86.mmio(address, size), size

    def _set_status(self, bit):
        # 2.1.1: bits are added, none is cleared.
        mem8[self._common + _DEVICE_STATUS] = mem8[self._common + _DEVICE_STATUS] | bit

    def reset(self):
        """End what the device does: it writes no memory and raises no interrupt."""
        # 4.1.4.3.2: the reset has ended when the status reads 0.
        mem8[self._common + _DEVICE_STATUS] = 0
        start = time.ticks_ms()
        while mem8[self._common + _DEVICE_STATUS]:
            if time.ticks_diff(time.ticks_ms(), start) > _RESET_TIMEOUT:
                raise self.error("reset does not end")
        command = pci.read(self._bdf, _COMMAND, 2)
        pci.write(self._bdf, _COMMAND, 2, command & ~_COMMAND_MASTER)

    def offered(self):
        """Return the feature bits that the device offers."""
        common = self._common
        mem32[common + _DEVICE_FEATURE_SELECT] = 1
        offered = mem32[common + _DEVICE_FEATURE] << 32
        mem32[common + _DEVICE_FEATURE_SELECT] = 0
        return offered | mem32[common + _DEVICE_FEATURE]

    def accept(self, features, needed=0):
        """Take these of the offered features, and version 1 with them. OSError where the device
        refuses them, or one of `needed` is not among them.
        """
        common = self._common
        needed |= _F_VERSION_1
        features |= self.offered() & _F_VERSION_1
        mem32[common + _DRIVER_FEATURE_SELECT] = 0
        mem32[common + _DRIVER_FEATURE] = features & 0xFFFFFFFF
        mem32[common + _DRIVER_FEATURE_SELECT] = 1
        mem32[common + _DRIVER_FEATURE] = features >> 32
        self._set_status(_FEATURES_OK)
        if not mem8[common + _DEVICE_STATUS] & _FEATURES_OK or features & needed != needed:
            self._set_status(_FAILED)
            raise self.error("features are refused")

    def start_queue(self, number, name, most):
        """Return the Ring of a queue, of at most `most` descriptors (4.1.5.1.3)."""
        common = self._common
        mem16[common + _QUEUE_SELECT] = number
        size = mem16[common + _QUEUE_SIZE]
        if not size:
            raise self.error("no queue %d" % number)
        size = min(size, most)
        mem16[common + _QUEUE_SIZE] = size
        ring = Ring(self.key, name, size)
        ring.number = number
        ring.notify = self._notify + self._multiplier * mem16[common + _QUEUE_NOTIFY_OFF]
        for register, memory in (
            (_QUEUE_DESC, ring.descriptors),
            (_QUEUE_DRIVER, ring.available),
            (_QUEUE_DEVICE, ring.used),
        ):
            address = uctypes.addressof(memory)
            mem32[common + register] = address & 0xFFFFFFFF
            mem32[common + register + 4] = address >> 32
        if self._by_message:
            self._use_vector(_QUEUE_MSIX_VECTOR)
        mem16[common + _QUEUE_ENABLE] = 1
        return ring

    def _use_vector(self, register):
        # 4.1.5.1.2.1: all events by the first entry; a device without room for that says so.
        mem16[self._common + register] = 0
        if mem16[self._common + register]:
            raise self.error("no interrupt vector")

    def start(self):
        """Let the device work: its queues are ready."""
        if self._by_message:
            self._use_vector(_CONFIG_MSIX_VECTOR)
            self._generation = mem8[self._common + _CONFIG_GENERATION]
        pci.enable(self._bdf)
        self._set_status(_DRIVER_OK)

    def acknowledge(self):
        """End the device's interrupt; return whether its configuration changed (4.1.4.5)."""
        if not self._by_message:
            return bool(mem8[self._isr] & _ISR_CONFIG)  # 4.1.4.5.1: reading clears
        # 4.1.4.5.2: messages leave the register alone. 2.4.1 has a count of changes.
        before = self._generation
        self._generation = mem8[self._common + _CONFIG_GENERATION]
        return self._generation != before
