"""CPython stand-in for the `pci` module: the functions that a test puts into `functions`."""

# bdf: (vendor, device, class24, {n: (address, size, is_io)}, configuration bytearray)
functions = {}


def devices():
    return [(bdf,) + functions[bdf][:3] for bdf in functions]


def read(bdf, offset, size):
    return int.from_bytes(functions[bdf][4][offset : offset + size], "little")


def write(bdf, offset, size, value):
    functions[bdf][4][offset : offset + size] = value.to_bytes(size, "little")


def bar(bdf, n):
    return functions[bdf][3].get(n, (0, 0, False))


def enable(bdf):
    write(bdf, 4, 2, read(bdf, 4, 2) | 7)
