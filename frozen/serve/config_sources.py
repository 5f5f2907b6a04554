"""Configurations that are no files: QEMU's fw_cfg, and the kernel's command line."""
# SPDX-License-Identifier: MIT

import json

import machine
from micropython import const

from .config_keys import ConfigError

_PREFIX = "cllm."
# QEMU's docs/specs/fw_cfg.rst: the selector and data ports, and the keys of what is there.
_SELECT = const(0x510)
_DATA = const(0x511)
_SIGNATURE = const(0x0000)
_DIRECTORY = const(0x0019)
_ENTRY = const(64)  # bytes: size, key, reserved, name of 56
_MOST = const(65536)  # bytes of a configuration; entries of the directory are far fewer
_NAME = b"opt/cllm/config"


def of_command_line(line):
    """Return the configuration of the words "cllm.KEY=VALUE", in which KEY may have a section
    before a point. VALUE is JSON, or else a string. Raise ConfigError for members of no section.
    """
    found = {}
    for word in line.split():
        key, equals, text = word.partition("=")
        if not key.startswith(_PREFIX) or not equals:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        section, point, name = key[len(_PREFIX) :].partition(".")
        if point:
            members = found.setdefault(section, {})
            if not isinstance(members, dict):
                raise ConfigError((section,), "must be an object")
            members[name] = value
        else:
            found[section] = value
    return found


def _read(key, size):
    machine.outw(_SELECT, key)
    return bytes([machine.inb(_DATA) for _ in range(size)])


def of_fw_cfg():
    """Return the bytes of QEMU's `-fw_cfg name=opt/cllm/config`, b"" where there are none."""
    if not hasattr(machine, "inb") or _read(_SIGNATURE, 4) != b"QEMU":
        return b""
    count = int.from_bytes(_read(_DIRECTORY, 4), "big")
    machine.outw(_SELECT, _DIRECTORY)
    entries = bytes([machine.inb(_DATA) for _ in range(4 + _ENTRY * min(count, 256))])
    for at in range(4, len(entries), _ENTRY):
        if entries[at + 8 : at + _ENTRY].rstrip(b"\0") == _NAME:
            size = int.from_bytes(entries[at : at + 4], "big")
            return _read(int.from_bytes(entries[at + 4 : at + 6], "big"), min(size, _MOST))
    return b""
