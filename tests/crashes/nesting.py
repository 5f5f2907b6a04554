"""Nesting and recursion that C follows, and source text beyond what bytecode can say."""

import gc
import io
import json
import re


def nested(make, depth=30000):
    value = ()
    for _ in range(depth):
        value = make(value)
    return value


def same(function, *errors):
    """Call it: it may only raise."""
    try:
        function()
    except errors or (RuntimeError, MemoryError):
        pass
    gc.collect()


class Twins:
    """Two equal objects that contain themselves."""

    def __init__(self, make):
        self.a, self.b = make(), make()


def list_of_itself():
    value = []
    value.append(value)
    return value


def dict_of_itself():
    value = {}
    value[1] = value
    return value


for make in (list_of_itself, dict_of_itself):
    twins = Twins(make)
    same(lambda: twins.a == twins.b)
    same(lambda: (twins.a,) == (twins.b,))
    same(lambda: repr(twins.a))
    same(lambda: json.dumps(twins.a))
same(lambda: Twins(list_of_itself).a < Twins(list_of_itself).a)
for make in (lambda v: [v], lambda v: (v,), lambda v: {1: v}):
    same(lambda: nested(make) == nested(make))
    same(lambda: repr(nested(make)))
same(lambda: nested(lambda v: (v,)) < nested(lambda v: (v,)))
same(lambda: hash(nested(lambda v: (v,))))
same(lambda: re.compile("(" * 30000), RuntimeError, ValueError, MemoryError)
same(lambda: re.match("[a-", "a"), ValueError)
for text in (
    "(" * 30000,
    "[" * 3000 + "]" * 3000,
    "-" * 30000 + "1",
    "not " * 30000 + "1",
    "f(" * 9000 + ")" * 9000,
):
    same(lambda: eval(text), SyntaxError, RuntimeError, MemoryError, NameError)


def g(*a, **k):
    return len(a), len(k)


def compiled(text, expected=None):
    """Run it: the expected result, or an error."""
    names = {"g": g, "n": 1}
    try:
        exec(text, names)
    except (SyntaxError, RuntimeError, MemoryError):
        return
    assert names["x"] == expected, text[:60]


def letters(n):
    return ["a%d" % i for i in range(n)]


for n in (100, 255, 256, 300, 600):
    compiled("x = g(%s)" % ("1," * n), (n, 0))
    compiled("x = g(%s)" % ",".join(name + "=1" for name in letters(n)), (0, n))
    compiled("*x, %s = range(%d)" % (",".join(letters(n)), n + 2), [0, 1])
    compiled(
        "def f(%s): return lambda: a%d\nx = f(*range(%d))()" % (",".join(letters(n)), n - 1, n),
        n - 1,
    )
    body = "".join(" %s = 1\n" % name for name in letters(n))
    compiled("def f():\n%s return lambda: %s\nx = f()()" % (body, "+".join(letters(n))), n)
    compiled("def f():\n%s return lambda: a%d\nx = f()()" % (body, n - 1), 1)
    compiled("x = f'%s'" % ("{n}" * n), "1" * n)
for n in (3000, 70000):
    compiled("x = len([%s])" % ("n," * n), n)
for depth in (100, 140):
    blocks = "".join(" " * i + "try:\n" for i in range(1, depth))
    ends = "".join(" " * i + "finally: n\n" for i in range(depth - 1, 0, -1))
    compiled("for i in range(3):\n" + blocks + " " * depth + "break\n" + ends + "x = i", 0)


class Early(bytearray):
    def __init__(self):
        same(lambda: bytes(self), AttributeError)
        same(lambda: self[0], AttributeError)
        same(lambda: len(self), AttributeError)


class EarlyTuple(tuple):
    def __init__(self):
        same(lambda: () == self, AttributeError)


Early()
EarlyTuple()


class Written(io.BytesIO):
    pass


same(lambda: print("x" * 100, file=Written()), OSError)
written = Written()
written.write(b"abc")
assert written.getvalue() == b"abc"
try:
    import vfs
except ImportError:
    vfs = None
if vfs:
    for use in (print, lambda *a, file: json.dump([1], file), lambda *a, file: json.load(file)):
        same(lambda: use("x", file=vfs.VfsPosix("/")), OSError)
    same(lambda: vfs.mount(io.BytesIO(b"a" * 100), "/x"), OSError, AttributeError, TypeError)
    same(lambda: __import__("xx"), ImportError)
    same(lambda: vfs.umount("/x"), OSError, AttributeError, TypeError)
try:
    import machine

    machine.Signal
except (ImportError, AttributeError):
    machine = None
if machine:
    for pin in (5, io.BytesIO()):
        same(lambda: machine.Signal(pin).value(1), TypeError)
try:
    import framebuf
except ImportError:
    framebuf = None
if framebuf:
    import array

    fb = framebuf.FrameBuffer(bytearray(200), 10, 10, framebuf.RGB565)
    for use in (
        lambda: fb.line(-(1 << 40), 0, 1 << 40, 5, 1),
        lambda: fb.ellipse(5, 5, 1 << 40, 1 << 40, 1),
        lambda: fb.scroll(-(1 << 62), 0),
        lambda: fb.blit(fb, -(1 << 62), 0),
        lambda: fb.poly(0, 0, array.array("h", [0, 1] * 300000), 1, True),
        lambda: framebuf.FrameBuffer(bytearray(65536), 65535, 2, framebuf.GS4_HMSB, 65535).fill(1),
    ):
        same(use, ValueError, MemoryError)
    colours = framebuf.FrameBuffer(bytearray(b"\xff" * 200), 10, 10, framebuf.RGB565)
    fb.blit(colours, 0, 0, -1, framebuf.FrameBuffer(bytearray(2), 1, 1, framebuf.RGB565))
    fb.poly(0, 0, array.array("h", [1, 1, 8, 1, 8, 8, 1, 8]), 1, True)
    assert fb.pixel(4, 4) == 1 and fb.pixel(0, 0) == 0
print("crashes: ok")
