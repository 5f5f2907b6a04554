"""Intel 82540EM, 82545EM and 82574L Ethernet controllers.

QEMU has them as `e1000`, `e1000-82545em` and `e1000e`.

Sections are those of Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software
Developer's Manual" (317453), which covers the first two. The 82574L (317694, its datasheet) has
the same registers and descriptors, but for the EEPROM's register. Frames are handed up as
memoryviews into the receive ring's own memory and written straight into the transmit ring's. TCP
segments that continue each other are handed up as one, and the controller cuts up large ones (3.5,
TCP segmentation), so that Python runs once for many frames.
"""

import struct
import time

import _netbuf
import _x86
import pci
import uctypes
from drivers import dma, messages
from machine import mem32
from micropython import const

# Section 13.4, register offsets.
_CTRL = const(0x0000)
_STATUS = const(0x0008)
_EERD = const(0x0014)
_ICR = const(0x00C0)
_IMS = const(0x00D0)
_IMC = const(0x00D8)
_IVAR = const(0x00E4)  # 317694, 10.2.4.9
_RCTL = const(0x0100)
_TCTL = const(0x0400)
_TIPG = const(0x0410)
_RDBAL = const(0x2800)
_RDBAH = const(0x2804)
_RDLEN = const(0x2808)
_RDH = const(0x2810)
_RDT = const(0x2818)
_TDBAL = const(0x3800)
_TDBAH = const(0x3804)
_TDLEN = const(0x3808)
_TDH = const(0x3810)
_TDT = const(0x3818)
_MTA = const(0x5200)
_MTA_WORDS = const(128)
_RAL = const(0x5400)
_RAH = const(0x5404)

# PCI Local Bus 3.0, 6.2.2.
_COMMAND = const(0x04)
_COMMAND_MASTER = const(1 << 2)

_CTRL_ASDE = const(1 << 5)  # 13.4.1: take speed and duplex from the PHY
_CTRL_SLU = const(1 << 6)
_CTRL_RST = const(1 << 26)
_STATUS_LU = const(1 << 1)  # 13.4.2
_EERD_START = const(1 << 0)
# The bit that says "done", and where the address begins: 13.4.4, and 317694, 10.2.2.8.
_EERD_LAYOUT = (1 << 4, 8)
_EERD_LAYOUT_82574 = (1 << 1, 2)
_ID_82574 = const(0x10D3)
_RAH_AV = const(1 << 31)  # 13.5.3

# 13.4.17: link change, receive descriptors low, receiver overrun, receive timer.
_INTERRUPTS = const(1 << 2 | 1 << 4 | 1 << 6 | 1 << 7)

# 317694, 10.2.4.1 and 10.2.4.9, where messages are in use: receive queue 0 and other causes, both
# by the first entry of MSI-X.
_BY_MESSAGE = const(1 << 20 | 1 << 24)
_IVAR_VALUE = const(1 << 3 | 1 << 19)

# 13.4.22: enable, accept broadcast, strip the CRC; buffers of 2048 bytes are the zero value. The
# kernel's dev/nic.c writes the same value.
_RCTL_VALUE = const(1 << 1 | 1 << 15 | 1 << 26)
# 13.4.33: enable, pad short frames, collision threshold 15, distance 64 (full duplex).
_TCTL_VALUE = const(1 << 1 | 1 << 3 | 0x0F << 4 | 0x40 << 12)
# 13.4.34: IPGT 10, IPGR1 8, IPGR2 6.
_TIPG_VALUE = const(10 | 8 << 10 | 6 << 20)

# 3.2.3 and 3.3.3: a descriptor is an address and these bytes.
_DESCRIPTOR = const(16)
_LENGTH = const(8)
_STATUS_BYTE = const(12)
_ERRORS = const(13)
_DD = const(1 << 0)
_RX_EOP = const(1 << 1)
# End of packet, insert the CRC, report status.
_TX_COMMAND = const(1 << 0 | 1 << 1 | 1 << 3)
# 3.3.6, 3.3.7, bits 31:20 of the third word: context (TCP, IP, segmentation, report status,
# extension) and data (insert the CRC, segmentation, report status, extension, type 1).
_CONTEXT = const(0x2F << 24)
_DATA = const(0x2E << 24 | 1 << 20)
_DATA_END = const(1 << 24)
# 3.3.7.2: insert both checksums.
_DATA_OPTIONS = const(3 << 8)
# 3.5.6 and 3.5.7: where the IPv4 and TCP headers of this stack's frames and their checksums are.
_IP_CONTEXT = const(14 | 24 << 8 | 33 << 16)
_TCP_CONTEXT = const(34 | 50 << 8)

# 13.4.27: rings are multiples of 8 descriptors. Powers of two here.
_RX_COUNT = const(256)
_TX_COUNT = const(128)
_BUFFER = const(2048)
# Received descriptors that go back to the card together.
_RETURNED = const(32)
# Frames handed up in one receive(); their descriptors go back to the card together.
_BUDGET = const(64)
# The largest packet that received segments are merged to.
_PACKET = const(65536)
# TCP segmentation: bytes of text at a time, large buffers, and bytes of a descriptor, which the
# controllers' packet buffers limit to 4 KiB.
_LARGE = const(32768)
_LARGE_COUNT = const(6)
_LARGE_BUFFER = const(_LARGE + 4096)
_CHUNK = const(4096)

_RESET_TIMEOUT = const(1000)


class Card:
    """One controller, running after construction: a link object as net.stack wants it.

    Args: bdf: its bus address. Raises OSError where the controller does not answer.
    """

    mtu = 1500
    large = _LARGE
    # Headers of large segments lack what the controller fills in (3.5.7).
    whole_headers = False

    def __init__(self, bdf):
        address, size, is_io = pci.bar(bdf, 0)
        if is_io or not size:
            raise OSError("e1000: no register region")
        self._base = _x86.mmio(address, size)
        self.received = 0
        self.sent = 0
        self.errors = 0

        # Reset before enabling bus mastering: the card may still have old rings.
        self._bdf = bdf
        self._reset()
        self.irq, by_message = messages.take(bdf)
        self.mac = self._read_mac()
        self._start_receive()
        self._start_transmit()
        pci.enable(bdf)
        # 14.4: RCTL, which enables, comes last. 3.2.6: head equal to tail is an empty ring, so one
        # descriptor stays ours. A reset clears RCTL (14.2); in QEMU it does not, and another write
        # costs a second without frames, so what the kernel's dev/nic.c wrote stays.
        if self._read(_RCTL) != _RCTL_VALUE:
            self._write(_RCTL, _RCTL_VALUE)
        self._write(_RDT, _RX_COUNT - 1)
        self._write(_TCTL, _TCTL_VALUE)
        # 14.3: link up; 13.4.20: the causes that interrupt.
        self._write(_CTRL, self._read(_CTRL) | _CTRL_SLU | _CTRL_ASDE)
        if by_message:
            self._write(_IVAR, _IVAR_VALUE)
            self._write(_IMS, _INTERRUPTS | _BY_MESSAGE)
        else:
            self._write(_IMS, _INTERRUPTS)

    def _read(self, register):
        return mem32[self._base + register]

    def _write(self, register, value):
        mem32[self._base + register] = value

    def _reset(self):
        # 13.4.1, RST; 14.2: interrupts stay masked over it. A card that may not master the bus
        # receives nothing anyway.
        self._write(_IMC, 0xFFFFFFFF)
        command = pci.read(self._bdf, _COMMAND, 2)
        if command & _COMMAND_MASTER:
            self._write(_RCTL, 0)
        self._write(_TCTL, 0)
        pci.write(self._bdf, _COMMAND, 2, command & ~_COMMAND_MASTER)
        self._write(_CTRL, self._read(_CTRL) | _CTRL_RST)
        # The registers must not be read for a microsecond after the reset began.
        time.sleep_us(10)
        start = time.ticks_ms()
        while self._read(_CTRL) & _CTRL_RST:
            if time.ticks_diff(time.ticks_ms(), start) > _RESET_TIMEOUT:
                raise OSError("e1000: reset does not end")
        self._write(_IMC, 0xFFFFFFFF)
        self._read(_ICR)

    def _read_mac(self):
        # 13.5.2: the first receive address is loaded from the EEPROM by the reset.
        low, high = self._read(_RAL), self._read(_RAH)
        if not high & _RAH_AV:
            words = [self._read_eeprom(index) for index in range(3)]
            low = words[0] | words[1] << 16
            high = words[2]
            self._write(_RAL, low)
            self._write(_RAH, high | _RAH_AV)
        return struct.pack("<IH", low, high & 0xFFFF)

    def _read_eeprom(self, index):
        is_82574 = pci.read(self._bdf, 0x02, 2) == _ID_82574
        done, shift = _EERD_LAYOUT_82574 if is_82574 else _EERD_LAYOUT
        self._write(_EERD, index << shift | _EERD_START)
        start = time.ticks_ms()
        while True:
            value = self._read(_EERD)
            if value & done:
                return value >> 16
            if time.ticks_diff(time.ticks_ms(), start) > _RESET_TIMEOUT:
                raise OSError("e1000: EEPROM does not answer")

    def _ring(self, name, count):
        """Return a fresh ring: (descriptors, buffers, buffers' addresses)."""
        ring = dma.block(self._bdf, name, count * _DESCRIPTOR)
        memory = dma.block(self._bdf, name + " buffers", count * _BUFFER)
        address = uctypes.addressof(memory)
        buffers = []
        addresses = []
        for index in range(count):
            at = index * _BUFFER
            struct.pack_into("<QQ", ring, index * _DESCRIPTOR, address + at, 0)
            buffers.append(memory[at : at + _BUFFER])
            addresses.append(address + at)
        return ring, buffers, addresses

    def _start_receive(self):
        # 14.4
        self._rx_ring, self._rx_buffers, _ = self._ring("receive", _RX_COUNT)
        self._rx_next = 0
        # Descriptors from here on were handled but not yet given back.
        self._rx_returned = 0
        # Outside the heap, so that the collector does not scan it.
        self._packet = dma.block(self._bdf, "packet", _PACKET, 16)
        self.set_multicast(())
        address = uctypes.addressof(self._rx_ring)
        self._write(_RDBAL, address & 0xFFFFFFFF)
        self._write(_RDBAH, address >> 32)
        self._write(_RDLEN, _RX_COUNT * _DESCRIPTOR)
        self._write(_RDH, 0)
        self._write(_RDT, 0)

    def _start_transmit(self):
        # 14.5
        self._tx_ring, self._tx_buffers, self._tx_addresses = self._ring("transmit", _TX_COUNT)
        self._tx_next = 0
        self._large = dma.block(self._bdf, "large", _LARGE_COUNT * _LARGE_BUFFER)
        self._large_address = uctypes.addressof(self._large)
        self._large_next = 0
        # The last descriptor of each large buffer's packet.
        self._large_last = [_TX_COUNT - 1] * _LARGE_COUNT
        for index in range(_TX_COUNT):
            self._tx_ring[index * _DESCRIPTOR + _STATUS_BYTE] = _DD
        address = uctypes.addressof(self._tx_ring)
        self._write(_TDBAL, address & 0xFFFFFFFF)
        self._write(_TDBAH, address >> 32)
        self._write(_TDLEN, _TX_COUNT * _DESCRIPTOR)
        self._write(_TDH, 0)
        self._write(_TDT, 0)
        self._write(_TIPG, _TIPG_VALUE)

    def tx_alloc(self):
        """Return the next free transmit buffer, None while the ring is full."""
        ring = self._tx_ring
        index = self._tx_next
        # 3.4: the tail must not reach the head, so the descriptor after must be free too.
        after = (index + 1) & (_TX_COUNT - 1)
        if (
            not (
                ring[index * _DESCRIPTOR + _STATUS_BYTE] & ring[after * _DESCRIPTOR + _STATUS_BYTE]
            )
            & _DD
        ):
            return None
        return self._tx_buffers[index]

    def tx_commit(self, length):
        """Send the first `length` bytes of the buffer that tx_alloc() returned."""
        index = self._tx_next
        # 3.3.3; a large packet may have left another kind of descriptor here.
        struct.pack_into(
            "<QII",
            self._tx_ring,
            index * _DESCRIPTOR,
            self._tx_addresses[index],
            _TX_COMMAND << 24 | length,
            0,
        )
        index = (index + 1) & (_TX_COUNT - 1)
        self._tx_next = index
        self.sent += 1
        mem32[self._base + _TDT] = index

    def tx_alloc_large(self):
        """Return a buffer for a TCP segment to be cut up, None while none is free."""
        ring = self._tx_ring
        # Descriptors finish in order, so the last one needed is done only if all are.
        last = (self._tx_next + _LARGE_BUFFER // _CHUNK + 1) & (_TX_COUNT - 1)
        if not (
            ring[last * _DESCRIPTOR + _STATUS_BYTE]
            & ring[self._tx_next * _DESCRIPTOR + _STATUS_BYTE]
            & ring[self._large_last[self._large_next] * _DESCRIPTOR + _STATUS_BYTE]
            & _DD
        ):
            return None
        at = self._large_next * _LARGE_BUFFER
        return self._large[at : at + _LARGE_BUFFER]

    def tx_commit_large(self, length, header, mss):
        """Send the first `length` bytes of the buffer that tx_alloc_large() returned.

        Args: header: bytes of its Ethernet, IPv4 and TCP headers; mss: text of each frame. The
        IPv4 header's length and checksum are zero, TCP's checksum is that of the pseudo header
        without its length (3.5.7).
        """
        ring = self._tx_ring
        index = self._tx_next
        struct.pack_into(
            "<IIII",
            ring,
            index * _DESCRIPTOR,
            _IP_CONTEXT,
            _TCP_CONTEXT,
            _CONTEXT | length - header,
            header << 8 | mss << 16,
        )
        address = self._large_address + self._large_next * _LARGE_BUFFER
        while length:
            index = (index + 1) & (_TX_COUNT - 1)
            count = min(length, _CHUNK)
            length -= count
            struct.pack_into(
                "<QII",
                ring,
                index * _DESCRIPTOR,
                address,
                (_DATA | count) if length else (_DATA | _DATA_END | count),
                _DATA_OPTIONS,
            )
            address += count
        self._large_last[self._large_next] = index
        self._large_next = (self._large_next + 1) % _LARGE_COUNT
        index = (index + 1) & (_TX_COUNT - 1)
        self._tx_next = index
        self.sent += 1
        mem32[self._base + _TDT] = index

    def receive(self, handler, segment_handler, now):
        """Call handler(frame, now), or segment_handler(frame, length, now), for what arrived.

        segment_handler gets plain TCP segments whose checksums are right, merged where they
        continue each other (see native/netbuf); their frame may be longer than `length`. Frames
        are memoryviews that are valid during the call only. Returns whether more frames may wait.
        """
        ring = self._rx_ring
        buffers = self._rx_buffers
        packet = self._packet
        merge = _netbuf.merge
        merged = 0
        index = self._rx_next
        for _ in range(_BUDGET):
            at = index * _DESCRIPTOR
            status = ring[at + _STATUS_BYTE]
            if not status & _DD:
                break
            ring[at + _STATUS_BYTE] = 0
            frame = buffers[index]
            index = (index + 1) & (_RX_COUNT - 1)
            self._rx_next = index
            # 3.2.3.2: with an error the frame is bad; without EOP it is longer than any buffer.
            if not status & _RX_EOP or ring[at + _ERRORS]:
                self.errors += 1
                continue
            self.received += 1
            size = ring[at + _LENGTH] | ring[at + _LENGTH + 1] << 8
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
        # 3.2.6. Descriptors go back in batches: each write costs an exit from a virtual machine.
        if (index - self._rx_returned) & (_RX_COUNT - 1) >= _RETURNED:
            self._rx_returned = index
            mem32[self._base + _RDT] = (index - 1) & (_RX_COUNT - 1)
        return bool(ring[index * _DESCRIPTOR + _STATUS_BYTE] & _DD)

    def interrupt(self):
        """Acknowledge the interrupt; returns its causes.

        Bit 2 says that the link went up or down.
        """
        # 13.4.17: reading clears. 317694, 10.2.4.1: with messages, writing does.
        causes = mem32[self._base + _ICR]
        mem32[self._base + _ICR] = causes
        return causes

    def link_up(self):
        """Return whether a cable is connected."""
        return bool(self._read(_STATUS) & _STATUS_LU)

    def set_multicast(self, addresses):
        """Receive frames to these groups: hardware addresses, each 6 bytes.

        The table is a hash (13.5.1), so that frames to others arrive, too. RCTL is left alone:
        QEMU's would take no frame for a second.
        """
        table = [0] * _MTA_WORDS
        for address in addresses:
            bits = (address[5] << 4 | address[4] >> 4) & 0xFFF  # RCTL.MO is 0: bits 47 to 36
            table[bits >> 5] |= 1 << (bits & 31)
        for index, word in enumerate(table):
            self._write(_MTA + 4 * index, word)

    def stop(self):
        """Reset the controller, so that it writes no memory and raises no interrupt."""
        self._reset()
