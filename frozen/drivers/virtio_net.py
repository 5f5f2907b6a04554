"""Virtio's network device.

Numbers are sections of Virtual I/O Device (VIRTIO) Version 1.1 (OASIS, 11 April 2019).
"""
# SPDX-License-Identifier: MIT

import struct

import _netbuf
import uctypes
from drivers import dma, virtio
from machine import mem8, mem16, mem32
from micropython import const

# 5.1.3, feature bits. The driver checks and merges what arrives itself, so it leaves the
# checksums of received frames to the device.
_F_CSUM = const(1 << 0)
_F_MAC = const(1 << 5)
_F_HOST_TSO4 = const(1 << 11)
_F_STATUS = const(1 << 16)

# 5.1.4, device configuration.
_CONFIG_STATUS = const(6)
_LINK_UP = const(1)

# 5.1.6: the header before each frame, with num_buffers (5.1.6.1).
_HEADER = const(12)
_NEEDS_CSUM = const(1)
_GSO_TCPV4 = const(1)
# Where the TCP header of this stack's frames begins, and its checksum in there.
_TCP = const(34)
_TCP_CHECKSUM = const(16)

# 2.6.5, descriptor flags.
_WRITE = const(2)

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


class Card:
    """One device, running after construction: a link object as net.stack wants it.

    Args: where: its bus address, or its slot of virtio_mmio. Raises OSError where the device does
    not answer, or not as version 1 of virtio.
    """

    mtu = 1500
    # Large segments need complete headers (5.1.6.2): see net.ipv4.emit().
    whole_headers = True

    def __init__(self, where):
        device = self._device = virtio.transport(where, "virtio-net")
        self.irq = device.irq
        self.received = 0
        self.sent = 0
        self.errors = 0
        features = self._negotiate()
        self.large = _LARGE if features & _F_HOST_TSO4 else 0
        self._has_status = bool(features & _F_STATUS)
        self._rx = self._start_queue(_RX_QUEUE, "receive")
        self._tx = self._start_queue(_TX_QUEUE, "transmit")
        self._lay_out_receive()
        self._lay_out_transmit()
        device.start()
        self._rx.publish()
        self.mac = bytes([mem8[device.config + at] for at in range(6)])

    def _negotiate(self):
        offered = self._device.offered()
        features = offered & (_F_MAC | _F_STATUS)
        if offered & _F_CSUM and offered & _F_HOST_TSO4:  # 5.1.3.1: TSO needs CSUM
            features |= _F_CSUM | _F_HOST_TSO4
        self._device.accept(features, _F_MAC)
        return features

    def _start_queue(self, number, name):
        ring = self._device.start_queue(number, name, _MOST)
        ring.buffers = dma.block(self._device.key, name + " buffers", ring.size * _BUFFER)
        ring.address = uctypes.addressof(ring.buffers)
        return ring

    def _lay_out_receive(self):
        ring = self._rx
        # Outside the heap, so that the collector does not scan it.
        self._packet = dma.block(self._device.key, "packet", _PACKET, 16)
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
        ring.interrupts(False)
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
            self._large = dma.block(self._device.key, "large", _LARGE_COUNT * _LARGE_BUFFER)
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
        return _LINK_CHANGE if self._device.acknowledge() else 0

    def link_up(self):
        """Return whether a cable is connected."""
        return not self._has_status or bool(mem16[self._device.config + _CONFIG_STATUS] & _LINK_UP)

    def set_multicast(self, addresses):
        """Nothing: without a control queue the device hands up all groups (5.1.6.5)."""

    def stop(self):
        """Reset the device, so that it writes no memory and raises no interrupt."""
        self._device.reset()
