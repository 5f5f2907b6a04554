"""CPython stand-in for the port's `_x86` module: alarms in real time, interrupts by hand.

All of it but dma_alloc() runs on MicroPython's unix build, too.
"""

import time

_alarm = None
_deadline = None
_lines = {}


def irq(line, callback):
    if callback is None:
        _lines.pop(line, None)
    else:
        _lines[line] = callback


def irq_message(_control):
    raise OSError(95)  # as with irq=lines


def raise_irq(line):
    """For tests: what the interrupt does."""
    _lines[line](line)


def alarm(callback):
    global _alarm
    _alarm = callback


def alarm_at(deadline):
    global _deadline
    _deadline = deadline


def fire():
    """For tests: call the alarm if its time has come. Returns whether it did."""
    global _deadline
    if _deadline is None or time.ticks_ms() < _deadline:
        return False
    _deadline = None
    _alarm(0)
    return True


def wait(timeout):
    end = time.ticks_ms() + timeout
    while not fire() and time.ticks_ms() < end:
        time.sleep_ms(1)


def dma_alloc(size, align):
    """An aligned part of a larger buffer; uctypes.addressof() gives its real address."""
    import uctypes

    memory = memoryview(bytearray(size + align))
    start = -uctypes.addressof(memory) % align
    return memory[start : start + size]


def cmdline():
    return ""


def mmio(physical, _size):
    return physical


line = ""  # for tests: the boot loader's command line
reset_later = []  # for tests: the registers of at_reset()


def cmdline():
    return line


def at_reset(address):
    reset_later.append(address)


def cpu_count():
    return 1


def paused():
    return 0
