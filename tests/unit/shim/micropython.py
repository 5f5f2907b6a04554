"""CPython stand-in for MicroPython's `micropython` module: the decorators do nothing."""

# The types that @viper annotations name. They convert as viper does on a 64-bit machine.
import builtins


def const(value):
    return value


def native(function):
    return function


def viper(function):
    return function


def schedule(function, argument):
    """Run `function(argument)` at once: a unit test has no interrupt to wait for."""
    function(argument)


def kbd_intr(_character):
    pass


def mem_info(*_):
    pass


def opt_level(*_):
    return 0


class _Pointer:
    """What viper's ptr8/ptr16/ptr32 give: items of a fixed width over a buffer."""

    def __init__(self, buffer, code):
        self._items = memoryview(buffer).cast("B").cast(code)

    def __getitem__(self, index):
        return self._items[index]

    def __setitem__(self, index, value):
        self._items[index] = value & ((1 << 8 * self._items.itemsize) - 1)


builtins.ptr8 = lambda buffer: _Pointer(buffer, "B")
builtins.ptr16 = lambda buffer: _Pointer(buffer, "H")
builtins.ptr32 = lambda buffer: _Pointer(buffer, "I")
builtins.uint = int
