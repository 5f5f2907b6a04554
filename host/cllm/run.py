"""`cllm run`: boots the image, stays in the foreground, reports when it serves, ends it cleanly."""

import json
import os
import shlex
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import (
    CllmError,
    accel,
    cards,
    config,
    console,
    disks,
    gpud,
    health,
    hub,
    memory,
    qemu,
    reclaim,
)
from .build import DEBUG_IMAGE, GPU_IMAGE, IMAGE, UNPACKED
from .cuda import PACK
from .machines import MACHINES

Settings = dict[str, Any]  # from config.settings()
MAX_PROGRAM = 1 << 20  # bytes of --app
RESTART_SECONDS = 2  # between two looks at gpud


def make_guest(
    settings: Settings,
    guest_settings: Settings | None = None,
    *,
    image: Path | None = None,
    packed: bool = True,
    scripted: bool = False,
    **options: Any,
) -> qemu.Guest:
    """Return a qemu.Guest for the settings of config.settings().

    image: another kernel than build/cllm.elf, or build/cllm-gpu.elf with a GPU. packed: False for
    the same before it was packed. scripted: programs will be typed at the REPL. options: further
    arguments of qemu.Guest.

    Raises CllmError when a file that the settings name is not there.
    """
    guest_settings = dict(guest_settings or {})
    modules: dict[str, Path | bytes] = {}
    model = settings["model"] and _file(settings["model"], "model file")
    if model:
        file = _add(modules, "model", model)
        # The guest sees the file as model.gguf; clients see the model's real name. On Linux a file
        # name may be bytes that are not UTF-8.
        match = hub.SHARD.match(model.name)
        alias = os.fsencode(match[1] if match else model.stem).decode("utf-8", "replace")
        named = {"file": file, "alias": alias}
        guest_settings["model"] = {**named, **guest_settings.get("model", {})}
    draft = settings.get("draft") and _file(settings["draft"], "model file")
    if draft:
        file = _add(modules, "draft", draft)
        guest_settings["model"] = {**guest_settings.get("model", {}), "draft": file}
    forwards = _tls(settings, guest_settings, modules)
    for key in ("kernels", "cpu_variant"):
        if settings[key] != "auto":
            named = {key: settings[key]}
            guest_settings["model"] = {**guest_settings.get("model", {}), **named}
    if guest_settings:
        modules["config.json"] = json.dumps(guest_settings).encode()
    if settings["app"]:
        modules["app.py"] = _program(settings["app"])
    chosen, why = accel.choose(settings["accel"], qemu.find_qemu())
    if settings["accel"] == "auto":
        print(f"cllm: {chosen} ({why})", file=sys.stderr)
    engine = _gpu_engine(settings.get("gpu", "off"))
    machine = MACHINES[settings.get("machine", "auto")]
    machine.check(settings["nic"], settings.get("disk", []), bool(engine))
    has_backend = engine and GPU_IMAGE.is_file() and PACK.is_file()
    chosen_image = GPU_IMAGE if has_backend else IMAGE
    guest = qemu.Guest(
        image or (chosen_image if packed else chosen_image.with_suffix(UNPACKED)),
        modules=modules,
        port=settings["port"] or qemu.free_port(),
        smp=settings["smp"] or cores(),
        memory=settings["memory"]
        or _memory(model, draft, guest_settings.get("model", {}), settings["kernels"] == "tcg")
        + disks.memory(settings.get("disk", []))
        + (0 if machine.has_pci else _loaded(model, draft)),
        accel=chosen,
        pcap=settings["pcap"],
        on_crash=settings["on_crash"],
        nic=settings["nic"],
        forwards=forwards,
        disks=settings.get("disk", []),
        machine=settings.get("machine", "auto"),
        **options,
    )
    if engine:
        if model and not has_backend:
            print(
                "cllm: the model computes on the processor: `cllm build --gpu` makes the image "
                "that uses a GPU",
                file=sys.stderr,
            )
        mib, pack = settings["gpu_memory"], PACK if has_backend else None
        # Where there are programs: handlers, or a REPL that is there for more than a look.
        takes_ptx = scripted or bool(settings["app"]) or not model
        guest.gpu = _daemon(guest, engine, mib, pack, takes_ptx)
    return guest


def _tls(
    settings: Settings, guest_settings: Settings, modules: dict[str, Path | bytes]
) -> dict[int, int]:
    """Fill in the guest's section "tls", whose files become boot modules; return {host's port:
    guest's port}.

    Both ports are the same, so that the guest can name it to clients on its plain port.
    """
    tls = dict(guest_settings.get("tls") or {})
    if settings.get("tls"):
        certificate, comma, key = settings["tls"].partition(",")
        if not (certificate and comma and key):
            raise CllmError("--tls takes two files, CERT.pem,KEY.pem: `cllm cert new` makes them")
        tls.update(cert=certificate, key=key)
    if not tls:
        return {}
    for name, what in (("cert", "certificate"), ("key", "key of the certificate")):
        modules[f"{name}.pem"] = _file(tls[name], what)
        tls[name] = f"{name}.pem"
    tls["port"] = settings["tls_port"] or qemu.free_port()
    guest_settings["tls"] = tls
    return {tls["port"]: tls["port"]}


def _loaded(*files: Path | None) -> int:
    """Return the MiB that files take which are loaded, not mapped: see qemu.Guest.mapped()."""
    return sum((file.stat().st_size >> 20) + 1 for file in files if file)


def _gpu_engine(choice: str) -> str | None:
    """Return gpud's engine for --gpu, None for no GPU; raises CllmError when it cannot be had."""
    if choice in ("off", "ptx"):
        return None if choice == "off" else choice
    reason = cards.reason_for_none()
    if reason is None:
        return "cuda"
    if choice == "auto":
        print(f"cllm: no GPU ({reason})", file=sys.stderr)
        return None
    raise CllmError(
        f"--gpu cuda: {reason}; install NVIDIA's driver, or take --gpu ptx, an interpreter for "
        "tests"
    )


def _daemon(
    guest: qemu.Guest, engine: str, mib: int | None, pack: Path | None, takes_ptx: bool
) -> gpud.Daemon:
    """Return a gpud.Daemon for one guest, which starts and ends it.

    takes_ptx: programs in the guest may send it PTX of their own. The image's kernels need no such
    right, because they are in the pack.
    """
    return gpud.Daemon(
        engine=engine,
        memory=mib or (1024 if engine == "ptx" else memory.LARGEST),
        pack=pack,
        upload=takes_ptx,
        ram=[(guest.share_memory(), *part) for part in guest.parts_of_memory()],
        files=[
            (Path(guest.modules[name]).resolve(), start, size // qemu.PAGE * qemu.PAGE, 0)
            for name, start, size in guest.mapped()
        ],
        program=gpud.build(),
    )


def _add(modules: dict[str, Path | bytes], name: str, model: Path) -> str:
    """Add a model's files to the boot modules; return the name of its first in the guest."""
    parts = hub.shards_of(model)
    names = [f"{name}.gguf"]
    if len(parts) > 1:
        names = [f"{name}-{i:05}-of-{len(parts):05}.gguf" for i in range(1, len(parts) + 1)]
    modules.update(zip(names, parts))
    return names[0]


def _file(name: str, what: str) -> Path:
    """Return the Path of a file that can be read; raises CllmError with the reason otherwise."""
    path = Path(name)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb"):
                return path
    except FileNotFoundError:
        raise CllmError(f"there is no {what} {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no system call takes
        reason = getattr(error, "strerror", None) or error
        raise CllmError(f"cannot read the {what} {path}: {reason}") from None
    kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
    raise CllmError(f"{path} is {kind}: name a {what}")


def _program(name: str) -> Path:
    """Return the Path of a file of handlers; CllmError for one that the guest cannot compile."""
    path = _file(name, "file of handlers")
    size = path.stat().st_size
    if size > MAX_PROGRAM:
        raise CllmError(
            f"{path} has {size} bytes, and a file of handlers may have {MAX_PROGRAM}: keep data "
            "out of it"
        )
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CllmError(f"{path}, line {line}: not UTF-8; save it in that encoding") from None
    return path


def _memory(model: Path | None, draft: Path | None, settings: Settings, repacked: bool) -> int:
    """Return the MiB of memory for the models; raises CllmError if this host has less.

    settings: the guest's "model".
    """
    options = {
        "n_ctx": settings.get("n_ctx", memory.N_CTX),
        "slots": settings.get("slots", memory.SLOTS),
        "n_batch": settings.get("n_batch", memory.N_BATCH),
        "repacked": repacked,
    }
    size = 0
    try:
        for file, embeds in ((model, True), (draft, False)):
            if file:
                memory.check(file)
            if file or embeds:
                size += memory.needed(file, **options, embeds=embeds)
    except (memory.Refused, OSError) as error:
        raise CllmError(f"cannot serve {file}: {error}") from None
    if size > memory.of_host():
        raise CllmError(
            f"{model or 'the guest'} needs {size} MiB of memory with \"n_ctx\" "
            f"{options['n_ctx']}, and this host has {memory.of_host()}: set a smaller \"n_ctx\" "
            "with --config, or name the memory with --memory"
        )
    return size


def cores() -> int:
    """Return how many processors this process may use: more virtual ones than that only wait."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        # cgroup v2, as containers have it: "max 100000" or microseconds in a period.
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, min(int(count), config.NUMBERS["smp"][1]))


def hurry(settings: Settings) -> Settings:
    """Return the settings of `cllm run`: emulated, with the kernels that are fast there.

    make_guest() itself keeps the default of the image, so that tests and benchmarks compare what
    is exact.
    """
    if settings["kernels"] != "auto" or settings["cpu_variant"] not in ("auto", "avx2"):
        return settings
    if settings["gpu"] != "off" or not settings["model"]:
        return settings
    chosen, why = accel.choose(settings["accel"], qemu.find_qemu())
    if settings["accel"] == "auto":
        print(f"cllm: {chosen} ({why})", file=sys.stderr)
    if chosen != "tcg":
        return {**settings, "accel": chosen}
    print(
        "cllm: kernels tcg, for speed: they round otherwise than llama.cpp's; --kernels exact "
        "computes to the last bit, in four times the time",
        file=sys.stderr,
    )
    return {**settings, "accel": chosen, "kernels": "tcg"}


def run(
    settings: Settings,
    guest_settings: Settings,
    *,
    every_key: bool = False,
    wait_for_debugger: bool = False,
) -> int:
    """Boot and serve until a signal (return 0) or the guest's end (raise CllmError)."""
    # The packed image takes half a second to unpack itself, all else until the first answer less.
    options: dict[str, Any] = {"packed": False}
    if wait_for_debugger:
        options = {"image": DEBUG_IMAGE, "gdb": qemu.free_port()}
    settings = hurry(settings)
    guest = make_guest(settings, guest_settings, scripted=every_key, **options)
    wake = threading.Event()
    asked = threading.Event()

    def ask_to_end(*_: object) -> None:
        asked.set()
        wake.set()

    # SIGINT, too, because a shell starts background programs with SIGINT ignored.
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
        if guest.gpu:
            threading.Thread(target=_mind_gpud, args=(guest, output), daemon=True).start()
        if wait_for_debugger:
            output.line(shlex.join(debugger_command(options["gdb"])))
        wake.wait()
    finally:
        guest.stop()
        serial.close()
    if not asked.is_set():
        raise CllmError(guest.reason())
    return 0


def _mind_gpud(guest: qemu.Guest, output: console.Output) -> None:
    """Start gpud again whenever it ends: the guest may then reset its GPU and go on."""
    daemon = guest.gpu
    assert isinstance(daemon, gpud.Daemon)
    while not guest.ended.wait(RESTART_SECONDS):
        if not daemon.is_running():
            output.line(f"gpud has ended, starting it again: {_last_line(daemon.log())}")
            try:
                daemon.start()
            except CllmError as error:
                output.line(f"{error}; the guest goes on without a GPU")
                return


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it wrote nothing"])[-1]


def debugger_command(port: int) -> list[str]:
    """Return gdb's command line, which runs up to the first C code.

    It takes a hardware breakpoint, because the image is not in memory yet.
    """
    return [
        "gdb",
        os.path.relpath(DEBUG_IMAGE),
        "-ex",
        f"target remote 127.0.0.1:{port}",
        "-ex",
        "hbreak kernel_start",
        "-ex",
        "continue",
    ]


def _serial(
    where: str,
    guest: qemu.Guest,
    output: console.Output,
    every_key: bool,
    leave: Callable[[], None],
) -> console.Terminal | console.Pty | console.File:
    if where == "stdio":
        return console.Terminal(guest, output, every_key, leave if every_key else None)
    if where == "pty":
        pty = console.Pty(guest)
        output.line("serial line on " + pty.path)
        return pty
    return console.File(guest, where)


def _wake_at_end(guest: qemu.Guest, wake: threading.Event) -> None:
    guest.ended.wait()
    wake.set()


def _secure(guest: qemu.Guest) -> str:
    return "".join(f" and https://127.0.0.1:{port}" for port in guest.forwards)


def _announce(guest: qemu.Guest, output: console.Output, repacked: bool) -> None:
    reason = health.wait_until_decided(guest.port, guest.ended)
    if reason is None:
        output.line(f"ready {guest.url}{_secure(guest)}")
        if repacked:
            reclaim.give_back(guest)
    elif reason:
        output.line(f"serving {guest.url} without a model: {reason}")
