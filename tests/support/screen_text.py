"""Reads the text on a screenshot of the guest: the letters of its font, compared dot for dot.

shot = Screenshot("shot.ppm"); shot.rows() -> 25 lines of 80 characters
"""

import re
from pathlib import Path

FONT = "extmod/font_petme128_8x8.h"
COLUMNS, ROWS, DOTS, FIRST = 80, 25, 8, 32


def font(micropython):
    """Return {the dots of a letter: the letter}; the dots are 8 columns, bit 0 on top."""
    text = (Path(micropython) / FONT).read_text()
    body = text[text.index("{") : text.index("}")]
    dots = bytes(int(byte, 16) for byte in re.findall(r"0x[0-9a-fA-F]{2}", body))
    letters: dict[bytes, str] = {}
    for i in range(len(dots) // DOTS):
        letters.setdefault(dots[i * DOTS : (i + 1) * DOTS], chr(FIRST + i))
    return letters


class Screenshot:
    """What QEMU's `screendump` wrote, a binary PPM. Args: path; letters: of font()."""

    def __init__(self, path, letters):
        data = Path(path).read_bytes()
        magic, size, deepest, self.pixels = data.split(b"\n", 3)
        assert (magic, deepest) == (b"P6", b"255")
        self.width, self.height = map(int, size.split())
        self.letters = letters
        self.wide = self.width // (COLUMNS * DOTS)
        self.high = min(self.height // (ROWS * DOTS), 2 * self.wide)

    def pixel(self, x, y):
        """Return (red, green, blue)."""
        at = 3 * (y * self.width + x)
        return tuple(self.pixels[at : at + 3])

    def cell(self, row, column):
        """Return (letter, its colour, the ground's colour). "\\0": dots that are no letter's.

        Every pixel of a dot has the dot's colour. A letter that fills no dot has no colour.
        """
        left, top = column * DOTS * self.wide, row * DOTS * self.high
        colours = []
        for x in range(DOTS):
            for y in range(DOTS):
                block = {
                    self.pixel(left + x * self.wide + i, top + y * self.high + k)
                    for i in range(self.wide)
                    for k in range(self.high)
                }
                if len(block) != 1:
                    return "\0", None, None
                colours.append(block.pop())
        for ground in sorted(set(colours), key=colours.count, reverse=True):
            dots = bytes(
                sum((colours[x * DOTS + y] != ground) << y for y in range(DOTS))
                for x in range(DOTS)
            )
            others = {colour for colour in colours if colour != ground}
            if dots in self.letters and len(others) < 2:
                return self.letters[dots], others.pop() if others else None, ground
        return "\0", None, None

    def rows(self):
        """Return the lines, without blanks at their ends."""
        return [
            "".join(self.cell(row, column)[0] for column in range(COLUMNS)).rstrip()
            for row in range(ROWS)
        ]
