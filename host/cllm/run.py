"""`cllm run`: boot the image, stay in the foreground, say when it serves, end it cleanly."""

import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

from . import CllmError, accel, config, console, health, memory, qemu, reclaim
from .build import DEBUG_IMAGE, IMAGE


def make_guest(settings, guest_settings=None, *, image=None, **options):
    """A qemu.Guest for the settings of config.settings(); `options` go to the Guest as they are.

    image: another kernel than build/cllm.elf.

    Raises CllmError when a file that the settings name is not there.
    """
    guest_settings = dict(guest_settings or {})
    modules = {}
    model = settings["model"] and Path(settings["model"])
    if model:
        if not model.is_file():
            raise CllmError(f"there is no model file {model}")
        modules["model.gguf"] = model
        # The guest sees the file as model.gguf; clients know the model by its real name.
        named = {"file": "model.gguf", "alias": model.stem}
        guest_settings["model"] = {**named, **guest_settings.get("model", {})}
    draft = settings.get("draft") and Path(settings["draft"])
    if draft:
        if not draft.is_file():
            raise CllmError(f"there is no model file {draft}")
        modules["draft.gguf"] = draft
        guest_settings["model"] = {**guest_settings.get("model", {}), "draft": "draft.gguf"}
    kernels = settings["kernels"]
    for key in ("kernels", "cpu_variant"):
        if settings[key] != "auto":
            named = {key: settings[key]}
            guest_settings["model"] = {**guest_settings.get("model", {}), **named}
    if guest_settings:
        modules["config.json"] = json.dumps(guest_settings).encode()
    if settings["app"]:
        modules["app.py"] = settings["app"]
    n_ctx = guest_settings.get("model", {}).get("n_ctx", memory.N_CTX)
    chosen, why = accel.choose(settings["accel"], qemu.find_qemu())
    if settings["accel"] == "auto":
        print(f"cllm: {chosen} ({why})", file=sys.stderr)
    return qemu.Guest(
        image or IMAGE,
        modules=modules,
        port=settings["port"] or qemu.free_port(),
        smp=settings["smp"],
        memory=settings["memory"]
        or sum(
            memory.needed(file, n_ctx, repacked=kernels == "tcg")
            for file in (model, draft) if file or file is model
        ),
        accel=chosen,
        pcap=settings["pcap"],
        on_crash=settings["on_crash"],
        **options,
    )


def run(settings, guest_settings, *, every_key=False, wait_for_debugger=False):
    """Boot and serve until a signal (returns 0) or the guest's end (raises CllmError)."""
    options = {}
    if wait_for_debugger:
        options = {"image": DEBUG_IMAGE, "gdb": qemu.free_port()}
    guest = make_guest(settings, guest_settings, **options)
    wake = threading.Event()
    asked = threading.Event()

    def ask_to_end(*_):
        asked.set()
        wake.set()

    # SIGINT too: a shell starts what it puts in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_end)
    output = console.Output()
    serial = _serial(settings["serial"], guest, output, every_key, ask_to_end)
    try:
        guest.start()
        serial.open()
        threading.Thread(target=_wake_at_end, args=(guest, wake), daemon=True).start()
        repacked = settings["kernels"] == "tcg"
        threading.Thread(target=_announce, args=(guest, output, repacked), daemon=True).start()
        if wait_for_debugger:
            output.line(shlex.join(debugger_command(guest.gdb)))
        wake.wait()
    finally:
        guest.stop()
        serial.close()
    if not asked.is_set():
        raise CllmError(guest.reason())
    return 0


def debugger_command(port):
    """Arguments of gdb, up to the first C code; the breakpoint is one in hardware, as memory is not
    loaded yet."""
    return ["gdb", os.path.relpath(DEBUG_IMAGE), "-ex", f"target remote 127.0.0.1:{port}",
            "-ex", "hbreak kernel_start", "-ex", "continue"]


def _serial(where, guest, output, every_key, leave):
    if where == "stdio":
        return console.Terminal(guest, output, every_key, leave if every_key else None)
    if where == "pty":
        pty = console.Pty(guest)
        output.line("serial line on " + pty.path)
        return pty
    return console.File(guest, where)


def _wake_at_end(guest, wake):
    guest.ended.wait()
    wake.set()


def _announce(guest, output, repacked):
    reason = health.wait_until_decided(guest.port, guest.ended)
    if reason is None:
        output.line(f"ready {guest.url}")
        if repacked:
            reclaim.give_back(guest)
    elif reason:
        output.line(f"serving {guest.url} without a model: {reason}")
