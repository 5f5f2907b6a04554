"""Interrupts by message (MSI-X), where a device and the machine can, else by line.

A message has no line to share and needs no routing by firmware. Numbers are sections of the PCI
Local Bus Specification 3.0.
"""
# SPDX-License-Identifier: MIT

import _x86
import pci
from machine import mem32
from micropython import const

# 6.2.2, 6.2.4, 6.7.
_STATUS = const(0x06)
_STATUS_CAPABILITIES = const(1 << 4)
_CAPABILITIES = const(0x34)
_MOST_CAPABILITIES = const(48)
_INTERRUPT_LINE = const(0x3C)

# 6.8.2: the capability, and its fields.
_MSIX = const(0x11)
_CONTROL = const(2)
_ENABLE = const(1 << 15)
_MASK_ALL = const(1 << 14)
_TABLE = const(4)
# Of an entry of the table.
_ADDRESS = const(0)
_ADDRESS_HIGH = const(4)
_DATA = const(8)
_VECTOR_CONTROL = const(12)
_ENTRY = const(16)

# {bdf: (line, address, data, address of the entry)}: a device that is started again has the same.
# The kernel takes messages back at soft resets, where this module starts anew, too.
_taken = {}


def take(bdf):
    """Return (line, by_message) for a function: by_message says that its first entry of MSI-X
    raises the line. A driver registers line with drivers.lines.
    """
    at = _capability(bdf)
    if at:
        if bdf not in _taken:
            _take(bdf, at)
        if bdf in _taken:
            line, address, data, entry = _taken[bdf]
            mem32[entry + _ADDRESS] = address
            mem32[entry + _ADDRESS_HIGH] = 0
            mem32[entry + _DATA] = data
            control = pci.read(bdf, at + _CONTROL, 2)
            pci.write(bdf, at + _CONTROL, 2, (control | _ENABLE) & ~_MASK_ALL)
            return line, True
        _disable(bdf, at)
    return pci.read(bdf, _INTERRUPT_LINE, 1), False


def _disable(bdf, at):
    control = pci.read(bdf, at + _CONTROL, 2)
    pci.write(bdf, at + _CONTROL, 2, control & ~_ENABLE)


def _capability(bdf):
    # Return the offset of the MSI-X capability, 0 for none.
    if not pci.read(bdf, _STATUS, 2) & _STATUS_CAPABILITIES:
        return 0
    at = pci.read(bdf, _CAPABILITIES, 1) & 0xFC
    for _ in range(_MOST_CAPABILITIES):  # a list may be a circle
        if not at or pci.read(bdf, at, 1) == _MSIX:
            return at
        at = pci.read(bdf, at + 1, 1) & 0xFC
    return 0


def _take(bdf, at):
    # Bits 2:0 say which region has the table, the others where in it.
    table = pci.read(bdf, at + _TABLE, 4)
    if table & 7 > 5:
        return
    base, size, is_io = pci.bar(bdf, table & 7)
    if is_io or (table & ~7) + _ENTRY > size:
        return
    try:
        entry = _x86.mmio(base, size) + (table & ~7)
        pci.write(bdf, 0x04, 2, pci.read(bdf, 0x04, 2) | 1 << 1)  # the table is memory, too
        line, address, data = _x86.irq_message(entry + _VECTOR_CONTROL)
    except (OSError, ValueError):  # none left, or irq=lines
        return
    _taken[bdf] = line, address, data, entry
