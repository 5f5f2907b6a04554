"""Goodput of the TCP core over a simulated path of 100 ms, beside smoltcp's.

    .venv/bin/python tests/net/grid.py [--markdown] [--seeds 1]

As in smoltcp's `tests/netsim.rs`, 10 MiB go from one host to the other. Each frame of either
direction is lost with the same probability, bandwidth has no limit, and both ends have buffers of
one size. Time is simulated, so the figures are the same on every machine. YARDSTICK holds
smoltcp's own figures, without congestion control; ours are for Westwood+ (the default) and Reno.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

import support.on_cpython  # noqa: F401, makes the next ones importable

# isort: split
from net.tcp import congestion
from netsim import Simulator, Transfer, Wire

TOTAL = 10 << 20
LOSSES = (0.0, 0.01, 0.02, 0.05, 0.1)
BUFFERS = (32768, 65536, 262144, 1048576)
# Bytes/s of smoltcp's snapshot at 32 KiB, by loss.
YARDSTICK = {0.0: 322945, 0.01: 219670, 0.1: 37775}
ALGORITHMS = {"westwood": congestion.WESTWOOD, "reno": congestion.RENO}


def goodput(loss, size, algorithm="westwood", seed=1, total=TOTAL):
    """Return the bytes/s of one transfer, from the first SYN to the last byte read."""
    sim = Simulator(
        seed, Wire(delay=50, loss=loss), buffer_size=size, congestion=ALGORITHMS[algorithm]
    )
    start = sim.now
    client, server, _ = sim.connect(duration=400000)
    transfer = Transfer(client, server, total, chunk=8192)
    if not sim.run(10000000, lambda: transfer.pump() or transfer.received == total):
        raise AssertionError("the transfer does not end")
    return transfer.received * 1000 // (sim.now - start)


def _cell(arguments):
    return goodput(*arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="as in docs/network.md")
    parser.add_argument("--seeds", type=int, default=1, help="how many to average over")
    arguments = parser.parse_args()
    rows = [(a, size) for a in ALGORITHMS for size in BUFFERS]
    cells = [
        (loss, size, a, seed + 1)
        for a, size in rows
        for loss in LOSSES
        for seed in range(arguments.seeds)
    ]
    with ProcessPoolExecutor() as pool:
        results = iter(list(pool.map(_cell, cells)))
    separator = " | " if arguments.markdown else "  "
    edge = "|" if arguments.markdown else ""
    names = ["%9s" % ("%g %%" % (100 * loss)) for loss in LOSSES]
    print(edge + separator.join(["%-9s" % "control", "%9s" % "buffer", *names]) + edge)
    if arguments.markdown:
        print("|---|---:" + "|---:" * len(LOSSES) + "|")
    short = []
    for algorithm, size in rows:
        values = []
        for loss in LOSSES:
            values.append(sum(next(results) for _ in range(arguments.seeds)) // arguments.seeds)
            wanted = YARDSTICK.get(loss)
            if algorithm == "westwood" and size == 32768 and wanted and values[-1] < 0.9 * wanted:
                short.append("%g %%: %d of %d" % (100 * loss, values[-1], wanted))
        figures = ["%9d" % value for value in values]
        print(edge + separator.join(["%-9s" % algorithm, "%9d" % size, *figures]) + edge)
    figures = ["%9s" % YARDSTICK.get(loss, "") for loss in LOSSES]
    print(edge + separator.join(["%-9s" % "smoltcp", "%9d" % 32768, *figures]) + edge)
    if short:
        sys.exit("below 0.9 of smoltcp: " + "; ".join(short))


if __name__ == "__main__":
    main()
