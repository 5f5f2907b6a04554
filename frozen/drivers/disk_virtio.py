"""Virtio's block device.

Numbers are sections of Virtual I/O Device (VIRTIO) Version 1.1 (OASIS, 11 April 2019).
"""
# SPDX-License-Identifier: MIT

import struct

import uctypes
from drivers import dma, virtio
from drivers.disk import FLUSH, READ, Disk
from machine import mem8, mem16, mem32
from micropython import const

# 5.2.3, feature bits.
_F_SIZE_MAX = const(1 << 1)
_F_RO = const(1 << 5)
_F_BLK_SIZE = const(1 << 6)
_F_FLUSH = const(1 << 9)

# 5.2.4, device configuration.
_CAPACITY = const(0)
_SIZE_MAX = const(8)
_BLK_SIZE = const(20)

# 5.2.6, requests: a header of 16 bytes, the data, a status byte. Sectors have 512 bytes.
_IN = const(0)
_OUT = const(1)
_T_FLUSH = const(4)
_GET_ID = const(8)
_ID_SIZE = const(20)
_HEADER = const(16)
_STATUS_AT = const(16)  # behind a request's header
_REQUEST = const(64)
_ERRORS = ("", "input or output error", "unsupported request")
_SECTOR_SHIFT = const(9)

# 2.6.5, descriptor flags.
_NEXT = const(1)
_WRITE = const(2)

_MOST = const(64)  # descriptors of the ring
_DESCRIPTORS = const(3)  # of a request


def open_disks(where, name):
    """Return [Disk] of the device at a bus address, or in a slot; `name` is for messages."""
    return [VirtioDisk(virtio.transport(where, name), name)]


class VirtioDisk(Disk):
    """One device. Args: device: a transport such as virtio.Pci; name: for messages."""

    def __init__(self, device, name):
        super().__init__(name, device.key, device.irq)
        self._device = device
        offered = device.offered()
        features = offered & (_F_SIZE_MAX | _F_RO | _F_BLK_SIZE | _F_FLUSH)
        device.accept(features)
        config = device.config
        # 4.1.3.1: 64-bit fields by two accesses of 32 bits.
        size = (mem32[config + _CAPACITY] | mem32[config + _CAPACITY + 4] << 32) * 512
        if features & _F_BLK_SIZE:
            self.sector = mem32[config + _BLK_SIZE]
        if self.sector < 512 or self.sector & (self.sector - 1) or self.sector > 4096:
            raise device.error("sectors of %d bytes" % self.sector)
        self.sectors = size // self.sector
        self.readonly = bool(features & _F_RO)
        if features & _F_SIZE_MAX:
            self.largest = min(self.largest, mem32[config + _SIZE_MAX] & ~4095)
            if not self.largest:
                raise device.error("segments of less than a page")
        # 5.2.6.2: without it, what was written lasts.
        self._flushes = bool(features & _F_FLUSH)
        ring = self._ring = device.start_queue(0, "requests", _MOST)
        self.depth = min(self.depth, ring.size // _DESCRIPTORS)
        if not self.depth:
            raise device.error("a ring of %d descriptors" % ring.size)
        self._requests = dma.block(device.key, "headers", self.depth * _REQUEST)
        self._requests_at = uctypes.addressof(self._requests)
        device.start()
        self.ready()
        self.serial = self._identify()

    def _identify(self):
        try:
            slot = self._poll(None)
            self._submit(slot, _GET_ID, 0, self._bounce_at, _ID_SIZE)
            self._poll(slot)
            if self._end(slot):
                return ""
        except OSError:
            return ""
        text = bytes(self._bounce[:_ID_SIZE]).split(b"\0")[0]
        return "".join([chr(c) for c in text if 32 < c < 127])

    def _start(self, slot, operation, lba, address, size):
        if operation == FLUSH:
            if not self._flushes:
                self._done[slot] = None
                return
            kind = _T_FLUSH
        else:
            kind = _IN if operation == READ else _OUT
        self._submit(slot, kind, lba * self.sector >> _SECTOR_SHIFT, address, size)

    def _submit(self, slot, kind, sector, address, size):
        ring = self._ring
        header = self._requests_at + slot * _REQUEST
        struct.pack_into("<IIQB", self._requests, slot * _REQUEST, kind, 0, sector, 0xFF)
        first = slot * _DESCRIPTORS
        pack = struct.pack_into
        descriptors = ring.descriptors
        status = first + 2 if size else first + 1
        pack("<QIHH", descriptors, first * 16, header, _HEADER, _NEXT, first + 1)
        if size:
            flags = _NEXT if kind == _OUT else _NEXT | _WRITE
            pack("<QIHH", descriptors, first * 16 + 16, address, size, flags, status)
        pack("<QIHH", descriptors, status * 16, header + _STATUS_AT, 1, _WRITE, 0)
        ring.give(first)
        ring.publish()

    def _reap(self):
        # 2.6.8: requests come back in any order.
        ring = self._ring
        done = mem16[ring.used_at + 2]
        while ring.last != done:
            first = mem32[ring.used_at + 4 + 8 * (ring.last & (ring.size - 1))]
            ring.last = (ring.last + 1) & 0xFFFF
            slot = first // _DESCRIPTORS
            status = mem8[self._requests_at + slot * _REQUEST + _STATUS_AT]
            if status == 0:
                self._done[slot] = None
            else:
                self._done[slot] = _ERRORS[status] if status < 3 else "status %d" % status

    def _interrupts(self, wanted):
        self._ring.interrupts(wanted)
        if not wanted:
            self._device.acknowledge()

    def stop(self):
        self._device.reset()
