"""What was measured as pictures, on logarithmic axes with the range of the rounds: the ratios as
bars, one a row, and both guests' values as lines."""

import math
from xml.sax.saxutils import escape

from .results import CLLM, GUESTS, LINUX, number

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


PANEL_WIDTH, PANEL_HEIGHT = 250, 190
COLOURS = {LINUX: WORSE, CLLM: BETTER}


def lines(panels, about):
    """SVG as text. panels: from sweep.panels(). about: list of Bench.as_json(), for the title."""
    width = PANEL_WIDTH * max(map(len, panels))
    height = TOP + PANEL_HEIGHT * len(panels)
    accel, rounds = about[0]["accel"].upper(), len(about[0]["rows"][0][LINUX])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="12" y="20" font-size="14">'
        f'<tspan fill="{BETTER}">cllm</tspan> and '
        f'<tspan fill="{WORSE}">llama-server in a Linux guest</tspan></text>',
        f'<text x="12" y="38">{accel}, kernels {escape(about[0]["kernels"])}; medians and ranges '
        f"of {rounds} rounds; numbers: how many times better</text>",
    ]
    for j, line in enumerate(panels):
        for i, panel in enumerate(line):
            parts += _panel(i * PANEL_WIDTH, TOP + j * PANEL_HEIGHT, *panel)
    return "\n".join([*parts, "</svg>\n"])


def _panel(left, top, title, axis, points):
    """Parts of one panel: a line for each guest through the medians. points: [(x, Row)]."""
    values = [value for _, row in points for guest in GUESTS for value in row.values[guest]]
    # Whole powers of ten, or their thirds, around all there is.
    low = math.floor(3 * math.log10(min(values)) - 0.3) / 3
    high = math.ceil(3 * math.log10(max(values)) + 0.6) / 3
    x0, x1 = left + 48, left + PANEL_WIDTH - 14
    y0, y1 = top + PANEL_HEIGHT - 46, top + 22

    def x(i):
        return x0 + (x1 - x0) * (i + 0.5) / len(points)

    def y(value):
        return y0 - (y0 - y1) * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="{x0}" y="{top + 14}" font-weight="bold">{escape(title)}</text>']
    for tick in (m * 10 ** e for e in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)):
        if low <= math.log10(tick) <= high:
            parts.append(f'<path d="M{x0} {y(tick):.1f}H{x1}" stroke="{GRID}"/>')
            parts.append(f'<text x="{x0 - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">'
                         f"{tick:g}</text>")
    for i, (name, _) in enumerate(points):
        parts.append(f'<text x="{x(i):.1f}" y="{y0 + 14}" text-anchor="middle">'
                     f"{escape(str(name))}</text>")
    parts.append(f'<text x="{(x0 + x1) / 2:.1f}" y="{y0 + 29}" text-anchor="middle" '
                 f'fill="#666">{escape(axis)}</text>')
    for guest in GUESTS:
        at = [(x(i), row.median(guest), row.values[guest]) for i, (_, row) in enumerate(points)]
        path = "L".join(f"{px:.1f} {y(middle):.1f}" for px, middle, _ in at)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[guest]}" stroke-width="2"/>')
        for px, middle, all_ in at:
            parts.append(f'<path d="M{px:.1f} {y(min(all_)):.1f}V{y(max(all_)):.1f}" '
                         f'stroke="{INK}"/>')
            parts.append(f'<circle cx="{px:.1f}" cy="{y(middle):.1f}" r="3" '
                         f'fill="{COLOURS[guest]}"/>')
    for i, (_, row) in enumerate(points):
        if ratio := row.ratio():
            upper = max(row.median(guest) for guest in GUESTS)
            parts.append(f'<text x="{x(i):.1f}" y="{y(upper) - 7:.1f}" text-anchor="middle" '
                         f'font-size="10">{number(ratio)}</text>')
    return parts
