"""Memory of buffers, matches and streams that Python keeps for longer than C expects."""

import array
import gc
import io
import json
import re
import select


def untouched(write):
    """Call `write` among many objects, none of which it may change."""
    gc.collect()
    around = [bytes(80) for _ in range(500)]
    write()
    assert all(item == bytes(80) for item in around)


b = bytearray(80)
view = memoryview(b)
b.extend(bytes(1000))


def fill():
    for i in range(80):
        view[i] = 0x55


untouched(fill)
a = array.array("q", range(10))
view = memoryview(a)
a.extend(array.array("q", range(1000)))


def fill():
    for i in range(10):
        view[i] = 0x5555


untouched(fill)
b = bytearray(b"abc")
m = memoryview(b)
b.append(100)
b.extend(m)
assert b == b"abcdabc" and bytes(m) == b"abc"
b[1:2] = b
assert b == b"aabcdabccdabc"

kept = []


class Keeper(io.IOBase):
    """Keeps the buffers that it is given, and resizes them."""

    def readinto(self, buffer):
        kept.append(buffer)
        buffer[0] = 49
        buffer.append(1)
        buffer.extend(bytes(500))
        return 0 if len(kept) % 9 == 0 else 1

    def write(self, buffer):
        kept.append(buffer)
        n = len(buffer)
        buffer[0] = 49
        buffer.extend(bytes(500))
        return n


assert json.load(Keeper()) == 11111111
print("a constant", "b" * 100, file=Keeper())
gc.collect()
for buffer in kept:
    buffer[0] = 0x55
    buffer.append(1)
    bytes(buffer)


class Boaster(io.IOBase):
    def readinto(self, buffer):
        return len(buffer) + 100

    def write(self, buffer):
        return 1 << 40


for use in (lambda: json.load(Boaster()), lambda: print("x", file=Boaster())):
    try:
        use()
        raise AssertionError
    except ValueError:
        pass

matches = []
text = re.sub("(.)", lambda match: matches.append(match) or "b", "xyz")
gc.collect()
[[1] * 20 for _ in range(100)]
assert text == "bbb" and [match.group(1) for match in matches] == ["x", "y", "z"]

file = io.BytesIO(b"abc")
file.close()
for use in (lambda: file.seek(0, 2), lambda: file.read(), lambda: print("x", file=file)):
    try:
        use()
        raise AssertionError
    except (ValueError, OSError):
        pass


class Pollable(io.IOBase):
    def __init__(self, act):
        self.act = act

    def ioctl(self, request, argument):
        self.act()
        return 1


for act in (
    lambda: [poll.unregister(p) for p in things],
    lambda: poll.register(Pollable(lambda: 0)),
):
    poll = select.poll()
    things = [Pollable(act) for _ in range(9)]
    for thing in things:
        try:
            poll.register(thing)
        except KeyError:
            pass
    assert all(len(found) == 2 for found in poll.poll(0))
    try:
        poll.register(1 << 70)
    except (OSError, OverflowError, TypeError, ValueError):
        pass
    poll.poll(0)
print("crashes: ok")
