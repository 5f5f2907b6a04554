"""The settings of a run: command line flags over a JSON file over defaults."""

import json
import math
import re
from pathlib import Path
from typing import Any

from . import CllmError, disks, fetch, hub, machines, memory, qemu
from .guest_keys import keys

DEFAULTS: dict[str, Any] = {
    "model": None,
    "port": 8080,
    "smp": None,
    "memory": None,
    "accel": "auto",
    "app": None,
    "serial": "stdio",
    "pcap": None,
    "draft": None,
    "offline": False,
    "on_crash": "exit",
    "kernels": "auto",
    "cpu_variant": "auto",
    "nic": "auto",
    "machine": "auto",
    "disk": [],
    "gpu": "off",
    "gpu_memory": None,
    "tls_port": 8443,
}
# Flags that no file has: the section "tls" holds both paths.
FLAGS = ("tls",)
PATHS = ("model", "app", "serial", "pcap", "draft")
NUMBERS = {
    "port": (0, 65535),
    "smp": (1, 255),
    "memory": (40, memory.LARGEST),
    "gpu_memory": (1, memory.LARGEST),
    "tls_port": (0, 65535),
}
ACCELS = ("auto", "tcg", "kvm")
ON_CRASH = ("exit", "reboot")
KERNELS = keys.MODEL["kernels"].choices
CPU_VARIANTS = keys.MODEL["cpu_variant"].choices
NICS = tuple(qemu.CARDS)
GPUS = ("off", "auto", "cuda", "ptx")
CHOICES = {
    "accel": ACCELS,
    "on_crash": ON_CRASH,
    "kernels": KERNELS,
    "cpu_variant": CPU_VARIANTS,
    "nic": NICS,
    "machine": machines.NAMES,
    "gpu": GPUS,
}
HOST = {
    **{key: keys.Integer(*bounds) for key, bounds in NUMBERS.items()},
    **{key: keys.Choice(*words) for key, words in CHOICES.items()},
    **dict.fromkeys(PATHS, keys.Text()),
    "offline": keys.Flag(False),
    "disk": keys.Texts(),
}
# The guest's settings, which it gets as the boot module config.json: sections, and keys beside
# them. A file has the keys of the model at the top level, the guest below "model". "port" is the
# host's.
GUEST_SECTIONS = ("network", "limits", "tls")
GUEST = {key: kind for key, kind in keys.SERVER.items() if key not in NUMBERS}
GUEST_MODEL = {
    key: kind for key, kind in keys.MODEL.items() if key != "file" and key not in DEFAULTS
}
DEFAULT_MODEL = "smollm2"  # instead of a file name: the model of models/lock.json
HUB = "hf:"  # before USER/REPO[:QUANT], instead of a file name


def read(file=None):
    """Return (settings, guest's settings) of a JSON file over defaults. Downloads nothing.

    Raises CllmError, with the line and the key, for a mistake in the file.
    """
    merged, guest = dict(DEFAULTS), {}
    if file is not None:
        guest = _from_file(Path(file), merged)
    return merged, guest


def settings(flags, file=None):
    """Merge `flags` (None: not given) with the JSON file. Return (settings, guest's settings).

    Paths in the file are relative to the file's folder. Models that the settings name are
    downloaded where need be. Raises CllmError as read().
    """
    merged, guest = read(file)
    merged.update((key, value) for key, value in flags.items() if value is not None)
    for key in PATHS:
        if merged[key] == "":
            raise CllmError(f'"{key}" is empty: name a file, or leave it out')
    for key in ("model", "draft"):
        merged[key] = model_file(merged[key], merged["offline"])
    try:
        merged["disk"] = [disks.parse(text) for text in merged["disk"]]
        for disk in merged["disk"]:
            disk.check()
    except ValueError as error:
        raise CllmError(f"disk: {error}") from None
    return merged, guest


def model_file(name: str | None, offline: bool = False) -> str | None:
    """Return the path of the model that a setting names, after downloading it where need be.

    name: a file, DEFAULT_MODEL, HUB and a name of the hub, or a URL. Raises CllmError.
    """
    if name == DEFAULT_MODEL:
        return str(fetch.default_model())
    if name is not None and _is_remote(name):
        return str(hub.pull(name.removeprefix(HUB), offline)[0])
    return name


def _is_remote(name):
    return name.startswith(HUB) or "://" in name


def _from_file(file, merged):
    # Put the host's settings of the file into `merged`; return the guest's.
    content, text = _read(file)
    guest, model = {}, {}
    try:
        for key, value in content.items():
            if value is None or key == "$schema":
                continue  # null stands for the default; the schema is for editors
            if key in DEFAULTS:
                merged[key] = _host_value(key, value, file.parent)
            elif key in GUEST_SECTIONS:
                keys.check_section(key, value)
                guest[key] = _beside(file, value) if key == "tls" else value
            elif key in GUEST:
                keys.check_value((key,), GUEST[key], value)
                guest[key] = value
            elif key in GUEST_MODEL:
                keys.check_value((key,), GUEST_MODEL[key], value)
                if key == "lora":
                    value = [str(file.parent / name) for name in value]
                model[key] = value
            else:
                raise keys.unknown((key,), [*DEFAULTS, *GUEST_SECTIONS, *GUEST, *GUEST_MODEL])
        keys.check_batch(model)
        keys.check_url(model)
        keys.check_tls(guest.get("tls"))
    except keys.ConfigError as error:
        raise CllmError(f"{file}, line {_line_of(text, error.path)}: {error}") from None
    if model:
        guest["model"] = model
    return guest


def _beside(file, tls):
    # Paths in the section "tls" are the host's, too, relative to the file's folder.
    paths = {key: str(file.parent / tls[key]) for key in ("cert", "key") if tls.get(key)}
    return {**tls, **paths}


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:]')


def _line_of(text, path):
    """Return the line in JSON text of the key with the names `path`, outermost first; else 1."""
    names: list[str | None] = []
    key = None
    tokens = list(_TOKENS.finditer(text))
    for token, following in zip(tokens, tokens[1:]):
        if token[0] in "{[":
            names.append(key)
        elif token[0] in "}]":
            names.pop()
        elif following[0] == ":" and token[0] != ":":
            key = json.loads(token[0])
            if (*names[1:], key) == path:
                return text.count("\n", 0, token.start()) + 1
    return 1


def _read(path):
    try:
        # RFC 8259, 8.1: a byte order mark may be ignored.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CllmError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, or a path with a zero byte
        raise CllmError(f"cannot read {path}: {error}; it must be JSON in UTF-8") from None
    try:
        content = json.loads(
            text,
            object_pairs_hook=_members,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_float,
        )
    except json.JSONDecodeError as error:
        raise CllmError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise CllmError(f"{path}: nested too deeply; no setting needs that") from None
    except ValueError as error:
        raise CllmError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise CllmError(f"{path} must hold one JSON object")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CllmError(
            f"{path}: half of a surrogate pair, like \\ud800, cannot be text"
        ) from None
    return content, text


def _members(pairs):
    # RFC 8259, 4: the meaning of a duplicate name is undefined.
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{twice}" is there twice; leave one of them')
    return members


def _int(text):
    if len(text) > 100:  # from 4300 digits on, int() would explain its own limit
        raise ValueError(f"a number of {len(text)} digits is larger than any setting")
    return int(text)


def _float(text):
    # NaN and Infinity are not JSON, and 1e999 becomes infinite.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that JSON can hold")
    return value


def _host_value(key, value, folder):
    keys.check_value((key,), HOST[key], value)
    if key == "disk":
        return [str(folder / name) for name in value]
    word = value in (DEFAULT_MODEL, "stdio", "pty")
    word = word or (key in ("model", "draft") and _is_remote(value))
    return str(folder / value) if key in PATHS and not word else value
