"""The benchmark's pictures: what they show, as plain values; matplotlib draws them in draw.py.

matplotlib has an environment of its own (cllm.extras.PLOTS), so a picture goes there as JSON.
"""

import json
import subprocess
from pathlib import Path

from cllm import CllmError, extras

from .results import GUESTS, number

DRAW = Path(__file__).with_name("draw.py")


def ratios(rows, about):
    """Return a picture with a bar for each row that has a ratio. about: Bench.as_json()."""
    cores = "1 core" if about["smp"] == 1 else f"{about['smp']} cores"
    bars = []
    for row in rows:
        if ratio := row.ratio():
            least, most = row.ratio_spread()
            bars.append(
                {
                    "name": row.name,
                    "ratio": ratio,
                    "least": least,
                    "most": most,
                    "label": number(ratio),
                }
            )
    return {
        "kind": "ratios",
        "title": "cllm against llama-server in a Linux guest: how many times better",
        "subtitle": f"{about['model']}, {about['accel'].upper()}, {cores}, "
        f"{about['memory_mib']} MiB",
        "bars": bars,
    }


def lines(panels, about):
    """Return a picture with a panel for each of sweep.panels(). about: list of Bench.as_json()."""
    accel, rounds = about[0]["accel"].upper(), len(about[0]["rows"][0][GUESTS[0]])
    return {
        "kind": "lines",
        "title": "cllm and llama-server in a Linux guest",
        "subtitle": f"{accel}, kernels {about[0]['kernels']}; medians and ranges of {rounds} "
        "rounds; numbers: how many times better",
        "panels": [[_panel(*panel) for panel in line] for line in panels],
    }


def _panel(title, axis, points):
    """Return one panel. points: [(name on the x axis, Row)]."""
    return {
        "title": title,
        "axis": axis,
        "names": [str(name) for name, _ in points],
        "guests": {
            guest: [
                {
                    "median": row.median(guest),
                    "least": min(row.values[guest]),
                    "most": max(row.values[guest]),
                }
                for _, row in points
            ]
            for guest in GUESTS
        },
        "labels": [number(row.ratio()) if row.ratio() else "" for _, row in points],
    }


def draw(picture, path):
    """Write a picture to an .svg, .png or .pdf file. Raises CllmError where that fails."""
    extras.PLOTS.ensure()
    command = [extras.PLOTS.python, DRAW, path]
    drawn = subprocess.run(command, input=json.dumps(picture), capture_output=True, text=True)
    if drawn.returncode != 0:
        raise CllmError(f"cannot draw {path}: {drawn.stderr.strip().splitlines()[-1]}")
