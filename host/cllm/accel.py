"""Choice between KVM and emulation: a /dev/kvm that exists may still be useless.

Some hosts offer a KVM that emulates ring 0 instruction by instruction; a kernel on it prints its
banner and then crawls. So "auto" chooses KVM only where a module for the CPU's own virtualisation
is loaded and a tiny guest that counts ends in time.
"""

import os
import struct
import subprocess
import tempfile
from pathlib import Path

from . import CllmError

DEVICE = "/dev/kvm"
MODULES = Path("/sys/module")
PROBE_SECONDS = 5
PROBE_STATUS = 0x21  # what isa-debug-exit makes of the 0x10 that the probe writes


def choose(
    wanted: str, qemu: str, device: str = DEVICE, modules: Path = MODULES
) -> tuple[str, str]:
    """Return ("kvm" or "tcg", why) for `wanted`, one of "auto", "tcg" and "kvm".

    Only "auto" probes. For "kvm", raises CllmError where the device cannot be opened.
    """
    if wanted == "tcg":
        return "tcg", "asked for"
    if not os.access(device, os.R_OK | os.W_OK):
        why = f"{device} is not there or not this user's to open"
        if wanted == "kvm":
            raise CllmError(why)
        return "tcg", why
    if wanted == "kvm":
        return "kvm", "asked for"
    if not any((modules / name).exists() for name in ("kvm_intel", "kvm_amd")):
        return "tcg", "the host's KVM is neither kvm_intel nor kvm_amd"
    if not probe(qemu):
        return "tcg", "a probe guest under KVM did not end in time"
    return "kvm", "a probe guest under KVM ended in time"


def arguments(accel: str, cpu: str | None = None) -> list[str]:
    """Return QEMU's options for "kvm" or "tcg". cpu: QEMU's name of one (default: the best)."""
    if accel == "kvm":
        # QEMU 7.2 fails on some hosts when it tries to pass this feature through.
        return ["-accel", "kvm", "-cpu", cpu or "host,arch-capabilities=off"]
    return ["-accel", "tcg,thread=multi", "-cpu", cpu or "max"]


def probe_image() -> bytes:
    """Return a Multiboot kernel (a.out kludge) that counts to 20 million and ends QEMU.

    Layout: Multiboot Specification 0.6.96, section 3.1.2 and 3.1.3.
    """
    base, magic, flags = 0x100000, 0x1BADB002, 1 << 16
    code = bytes.fromhex(
        "b9 00 2d 31 01"  # mov ecx, 20000000
        "49"  # dec ecx
        "75 fd"  # jnz back to dec
        "b0 10 e6 f4"  # mov al, 0x10; out 0xf4, al
        "f4 eb fd"  # hlt; jmp back to hlt
    )
    size = 32 + len(code)
    checksum = -(magic + flags) & 0xFFFFFFFF
    header = struct.pack(
        "<8I", magic, flags, checksum, base, base, base + size, base + size, base + 32
    )
    return header + code


def probe(qemu: str, accel: str = "kvm") -> bool:
    """Return whether the probe guest ends in time under `accel`."""
    with tempfile.NamedTemporaryFile(prefix="cllm-probe-") as image:
        image.write(probe_image())
        image.flush()
        command = [
            qemu,
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "pc",
            "-m",
            "32",
            "-display",
            "none",
            "-no-reboot",
            *arguments(accel),
            "-kernel",
            image.name,
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS)
        except (subprocess.TimeoutExpired, OSError):
            return False
        return ended.returncode == PROBE_STATUS
