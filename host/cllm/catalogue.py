"""The commands pull, list, show and rm: the models on this machine, and what they take."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import CllmError, config, hub, memory

MIB = 1 << 20
# llama_ftype in llama.h: what general.file_type says of most of the tensors.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip


def add_commands(commands: Any) -> None:
    """Add the parsers of these commands to the `cllm` command's."""
    named = "USER/REPO[:QUANT] of Hugging Face's hub, or a URL"
    pull = commands.add_parser("pull", help="download a model, or the rest of it")
    pull.add_argument("name", metavar="MODEL", help=named)
    listed = commands.add_parser("list", help="list the models in the caches")
    listed.add_argument("-q", "--quiet", action="store_true", help="names only")
    show = commands.add_parser("show", help="what a model is, and what memory it takes")
    show.add_argument("name", metavar="MODEL", help=f"a file, {config.DEFAULT_MODEL}, {named}")
    show.add_argument("--n-ctx", type=int, default=memory.N_CTX, help="cells of the KV cache")
    remove = commands.add_parser("rm", help="remove models from the caches")
    remove.add_argument("name", metavar="MODEL", nargs="+", help=f"{named}; * and ? match any")


def pull(arguments: argparse.Namespace) -> int:
    for file in hub.pull(arguments.name.removeprefix(config.HUB)):
        print(file)
    return 0


def list_models(arguments: argparse.Namespace) -> int:
    entries = hub.entries()
    if arguments.quiet:
        for entry in entries:
            print(entry.name)
        return 0
    if not entries:
        print("no models here yet: `cllm pull USER/REPO` brings one", file=sys.stderr)
    width = max([len(entry.name) for entry in entries], default=0)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.size / MIB:8.0f} MiB  {len(entry.files)} file(s)")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print what a model is. Return 1 if this machine cannot serve it."""
    name = arguments.name
    if not os.path.exists(name) and ("://" in name or hub.NAME.match(name)):
        name = config.HUB + name if "://" not in name else name
        name = config.model_file(name, offline=True)
    else:
        name = config.model_file(name)
    path = Path(name or "")
    if not path.is_file():
        raise CllmError(f"there is no file {name}")
    try:
        memory.check(path)
        metadata = memory.read_metadata(path)
    except (ValueError, OSError) as error:
        raise CllmError(f"cannot read {path}: {error}") from None
    for label, value in described(path, metadata):
        print(f"{label:14} {value}")
    try:
        need = memory.needed(path, arguments.n_ctx)
    except memory.Refused as error:
        raise CllmError(f"cannot serve {path}: {error}") from None
    good, words = verdict(path, need, arguments.n_ctx)
    print(f"{'memory':14} {words}")
    return 0 if good else 1


def described(path: Path, metadata: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of what a person wants to know of a model."""
    arch = str(metadata.get("general.architecture"))
    about = {
        "file": str(path),
        "name": metadata.get("general.name"),
        "architecture": arch,
        "size": metadata.get("general.size_label"),
        "type": FILE_TYPES.get(metadata.get("general.file_type", -1)),
        "context": metadata.get(f"{arch}.context_length"),
        "layers": metadata.get(f"{arch}.block_count"),
        "licence": metadata.get("general.license"),
        "chat template": "yes" if metadata.get("tokenizer.chat_template") else "no",
    }
    size = f"{memory.size_of(path) / MIB:.0f} MiB"
    parts = len(hub.shards_of(path))
    about["bytes"] = size + (f" in {parts} files" if parts > 1 else "")
    return [(label, str(value)) for label, value in about.items() if value is not None]


def verdict(path: Path, need: int, n_ctx: int) -> tuple[bool, str]:
    """Return whether this host can serve the model, and why. need: MiB of the guest's memory."""
    size = memory.size_of(path) // MIB
    host = memory.of_host()
    numbers = (
        f"{need} MiB for the guest with n_ctx {n_ctx}, {size} MiB for the file; this host has "
        f"{host} MiB"
    )
    if need > host:
        return False, f"{numbers}: it does not fit"
    if need + size > host:
        return True, f"{numbers}: it runs, and reads the file again and again"
    return True, f"{numbers}: it fits"


def remove(arguments: argparse.Namespace) -> int:
    for name in arguments.name:
        names, freed = hub.remove(name.removeprefix(config.HUB))
        print("\n".join(names))
        print(f"cllm: {freed / MIB:.0f} MiB freed", file=sys.stderr)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "pull": pull,
    "list": list_models,
    "show": show,
    "rm": remove,
}
