"""Virtio's network device, over PCI in its modern layout.

Numbers are sections of Virtual I/O Device (VIRTIO) Version 1.1 (OASIS, 11 April 2019).
"""
# SPDX-License-Identifier: MIT

import struct
import time

import _netbuf
import _x86
import pci
import uctypes
from drivers import dma
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
_DEVICE_STATUS = const(0x14)
_QUEUE_SELECT = const(0x16)
_QUEUE_SIZE = const(0x18)
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

# 5.1.3 and 6, feature bits. The driver checks and merges what arrives itself, so it leaves the
# checksums of received frames to the device.
_F_CSUM = const(1 << 0)
_F_MAC = const(1 << 5)
_F_HOST_TSO4 = const(1 << 11)
_F_STATUS = const(1 << 16)
_F_VERSION_1 = const(1 << 32)

# 5.1.4, device configuration.
_CONFIG_STATUS = const(6)
_LINK_UP = const(1)

# 4.1.4.5: the configuration changed.
_ISR_CONFIG = const(1 << 1)

# 5.1.6: the header before each frame, with num_buffers (5.1.6.1).
_HEADER = const(12)
_NEEDS_CSUM = const(1)
_GSO_TCPV4 = const(1)
# Where the TCP header of this stack's frames begins, and its checksum in there.
_TCP = const(34)
_TCP_CHECKSUM = const(16)

# 2.6.5, descriptor flags.
_WRITE = const(2)
# 2.6.7: no interrupt, please.
_NO_INTERRUPT = const(1)

_RX_QUEUE = const(0)  # 5.1.2
_TX_QUEUE = const(1)
_MOST = const(256)  # descriptors of a ring, a power of two as the device's own size is
_BUFFER = const(2048)
# Received descriptors that go back to the device together.
_RETURNED = const(32)
# Frames handed up in one receive().
_BUDGET = const(64)
# The largest packet that received segments are merged to.
_PACKET = const(65536)
_LARGE = const(32768)
_LARGE_COUNT = const(6)
_LARGE_BUFFER = const(_LARGE + 4096)
_LINK_CHANGE = const(1 << 2)

_RESET_TIMEOUT = const(1000)


class _Ring:
    """A split virtqueue (2.6): the descriptors, what is available, what was used."""

    def __init__(self, bdf, name, size):
        # 2.6: alignments 16, 2 and 4.
        self.size = size
        self.descriptors = dma.block(bdf, name + " descriptors", 16 * size)
        self.available = dma.block(bdf, name + " available", 6 + 2 * size)
        self.used = dma.block(bdf, name + " used", 6 + 8 * size)
        self.buffers = dma.block(bdf, name + " buffers", size * _BUFFER)
        self.address = uctypes.addressof(self.buffers)
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


class Card:
    """One device, running after construction: a link object as net.stack wants it.

    Args: bdf: its bus address. Raises OSError where the device does not answer, or not as
    version 1 of virtio.
    """

    mtu = 1500
    # Large segments need complete headers (5.1.6.2): see net.ipv4.emit().
    whole_headers = True

    def __init__(self, bdf):
        self._bdf = bdf
        self.irq = pci.read(bdf, 0x3C, 1)
        self.received = 0
        self.sent = 0
        self.errors = 0
        regions = self._regions()
        self._common = regions[_COMMON][0]
        self._isr = regions[_ISR][0]
        self._config = regions[_DEVICE][0]
        self._notify, self._multiplier = regions[_NOTIFY]
        # 3.1.1: the order of these is the specification's.
        self._reset()
        self._set_status(_ACKNOWLEDGE)
        self._set_status(_DRIVER)
        features = self._negotiate()
        self.large = _LARGE if features & _F_HOST_TSO4 else 0
        self._has_status = bool(features & _F_STATUS)
        self._rx = self._start_queue(_RX_QUEUE, "receive")
        self._tx = self._start_queue(_TX_QUEUE, "transmit")
        self._lay_out_receive()
        self._lay_out_transmit()
        pci.enable(bdf)
        self._set_status(_DRIVER_OK)
        self._rx.publish()
        self.mac = bytes([mem8[self._config + at] for at in range(6)])

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
            raise OSError("virtio-net: no modern configuration")
        return found

    def _map(self, bar):
        address, size, is_io = pci.bar(self._bdf, bar)
        if is_io or not size:
            return 0, 0
        return _x86.mmio(address, size), size

    def _set_status(self, bit):
        # 2.1.1: bits are added, none is cleared.
        mem8[self._common + _DEVICE_STATUS] = mem8[self._common + _DEVICE_STATUS] | bit

    def _reset(self):
        # 4.1.4.3.2: the reset has ended when the status reads 0.
        mem8[self._common + _DEVICE_STATUS] = 0
        start = time.ticks_ms()
        while mem8[self._common + _DEVICE_STATUS]:
            if time.ticks_diff(time.ticks_ms(), start) > _RESET_TIMEOUT:
                raise OSError("virtio-net: reset does not end")
        command = pci.read(self._bdf, _COMMAND, 2)
        pci.write(self._bdf, _COMMAND, 2, command & ~_COMMAND_MASTER)

    def _negotiate(self):
        common = self._common
        mem32[common + _DEVICE_FEATURE_SELECT] = 1
        offered = mem32[common + _DEVICE_FEATURE] << 32
        mem32[common + _DEVICE_FEATURE_SELECT] = 0
        offered |= mem32[common + _DEVICE_FEATURE]
        features = offered & (_F_MAC | _F_STATUS | _F_VERSION_1)
        if offered & _F_CSUM and offered & _F_HOST_TSO4:  # 5.1.3.1: TSO needs CSUM
            features |= _F_CSUM | _F_HOST_TSO4
        mem32[common + _DRIVER_FEATURE_SELECT] = 0
        mem32[common + _DRIVER_FEATURE] = features & 0xFFFFFFFF
        mem32[common + _DRIVER_FEATURE_SELECT] = 1
        mem32[common + _DRIVER_FEATURE] = features >> 32
        self._set_status(_FEATURES_OK)
        if (
            not mem8[common + _DEVICE_STATUS] & _FEATURES_OK
            or not features & _F_VERSION_1
            or not features & _F_MAC
        ):
            self._set_status(_FAILED)
            raise OSError("virtio-net: features are refused")
        return features

    def _start_queue(self, number, name):
        # 4.1.5.1.3
        common = self._common
        mem16[common + _QUEUE_SELECT] = number
        size = mem16[common + _QUEUE_SIZE]
        if not size:
            raise OSError("virtio-net: no queue %d" % number)
        size = min(size, _MOST)
        mem16[common + _QUEUE_SIZE] = size
        ring = _Ring(self._bdf, name, size)
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
        mem16[common + _QUEUE_ENABLE] = 1
        return ring

    def _lay_out_receive(self):
        ring = self._rx
        # Outside the heap, so that the collector does not scan it.
        self._packet = dma.block(self._bdf, "packet", _PACKET, 16)
        self._rx_frames = []
        for index in range(ring.size):
            at = index * _BUFFER
            struct.pack_into(
                "<QIHH", ring.descriptors, index * 16, ring.address + at, _BUFFER, _WRITE, 0
            )
            self._rx_frames.append(ring.buffers[at + _HEADER : at + _BUFFER])
            ring.give(index)
        # Descriptors that were handled but not yet given back.
        self._rx_returned = 0

    def _lay_out_transmit(self):
        ring = self._tx
        mem16[ring.available_at] = _NO_INTERRUPT
        self._tx_frames = []
        for index in range(ring.size):
            # The virtio header stays zero from its allocation: no checksum offload, no
            # segmentation.
            at = index * _BUFFER
            self._tx_frames.append(ring.buffers[at + _HEADER : at + _BUFFER])
        self._free = list(range(ring.size))
        # {descriptor: its large buffer}, and the large buffers that are free.
        self._large_of = {}
        self._large_free = []
        if self.large:
            self._large = dma.block(self._bdf, "large", _LARGE_COUNT * _LARGE_BUFFER)
            self._large_address = uctypes.addressof(self._large)
            self._large_free = list(range(_LARGE_COUNT))

    def _reclaim(self):
        # 2.6.8: descriptors come back in any order.
        ring = self._tx
        done = mem16[ring.used_at + 2]
        while ring.last != done:
            index = mem32[ring.used_at + 4 + 8 * (ring.last & (ring.size - 1))]
            ring.last = (ring.last + 1) & 0xFFFF
            self._free.append(index)
            if index in self._large_of:
                self._large_free.append(self._large_of.pop(index))

    def _send(self, address, length):
        ring = self._tx
        index = self._free.pop()
        struct.pack_into("<QIHH", ring.descriptors, index * 16, address, length, 0, 0)
        ring.give(index)
        ring.publish()
        self.sent += 1
        return index

    def tx_alloc(self):
        """Return the next free transmit buffer, None while the ring is full."""
        if not self._free:
            self._reclaim()
            if not self._free:
                return None
        return self._tx_frames[self._free[-1]]

    def tx_commit(self, length):
        """Send the first `length` bytes of the buffer that tx_alloc() returned."""
        self._send(self._tx.address + self._free[-1] * _BUFFER, _HEADER + length)

    def tx_alloc_large(self):
        """Return a buffer for a TCP segment to be cut up, None while none is free."""
        if not self._large_free or not self._free:
            self._reclaim()
            if not self._large_free or not self._free:
                return None
        at = self._large_free[-1] * _LARGE_BUFFER
        return self._large[at + _HEADER : at + _LARGE_BUFFER]

    def tx_commit_large(self, length, header, mss):
        """Send the first `length` bytes of the buffer that tx_alloc_large() returned.

        Args: header: bytes of its Ethernet, IPv4 and TCP headers; mss: text of each frame. The
        IPv4 header is complete, TCP's checksum is that of the whole pseudo header (5.1.6.2).
        """
        number = self._large_free.pop()
        at = number * _LARGE_BUFFER
        struct.pack_into(
            "<BBHHHHH",
            self._large,
            at,
            _NEEDS_CSUM,
            _GSO_TCPV4,
            header,
            mss,
            _TCP,
            _TCP_CHECKSUM,
            0,
        )
        self._large_of[self._send(self._large_address + at, _HEADER + length)] = number

    def receive(self, handler, segment_handler, now):
        """Call handler(frame, now), or segment_handler(frame, length, now), for what arrived.

        As drivers.e1000.Card.receive().
        """
        ring = self._rx
        mask = ring.size - 1
        frames = self._rx_frames
        packet = self._packet
        merge = _netbuf.merge
        merged = 0
        done = mem16[ring.used_at + 2]
        for _ in range(_BUDGET):
            if ring.last == done:
                break
            # 2.6.8: the descriptor, and the bytes that were written.
            at = ring.used_at + 4 + 8 * (ring.last & mask)
            index = mem32[at]
            size = mem32[at + 4] - _HEADER
            ring.last = (ring.last + 1) & 0xFFFF
            # Given back now, seen by the device with the next publish().
            ring.give(index)
            frame = frames[index]
            if not 0 < size <= _BUFFER - _HEADER:
                self.errors += 1
                continue
            self.received += 1
            length = merge(packet, merged, frame, size)
            if length:
                merged = length
                continue
            if merged:
                segment_handler(packet, merged, now)
                merged = merge(packet, 0, frame, size)
                if merged:
                    continue
            handler(frame[:size], now)
        if merged:
            segment_handler(packet, merged, now)
        # Descriptors go back in batches: each notification costs an exit from a virtual machine.
        if (ring.last - self._rx_returned) & 0xFFFF >= min(_RETURNED, ring.size // 2):
            self._rx_returned = ring.last
            ring.publish()
        return mem16[ring.used_at + 2] != ring.last

    def interrupt(self):
        """Acknowledge the interrupt; returns its causes, bit 2 for a link that went up or down."""
        # 4.1.4.5.1: reading clears.
        return _LINK_CHANGE if mem8[self._isr] & _ISR_CONFIG else 0

    def link_up(self):
        """Return whether a cable is connected."""
        return not self._has_status or bool(mem16[self._config + _CONFIG_STATUS] & _LINK_UP)

    def set_multicast(self, addresses):
        """Nothing: without a control queue the device hands up all groups (5.1.6.5)."""

    def stop(self):
        """Reset the device, so that it writes no memory and raises no interrupt."""
        self._reset()
