"""`cllm image`: a disk image of the kernel, a model, a configuration and handlers."""

import json
import sys
from pathlib import Path
from typing import Any

from . import CllmError, bake, disk_image, gpt, memory
from .build import IMAGE, UNPACKED
from .run import program_file, readable_file

DEFAULT_OUTPUT = "cllm.img"
Settings = dict[str, Any]


def make(
    settings: Settings,
    guest_settings: Settings,
    *,
    output: str = DEFAULT_OUTPUT,
    baked: str | None = None,
    room: int = disk_image.ROOM,
    state: int = disk_image.STATE,
    kernel: Path | None = None,
) -> None:
    """Write the image and print what to do with it.

    settings, guest_settings: from config.settings(). baked: a model that becomes part of the
    kernel. room, state: MiB, see disk_image. kernel: another one than build/cllm.unpacked.elf.
    """
    path = Path(output)
    disk_image.check_format(path)
    kernel = kernel or IMAGE.with_suffix(UNPACKED)
    if not kernel.is_file():
        raise CllmError(f"there is no {kernel}: run `make build`")
    guest = _guest_settings(settings, guest_settings)
    files: dict[str, Path | bytes] = {}
    partitions: dict[str, Path] = {}
    needs = [memory.needed(None)]
    for key in ("model", "draft"):
        if settings.get(key):
            file = readable_file(settings[key], "model file")
            needs.append(_memory(file, settings, guest, embeds=key == "model"))
            size = file.stat().st_size
            needs.append(size >> 20)
            name = _place(key, file, guest)
            if size > disk_image.LOADED:
                partitions[name] = file
            else:
                files[f"models/{name}"] = file
    if settings["app"]:
        files["apps/app.py"] = program_file(settings["app"])
    if baked:
        guest["model"] = {"alias": Path(baked).stem, **guest.get("model", {})}
    files["cllm.json"] = (json.dumps(guest, indent=2) + "\n").encode()
    if baked:
        file = readable_file(baked, "model file")
        needs.append(_memory(file, settings, guest, embeds=True) + (file.stat().st_size >> 20))
        kernel = bake.ensure(kernel, file)
    lines = disk_image.make(
        path, disk_image.Content(kernel, files, partitions), room=room, state=state
    )
    print("\n".join([*lines, "", *_advice(path, sum(needs), bool(partitions))]), file=sys.stderr)
    print(path)


def bake_into(packed: Path, model: str) -> Path:
    """Return the path of an image with a model inside. packed: as build_image() returns it."""
    return bake.ensure(packed.with_suffix(UNPACKED), readable_file(model, "model file"))


def _guest_settings(settings: Settings, guest_settings: Settings) -> Settings:
    """Return the content of cllm.json, in the guest's form."""
    guest = dict(guest_settings)
    for key in ("kernels", "cpu_variant"):
        if settings[key] != "auto":
            guest["model"] = {**guest.get("model", {}), key: settings[key]}
    return guest


def _place(key: str, file: Path, guest: Settings) -> str:
    """Return a model's name on the disk; put into `guest` what the machine has to know of it."""
    model = guest.setdefault("model", {})
    if key == "draft":
        model["draft"] = "draft.gguf"
        return "draft.gguf"
    # The machine takes the one model that it finds, so that another may take its place.
    name = file.name.replace(" ", "_")
    if not name.endswith(".gguf") or not name.isascii() or len(name) > gpt.NAME:
        model.setdefault("alias", file.stem)
        name = "model.gguf"
    if not model:
        del guest["model"]
    return name


def _memory(file: Path, settings: Settings, guest: Settings, embeds: bool) -> int:
    """Return the MiB that a model takes beside its file; raises CllmError if it is refused."""
    model = guest.get("model", {})
    options = {
        "n_ctx": model.get("n_ctx", memory.N_CTX),
        "slots": model.get("slots", memory.SLOTS),
        "n_batch": model.get("n_batch", memory.N_BATCH),
        "repacked": settings["kernels"] == "tcg",
    }
    try:
        memory.check(file)
        return memory.needed(file, **options, embeds=embeds)
    except (memory.Refused, OSError) as error:
        raise CllmError(f"cannot serve {file}: {error}") from None


def _advice(path: Path, mib: int, has_partitions: bool) -> list[str]:
    """Return lines on what to do with an image."""
    mib = -(-mib // 64) * 64
    kind = disk_image.check_format(path)
    lines = [f"The machine needs {mib} MiB of memory and a 64-bit processor. Next:"]
    net = "-nic user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:8080-:80"
    qemu = f"qemu-system-x86_64 -M q35 -cpu max -m {mib} {net}"
    if kind == "raw":
        lines += [
            f"  cllm flash /dev/sdX -i {path}    writes it to a disk or stick (lsblk lists them)",
            f"  {qemu} -drive if=virtio,format=raw,file={path}",
        ]
    elif kind == "iso":
        lines += [f"  {qemu} -cdrom {path}"]
    else:
        lines += [f"  {qemu} -drive if=virtio,format={kind},file={path}"]
    lines += [
        "It boots by BIOS and by UEFI with Secure Boot off, and gets an address by DHCP; the "
        "screen shows",
        "it. http://cllm.local finds it where the network has multicast DNS.",
    ]
    if kind == "raw":
        lines.append(
            "To change its settings, open the volume CLLM on any computer: cllm.json, apps/, "
            "models/."
        )
    if has_partitions:
        lines.append(
            "The model is a partition, which the machine reads by its own driver: NVMe, SATA "
            "(AHCI) or virtio, no stick."
        )
    return [*lines, "docs/images.md has more."]
