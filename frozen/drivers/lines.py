"""Interrupt lines that devices share: PCI has four for all."""
# SPDX-License-Identifier: MIT

import _x86
from micropython import const

_LINES = const(64)  # IRQ_LINES of kernel/include/machine.h

# {line: [handler]}
_handlers = {}


def attach(line, handler):
    """Call handler(line) after each interrupt of a line, beside those attached before. It must
    acknowledge its own device and no other. Return whether there is such a line.
    """
    if not 0 <= line < _LINES:
        return False
    _handlers[line] = _handlers.get(line, []) + [handler]
    _use(line)
    return True


def detach(line, handler):
    """Undo attach(). A line of nobody is masked."""
    if line in _handlers:
        _handlers[line] = [other for other in _handlers[line] if other != handler]
        _use(line)


def _use(line):
    handlers = _handlers[line]
    # A line of one device costs no call more.
    _x86.irq(line, _run if len(handlers) > 1 else handlers[0] if handlers else None)


def _run(line):
    for handler in _handlers[line]:
        handler(line)
