"""Python twin of modules/netbuf, slower, with the same results; it runs on MicroPython, too."""

import struct


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


_TIMESTAMPS = 0x0101080A


def _tags(frame, size):
    """Return the number of bytes of priority tags before a frame's type."""
    tags = 0
    while tags < 8 and size >= 18 + tags:
        kind, tag = struct.unpack_from(">HH", frame, 12 + tags)
        if kind not in (0x8100, 0x88A8) or tag & 0xFFF:
            break
        tags += 4
    return tags


def _parse_ip(frame, length):
    """Return (destination, source, where TCP starts, where the packet ends), or None."""
    kind, version = struct.unpack_from(">HB", frame, 12)
    if kind == 0x86DD and length >= 74:
        total, protocol, source, destination = struct.unpack_from(">HBx16s16s", frame, 18)
        if version >> 4 != 6 or protocol != 6 or source[0] == 0xFF or not source[0] | source[1]:
            return None
        return destination, source, 54, 54 + total
    total, fragment, protocol, source, destination = struct.unpack_from(">HxxHxBxxII", frame, 16)
    if kind != 0x0800 or version != 0x45 or fragment & 0x3FFF or protocol != 6:
        return None
    if source >> 24 in (0, 127) or source >> 24 >= 224:
        return None
    return destination, source, 34, 14 + total


def _pseudo(frame, tcp, length):
    at, words = (22, 16) if tcp == 54 else (26, 4)
    return sum(struct.unpack_from(">%dH" % words, frame, at)) + 6 + length


def _parse(frame, length, verify):
    """What native/netbuf's parse() does: (destination, port, key, seq, ack, flags, window,
    start, end, stamps), or None.
    """
    _range(len(frame), 0, length)
    if length < 54:
        return None
    ip = _parse_ip(frame, length)
    if ip is None:
        return None
    destination, source, tcp, end = ip
    source_port, port, seq, ack, offset, flags, window = struct.unpack_from(">HHIIBBH", frame, tcp)
    header = offset >> 4 << 2
    if end > length or end < tcp + header or header not in (20, 32):
        return None
    stamps = None
    if header == 32:
        word, value, echo = struct.unpack_from(">III", frame, tcp + 20)
        if word != _TIMESTAMPS:
            return None
        stamps = (value, echo, ())
    if flags & ~8 != 16:
        return None
    if verify:
        pseudo = _pseudo(frame, tcp, end - tcp)
        if (tcp == 34 and checksum(frame, 14, 20) != 0xFFFF) or checksum(
            frame, tcp, end - tcp, pseudo
        ) != 0xFFFF:
            return None
    if tcp == 34:
        key = source << 16 | source_port
    else:
        key = source + struct.pack(">H", source_port)
    return destination, port, key, seq, ack, flags, window, tcp + header, end, stamps


def _is_for_group(frame, length):
    _range(len(frame), 0, length)
    return bool(length and frame[0] & 1)


def segment(frame, length):
    return None if _is_for_group(frame, length) else _parse(frame, length, False)


def merge(packet, length, frame, size):
    _range(len(packet), 0, length)
    if _is_for_group(frame, size):
        return 0
    addresses = bytes(frame[:12])
    tags = _tags(frame, size)
    frame = memoryview(frame)[tags:]
    new = _parse(frame, size - tags, True)
    if new is None:
        return 0
    packet = memoryview(packet)
    start, end = new[7:9]
    if not length:
        if end > len(packet):
            return 0
        packet[:12] = addresses
        packet[12:end] = frame[12:end]
        return end
    old = _parse(packet, length, False)
    if old is None or new[:3] != old[:3] or start != old[7]:
        return 0
    text, before = end - start, old[8] - old[7]
    if (new[4] - old[4]) & 0x80000000:
        return 0
    if new[9] and (new[9][0] - old[9][0]) & 0x80000000:
        return 0
    if new[3] != (old[3] + before) & 0xFFFFFFFF or bool(text) != bool(before):
        return 0
    if (not text and new[4] == old[4]) or old[8] + text > min(len(packet), 0xFFFF + 14):
        return 0
    packet[old[8] : old[8] + text] = memoryview(frame)[start:end]
    tcp = start - (32 if new[9] else 20)
    _put_length(packet, tcp, old[8] + text)
    packet[tcp + 8 : tcp + 12] = memoryview(frame)[tcp + 8 : tcp + 12]
    packet[tcp + 13] |= new[5]
    packet[tcp + 14 : tcp + 16] = memoryview(frame)[tcp + 14 : tcp + 16]
    if new[9]:
        at = tcp + (28 if text else 24)
        packet[at : tcp + 32] = memoryview(frame)[at : tcp + 32]
    return old[8] + text


def _put_length(frame, tcp, end):
    if tcp == 54:
        struct.pack_into(">H", frame, 18, end - 54)
    else:
        struct.pack_into(">H", frame, 16, end - 14)


def emit(frame, header, seq, ack, flags, window, value, echo, ring, at, length):
    size = len(header)
    if size not in (40, 52, 60, 72) or length < 0 or 14 + size + length > len(frame):
        raise ValueError("range outside buffer")
    if (size >= 60) != (header[0] >> 4 == 6):
        raise ValueError("range outside buffer")
    if length and (at < 0 or at > len(ring) or length > len(ring)):
        raise ValueError("range outside buffer")
    frame = memoryview(frame)
    frame[14 : 14 + size] = header
    tcp = 54 if size >= 60 else 34
    end = 14 + size + length
    _put_length(frame, tcp, end)
    if tcp == 34:
        struct.pack_into(">H", frame, 24, ~checksum(frame, 14, 20) & 0xFFFF)
    struct.pack_into(">II", frame, tcp + 4, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
    struct.pack_into(">BH", frame, tcp + 13, flags, window)
    if 14 + size == tcp + 32:
        struct.pack_into(">II", frame, tcp + 24, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)
    if length:
        first = min(length, len(ring) - at)
        text = memoryview(ring)
        start = 14 + size
        frame[start : start + first] = text[at : at + first]
        frame[start + first : start + length] = text[: length - first]
    pseudo = _pseudo(frame, tcp, end - tcp)
    struct.pack_into(">H", frame, tcp + 16, ~checksum(frame, tcp, end - tcp, pseudo) & 0xFFFF)
    return end
