"""The ratios as a picture: one bar a row on a logarithmic axis, with the range of the rounds."""

import math
from xml.sax.saxutils import escape

from .results import number

WIDTH, LEFT, RIGHT, LINE, TOP, BOTTOM = 760, 330, 90, 24, 56, 34
BETTER, WORSE, INK, GRID = "#2a78b5", "#c2571a", "#222", "#ccc"


def ratios(rows, about):
    """SVG as text. rows: those with a ratio are drawn. about: Bench.as_json(), for the title."""
    drawn = [row for row in rows if row.ratio()]
    ends = [value for row in drawn for value in (row.ratio(), *row.ratio_spread())]
    low = math.floor(math.log10(min([*ends, 0.999])))
    high = math.ceil(math.log10(max([*ends, 1.001])))
    height = TOP + LINE * len(drawn) + BOTTOM

    def x(value):
        part = (math.log10(value) - low) / (high - low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    title = (
        f"{about['model']}, {about['accel'].upper()}, {about['smp']} "
        f"{'core' if about['smp'] == 1 else 'cores'}, {about['memory_mib']} MiB"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="12" y="20" font-size="14">cllm against llama-server in a Linux guest: '
        "how many times better</text>",
        f'<text x="12" y="38">{escape(title)}</text>',
    ]
    bottom = TOP + LINE * len(drawn)
    for power in range(low, high + 1):
        at = x(10 ** power)
        stroke = INK if power == 0 else GRID
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="{stroke}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{number(10 ** power)}×</text>"
        )
    for i, row in enumerate(drawn):
        ratio, (least, most) = row.ratio(), row.ratio_spread()
        y = TOP + LINE * i
        start, end = sorted((x(1), x(ratio)))
        colour = BETTER if ratio >= 1 else WORSE
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{start:.1f}" y="{y + 4}" width="{max(1, end - start):.1f}" height="16" '
            f'fill="{colour}"/>',
            f'<path d="M{x(least):.1f} {y + 12}H{x(most):.1f}" stroke="{INK}" stroke-width="2"/>',
            f'<text x="{max(x(ratio), x(most), x(1)) + 6:.1f}" y="{y + 16}">{number(ratio)}'
            "</text>",
        ]
    return "\n".join([*parts, "</svg>\n"])
