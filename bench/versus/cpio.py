"""Write the archive that Linux unpacks into its first root file system.

The format is "newc" of cpio, as Documentation/driver-api/early-userspace/buffer-format.rst of the
kernel describes it: a header of 8-digit hexadecimal fields, the name, the content, each padded
to four bytes.
"""

DIRECTORY, FILE, DEVICE, LINK = 0o040000, 0o100000, 0o020000, 0o120000
TRAILER = "TRAILER!!!"


def archive(entries):
    """Return the archive as bytes.

    entries: (path without a leading slash, mode with the type bits, content as bytes, (major,
    minor) of a device or None), each folder before its content.
    """
    out = bytearray()
    for number, (path, mode, content, device) in enumerate(entries, 1):
        _add(out, number, path, mode, content, device or (0, 0))
    _add(out, 0, TRAILER, 0, b"", (0, 0))
    return bytes(out)


def folder(path):
    return path, DIRECTORY | 0o755, b"", None


def file(path, content, mode=0o644):
    return path, FILE | mode, content, None


def link(path, target):
    return path, LINK | 0o777, target.encode(), None


def character_device(path, major, minor):
    return path, DEVICE | 0o600, b"", (major, minor)


def _add(out, number, path, mode, content, device):
    name = path.encode() + b"\0"
    links = 2 if mode & 0o170000 == DIRECTORY else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize, chksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
    out += b"070701" + b"".join(b"%08X" % value for value in fields) + name
    out += bytes(-len(out) % 4)
    out += content
    out += bytes(-len(out) % 4)
