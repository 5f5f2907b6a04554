"""Virtio over memory-mapped registers, version 2: for machines without a PCI bus.

Nobody can look for such devices: the command line names their slots, as Linux's parameter does,
"virtio_mmio.device=SIZE@ADDRESS:IRQ". A slot may be empty.

Numbers are sections of Virtual I/O Device (VIRTIO) Version 1.1 (OASIS, 11 April 2019).
"""
# SPDX-License-Identifier: MIT

import time

import _x86
import uctypes
from drivers import virtio
from machine import mem16, mem32
from micropython import const

# 4.2.2, registers of 32 bits.
_MAGIC = const(0x000)
_VERSION = const(0x004)
_DEVICE_ID = const(0x008)
_DEVICE_FEATURES = const(0x010)
_DEVICE_FEATURES_SEL = const(0x014)
_DRIVER_FEATURES = const(0x020)
_DRIVER_FEATURES_SEL = const(0x024)
_QUEUE_SEL = const(0x030)
_QUEUE_NUM_MAX = const(0x034)
_QUEUE_NUM = const(0x038)
_QUEUE_READY = const(0x044)
_QUEUE_NOTIFY = const(0x050)
_INTERRUPT_STATUS = const(0x060)
_INTERRUPT_ACK = const(0x064)
_STATUS = const(0x070)
_QUEUE_DESC = const(0x080)
_QUEUE_DRIVER = const(0x090)
_QUEUE_DEVICE = const(0x0A0)
_CONFIG = const(0x100)

_MAGIC_VALUE = const(0x74726976)  # "virt"
_MODERN = const(2)
_CONFIG_CHANGED = const(1 << 1)  # 4.2.2, InterruptStatus

# 2.1, device status.
_ACKNOWLEDGE = const(1)
_DRIVER = const(2)
_DRIVER_OK = const(4)
_FEATURES_OK = const(8)
_FAILED = const(128)

_F_VERSION_1 = const(1 << 32)

_RESET_TIMEOUT = const(1000)
_KEY = "virtio_mmio.device="
_UNITS = {"K": 10, "M": 20, "G": 30}


def slots():
    """Return [(address, size, irq)] as the command line names them. Words of another form are
    named on the console, and left out.
    """
    found = []
    for word in _x86.cmdline().split():
        if word.startswith(_KEY):
            try:
                found.append(_slot(word[len(_KEY) :]))
            except ValueError:
                print("cllm: no virtio_mmio slot: " + word)
    return found


def _slot(text):
    size, at, rest = text.partition("@")
    parts = rest.split(":")
    if not at or len(parts) not in (2, 3):  # the third numbers the device, which nobody needs
        raise ValueError
    shift = _UNITS.get(size[-1:].upper(), 0)
    slot = (int(parts[0], 0), int(size[:-1] if shift else size, 0) << shift, int(parts[1], 0))
    if slot[1] <= _CONFIG:
        raise ValueError
    return slot


def devices():
    """Return [(device's id, slot)] of the slots that have a device (4.2.3.1.1)."""
    found = []
    for slot in slots():
        base = _x86.mmio(slot[0], slot[1])
        if mem32[base + _MAGIC] == _MAGIC_VALUE and mem32[base + _DEVICE_ID]:
            found.append((mem32[base + _DEVICE_ID], slot))
    return found


class Ring(virtio.Ring):
    """A virtqueue whose notification register has 32 bits (4.2.3.3)."""

    def publish(self):
        mem16[self.available_at + 2] = self.next
        mem32[self.notify] = self.number


class Mmio:
    """A device in a slot, reset after construction; the interface is that of virtio.Pci.

    Args: slot: one of slots(); name: for messages. Raises OSError where the device does not
    answer, or not as version 1 of virtio.
    """

    def __init__(self, slot, name):
        self.key, size, self.irq = slot
        self._name = name
        base = self._base = _x86.mmio(self.key, size)
        self.config = base + _CONFIG
        if mem32[base + _MAGIC] != _MAGIC_VALUE or mem32[base + _VERSION] != _MODERN:
            raise self.error("version %d of virtio-mmio, 2 is needed" % mem32[base + _VERSION])
        # Nothing else ends its writes to memory at a soft reset.
        _x86.at_reset(base + _STATUS)
        self.reset()
        self._set_status(_ACKNOWLEDGE)
        self._set_status(_DRIVER)

    def error(self, text):
        """Return an OSError that names the device."""
        return OSError("%s: %s" % (self._name, text))

    def _set_status(self, bit):
        # 2.1.1: bits are added, none is cleared.
        mem32[self._base + _STATUS] = mem32[self._base + _STATUS] | bit

    def reset(self):
        """End what the device does: it writes no memory and raises no interrupt."""
        mem32[self._base + _STATUS] = 0
        start = time.ticks_ms()
        while mem32[self._base + _STATUS]:
            if time.ticks_diff(time.ticks_ms(), start) > _RESET_TIMEOUT:
                raise self.error("reset does not end")

    def offered(self):
        """Return the feature bits that the device offers."""
        base = self._base
        mem32[base + _DEVICE_FEATURES_SEL] = 1
        high = mem32[base + _DEVICE_FEATURES]
        mem32[base + _DEVICE_FEATURES_SEL] = 0
        return high << 32 | mem32[base + _DEVICE_FEATURES]

    def accept(self, features, needed=0):
        """Take these of the offered features, and version 1 with them. OSError where the device
        refuses them, or one of `needed` is not among them.
        """
        base = self._base
        needed |= _F_VERSION_1
        features |= self.offered() & _F_VERSION_1
        mem32[base + _DRIVER_FEATURES_SEL] = 0
        mem32[base + _DRIVER_FEATURES] = features & 0xFFFFFFFF
        mem32[base + _DRIVER_FEATURES_SEL] = 1
        mem32[base + _DRIVER_FEATURES] = features >> 32
        self._set_status(_FEATURES_OK)
        if not mem32[base + _STATUS] & _FEATURES_OK or features & needed != needed:
            self._set_status(_FAILED)
            raise self.error("features are refused")

    def start_queue(self, number, name, most):
        """Return the Ring of a queue, of at most `most` descriptors (4.2.3.2)."""
        base = self._base
        mem32[base + _QUEUE_SEL] = number
        size = mem32[base + _QUEUE_NUM_MAX]
        if not size or mem32[base + _QUEUE_READY]:
            raise self.error("no queue %d" % number)
        size = min(size, most)
        mem32[base + _QUEUE_NUM] = size
        ring = Ring(self.key, name, size)
        ring.number = number
        ring.notify = base + _QUEUE_NOTIFY
        for register, memory in (
            (_QUEUE_DESC, ring.descriptors),
            (_QUEUE_DRIVER, ring.available),
            (_QUEUE_DEVICE, ring.used),
        ):
            address = uctypes.addressof(memory)
            mem32[base + register] = address & 0xFFFFFFFF
            mem32[base + register + 4] = address >> 32
        mem32[base + _QUEUE_READY] = 1
        return ring

    def start(self):
        """Let the device work: its queues are ready."""
        self._set_status(_DRIVER_OK)

    def acknowledge(self):
        """End the device's interrupt; return whether its configuration changed (4.2.2)."""
        causes = mem32[self._base + _INTERRUPT_STATUS]
        mem32[self._base + _INTERRUPT_ACK] = causes
        return bool(causes & _CONFIG_CHANGED)
