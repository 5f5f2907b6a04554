"""`cllm bench --sweep`: how both guests depend on the model's size, on cores and on streams.

Each point is a benchmark of its own, with all its rounds. Points with many tokens use small models:
under emulation, one of 135 million parameters takes six seconds for a token.
"""

import argparse
import os
import re
from pathlib import Path

from cllm import build

from .results import GUESTS, Row

FOLDER = build.BUILD / "bench-models"
STREAMS = [1, 2, 4, 8, 16, 32]
ROWS = ["first-token", "prompt", "decode", "beyond"]
# (size, cores, streams); None: the model of --model. The first point is for the panels by streams,
# the second, with another number of cores, for those by cores.
POINTS = (("15M", 1, STREAMS), ("55M", 1, [1]), (None, 1, [1]), ("55M", 2, [1]))


def points(options, like):
    """Yield the benchmark's options for each point; makes the models that it needs.

    like: path of the model of --model.
    """
    for size, cores, streams in POINTS:
        if cores > len(os.sched_getaffinity(0)):
            continue
        changed = {
            "model": str(_model(size, like) if size else like),
            "smp": cores,
            "streams": streams,
            "only": ROWS,
            "slots": max(STREAMS),
        }
        yield argparse.Namespace(**{**vars(options), **changed})


def _model(size, like):
    path = FOLDER / f"random-{size}.gguf"
    if not path.is_file():
        from . import models  # NumPy and gguf take half a second to load

        FOLDER.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        models.make(fresh, like, size)
        fresh.replace(path)
    return path


def panels(found):
    """Return the panels of plot.lines() for a list of Bench.as_json() in the order of POINTS.

    One list for each line of panels: [(title, title of the x axis, [(x as text, Row), ...]), ...].
    """
    sizes = [_size(point["model"]) for point in found]
    rows = [_rows(point) for point in found]
    many, middle = 0, 1
    by_size = [i for i, point in enumerate(found) if point["smp"] == 1]
    by_cores = [i for i, size in enumerate(sizes) if size == sizes[middle]]

    def panel(key, title, axis, chosen, names):
        return title, axis, [(name, rows[i][key]) for i, name in zip(chosen, names)]

    first, prompt = (
        ("first-token", "power-on to first token, s"),
        ("prompt-1", "prompts, tokens/s"),
    )
    decode, beyond = ("decode-1", "decoding, tokens/s"), ("beyond", "beyond the model, MiB")
    axis, names = "parameters; 1 core, 1 stream", [sizes[i] for i in by_size]
    lines = [[panel(*what, axis, by_size, names) for what in (first, decode, beyond)]]
    axis, names = f"cores; {sizes[middle]}, 1 stream", [found[i]["smp"] for i in by_cores]
    lines.append([panel(*what, axis, by_cores, names) for what in (first, prompt, decode)])
    axis = f"streams; {sizes[many]}, 1 core"
    lines.append(
        [
            (title, axis, [(n, rows[many][f"{kind}-{n}"]) for n in found[many]["streams"]])
            for kind, title in (("prompt", prompt[1]), ("decode", decode[1]))
        ]
    )
    return lines


def _size(name):
    """Return the number of parameters in a model's name ("135M"), else the name."""
    found = re.search(r"\d+(\.\d+)?[MB](?![a-z])", name)
    return found.group() if found else Path(name).stem


def _rows(point):
    rows = {}
    for saved in point["rows"]:
        row = Row(saved["key"], saved["name"], saved["unit"], saved["better"] == "less")
        row.values = {guest: saved[guest] for guest in GUESTS}
        rows[row.key] = row
    return rows
