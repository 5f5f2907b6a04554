"""The flags of `cllm bench`."""

import argparse
import sys

from cllm import accel, config, qemu

from . import linux


def count(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def counts(text):
    return sorted({count(part) for part in text.split(",")})


def names(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def make_parser():
    parser = argparse.ArgumentParser(
        prog="cllm bench", description="Compare cllm with llama-server in a small Linux guest."
    )
    add = parser.add_argument
    add("--model", default=config.DEFAULT_MODEL, metavar="FILE.gguf", help="default: %(default)s")
    add("--rounds", type=count, metavar="N", help="of all rows (default 2, with KVM 3)")
    add(
        "--boots",
        type=count,
        metavar="N",
        help="of the rows of booting, at least (default as many as rounds)",
    )
    add("--streams", type=counts, default=[1, 4, 8], metavar="N,N", help="default 1,4,8")
    add("--slots", type=count, metavar="N", help="of both servers (default: one for each stream)")
    add(
        "--sweep",
        action="store_true",
        help="measure how both guests change with the size of the "
        "model, with cores and with streams, instead of one table; --json and --plot show that",
    )
    add("--smp", type=count, default=1, metavar="N", help="virtual CPUs (default 1)")
    add("--memory", type=count, metavar="MiB", help="default: room for twice the model, and 384")
    add("--accel", choices=config.ACCELS, default="auto", help="default auto: KVM where it works")
    add(
        "--kernels",
        choices=("exact", "tcg", "ggml"),
        default="exact",
        help="cllm's (default %(default)s)",
    )
    add(
        "--only",
        type=names,
        metavar="ROW,ROW",
        help="rows, or beginnings of their names (default: all)",
    )
    add("--skip", type=names, default=[], metavar="ROW,ROW")
    add("--tokens", type=float, default=1, metavar="X", help="X times as many tokens in all rows")
    add("--mib", type=count, default=32, metavar="N", help="bytes sent each way, in MiB")
    add("--n-ctx", type=count, default=2048, metavar="N", help="cells of KV cache (default 2048)")
    add("--config", metavar="FILE.json", help="for cllm, as of `cllm run`")
    add(
        "--linux-cpu",
        choices=linux.CPU,
        default="x86-64-v3",
        help="what llama-server is "
        "compiled for (default %(default)s, as upstream's own packages choose for such a CPU)",
    )
    add("--server-args", default="", metavar="WORDS", help="further flags for llama-server")
    add("--kernel", metavar="FILE.deb", help="Debian package to take the kernel from")
    add("--busybox", metavar="FILE.deb", help="Debian package to take busybox from")
    add("--json", metavar="FILE", help="all values, and what they were measured with")
    add("--plot", metavar="FILE.svg", help="draw the ratios, by matplotlib; installs it at first")
    add("--markdown", action="store_true", help="print the table in Markdown, as in docs/")
    return parser


def complete(options):
    """Fill in the options whose defaults depend on the accelerator."""
    options.accel, why = accel.choose(options.accel, qemu.find_qemu())
    print(f"{options.accel}: {why}", file=sys.stderr, flush=True)
    options.rounds = options.rounds or (3 if options.accel == "kvm" else 2)
    options.boots = options.boots or options.rounds
