"""A profile of the guest's processor, by function and by layer: boot, answers, or tokens.

    .venv/bin/python bench/sample.py boot|health|tokens [--model FILE.gguf] [--seconds 10]

It stops the guest through QEMU's monitor every few milliseconds and notes the current instruction,
so the image needs no change; `hlt` counts as idle. Shares are of the samples. A busy host takes
fewer samples, of the same mix.
"""

import argparse
import bisect
import collections
import re
import tempfile
import threading
import time
from pathlib import Path

from cllm import build, config, qemu, run, symbols
from elftools.elf.elffile import ELFFile
from support.qemu_monitor import Monitor
from versus import measure

REGISTERS = re.compile(r"[RE]IP=([0-9a-f]+).*?HLT=([01])", re.DOTALL)
PERIOD = 0.004  # seconds between samples
# A function belongs to the first layer whose pattern its name matches.
LAYERS = (
    ("idle", r"cpu_idle|clock_wait|sched_idle|idle"),
    (
        "kernels of ggml",
        r"ggml_(vec|compute|gemm|gemv|quantize|cpu)|quantize_row|dequantize|"
        r"tinyBLAS|llamafile|cllm_k|matmul|ggml_.*\.(avx|sse)",
    ),
    ("graph and backends of ggml", r"ggml|gguf"),
    ("llama.cpp", r"llama|llm_|unicode|common_|jinja|nlohmann|minja"),
    ("C++ library", r"std::|operator (new|delete)|__cxa|_Z"),
    (
        "C library",
        r"^(mem|str|mal|free|calloc|realloc|alloc|__libc|__mal|fread|fwrite|printf|"
        r"vfprintf|vfscanf|vsscanf|get_|qsort|expf?|logf?|powf?|sin|cos|tanh)",
    ),
    ("checksums and copies of the network", r"netbuf"),
    ("Python: garbage collector", r"^gc_"),
    (
        "Python: interpreter",
        r"^(mp_|vm_execute|py|str_|list_|dict_|fun_|obj_|int_|qstr|"
        r"bound_|gen_|map_|tuple_|array_|bytearray|json|struct|unpack|pack|poll|stream|m_|nlr|"
        r"method|closure|slice|set_|"
        r"task|frozen)",
    ),
    ("kernel", r"."),
)


def where(monitor):
    """Return the instruction pointer, and whether the processor waits in `hlt`."""
    # Only a stopped processor has left its translated code, and shows its registers as they are.
    monitor.command("stop")
    found = REGISTERS.search(monitor.human("info registers"))
    monitor.command("cont")
    assert found, "QEMU's text of registers is not as known"
    return int(found[1], 16), found[2] == "1"


class Names:
    """Functions of build/cllm.debug.elf by address."""

    def __init__(self):
        with open(build.DEBUG_IMAGE, "rb") as file:
            found, self._end = symbols.functions(symbols.symbols(ELFFile(file)))
        demangle = symbols.demangler()
        self._addresses = [address for address, _ in found]
        self._names = [demangle(name) for _, name in found]

    def at(self, address):
        if not self._addresses[0] <= address < self._end:
            return "(firmware, or native code of Python)"
        return self._names[bisect.bisect_right(self._addresses, address) - 1]


def layer(name):
    return next(title for title, pattern in LAYERS if re.search(pattern, name))


def work(what, guest, started, ended):
    """Do what is profiled, then set `ended`."""
    try:
        if what == "boot":
            measure.first_answer(guest.port, started, guest.ended, 600)
            measure.ready(guest.port, started, guest.ended, 600)
        elif what == "tokens":
            measure.Stream(guest.port, measure.prompt(1, 8), 10_000)
            ended.wait()
        else:
            while not ended.is_set():
                measure.request_rate(guest.port, True, 1)
    finally:
        ended.set()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("boot", "health", "tokens"))
    parser.add_argument("--model", default=config.DEFAULT_MODEL)
    parser.add_argument("--seconds", type=float, default=10, help="of health and tokens")
    parser.add_argument("--functions", type=int, default=25)
    parser.add_argument("--config", metavar="FILE.json")
    arguments = parser.parse_args()
    flags = {"model": arguments.model, "port": qemu.free_port(), "accel": "tcg"}
    settings, guest_settings = config.settings(flags, arguments.config)
    names, ended = Names(), threading.Event()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "monitor"
        guest = run.make_guest(settings, guest_settings, qmp=path)
        started = time.monotonic()
        guest.start()
        try:
            if arguments.what != "boot":
                measure.first_answer(guest.port, started, guest.ended, 600)
                measure.ready(guest.port, started, guest.ended, 600)
            threading.Thread(
                target=work, args=(arguments.what, guest, started, ended), daemon=True
            ).start()
            begin = time.monotonic()
            limit = float("inf") if arguments.what == "boot" else arguments.seconds
            with Monitor(path) as monitor:
                while not ended.is_set() and not guest.ended.is_set():
                    if time.monotonic() - begin > limit:
                        ended.set()
                    address, waits = where(monitor)
                    counts["(idle)" if waits else names.at(address)] += 1
                    time.sleep(PERIOD)
        finally:
            guest.stop()
    total = counts.total()
    layers: collections.Counter[str] = collections.Counter()
    for name, count in counts.items():
        layers[layer(name)] += count
    print(f"{total} samples in {time.monotonic() - begin:.1f} s")
    for title, count in layers.most_common():
        print(f"{100 * count / total:6.1f} %  {title}")
    print()
    for name, count in counts.most_common(arguments.functions):
        print(f"{100 * count / total:6.1f} %  {name[:110]}")


if __name__ == "__main__":
    main()
