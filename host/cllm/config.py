"""The settings of a run: command line flags over a JSON file over defaults."""

import json
import math
from pathlib import Path

from . import CllmError, fetch, memory

DEFAULTS = {
    "model": None, "port": 8080, "smp": 1, "memory": None, "accel": "auto", "app": None,
    "serial": "stdio", "pcap": None, "draft": None, "on_crash": "exit", "kernels": "auto",
    "cpu_variant": "auto",
}
PATHS = ("model", "app", "serial", "pcap", "draft")
NUMBERS = {"port": (0, 65535), "smp": (1, 255), "memory": (32, memory.LARGEST)}
ACCELS = ("auto", "tcg", "kvm")
ON_CRASH = ("exit", "reboot")
KERNELS = ("auto", "exact", "ggml", "tcg")
# Builds of ggml's CPU code in the image (native/CMakeLists.txt).
CPU_VARIANTS = ("auto", "sse42", "avx2", "avx512", "avx512-vnni", "avx512-bf16")
CHOICES = {
    "accel": ACCELS, "on_crash": ON_CRASH, "kernels": KERNELS, "cpu_variant": CPU_VARIANTS,
}
# These go to the guest in its boot module config.json, those of the model below "model".
GUEST = {
    "network": dict, "limits": dict, "keys": list, "cors": str, "access_log": bool,
    "watchdog": int,
}
GUEST_MODEL = {
    "n_ctx": int, "slots": int, "alias": str, "n_batch": int, "threads": int, "pooling": str,
    "speculate": bool,
}
# Ranges that the guest accepts (frozen/serve/main.py), checked here for a message in the terminal.
GUEST_NUMBERS = {
    "n_ctx": (1, 1 << 20), "slots": (1, 252), "n_batch": (1, 4096), "threads": (1, 256),
    "watchdog": (0, 86400),
}
POOLING = ("model", "mean", "cls", "last")
DEFAULT_MODEL = "smollm2"  # in place of a file: the model of models/lock.json


def settings(flags, file=None):
    """Merge `flags` (None: not given) with the JSON file; return (settings, guest's settings).

    Paths in the file are relative to the file's folder. Raises CllmError, which names the file and
    the line or key, for anything that is not allowed.
    """
    merged, guest = dict(DEFAULTS), {}
    if file is not None:
        for key, value in _read(Path(file)).items():
            if key in DEFAULTS:
                merged[key] = _host_value(key, value, Path(file))
            elif key in GUEST:
                guest[key] = _guest_value(key, value, GUEST[key], file)
            elif key in GUEST_MODEL:
                value = _guest_value(key, value, GUEST_MODEL[key], file)
                guest.setdefault("model", {})[key] = value
            else:
                known = ", ".join([*DEFAULTS, *GUEST, *GUEST_MODEL])
                raise CllmError(f'{file}: unknown key "{key[:64]}"; known are {known}')
        _check_batch(guest.get("model", {}), file)
    merged.update((key, value) for key, value in flags.items() if value is not None)
    for key in PATHS:
        if merged[key] == "":
            raise CllmError(f'"{key}" is empty: name a file, or leave it out')
    if merged["model"] == DEFAULT_MODEL:
        merged["model"] = str(fetch.default_model())
    return merged, guest


def _check_batch(model, file):
    # A batch holds a token of each stream and at least one of a prompt.
    slots, n_batch = model.get("slots", memory.SLOTS), model.get("n_batch", memory.N_BATCH)
    if slots >= n_batch:
        raise CllmError(
            f'{file}: "slots" ({slots}) must be less than "n_batch" ({n_batch}): set "n_batch", too'
        )


def _read(path):
    try:
        # A byte order mark is not refused: RFC 8259, 8.1.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CllmError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, or a path with a zero byte
        raise CllmError(f"cannot read {path}: {error}; it must be JSON in UTF-8") from None
    try:
        content = json.loads(
            text, object_pairs_hook=_members, parse_int=_int, parse_float=_float,
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
        raise CllmError(f"{path}: half of a surrogate pair, like \\ud800, cannot be text") from None
    return content


def _members(pairs):
    # RFC 8259, 4: the meaning of a name that comes twice is not defined.
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{twice}" is there twice; leave one of them')
    return members


def _int(text):
    if len(text) > 100:  # int() refuses thousands of digits, and says how to raise its limit
        raise ValueError(f"a number of {len(text)} digits is larger than any setting")
    return int(text)


def _float(text):
    # NaN and Infinity are no JSON; 1e999 is, but becomes infinity.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that JSON can hold")
    return value


def _host_value(key, value, file):
    if key in NUMBERS:
        return _number(key, value, NUMBERS[key], file)
    value = _typed(key, value, str, file)
    if key in CHOICES and value not in CHOICES[key]:
        raise CllmError(f'{file}: "{key}" must be one of {", ".join(CHOICES[key])}')
    word = value in (DEFAULT_MODEL, "stdio", "pty")
    return str(file.parent / value) if key in PATHS and not word else value


def _guest_value(key, value, kind, file):
    value = _typed(key, value, kind, file)
    if key in GUEST_NUMBERS:
        return _number(key, value, GUEST_NUMBERS[key], file)
    if key == "pooling" and value not in POOLING:
        raise CllmError(f'{file}: "{key}" must be one of {", ".join(POOLING)}')
    if key == "keys" and not all(isinstance(item, str) and item for item in value):
        raise CllmError(f'{file}: "{key}" must hold strings that are not empty')
    return value


def _number(key, value, bounds, file):
    low, high = bounds
    if type(value) is not int or not low <= value <= high:
        raise CllmError(f'{file}: "{key}" must be a whole number from {low} to {high}')
    return value


def _typed(key, value, kind, file):
    # In Python a bool is an int; in JSON `true` is no number.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = {
            dict: "an object", list: "an array", int: "a whole number", str: "a string",
            bool: "true or false",
        }[kind]
        raise CllmError(f'{file}: "{key}" must be {name}')
    return value
