"""SATA disks behind AHCI: commands in the port's slots, without native queuing.

Numbers are sections of Serial ATA AHCI 1.3.1, and of ATA/ATAPI Command Set 3 (ACS-3).
"""
# SPDX-License-Identifier: MIT

import struct
import time

import _x86
import pci
import uctypes
from drivers import dma
from drivers.disk import FLUSH, READ, Disk
from machine import mem32
from micropython import const

# 3.1, registers of the controller.
_CAP = const(0x00)
_GHC = const(0x04)
_IS = const(0x08)
_PI = const(0x0C)
_CAP2 = const(0x24)
_BOHC = const(0x28)
_CAP_64 = const(1 << 31)
_GHC_RESET = const(1 << 0)
_GHC_INTERRUPTS = const(1 << 1)
_GHC_AHCI = const(1 << 31)
_CAP2_HANDOFF = const(1 << 0)
_BOHC_BIOS = const(1 << 0)
_BOHC_OS = const(1 << 1)

# 3.3, registers of a port, of which there are 32.
_PORTS = const(0x100)
_PORT = const(0x80)
_P_CLB = const(0x00)
_P_FB = const(0x08)
_P_IS = const(0x10)
_P_IE = const(0x14)
_P_CMD = const(0x18)
_P_TFD = const(0x20)
_P_SIG = const(0x24)
_P_SSTS = const(0x28)
_P_SCTL = const(0x2C)
_P_SERR = const(0x30)
_P_CI = const(0x38)
_CMD_START = const(1 << 0)
_CMD_SPIN_UP = const(1 << 1)
_CMD_POWER = const(1 << 2)
_CMD_RECEIVE = const(1 << 4)
_CMD_RECEIVES = const(1 << 14)
_CMD_RUNS = const(1 << 15)
_TFD_BUSY = const(0x88)  # BSY and DRQ
_DET = const(15)
_DET_HERE = const(1)
_DET_READY = const(3)
_SIGNATURE = const(0x00000101)
# Interrupts: a register or setup FIS arrived; errors (task file, host bus, interface).
_I_ANY = const(0x0F)
_I_ERRORS = const(0x78000000)

# 4.2: a slot's header, its table with a command FIS and one region.
_HEADER = const(32)
_TABLE = const(256)
_FIS_DWORDS = const(5)
_HEADER_WRITE = const(1 << 6)
_REGION_AT = const(0x80)
_MOST = const(4 << 20)  # bytes of a region, 4.2.3.3

# ACS-3, 7: commands.
_READ_DMA_EXT = const(0x25)
_WRITE_DMA_EXT = const(0x35)
_FLUSH_CACHE_EXT = const(0xEA)
_IDENTIFY = const(0xEC)
_LBA = const(0x40)  # the device register
# ACS-3, 6.2: error register.
_UNCORRECTABLE = const(1 << 6)
_NOT_FOUND = const(1 << 4)
_ABORTED = const(1 << 2)

_RESET_TIMEOUT = const(1000)  # 10.4.3
_STOP_TIMEOUT = const(500)  # 10.1.2
_LINK_MS = const(20)  # SATA: a device answers a COMRESET within 10 ms
_LINK_TIMEOUT = const(1000)
_SPIN_UP_TIMEOUT = const(15_000)


def _within(ms, happened):
    start = time.ticks_ms()
    while not happened():
        if time.ticks_diff(time.ticks_ms(), start) > ms:
            return False
    return True


def open_disks(bdf, name):
    """Return [Disk] of the disks behind the controller at a bus address."""
    address, size, is_io = pci.bar(bdf, 5)
    if is_io or size < _PORTS + _PORT:
        raise OSError("%s: no registers" % name)
    base = _x86.mmio(address, size)
    pci.enable(bdf)
    _take_over(base, name)
    if not mem32[base + _CAP] & _CAP_64:
        raise OSError("%s: no addresses of 64 bits" % name)
    there = mem32[base + _PI]
    ports = [n for n in range(32) if there >> n & 1 and _PORTS + (n + 1) * _PORT <= size]
    for n in ports:
        command = base + _PORTS + n * _PORT + _P_CMD
        mem32[command] = mem32[command] | _CMD_SPIN_UP | _CMD_POWER
    time.sleep_ms(_LINK_MS)
    disks = []
    for n in ports:
        if mem32[base + _PORTS + n * _PORT + _P_SSTS] & _DET in (_DET_HERE, _DET_READY):
            port_name = name if not disks else "%sp%d" % (name, n)
            try:
                disks.append(AhciDisk(bdf, base, n, port_name))
            except OSError as exc:
                print("cllm: %s" % exc)
    mem32[base + _GHC] = _GHC_AHCI | _GHC_INTERRUPTS
    return disks


def _take_over(base, name):
    # 10.6: the firmware gives the controller away. 10.4.3: the reset.
    if mem32[base + _CAP2] & _CAP2_HANDOFF:
        mem32[base + _BOHC] = mem32[base + _BOHC] | _BOHC_OS
        _within(_RESET_TIMEOUT, lambda: not mem32[base + _BOHC] & _BOHC_BIOS)
    _reset(base, name)


def _reset(base, name):
    mem32[base + _GHC] = _GHC_AHCI
    mem32[base + _GHC] = _GHC_AHCI | _GHC_RESET
    if not _within(_RESET_TIMEOUT, lambda: not mem32[base + _GHC] & _GHC_RESET):
        raise OSError("%s: reset does not end" % name)
    mem32[base + _GHC] = _GHC_AHCI


class AhciDisk(Disk):
    """A disk on a port. Args: base: address of the controller's registers; number: of the port."""

    def __init__(self, bdf, base, number, name):
        super().__init__(name, bdf, pci.read(bdf, 0x3C, 1))
        self._base = base
        self._bit = 1 << number
        self._port = base + _PORTS + number * _PORT
        self.depth = min(self.depth, (mem32[base + _CAP] >> 8 & 31) + 1)
        self._issued = []  # slots whose commands the port has
        self._suspects = []  # slots whose commands run one by one, because one of them failed
        self._seen = 0  # interrupts that were acknowledged since the last look at errors
        self._lay_out("port %d" % number)
        self._start_port()
        self.ready()
        self._identify()

    def _lay_out(self, purpose):
        self._headers = dma.block(self.key, purpose + " headers", 32 * _HEADER)
        self._received = dma.block(self.key, purpose + " received", 256)
        self._tables = dma.block(self.key, purpose + " tables", self.depth * _TABLE)
        self._tables_at = uctypes.addressof(self._tables)

    def _error(self, text):
        return OSError("%s: %s" % (self.name, text))

    def _start_port(self):
        # 10.1.2
        port = self._port
        self._stop_port()
        for register, memory in ((_P_CLB, self._headers), (_P_FB, self._received)):
            address = uctypes.addressof(memory)
            mem32[port + register] = address & 0xFFFFFFFF
            mem32[port + register + 4] = address >> 32
        mem32[port + _P_IE] = 0
        mem32[port + _P_SERR] = 0xFFFFFFFF
        mem32[port + _P_IS] = 0xFFFFFFFF
        mem32[port + _P_CMD] = mem32[port + _P_CMD] | _CMD_RECEIVE
        if not _within(_LINK_TIMEOUT, lambda: mem32[port + _P_SSTS] & _DET == _DET_READY):
            raise self._error("no link")
        if not _within(_SPIN_UP_TIMEOUT, lambda: not mem32[port + _P_TFD] & _TFD_BUSY):
            raise self._error("not ready")
        if mem32[port + _P_SIG] != _SIGNATURE:
            raise self._error("no disk, signature %08x" % mem32[port + _P_SIG])
        mem32[port + _P_CMD] = mem32[port + _P_CMD] | _CMD_START

    def _stop_port(self):
        port = self._port
        for bit, runs in ((_CMD_START, _CMD_RUNS), (_CMD_RECEIVE, _CMD_RECEIVES)):
            mem32[port + _P_CMD] = mem32[port + _P_CMD] & ~bit
            if not _within(_STOP_TIMEOUT, lambda: not mem32[port + _P_CMD] & runs):
                raise self._error("does not stop")

    def _identify(self):
        slot = self._poll(None)
        self._submit(slot, _IDENTIFY, 0, 0, self._bounce_at, 512, False)
        self._poll(slot)
        error = self._end(slot)
        if error:
            raise self._error("identify: " + error)
        words = struct.unpack("<256H", bytes(self._bounce[:512]))
        # ACS-3, 7.12.7: the 48-bit address feature set, and its number of sectors.
        if not words[83] & 1 << 10:
            raise self._error("no 48-bit addresses")
        self.sectors = words[100] | words[101] << 16 | words[102] << 32 | words[103] << 48
        if words[106] & 0xD000 == 0x5000:
            self.sector = 2 * (words[117] | words[118] << 16)
        if self.sector not in (512, 1024, 2048, 4096):
            raise self._error("sectors of %d bytes" % self.sector)
        text = "".join([chr(word >> 8 & 0x7F) + chr(word & 0x7F) for word in words[10:20]])
        self.serial = text.strip(" \0")

    def _start(self, slot, operation, lba, address, size):
        if operation == FLUSH:
            self._submit(slot, _FLUSH_CACHE_EXT, 0, 0, 0, 0, False)
            return
        command = _READ_DMA_EXT if operation == READ else _WRITE_DMA_EXT
        self._submit(slot, command, lba, size // self.sector, address, size, operation != READ)

    def _submit(self, slot, command, lba, count, address, size, writes):
        pack = struct.pack_into
        table = slot * _TABLE
        # SATA 3.0, 10.3.4: a register FIS from the host, with a command.
        pack(
            "<BBBBIIHHI",
            self._tables,
            table,
            0x27,
            0x80,
            command,
            0,
            lba & 0xFFFFFF | _LBA << 24,
            lba >> 24 & 0xFFFFFF,
            count & 0xFFFF,
            0,
            0,
        )
        if size:
            pack("<QII", self._tables, table + _REGION_AT, address, 0, size - 1)
        flags = _FIS_DWORDS | (_HEADER_WRITE if writes else 0) | (1 << 16 if size else 0)
        pack("<IIQ", self._headers, slot * _HEADER, flags, 0, self._tables_at + table)
        if self._suspects:
            self._suspects.append(slot)  # one by one, until they have all ended
        else:
            self._issue(slot)

    def _issue(self, slot):
        self._issued.append(slot)
        mem32[self._port + _P_CI] = 1 << slot

    def _take_interrupts(self):
        seen = mem32[self._port + _P_IS]
        if seen:
            # 5.5.3: in this order.
            mem32[self._port + _P_IS] = seen
            mem32[self._base + _IS] = self._bit
            self._seen |= seen

    def _reap(self):
        if not self._issued:
            return
        # First what ended, then whether with an error: one that ended meanwhile is for next time.
        under_way = mem32[self._port + _P_CI]
        self._take_interrupts()
        if self._seen & _I_ERRORS:
            self._recover()
            return
        for slot in [slot for slot in self._issued if not under_way >> slot & 1]:
            self._issued.remove(slot)
            self._done[slot] = None
            if slot in self._suspects:
                self._next_suspect()

    def _recover(self):
        # 6.2.2.1: restart the port. Commands at a time may have failed for another's error, so
        # they run again, one by one.
        error = _words(mem32[self._port + _P_TFD] >> 8 & 0xFF, self._seen)
        issued, self._issued, self._seen = self._issued, [], 0
        self._start_again()
        if self.dead:
            return
        if len(issued) == 1:
            self._done[issued[0]] = error
            if self._suspects:
                self._next_suspect()
        else:
            self._suspects = issued
            self._issue(issued[0])

    def _next_suspect(self):
        del self._suspects[0]
        if self._suspects:
            self._issue(self._suspects[0])

    def _start_again(self):
        port = self._port
        try:
            self._stop_port()
            if mem32[port + _P_TFD] & _TFD_BUSY:
                # 10.4.2: COMRESET
                mem32[port + _P_SCTL] = mem32[port + _P_SCTL] & ~_DET | 1
                time.sleep_ms(1)
                mem32[port + _P_SCTL] = mem32[port + _P_SCTL] & ~_DET
            self._start_port()
        except OSError as exc:
            self.give_up(str(exc))

    def _interrupts(self, wanted):
        mem32[self._port + _P_IE] = _I_ANY | _I_ERRORS if wanted else 0
        if not wanted:
            self._take_interrupts()

    def stop(self):
        mem32[self._port + _P_IE] = 0
        self._stop_port()


def _words(error, seen):
    words = [
        word
        for bit, word in (
            (_UNCORRECTABLE, "uncorrectable data"),
            (_NOT_FOUND, "no such sector"),
            (_ABORTED, "aborted"),
        )
        if error & bit
    ]
    return "%s (error %02xh, interrupts %08xh)" % (
        ", ".join(words) or "failed",
        error,
        seen & _I_ERRORS,
    )
