"""The other guest: Debian's kernel, busybox, and llama.cpp's own server, all static, in one
initramfs; the model is its disk.

It is built from packages that this machine's apt fetches and verifies, and from the llama.cpp tree
and compiler of the image. It is as quick as such a guest can be: no udev, no DHCP, no warm-up, and
only the drivers that it needs.
"""

import gzip
import hashlib
import json
import lzma
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from cllm import TOP, CllmError, build, fetch, qemu
from cllm.lock import locks, sha256_of
from cllm.steps import Steps

from . import cpio

HERE = TOP / "bench" / "linux"
FOLDER = build.BUILD / "linux"
# By the network card, of qemu.CARDS; only what that guest needs is loaded.
DRIVERS = {
    "virtio": ("virtio_pci", "virtio_blk", "virtio_net"),
    "e1000": ("virtio_pci", "virtio_blk", "e1000"),
}
# Where Debian's kernel package keeps these drivers and what they need.
FOLDERS = (
    "drivers/virtio",
    "drivers/block",
    "net/ethernet/intel/e1000",
    "drivers/net",
    "net/core",
)
# Warm-up only delays the first token; there is no device to fit the model into.
SERVER = "--no-warmup -fit off --no-ui"
# No messages and, as cllm has none, no mitigations; QEMU ends with the server.
COMMAND_LINE = "console=ttyS0 quiet mitigations=off random.trust_cpu=on panic=-1"
CPU = {"x86-64-v3": ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2"), "x86-64-v2": ("SSE42",)}
EXTENSIONS = CPU["x86-64-v3"]


class LinuxGuest(qemu.Guest):
    """The guest that prepare() built, on the same machine as a qemu.Guest.

    made: what prepare() returned. model: path of a file, which becomes the disk. options: of Guest.
    """

    def __init__(self, made, *, model, smp, **options):
        super().__init__(made["kernel"], smp=smp, **options)
        self._initramfs = made["initramfs"]
        self._model = Path(model).resolve()

    def boot_arguments(self):
        disk = str(self._model).replace(",", ",,")
        return [
            "-machine",
            "pc",
            "-m",
            f"{self.memory}M",
            "-kernel",
            str(self.image),
            "-initrd",
            str(self._initramfs),
            "-append",
            f"{COMMAND_LINE} threads={self.smp} nic={self.nic}",
            "-no-reboot",
            "-drive",
            f"if=none,id=model,format=raw,readonly=on,file={disk}",
            "-device",
            "virtio-blk-pci,drive=model",
        ]


def prepare(arguments, cpu="x86-64-v3", kernel=None, busybox=None, say=print):
    """Build what is not there; return {"kernel", "initramfs": paths, "versions": {...}}.

    arguments: for llama-server, beside SERVER. cpu: a key of CPU. kernel, busybox: paths of Debian
    packages to use instead of those that apt finds. say: a function that prints a line.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    packages = {"kernel": kernel, "busybox": busybox}
    lock = json.loads((HERE / "lock.json").read_text())
    for name, given in packages.items():
        packages[name] = Path(given) if given else _package(lock[name], say)
        if not packages[name].is_file():
            raise CllmError(f"there is no package {packages[name]}")
    server = _server(cpu)
    stream = FOLDER / "stream"
    Steps(FOLDER).run(
        "stream", [build.TOOLS / "zig-cc", "-O2", "-static", "-s", "-o", stream, HERE / "stream.c"]
    )
    kernel_image, modules, orders = _kernel_parts(packages["kernel"])
    (image,) = _members(packages["busybox"], lambda path: path.endswith("bin/busybox")).values()
    initramfs = FOLDER / "initramfs.gz"
    content = _root(
        image,
        modules,
        orders,
        {
            "bin/llama-server": server.read_bytes(),
            "bin/stream": stream.read_bytes(),
            "init": (HERE / "init").read_bytes(),
        },
        f"{SERVER} {arguments}\n",
    )
    initramfs.write_bytes(gzip.compress(content, 9, mtime=0))
    path = FOLDER / "vmlinuz"
    path.write_bytes(kernel_image)
    return {
        "kernel": path,
        "initramfs": initramfs,
        "versions": {name: package.name for name, package in packages.items()},
    }


def _root(busybox, modules, orders, programs, arguments):
    """Return the root file system as a cpio archive; orders: {card: names of modules}."""
    entries = [cpio.folder(name) for name in ("bin", "dev", "proc", "sys", "modules")]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.file("bin/busybox", busybox, 0o755))
    for name in ("sh", "mount", "insmod", "ifconfig", "cat"):
        entries.append(cpio.link(f"bin/{name}", "busybox"))
    for name, content in modules.items():
        entries.append(cpio.file(f"modules/{name}", content))
    for card, order in orders.items():
        lines = "".join(f"{name}\n" for name in order)
        entries.append(cpio.file(f"modules/order.{card}", lines.encode()))
    for path, content in programs.items():
        entries.append(cpio.file(path, content, 0o755))
    entries.append(cpio.file("server-arguments", arguments.encode()))
    return cpio.archive(entries)


def _server(cpu):
    """Build llama-server for musl with upstream's own CMake files; return its path.

    It takes as long as the image, so the program stays in the cache of downloads, under a name made
    from the hashes of its sources, compiler and options.
    """
    folder = FOLDER / cpu
    program = folder / "bin" / "llama-server"
    wanted = CPU[cpu]
    options = [f"-DGGML_{name}={'ON' if name in wanted else 'OFF'}" for name in EXTENSIONS]
    off = (
        "BUILD_SHARED_LIBS",
        "GGML_NATIVE",
        "GGML_OPENMP",
        "LLAMA_OPENSSL",
        "LLAMA_BUILD_UI",
        "LLAMA_USE_PREBUILT_UI",
        "LLAMA_BUILD_TESTS",
        "LLAMA_BUILD_EXAMPLES",
        "LLAMA_BUILD_APP",
        "LLAMA_ALL_WARNINGS",
    )
    options += [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_EXE_LINKER_FLAGS=-static -s",
        *(f"-D{name}=OFF" for name in off),
    ]
    lock = locks()["llama.cpp"]
    parts = [lock.identity(), version("ziglang"), *options]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    kept = fetch.cache_folder() / f"llama-server-{cpu}-{name}"
    changing = lock.override in os.environ  # a checkout: only ninja can say what has changed
    if kept.is_file() and not changing:
        return kept
    with build.alone():
        source = fetch.ensure(lock)
        build.write_tools()
    with build.alone(FOLDER):
        build.cmake(
            Steps(FOLDER),
            source,
            folder,
            "llama.cpp/zig-musl.cmake",
            *options,
            target="llama-server",
        )
    if changing:
        return program
    fresh = kept.with_name(f"{kept.name}.{os.getpid()}")
    shutil.copy(program, fresh)
    os.replace(fresh, kept)
    return kept


# Packages.


def _package(locked, say):
    """Return the locked package, from the cache or apt; its newest version if that is gone."""
    cache = fetch.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    for path in cache.glob(f"{locked['package']}_*.deb"):
        if sha256_of(path) == locked["sha256"]:
            return path
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        path = _download(locked, Path(folder), say)
        kept = cache / path.name
        os.replace(path, kept)
    if sha256_of(kept) != locked["sha256"]:
        say(f"bench: {kept.name} is another version than {HERE / 'lock.json'} names")
    return kept


def _download(locked, folder, say):
    if shutil.which("apt-get") is None:
        raise CllmError(
            "the Linux guest is made of Debian packages, and this machine has no apt: fetch "
            f"{locked['package']} elsewhere and name the file with --kernel or --busybox"
        )
    # First with the machine's package lists, then with lists of our own, which need no root.
    private = fetch.private_apt(folder)
    for options in (["-o", fetch.NO_SANDBOX], private):
        if options is private:
            _apt("apt-get", ["update"], options, folder, say)
        for name in (f"{locked['package']}={locked['version']}", None):
            name = name or _newest(locked["newest"], options, folder, say)
            if name and _apt("apt-get", ["download", name], options, folder, say) is not None:
                (path,) = folder.glob("*.deb")
                return path
    raise CllmError(
        f"apt on this machine finds neither {locked['package']} nor {locked['newest']} (its own "
        "words are above): name package files with --kernel and --busybox"
    )


def _newest(package, options, folder, say):
    """Return the name of the newest package; for the kernel, what its metapackage depends on."""
    if not package.startswith("linux-image"):
        return package
    shown = _apt("apt-cache", ["show", "--no-all-versions", package], options, folder, say)
    for line in (shown or "").splitlines():
        if line.startswith("Depends:"):
            words = line.replace(",", " ").split()
            return next((word for word in words if word.startswith("linux-image-")), None)
    return None


def _apt(program, arguments, options, folder, say):
    """Return what the program printed, or None when it failed."""
    say(f"bench: $ {program} {shlex.join(arguments)}")
    ended = subprocess.run(
        [program, *options, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    return ended.stdout if ended.returncode == 0 else None


def _members(package, wanted):
    """Return {path: content} of the files in a Debian package for whose path `wanted` is true."""
    found = {}
    try:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
        ) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    if member.isfile() and wanted(path):
                        file = archive.extractfile(member)
                        found[path] = file.read() if file else b""
    except FileNotFoundError:
        raise CllmError("dpkg-deb is missing: install the Debian package dpkg") from None
    except tarfile.TarError as error:
        raise CllmError(f"{package} is no Debian package: {error}") from None
    return found


def _kernel_parts(package):
    """Return (the kernel, {file name: content} of all drivers, {card: file names in order})."""

    def wanted(path):
        folder = path.rpartition("/")[0]
        return path.startswith("boot/vmlinuz-") or (".ko" in path and folder.endswith(FOLDERS))

    files = _members(package, wanted)
    kernels = [content for path, content in files.items() if path.startswith("boot/vmlinuz-")]
    if len(kernels) != 1:
        raise CllmError(f"{package} holds no kernel (boot/vmlinuz-*)")
    modules = {}
    for path, content in files.items():
        name = path.rsplit("/", 1)[-1]
        if name.endswith(".ko.xz"):
            name, content = name[:-3], lzma.decompress(content)
        if name.endswith(".ko"):
            modules[name] = content
    orders = {card: list(in_order(modules, names)) for card, names in DRIVERS.items()}
    needed = {name: modules[name] for order in orders.values() for name in order}
    return kernels[0], needed, orders


def in_order(modules, names):
    """Return the modules that `names` need, each after those that it depends on.

    modules: {file name: content}. A name that is not among them is built into the kernel.
    """
    ordered = {}

    def add(name):
        file = f"{name}.ko"
        if file in modules and file not in ordered:
            for needed in depends(modules[file]):
                add(needed)
            ordered[file] = modules[file]

    for name in names:
        add(name)
    return ordered


def depends(module):
    """Return the names of the modules that a module depends on, from its section .modinfo."""
    start = module.find(b"\0depends=")
    if start < 0:
        return []
    value = module[start + 9 : module.index(b"\0", start + 9)].decode()
    return [name.replace("-", "_") for name in value.split(",") if name]
