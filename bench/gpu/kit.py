"""`make gpu-kit`: collect what `make gpu-check` needs in build/gpu-check, and as one file.

A machine with a card often has no compiler and no network, so everything is built here: gpud, the
programs of this folder, the pack of PTX, the image, small models, and QEMU with its libraries. The
file build/gpu-check.tar.gz has at most 64 MiB; unpack it there in build/, or carry the folder.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import gguf
from cllm import TOP, CllmError, build, cuda, fetch, gpud, qemu
from cllm.gpu_check import KIT
from cllm.lock import locks
from support import ggml_library, small_models, tiny_model

HERE = Path(__file__).resolve().parent
ARCHIVE = KIT.with_name(KIT.name + ".tar.gz")
MOST_BYTES = 64 << 20
# The client below the programs, and the way to a gpud that listens.
CLIENT = (*(f"ucuda/{name}" for name in ("ring", "heap", "calls", "copies", "ivshm")), "pci/pci")
SOCKET = ("socket", "waiting", "shared")
FIRMWARE = (
    "multiboot_dma.bin",
    "multiboot.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "bios-256k.bin",
)


def programs(libs: Path) -> None:
    """Compile the programs of this folder into the kit; libs: libs-gpu.txt."""
    objects = KIT.with_name("gpu-check-objects")
    objects.mkdir(exist_ok=True)
    native = TOP / "native"
    shared = []
    for name in CLIENT:
        shared.append(objects / f"{Path(name).name}.o")
        _run(build.TOOLS / "zig-cc", "-O2", "-c", native / f"{name}.c", "-o", shared[-1])
    llama = fetch.ensure(locks()["llama.cpp"])
    sources = [native / "gpud" / f"{name}.cpp" for name in SOCKET]
    includes = [f"-I{llama}", f"-I{llama / 'include'}", f"-I{llama / 'common'}"]
    includes += [f"-I{llama / 'ggml' / folder}" for folder in ("include", "src")]
    engine = ["-Wl,--start-group", *libs.read_text().split(), "-Wl,--end-group"]
    for name, more in (("client", []), ("tokens", engine), ("ops", engine)):
        _run(
            *(build.TOOLS / "zig-c++", "-static", "-std=c++17", "-O2", "-g0", "-fno-pic"),
            *("-no-pie", "-fno-sanitize=undefined", *includes, HERE / f"{name}.cpp", *sources),
            *(*shared, *more, "-o", KIT / f"gpu-{name}"),
        )


def _run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise CllmError(f"{words[0]} failed:\n{done.stderr[-2000:]}")


def emulator() -> None:
    """Copy QEMU, its libraries and its firmware, with a script that starts it from there."""
    folder = KIT / "qemu"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lib").mkdir(parents=True)
    program = Path(qemu.find_qemu()).resolve()
    shutil.copy(program, folder / "qemu")
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"(/\S+) \(0x", said):
        shutil.copy(path, folder / "lib")
    for place in ("/usr/share/qemu", "/usr/share/seabios"):
        for name in FIRMWARE:
            if (Path(place) / name).is_file():
                shutil.copy(Path(place) / name, folder)
    script = KIT / qemu.PROGRAM
    script.write_text(
        '#!/bin/sh\nhere=$(dirname -- "$(readlink -f -- "$0")")/qemu\n'
        'exec "$here"/lib/ld-linux-x86-64.so.2 --library-path "$here/lib" "$here/qemu" '
        '-L "$here" "$@"\n'
    )
    script.chmod(0o755)


def models() -> None:
    """Make the small models; the default model is linked, for checks on this machine."""
    tiny_model.make(KIT / "tiny-f32.gguf", exact=True)
    build.build_host_library()
    kind = gguf.GGMLQuantizationType.Q8_0
    small_models.make(KIT / "tiny-q8_0.gguf", "llama", kind, ggml_library.Ggml().quantize)
    default = KIT / "smollm2.gguf"
    default.unlink(missing_ok=True)
    default.symlink_to(fetch.default_model().resolve())


def archive() -> int:
    """Pack the kit without the default model; return the bytes."""
    with tarfile.open(ARCHIVE, "w:gz", compresslevel=6) as file:
        for path in sorted(KIT.rglob("*")):
            if not path.is_symlink() and path.is_file():
                file.add(path, f"{KIT.name}/{path.relative_to(KIT)}", recursive=False)
    return ARCHIVE.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu-kit", description=__doc__)
    parser.add_argument(
        "--architectures", type=int, nargs="+", default=[61], help="of the pack: 61 80 90"
    )
    parser.add_argument("--profile", choices=cuda.PROFILES, default="ci")
    words = parser.parse_args()
    try:
        KIT.mkdir(parents=True, exist_ok=True)
        (KIT / "unpacked").unlink(missing_ok=True)
        image = build.build_gpu_image(words.profile, words.architectures)
        for path in (image, cuda.PACK, gpud.build()):
            shutil.copy(path, KIT)
        programs(build.BUILD / "native" / "libs-gpu.txt")
        emulator()
        models()
        size = archive()
    except CllmError as error:
        print(f"gpu-kit: {error}", file=sys.stderr)
        return 1
    print(f"{ARCHIVE.relative_to(TOP)}: {size / (1 << 20):.1f} MiB")
    if size > MOST_BYTES:
        print(f"gpu-kit: more than {MOST_BYTES >> 20} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
