"""kernel/dev/framebuffer.c and screen.c, compiled for the host, on screens of many shapes.

The screen's memory has a guard behind each row and at its end, which no letter may touch.
"""

import importlib.util
from pathlib import Path

import cffi
import pytest
from cllm import TOP
from support.screen_text import Screenshot, font

KERNEL = Path(__file__).resolve().parent.parent.parent / "kernel"
SOURCES = ("dev/framebuffer.c", "dev/screen.c", "boot/bootinfo.c")
MICROPYTHON = TOP / "micropython" / "src"
GUARD = 0xA5

WRAPPERS = """
    #include "boot/bootinfo.h"
    #include "boot/reach.h"
    #include "dev/screen.h"

    static const uint8_t *letters;
    extern const uint8_t *const console_font;
    const uint8_t *const console_font = FONT;

    bool boot_reach(uint64_t start, uint64_t size) { return true; }

    // The VGA text screen is no memory of this process: screen_init() is left out.
    static bool use(struct boot_framebuffer f, uint64_t ram) {
        bootinfo.framebuffer.address = 0;
        bootinfo.n_ram = 0;
        bootinfo_add_ram(ram, 4096);
        bootinfo_set_framebuffer(&f);
        return screen_use_framebuffer();
    }
"""

DECLARED = """
    struct boot_framebuffer {
        uint64_t address;
        uint32_t pitch, width, height;
        uint8_t bits, shift[3], size[3];
    };
    bool use(struct boot_framebuffer f, uint64_t ram);
    void screen_put(char c);
    void screen_status(unsigned line, const char *s, size_t n);
    bool screen_show(bool all);
    void screen_panic(void);
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    ffi = cffi.FFI()
    ffi.cdef(DECLARED)
    folder = tmp_path_factory.mktemp("framebuffer")
    ffi.set_source(
        "_framebuffer",
        f'#include <stdint.h>\n#include "{MICROPYTHON}/extmod/font_petme128_8x8.h"\n'
        "#define FONT font_petme128_8x8\n"
        + WRAPPERS.replace("static const uint8_t *letters;", ""),
        sources=[str(KERNEL / name) for name in SOURCES],
        include_dirs=[str(KERNEL)],
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-function"],
    )
    path = ffi.compile(tmpdir=str(folder))
    spec = importlib.util.spec_from_file_location("_framebuffer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Display:
    """A screen's memory. Args: order: where red, green and blue are, in bytes of a pixel."""

    def __init__(self, compiled, width, height, bits, order=(2, 1, 0), padding=24):
        self.lib, self.bits, self.order = compiled.lib, bits, order
        self.width, self.height = width, height
        self.pitch = width * bits // 8 + padding
        self.memory = compiled.ffi.new("uint8_t[]", self.pitch * height + 64)
        self.bytes = compiled.ffi.buffer(self.memory)
        self.bytes[:] = bytes([GUARD]) * len(self.bytes)
        self.description = {
            "address": int(compiled.ffi.cast("uintptr_t", self.memory)),
            "pitch": self.pitch,
            "width": width,
            "height": height,
            "bits": bits,
            "shift": [8 * at for at in order],
            "size": [8, 8, 8],
        }

    def use(self, ram=0):
        return self.lib.use(self.description, ram)

    def write(self, text):
        for c in text:
            self.lib.screen_put(c.encode())

    def shot(self, path):
        """What a monitor would show, as a Screenshot; checks the guards."""
        out = bytearray()
        size = self.bits // 8
        for y in range(self.height):
            line = self.bytes[y * self.pitch : (y + 1) * self.pitch]
            assert set(line[self.width * size :]) == {GUARD}
            for x in range(self.width):
                pixel = line[x * size : (x + 1) * size]
                out += bytes(pixel[at] for at in self.order)
        assert set(self.bytes[self.height * self.pitch :]) == {GUARD}
        path.write_bytes(b"P6\n%d %d\n255\n" % (self.width, self.height) + out)
        return Screenshot(path, font(MICROPYTHON))


@pytest.mark.parametrize(
    "width, height, bits, order",
    [(640, 400, 32, (2, 1, 0)), (800, 600, 24, (2, 1, 0)), (1024, 768, 32, (0, 1, 2))],
)
def test_text_on_screens_of_many_shapes(compiled, tmp_path, width, height, bits, order):
    display = Display(compiled, width, height, bits, order)
    assert display.use()
    lib = compiled.lib
    for i in range(4):
        text = f"status {i} +!@#"
        lib.screen_status(i, text.encode(), len(text))
    display.write("\n" * 30 + "first\x1b line\n" + "x" * 81 + "\nlast\b\b!\r")
    steps = 1
    while lib.screen_show(False):
        steps += 1
    assert steps > 4  # a row at a time
    shot = display.shot(tmp_path / "a.ppm")
    rows = shot.rows()
    assert rows[:4] == [f" status {i} +!@#" for i in range(4)]
    assert rows[-4:] == ["first line", "x" * 80, "x", "la!t"]
    assert shot.cell(0, 1) == ("s", (255, 255, 255), (0, 0, 170))
    assert shot.cell(24, 1)[1:] == ((170, 170, 170), (0, 0, 0))
    # The cursor is the letter the other way round.
    assert shot.cell(24, 0) == ("l", (0, 0, 0), (170, 170, 170))


def test_only_letters_that_change_are_drawn(compiled, tmp_path):
    display = Display(compiled, 640, 400, 32)
    assert display.use()
    compiled.lib.screen_show(True)
    display.bytes[:] = bytes([GUARD]) * len(display.bytes)
    compiled.lib.screen_status(1, b"k", 1)
    compiled.lib.screen_status(1, b"k", 1)
    compiled.lib.screen_show(True)
    shown = bytes(display.bytes)
    drawn = [at for at in range(640 * 400) if shown[at * 4] != GUARD]
    assert 0 < len(drawn) <= 80 * 8 * 16
    before = bytes(display.bytes)
    compiled.lib.screen_status(1, b"k", 1)
    compiled.lib.screen_show(True)
    assert bytes(display.bytes) == before


def test_a_small_screen_shows_the_upper_left_part(compiled, tmp_path):
    display = Display(compiled, 100, 60, 24)
    assert display.use()
    compiled.lib.screen_status(0, b"cllm on a clock", 15)
    compiled.lib.screen_show(True)
    display.shot(tmp_path / "a.ppm")


def test_memory_that_is_ram_is_no_screen(compiled):
    display = Display(compiled, 640, 400, 32)
    assert not display.use(display.description["address"] + 4096)
    assert not display.lib.use({**display.description, "bits": 16}, 0)


def test_a_death_is_red(compiled, tmp_path):
    display = Display(compiled, 640, 400, 32)
    assert display.use()
    compiled.lib.screen_panic()
    display.write("\n".join(f"line {i}" for i in range(40)))
    compiled.lib.screen_status(3, b"halted", 6)
    compiled.lib.screen_show(True)
    shot = display.shot(tmp_path / "a.ppm")
    assert shot.cell(3, 1) == ("h", (255, 255, 255), (170, 0, 0))
    assert shot.rows()[4:6] == ["line 0", "line 1"]  # the first lines explain the death
