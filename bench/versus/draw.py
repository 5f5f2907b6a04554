"""Draw a picture that plot.py describes: JSON on standard input, `draw.py FILE.svg`.

Runs with the Python of build/plots, which has matplotlib and nothing of cllm. Both axes of values
are logarithmic; bars and lines carry the range of the rounds.
"""

import json
import sys

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

BETTER, WORSE, INK, GRID = "#2a78b5", "#c2571a", "#222222", "#cccccc"
COLOURS = {"cllm": BETTER, "linux": WORSE}
NAMES = {"cllm": "cllm", "linux": "llama-server"}


def spread(middle, points):
    """Return matplotlib's error bars: distances down to the least and up to the most."""
    # A ratio of medians may lie outside the range of the rounds' own ratios.
    return [
        [max(0, m - point["least"]) for m, point in zip(middle, points)],
        [max(0, point["most"] - m) for m, point in zip(middle, points)],
    ]


def titles(figure, picture):
    figure.suptitle(f"{picture['title']}\n{picture['subtitle']}", fontsize=10)


def ratios(picture):
    """One horizontal bar a row, from 1 to the ratio."""
    bars = picture["bars"]
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.28 * len(bars)), layout="constrained")
    titles(figure, picture)
    at = range(len(bars))
    values = [bar["ratio"] for bar in bars]
    axes.barh(
        at,
        [value - 1 for value in values],
        left=1,
        height=0.65,
        color=[BETTER if value >= 1 else WORSE for value in values],
        xerr=spread(values, bars),
        error_kw={"ecolor": INK, "elinewidth": 1.5},
    )
    for i, bar in enumerate(bars):
        axes.annotate(
            bar["label"],
            (max(bar["ratio"], bar["most"], 1), i),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            gid="label",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.set_yticks(at, [bar["name"] for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    return figure


def lines(picture):
    """A panel for each measurement: one line a guest, its points at the medians."""
    rows = picture["panels"]
    figure, grid = pyplot.subplots(
        len(rows),
        max(map(len, rows)),
        squeeze=False,
        layout="constrained",
        figsize=(3.4 * max(map(len, rows)), 0.7 + 2.6 * len(rows)),
    )
    titles(figure, picture)
    for row, row_axes in zip(rows, grid):
        for axes in row_axes[len(row) :]:
            axes.set_axis_off()
        for panel, axes in zip(row, row_axes):
            _panel(panel, axes)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _panel(panel, axes):
    at = range(len(panel["names"]))
    for guest, points in panel["guests"].items():
        middle = [point["median"] for point in points]
        axes.errorbar(
            at,
            middle,
            yerr=spread(middle, points),
            color=COLOURS[guest],
            ecolor=INK,
            elinewidth=1,
            marker="o",
            markersize=4,
            label=NAMES[guest],
        )
    for i, label in enumerate(panel["labels"]):
        highest = max(points[i]["most"] for points in panel["guests"].values())
        axes.annotate(
            label,
            (i, highest),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            gid="label",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=7)
    axes.set_xticks(at, panel["names"])
    axes.set_xlabel(panel["axis"], fontsize=7)
    axes.set_title(panel["title"], fontsize=8, fontweight="bold", loc="left")
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.margins(x=0.2, y=0.2)


def main(path):
    # Text stays text in SVG, and the same picture gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cllm"})
    picture = json.load(sys.stdin)
    figure = {"ratios": ratios, "lines": lines}[picture["kind"]](picture)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main(sys.argv[1])
