"""Python twin of modules/netbuf: same results, same errors, slower. Runs on MicroPython too."""


def _range(length, start, count):
    if start < 0 or count < 0 or start + count > length:
        raise ValueError("range outside buffer")


def checksum(buf, start, length, initial=0):
    data = memoryview(buf)
    _range(len(data), start, length)
    if not 0 <= initial < 1 << 32:
        raise ValueError("initial sum outside 32 bits")
    part = bytes(data[start : start + length])
    if length & 1:
        part += b"\0"
    # The words are summed as one big number modulo 0xffff, which is ones' complement addition;
    # only zero has two spellings there, and a sum of something non-zero is written 0xffff.
    total = int.from_bytes(part, "big") + initial
    return (total - 1) % 0xFFFF + 1 if total else 0


def copy(dst, dst_off, src, src_off, n):
    target, source = memoryview(dst), memoryview(src)
    _range(len(target), dst_off, n)
    _range(len(source), src_off, n)
    target[dst_off : dst_off + n] = source[src_off : src_off + n]
