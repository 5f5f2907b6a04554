"""NVMe: a queue pair for administration, and one for each namespace.

Numbers are sections of the NVM Express Base Specification, revision 1.4.
"""
# SPDX-License-Identifier: MIT

import struct
import time

import _x86
import pci
import uctypes
from drivers import dma, messages
from drivers.disk import FLUSH, READ, Disk
from machine import mem32
from micropython import const

# 3.1, controller registers.
_CAP = const(0x00)
_INTMS = const(0x0C)
_INTMC = const(0x10)
_CC = const(0x14)
_CSTS = const(0x1C)
_AQA = const(0x24)
_ASQ = const(0x28)
_ACQ = const(0x30)
_DOORBELLS = const(0x1000)

# 3.1.5 and 3.1.6: enable; entries of 64 and 16 bytes; ready, fatal.
_CC_ENABLE = const(1)
_CC_ENTRIES = const(6 << 16 | 4 << 20)
_CSTS_READY = const(1)
_CSTS_FATAL = const(2)
_TIMEOUT_UNIT = const(500)  # ms, of CAP.TO

# 5: admin commands; 5.15, identify; 5.21.1.7, number of queues.
_CREATE_SQ = const(0x01)
_CREATE_CQ = const(0x05)
_IDENTIFY = const(0x06)
_SET_FEATURES = const(0x09)
_CNS_NAMESPACE = const(0)
_CNS_CONTROLLER = const(1)
_CNS_LIST = const(2)
_NUMBER_OF_QUEUES = const(7)

# 6: I/O commands.
_FLUSH = const(0x00)
_WRITE = const(0x01)
_READ = const(0x02)

_PAGE = const(4096)
_SQE = const(64)
_CQE = const(16)
_ENTRIES = const(16)  # of every queue: more than commands at a time
_LARGEST = const(1 << 20)
_NAMESPACES = const(4)
# 4.6.1.2, status types.
_TYPES = ("generic", "command", "media", "path")


class _Queue:
    """A submission queue and its completion queue (4.1), number 0 for administration."""

    def __init__(self, controller, number):
        self.number = number
        name = "queue %d" % number
        self.sq = dma.block(controller.bdf, name, _PAGE)
        self.cq = dma.block(controller.bdf, name + " completions", _PAGE)
        self.sq[:] = bytes(_PAGE)
        self.cq[:] = bytes(_PAGE)
        self.sq_at = uctypes.addressof(self.sq)
        self.cq_at = uctypes.addressof(self.cq)
        self.tail = 0
        self.head = 0
        self.phase = 1
        # 3.1.24 and 3.1.25
        self.sq_bell = controller.base + _DOORBELLS + 2 * number * controller.stride
        self.cq_bell = self.sq_bell + controller.stride

    def submit(self, opcode, cid, namespace, prp1, prp2, cdw10=0, cdw11=0, cdw12=0):
        """Put a command (4.2) into the queue, and tell the controller."""
        struct.pack_into(
            "<IIQQQQIIIIII",
            self.sq,
            self.tail * _SQE,
            opcode | cid << 16,
            namespace,
            0,
            0,
            prp1,
            prp2,
            cdw10,
            cdw11,
            cdw12,
            0,
            0,
            0,
        )
        self.tail = (self.tail + 1) % _ENTRIES
        mem32[self.sq_bell] = self.tail

    def take(self):
        """Return (command, status) of a completion (4.6), or None. The phase tag says whether an
        entry is new.
        """
        word = mem32[self.cq_at + self.head * _CQE + 12]
        if word >> 16 & 1 != self.phase:
            return None
        self.head += 1
        if self.head == _ENTRIES:
            self.head = 0
            self.phase ^= 1
        mem32[self.cq_bell] = self.head
        return word & 0xFFFF, word >> 17


class Controller:
    """One controller, running after construction. OSError where it does not start."""

    def __init__(self, bdf, name):
        self.bdf = bdf
        self.name = name
        address, size, is_io = pci.bar(bdf, 0)
        if is_io or size < _DOORBELLS + _PAGE:
            raise self.error("no registers")
        self.base = _x86.mmio(address, size)
        capabilities = mem32[self.base + _CAP] | mem32[self.base + _CAP + 4] << 32
        self.stride = 4 << (capabilities >> 32 & 15)
        self._timeout = (capabilities >> 24 & 0xFF) * _TIMEOUT_UNIT + _TIMEOUT_UNIT
        if capabilities >> 48 & 15:
            raise self.error("no pages of 4 KiB")
        if capabilities & 0xFFFF < _ENTRIES - 1:
            raise self.error("queues of %d entries" % ((capabilities & 0xFFFF) + 1))
        pci.enable(bdf)
        self.reset()
        self.irq, self.by_message = messages.take(bdf)
        self._start()
        self._data = dma.block(bdf, "identify", _PAGE)
        self._data_at = uctypes.addressof(self._data)
        data = self.identify(_CNS_CONTROLLER, 0)
        self.serial = bytes(data[4:24]).decode().strip()
        # 5.15.2.2: in units of the smallest page, which is 4 KiB here; 0 for no limit.
        most = data[77]
        self.largest = min(_LARGEST, _PAGE << most) if 0 < most < 20 else _LARGEST
        # At least one queue of either kind is there, and more may be refused.
        self.admin(_SET_FEATURES, cdw10=_NUMBER_OF_QUEUES, cdw11=0x10001 * (_NAMESPACES - 1))

    def error(self, text):
        return OSError("%s: %s" % (self.name, text))

    def reset(self):
        """End all that the controller does (7.3.2)."""
        mem32[self.base + _CC] = 0
        self._wait_ready(0)

    def _wait_ready(self, wanted):
        start = time.ticks_ms()
        while True:
            status = mem32[self.base + _CSTS]
            if status & _CSTS_READY == wanted:
                return
            if wanted and status & _CSTS_FATAL:
                raise self.error("fatal error at the start")
            if time.ticks_diff(time.ticks_ms(), start) > self._timeout:
                raise self.error("not ready in %d ms" % self._timeout)

    def _start(self):
        # 7.6.1
        base = self.base
        self._admin = _Queue(self, 0)
        mem32[base + _AQA] = 0x10001 * (_ENTRIES - 1)
        for register, address in ((_ASQ, self._admin.sq_at), (_ACQ, self._admin.cq_at)):
            mem32[base + register] = address & 0xFFFFFFFF
            mem32[base + register + 4] = address >> 32
        if not self.by_message:
            mem32[base + _INTMS] = 0xFFFFFFFF
        mem32[base + _CC] = _CC_ENTRIES | _CC_ENABLE
        self._wait_ready(_CSTS_READY)

    def admin(self, opcode, namespace=0, address=0, cdw10=0, cdw11=0):
        """Run an admin command; return whether it succeeded. OSError without an answer."""
        self._admin.submit(opcode, 0, namespace, address, 0, cdw10, cdw11)
        start = time.ticks_ms()
        while True:
            done = self._admin.take()
            if done:
                return done[1] & 0x7FF == 0
            if time.ticks_diff(time.ticks_ms(), start) > self._timeout:
                raise self.error("no answer to command %d" % opcode)

    def identify(self, what, namespace):
        """Return a view of what the controller says of itself (5.15), good until the next call."""
        if not self.admin(_IDENTIFY, namespace, self._data_at, what):
            raise self.error("identify %d fails" % what)
        return self._data

    def start_queue(self, number):
        """Return a queue pair for I/O whose completions interrupt (5.3 and 5.4), or None."""
        queue = _Queue(self, number)
        size = (_ENTRIES - 1) << 16 | number
        if self.admin(_CREATE_CQ, 0, queue.cq_at, size, 3) and self.admin(
            _CREATE_SQ, 0, queue.sq_at, size, number << 16 | 1
        ):
            return queue
        return None

    def disks(self):
        """Return [Disk] of the namespaces, at most as many as there are queues for."""
        data = self.identify(_CNS_LIST, 0)
        numbers = [n for n in struct.unpack_from("<%dI" % _NAMESPACES, data) if n]
        found = []
        for number in numbers:
            queue = self.start_queue(len(found) + 1)
            if queue is None:
                print("cllm: %s: no queue for namespace %d" % (self.name, number))
                break
            name = self.name if number == numbers[0] else "%sn%d" % (self.name, number)
            found.append(NvmeDisk(self, queue, number, name))
        return found


def open_disks(bdf, name):
    """Return [Disk] of the controller at a bus address; `name` is for messages."""
    return Controller(bdf, name).disks()


class NvmeDisk(Disk):
    """A namespace. Args: controller, queue: its own; number: NSID; name: for messages."""

    def __init__(self, controller, queue, number, name):
        super().__init__(name, controller.bdf, controller.irq)
        self._controller = controller
        self._queue = queue
        self._number = number
        self.serial = controller.serial
        self.largest = controller.largest
        # 5.15.2.1: blocks; format in use; write protection; formats.
        data = controller.identify(_CNS_NAMESPACE, number)
        self.sectors = struct.unpack_from("<Q", data)[0]
        self.readonly = bool(data[99] & 1)
        formats = struct.unpack_from("<I", data, 128 + 4 * (data[26] & 15))[0]
        shift = formats >> 16 & 0xFF
        if not 9 <= shift <= 12 or formats & 0xFFFF:
            raise controller.error("sectors of %d bytes with metadata" % (1 << shift))
        self.sector = 1 << shift
        # 4.3: pages of addresses, of 8 bytes each.
        self._lists = dma.block(self.key, name + " pages", self.depth * _PAGE)
        self._lists_at = uctypes.addressof(self._lists)
        self.ready()

    def _start(self, slot, operation, lba, address, size):
        if operation == FLUSH:
            self._queue.submit(_FLUSH, slot, self._number, 0, 0)
            return
        # 4.3: the first page may begin anywhere, the second entry is a page or a list of pages.
        second = (address & ~(_PAGE - 1)) + _PAGE
        end = address + size
        if end <= second:
            second = 0
        elif end > second + _PAGE:
            pages = range(second, end, _PAGE)
            struct.pack_into("<%dQ" % len(pages), self._lists, slot * _PAGE, *pages)
            second = self._lists_at + slot * _PAGE
        self._queue.submit(
            _READ if operation == READ else _WRITE,
            slot,
            self._number,
            address,
            second,
            lba & 0xFFFFFFFF,
            lba >> 32,
            size // self.sector - 1,
        )

    def _reap(self):
        done = self._queue.take()
        while done:
            slot, status = done
            if slot < self.depth:
                self._done[slot] = _words(status) if status & 0x7FF else None
            done = self._queue.take()

    def _interrupts(self, wanted):
        # 3.1.3: for pins, the mask ends the interrupt as well. Messages have another.
        if not self._controller.by_message:
            mem32[self._controller.base + (_INTMC if wanted else _INTMS)] = 1

    def stop(self):
        self._controller.reset()


def _words(status):
    kind = status >> 8 & 7
    words = _TYPES[kind] if kind < len(_TYPES) else "vendor's"
    return "%s error %02xh" % (words, status & 0xFF)
