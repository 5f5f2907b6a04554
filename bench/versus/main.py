"""`cllm bench`: cllm and llama-server in a small Linux guest, in turn, in the same QEMU.

Both guests get the same accelerator, CPU model, cores, memory, network card and model, and both
servers as many slots and cells of KV cache. Each round boots one after the other and asks both the
same questions; the range over the rounds shows the machine's noise. cllm takes two turns: with
its own kernels and with ggml's.
"""

import json
import signal
import sys
from pathlib import Path

from cllm import CllmError, config, extras

from . import plot, sweep
from .bench import Bench
from .options import complete, make_parser
from .results import markdown, table
from .rows import chosen, rows


def run_once(options):
    """Measure, print and save one table.

    A run that fails half-way prints and saves what it has, because measuring takes long.
    """
    made = rows(options.streams)
    bench = Bench(options, made, chosen(made, options.only, options.skip))
    try:
        bench.run()
    finally:
        print(markdown(made) if options.markdown else table(made), flush=True)
        about = bench.as_json()
        save(options.json, about)
        if options.plot:
            plot.draw(plot.ratios(made, about), options.plot)


def run_sweep(options):
    """Measure all points of the sweep; print a table for each, and save and draw them together."""
    settings, _ = config.settings({"model": options.model}, options.config)
    done = []
    for point in sweep.points(options, Path(settings["model"])):
        made = rows(point.streams)
        bench = Bench(point, made, chosen(made, point.only, point.skip))
        bench.run()
        done.append(bench.as_json())
        print(f"\n{done[-1]['model']}, cores: {point.smp}", flush=True)
        print(markdown(made) if options.markdown else table(made), flush=True)
        save(options.json, done)
    if options.plot:
        plot.draw(plot.lines(sweep.panels(done), done), options.plot)


def save(file, values):
    if file:
        Path(file).write_text(json.dumps(values, indent=1) + "\n")


def main(arguments=None):
    options = make_parser().parse_args(arguments)
    try:
        complete(options)
        for file in filter(None, (options.json, options.plot)):
            if not Path(file).resolve().parent.is_dir():
                raise CllmError(f"cannot write {file}: there is no such folder")
        if options.plot:
            extras.PLOTS.ensure()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        (run_sweep if options.sweep else run_once)(options)
    except CllmError as error:
        print(f"cllm bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
