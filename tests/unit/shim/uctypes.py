"""CPython stand-in for MicroPython's `uctypes`: addresses of buffers."""

import ctypes


def addressof(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def bytes_at(address, size):
    return ctypes.string_at(address, size)


def bytearray_at(address, size):
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")
