"""The settings of a run: command line flags over a JSON file over defaults."""

import json
from pathlib import Path

from . import CllmError, fetch

DEFAULTS = {
    "model": None, "port": 8080, "smp": 1, "memory": None, "accel": "auto", "app": None,
    "serial": "stdio", "pcap": None, "draft": None, "on_crash": "exit", "kernels": "auto",
    "cpu_variant": "auto",
}
PATHS = ("model", "app", "serial", "pcap", "draft")
NUMBERS = {"port": (0, 65535), "smp": (1, 255), "memory": (32, 1 << 20)}
ACCELS = ("auto", "tcg", "kvm")
ON_CRASH = ("exit", "reboot")
KERNELS = ("auto", "exact", "ggml", "tcg")
# Builds of ggml's CPU code in the image (native/CMakeLists.txt).
CPU_VARIANTS = ("auto", "sse42", "avx2", "avx512", "avx512-vnni", "avx512-bf16")
CHOICES = {
    "accel": ACCELS, "on_crash": ON_CRASH, "kernels": KERNELS, "cpu_variant": CPU_VARIANTS,
}
# Handed to the guest as its boot module config.json. Those of the model go below "model" there.
GUEST = {
    "network": dict, "limits": dict, "keys": list, "cors": str, "access_log": bool,
    "watchdog": int,
}
GUEST_MODEL = {
    "n_ctx": int, "slots": int, "alias": str, "n_batch": int, "threads": int, "pooling": str,
    "speculate": bool,
}
DEFAULT_MODEL = "smollm2"  # in place of a file: the model of models/lock.json


def settings(flags, file=None):
    """Merge `flags` (None: not given) with the JSON file; returns (settings, guest's settings).

    Paths in the file are relative to the file's folder. Raises CllmError, naming file and line
    or key, for anything that is not as it must be.
    """
    merged, guest = dict(DEFAULTS), {}
    if file is not None:
        for key, value in _read(Path(file)).items():
            if key in DEFAULTS:
                merged[key] = _host_value(key, value, Path(file))
            elif key in GUEST:
                guest[key] = _typed(key, value, GUEST[key], file)
            elif key in GUEST_MODEL:
                value = _typed(key, value, GUEST_MODEL[key], file)
                guest.setdefault("model", {})[key] = value
            else:
                known = ", ".join([*DEFAULTS, *GUEST, *GUEST_MODEL])
                raise CllmError(f'{file}: unknown key "{key}"; known are {known}')
    merged.update((key, value) for key, value in flags.items() if value is not None)
    if merged["model"] == DEFAULT_MODEL:
        merged["model"] = str(fetch.default_model())
    return merged, guest


def _read(path):
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CllmError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CllmError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    if not isinstance(content, dict):
        raise CllmError(f"{path} must hold one JSON object")
    return content


def _host_value(key, value, file):
    if key in NUMBERS:
        low, high = NUMBERS[key]
        if type(value) is not int or not low <= value <= high:
            raise CllmError(f'{file}: "{key}" must be a whole number from {low} to {high}')
        return value
    value = _typed(key, value, str, file)
    if key in CHOICES and value not in CHOICES[key]:
        raise CllmError(f'{file}: "{key}" must be one of {", ".join(CHOICES[key])}')
    word = value in (DEFAULT_MODEL, "stdio", "pty")
    return str(file.parent / value) if key in PATHS and not word else value


def _typed(key, value, kind, file):
    # bool is an int for Python, but not for whoever wrote true.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = {
            dict: "an object", list: "an array", int: "a whole number", str: "a string",
            bool: "true or false",
        }[kind]
        raise CllmError(f'{file}: "{key}" must be {name}')
    return value
