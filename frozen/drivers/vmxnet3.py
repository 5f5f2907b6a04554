"""VMware's vmxnet3, by the line interrupt, with one queue each way.

There is no public specification. Names are those of VMware's own drivers for Linux and FreeBSD,
whose headers document the device (vmxnet3_defs.h, upt1_defs.h).
"""
# SPDX-License-Identifier: MIT

import struct

import _netbuf
import _x86
import pci
import uctypes
from drivers import dma
from machine import mem8, mem32
from micropython import const

_COMMAND = const(0x04)
_COMMAND_MASTER = const(1 << 2)

# Registers of region 0, the data path's.
_IMR = const(0x000)
_TXPROD = const(0x600)
_RXPROD = const(0x800)
# Registers of region 1, the control path's.
_VRRS = const(0x00)
_UVRS = const(0x08)
_DSAL = const(0x10)
_DSAH = const(0x18)
_CMD = const(0x20)
_MACL = const(0x28)
_MACH = const(0x30)
_ICR = const(0x38)
_ECR = const(0x40)

_CMD_ACTIVATE_DEV = const(0xCAFE0000)
_CMD_QUIESCE_DEV = const(0xCAFE0001)
_CMD_RESET_DEV = const(0xCAFE0002)
_CMD_UPDATE_RX_MODE = const(0xCAFE0003)
_CMD_UPDATE_MAC_FILTERS = const(0xCAFE0004)
_CMD_GET_LINK = const(0xF00D0002)
_CMD_GET_CONF_INTR = const(0xF00D0008)

_REVISION = const(1)
_LINK_UP = const(1)
_ECR_LINK = const(1 << 2)
_INTR_MASK_MODE = const(2)  # shift of its two bits; 0: the device masks itself

# struct Vmxnet3_DriverShared: magic, then devRead.misc, .intrConf, .rxFilterConf.
_SHARED = const(720)
_MAGIC = const(0xBABEFEE1)
_MISC = const(8)
_MISC_FORMAT = "<IIIIQQQIIIHBB"
_GUEST = const(2 | 1 << 2)  # gosBits: 64; gosType: Linux, whose features we use
_INTR_CONF = const(80)
_INTR_ADAPTIVE = const(8)
_RX_MODE = const(120)
_MF_TABLE_LEN = const(124)
_MF_TABLE_PA = const(128)
_VF_TABLE = const(136)
_VF_TABLE_SIZE = const(512)
_EVENTS = const(696)

_RXM_UCAST = const(1)
_RXM_MCAST = const(2)
_RXM_BCAST = const(4)
_RXM_ALL_MULTI = const(8)
_GROUPS = const(64)

# struct Vmxnet3_TxQueueDesc and Vmxnet3_RxQueueDesc.
_QUEUE = const(256)
_QUEUE_CONF = const(16)
_TX_CONF_FORMAT = "<QQQQQIIIIBBHI"
_RX_CONF_FORMAT = "<QQQQQIIIIB"

# Descriptors of all rings have 16 bytes.
_DESCRIPTOR = const(16)
_TX_GEN = const(1 << 14)
_TX_EOP_CQ = const(1 << 12 | 1 << 13)
_RX_GEN = const(1 << 31)
_COMPLETED_GEN = const(1 << 31)
_RX_EOP_SOP = const(1 << 14 | 1 << 15)
_RX_ERR = const(1 << 14)
_LENGTH = const(0x3FFF)
_INDEX = const(0xFFF)

# Of each ring, a multiple of 32.
_COUNT = const(256)
_UNUSED = const(32)  # descriptors of the second receive ring, for parts of larger frames
_BUFFER = const(2048)
# Frames handed up in one receive().
_BUDGET = const(64)
# The largest packet that received segments are merged to.
_PACKET = const(65536)
_LINK_CHANGE = const(1 << 2)


class Card:
    """One controller, running after construction: a link object as net.stack wants it.

    Args: bdf: its bus address. Raises OSError where the controller does not answer.
    """

    mtu = 1500
    # It can cut up TCP segments, but QEMU before 8.0 makes fragments of IP of them.
    large = 0
    whole_headers = False

    def __init__(self, bdf):
        self._bdf = bdf
        self._data = self._map(0)
        self._control = self._map(1)
        self.irq = pci.read(bdf, 0x3C, 1)
        self.received = 0
        self.sent = 0
        self.errors = 0
        self._reset()
        if not mem32[self._control + _VRRS] & 1 or not mem32[self._control + _UVRS] & 1:
            raise OSError("vmxnet3: revision 1 is not offered")
        mem32[self._control + _VRRS] = _REVISION
        mem32[self._control + _UVRS] = _REVISION
        self.mac = struct.pack(
            "<IH", mem32[self._control + _MACL], mem32[self._control + _MACH] & 0xFFFF
        )
        self._masks_itself = not self._ask(_CMD_GET_CONF_INTR) >> _INTR_MASK_MODE & 3
        # Outside the heap, so that the collector does not scan it.
        self._packet = dma.block(bdf, "packet", _PACKET, 16)
        self._lay_out_transmit()
        self._lay_out_receive()
        self._describe()
        pci.enable(bdf)
        address = uctypes.addressof(self._shared)
        mem32[self._control + _DSAL] = address & 0xFFFFFFFF
        mem32[self._control + _DSAH] = address >> 32
        if self._ask(_CMD_ACTIVATE_DEV):
            raise OSError("vmxnet3: does not start")
        mem32[self._data + _RXPROD] = _COUNT - 1
        mem32[self._data + _IMR] = 0

    def _map(self, bar):
        address, size, is_io = pci.bar(self._bdf, bar)
        if is_io or not size:
            raise OSError("vmxnet3: no register region")
        return _x86.mmio(address, size)

    def _ask(self, command):
        mem32[self._control + _CMD] = command
        return mem32[self._control + _CMD]

    def _reset(self):
        mem32[self._data + _IMR] = 1
        mem32[self._control + _CMD] = _CMD_QUIESCE_DEV
        mem32[self._control + _CMD] = _CMD_RESET_DEV
        command = pci.read(self._bdf, _COMMAND, 2)
        pci.write(self._bdf, _COMMAND, 2, command & ~_COMMAND_MASTER)

    def _ring(self, name, count):
        """Return the address of an empty ring."""
        ring = dma.block(self._bdf, name, count * _DESCRIPTOR)
        ring[:] = bytes(len(ring))
        return uctypes.addressof(ring)

    def _buffers(self, name):
        memory = dma.block(self._bdf, name, _COUNT * _BUFFER)
        views = [memory[index * _BUFFER : (index + 1) * _BUFFER] for index in range(_COUNT)]
        return uctypes.addressof(memory), views

    def _lay_out_transmit(self):
        self._tx = self._ring("transmit", _COUNT)
        self._tx_completed = self._ring("transmit completed", _COUNT)
        address, self._tx_frames = self._buffers("transmit buffers")
        for index in range(_COUNT):
            _write_address(self._tx + index * _DESCRIPTOR, address + index * _BUFFER)
        self._tx_next = 0
        self._tx_gen = _TX_GEN
        self._tx_done = 0  # the completion that comes next
        self._tx_done_gen = _COMPLETED_GEN
        self._tx_free = _COUNT - 1

    def _lay_out_receive(self):
        self._rx = self._ring("receive", _COUNT)
        self._rx_second = self._ring("receive more", _UNUSED)
        self._rx_completed = self._ring("receive completed", _COUNT + _UNUSED)
        address, self._rx_frames = self._buffers("receive buffers")
        for index in range(_COUNT):
            at = self._rx + index * _DESCRIPTOR
            _write_address(at, address + index * _BUFFER)
            # A descriptor belongs to the device while its bit has the value of this round. One
            # stays ours: all of them would look like none.
            mem32[at + 8] = _BUFFER | (_RX_GEN if index < _COUNT - 1 else 0)
        self._rx_fill = _COUNT - 1  # the descriptor to give next
        self._rx_gen = _RX_GEN
        self._rx_done = 0  # the completion that comes next
        self._rx_done_gen = _COMPLETED_GEN

    def _describe(self):
        """Write what the device reads when it is activated."""
        shared = self._shared = dma.block(self._bdf, "shared", _SHARED)
        queues = self._queues = dma.block(self._bdf, "queues", 2 * _QUEUE)
        self._groups = dma.block(self._bdf, "groups", 6 * _GROUPS)
        shared[:] = bytes(len(shared))
        queues[:] = bytes(len(queues))
        at = uctypes.addressof(shared)
        self._shared_at = at
        self._update_flag = uctypes.addressof(queues) + _QUEUE  # the receive queue's updateRxProd
        struct.pack_into("<I", shared, 0, _MAGIC)
        struct.pack_into(
            _MISC_FORMAT,
            shared,
            _MISC,
            1,  # the driver's version
            _GUEST,
            _REVISION,
            _REVISION,
            0,  # no features
            at,  # the driver's own data: not the device's business
            uctypes.addressof(queues),
            _SHARED,
            2 * _QUEUE,
            self.mtu,
            1,  # parts of a received frame
            1,
            1,
        )
        struct.pack_into("<BBBB", shared, _INTR_CONF, self._masks_itself, 1, 0, _INTR_ADAPTIVE)
        struct.pack_into("<I", shared, _RX_MODE, _RXM_UCAST | _RXM_BCAST)
        # All VLANs: the stack looks at the tag.
        shared[_VF_TABLE : _VF_TABLE + _VF_TABLE_SIZE] = b"\xff" * _VF_TABLE_SIZE
        struct.pack_into(
            _TX_CONF_FORMAT,
            queues,
            _QUEUE_CONF,
            self._tx,
            0,
            self._tx_completed,
            at,
            0,
            _COUNT,
            0,
            _COUNT,
            0,
            0,
            0,
            0,
            0,
        )
        struct.pack_into(
            _RX_CONF_FORMAT,
            queues,
            _QUEUE + _QUEUE_CONF,
            self._rx,
            self._rx_second,
            self._rx_completed,
            at,
            0,
            _COUNT,
            _UNUSED,
            _COUNT + _UNUSED,
            0,
            0,
        )

    def _reclaim(self):
        # Packets have one descriptor each, and complete in order.
        while True:
            value = mem32[self._tx_completed + self._tx_done * _DESCRIPTOR + 12]
            if value & _COMPLETED_GEN != self._tx_done_gen:
                return
            self._tx_free += 1
            self._tx_done += 1
            if self._tx_done == _COUNT:
                self._tx_done = 0
                self._tx_done_gen ^= _COMPLETED_GEN

    def tx_alloc(self):
        """Return the next free transmit buffer, None while the ring is full."""
        if not self._tx_free:
            self._reclaim()
            if not self._tx_free:
                return None
        return self._tx_frames[self._tx_next]

    def tx_commit(self, length):
        """Send the first `length` bytes of the buffer that tx_alloc() returned."""
        index = self._tx_next
        at = self._tx + index * _DESCRIPTOR
        mem32[at + 12] = _TX_EOP_CQ
        # Last: the device may look at once.
        mem32[at + 8] = length | self._tx_gen
        index += 1
        if index == _COUNT:
            index = 0
            self._tx_gen ^= _TX_GEN
        self._tx_next = index
        self._tx_free -= 1
        self.sent += 1
        mem32[self._data + _TXPROD] = index

    def _give(self):
        index = self._rx_fill
        mem32[self._rx + index * _DESCRIPTOR + 8] = _BUFFER | self._rx_gen
        index += 1
        if index == _COUNT:
            index = 0
            self._rx_gen ^= _RX_GEN
        self._rx_fill = index

    def receive(self, handler, segment_handler, now):
        """Call handler(frame, now), or segment_handler(frame, length, now), for what arrived.

        As drivers.e1000.Card.receive().
        """
        frames = self._rx_frames
        packet = self._packet
        merge = _netbuf.merge
        merged = 0
        for _ in range(_BUDGET):
            at = self._rx_completed + self._rx_done * _DESCRIPTOR
            if mem32[at + 12] & _COMPLETED_GEN != self._rx_done_gen:
                break
            self._rx_done += 1
            if self._rx_done == _COUNT + _UNUSED:
                self._rx_done = 0
                self._rx_done_gen ^= _COMPLETED_GEN
            # The frame before this one is done with. This one's descriptor is given after the
            # next, since one stays ours.
            self._give()
            value, size = mem32[at], mem32[at + 8]
            frame = frames[value & _INDEX & (_COUNT - 1)]
            if value & _RX_EOP_SOP != _RX_EOP_SOP or size & _RX_ERR:
                self.errors += 1
                continue
            size = min(size & _LENGTH, _BUFFER)
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
        if mem8[self._update_flag]:
            mem32[self._data + _RXPROD] = self._rx_fill
        at = self._rx_completed + self._rx_done * _DESCRIPTOR
        return mem32[at + 12] & _COMPLETED_GEN == self._rx_done_gen

    def interrupt(self):
        """Acknowledge the interrupt; returns its causes, bit 2 for a link that went up or down."""
        mem32[self._control + _ICR]  # reading clears
        events = mem32[self._shared_at + _EVENTS]
        if events:
            mem32[self._control + _ECR] = events
        if self._masks_itself:
            mem32[self._data + _IMR] = 0
        return _LINK_CHANGE if events & _ECR_LINK else 0

    def link_up(self):
        """Return whether a cable is connected."""
        return bool(self._ask(_CMD_GET_LINK) & _LINK_UP)

    def set_multicast(self, addresses):
        """Receive frames to these groups: hardware addresses, each 6 bytes."""
        mode = _RXM_UCAST | _RXM_BCAST
        table = b""
        if len(addresses) > _GROUPS:
            mode |= _RXM_ALL_MULTI
        elif addresses:
            mode |= _RXM_MCAST
            table = b"".join(addresses)
            self._groups[: len(table)] = table
        struct.pack_into(
            "<IHHQ", self._shared, _RX_MODE, mode, len(table), 0, uctypes.addressof(self._groups)
        )
        mem32[self._control + _CMD] = _CMD_UPDATE_MAC_FILTERS
        mem32[self._control + _CMD] = _CMD_UPDATE_RX_MODE

    def stop(self):
        """Reset the controller, so that it writes no memory and raises no interrupt."""
        self._reset()


def _write_address(at, address):
    mem32[at] = address & 0xFFFFFFFF
    mem32[at + 4] = address >> 32
