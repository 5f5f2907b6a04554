"""Fetch the vendored sources and the default model, verify them, unpack them.

The machine's own package tools download (apt for Debian's sources, pip for PyPI), so its mirrors,
proxies and certificates apply. Downloads stay in the user's cache, outside the tree; `src/` folders
are ignored by git and can be made again.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import CllmError, patches
from .lock import Lock, Package, locks, sha256_of
from .progress import Progress

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# apt's download user cannot write to this user's folder.
NO_SANDBOX = "APT::Sandbox::User=root"


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cllm"


def say(text: str) -> None:
    print(f"fetch: {text}", file=sys.stderr, flush=True)


def ensure(lock: Lock) -> Path:
    """Return the folder with the sources of `lock`; fetch and unpack them where they are not there.

    The environment variable that the lock names may give a checkout, which is used as it is.
    """
    checkout = lock.override and os.environ.get(lock.override)
    if checkout:
        folder = Path(checkout).resolve()
        if not folder.is_dir():
            raise CllmError(f"{lock.override}={checkout} is not a folder")
        _warn_of_patches(lock, folder)
        return folder
    if lock.unpacked.is_dir() and _read(lock.stamp) == lock.identity():
        return lock.unpacked
    package = package_file(lock)
    started = time.monotonic()
    _unpack(lock, package)
    say(f"unpacked {lock.file} into {lock.unpacked} in {time.monotonic() - started:.1f} s")
    return lock.unpacked


def _warn_of_patches(lock: Lock, folder: Path) -> None:
    """Print a warning where a checkout lacks this repository's patches; it is used all the same."""
    if not lock.patches or (state := patches.state(lock, folder)) == "patched":
        return
    names = " ".join(str(lock.folder / "patches" / name) for name in lock.patches)
    if state == "unpatched":
        say(
            f"{folder} lacks the patches in {lock.folder / 'patches'}: Python programs can end "
            f"the machine by what they fix. To apply them: cat {names} | patch -p1 -d {folder}"
        )
    else:
        say(f"{folder} is not {lock.name} {lock.version} with this repository's patches")


def ensure_all() -> None:
    for lock in locks().values():
        ensure(lock)


def default_model() -> Path:
    """Return the path of the locked default model; fetch it where it is not there."""
    lock = locks()["model"]
    return ensure(lock) / lock.model


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def package_file(lock: Package) -> Path:
    """Return the verified upstream package in the cache; download it where it is not there."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    package = cache / lock.file
    if not package.exists():
        # Into a temporary folder, so that a partial download never has the final name.
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as name:
            folder = Path(name)
            progress = Progress()
            title = f"download {lock.file}"
            debian = lock.origin.startswith("debian")
            # apt's lists, of unknown size, arrive in the same folder.
            size = 0 if debian else lock.size
            with progress.task(title, size or None, lambda: _arrived(folder, size)):
                (_from_debian if debian else _from_pypi)(lock, folder, progress)
                if not (folder / lock.file).exists():
                    raise CllmError(f"the download of {lock.name} brought no {lock.file}")
            os.replace(folder / lock.file, package)
    found = sha256_of(package)
    if found != lock.sha256:
        aside = package.with_name(package.name + ".bad")
        os.replace(package, aside)
        raise CllmError(
            f"{lock.file} is not the file that {lock.path} names:\n"
            f"  wanted sha256 {lock.sha256}\n"
            f"  found  sha256 {found}\n"
            f"It was moved to {aside}. Run the command again to download it anew; if the result "
            "is the same, what the mirror serves has changed: do not use it, and tell the "
            "maintainers."
        )
    return package


def _arrived(folder: Path, size: int) -> tuple[float, str]:
    """Return (bytes of a download in `folder`, text about it). size: of the whole, 0: unknown."""
    done = 0
    with contextlib.suppress(OSError):  # files come and go meanwhile
        done = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    of = f" of {size / 1e6:.1f}" if size else ""
    return done, f"{done / 1e6:.1f}{of} MB"


def _run(command: list[str], progress: Progress, **options: Any) -> bool:
    """Run a program and return whether it succeeded; show its output if it failed."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        progress.say(f"$ {shlex.join(command)}\n{done.stdout.rstrip()}")
    return done.returncode == 0


def _from_pypi(lock: Package, folder: Path, progress: Progress) -> None:
    """Download by pip, which also checks the hash, before it runs code of an sdist."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{lock.name}=={lock.version} --hash=sha256:{lock.sha256}\n")
    kind = ["--no-binary", lock.name] if lock.origin == "sdist" else ["--only-binary", ":all:"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--no-deps",
        *kind,
        "-d",
        str(folder),
        "-r",
        str(requirement),
    ]
    # pip collects a download in its folder for temporary files.
    if not _run(command, progress, env={**os.environ, "TMPDIR": str(folder)}):
        raise CllmError(
            f"pip could not download {lock.name} {lock.version}; its own words are above. When "
            f"it says that hashes do not match, what the index serves is not what {lock.path} "
            f"names: do not use it. When there is no network, put {lock.file} into "
            f"{cache_folder()} by hand." + _checkout_hint(lock)
        )


def _from_debian(lock: Package, folder: Path, progress: Progress) -> None:
    """Download a package of another Debian suite by a private apt configuration.

    It uses the machine's mirrors and archive key, and does not touch the machine's apt state, so it
    needs no root.
    """
    advice = (
        f" Or put {lock.file} (sha256 {lock.sha256}) into {cache_folder()} by hand."
        + _checkout_hint(lock)
    )
    if shutil.which("apt-get") is None or not Path(KEYRING).exists():
        raise CllmError(
            f"{lock.file} comes from Debian's archive, and this machine has no apt or no {KEYRING}"
            f" (Debian package debian-archive-keyring).{advice}"
        )
    own = private_apt(folder)

    def apt(*arguments: str) -> bool:
        return _run(["apt-get", *own, *arguments], progress, cwd=folder)

    binary = lock.origin == "debian-binary"
    command = ["source", "--download-only", "--only-source", lock.name]
    if binary:
        command = ["download", f"{lock.name}={lock.version}"]
        # The machine's own package lists may have it already.
        plain = ["-o", "APT::Sandbox::User=root"]
        if _quietly(["apt-get", *plain, *command], folder) and (folder / lock.file).exists():
            return
    mirrors = _mirrors([]) or (apt("update") and _mirrors(own))
    if not mirrors:
        raise CllmError(f"apt on this machine names no Debian mirror.{advice}")
    sources = folder / "sources.list"
    own += ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"]
    for mirror in mirrors:
        kind = "deb" if binary else "deb-src"
        sources.write_text(f"{kind} [signed-by={KEYRING}] {mirror} {lock.suite} main\n")
        if not apt("update"):
            continue
        if apt(*command):
            if (folder / lock.file).exists():
                return
            raise CllmError(f"{lock.suite} now has another version of {lock.name}.{advice}")
    raise CllmError(
        f"no mirror of this machine serves {lock.name} of Debian {lock.suite}; "
        f"apt's own words are above.{advice}"
    )


def private_apt(folder: Path) -> list[str]:
    """Return options with which apt keeps its package lists in `folder`, and needs no root."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    settings = (
        f"Dir::State::Lists={lists}",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        NO_SANDBOX,
    )
    return [word for setting in settings for word in ("-o", setting)]


def _quietly(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def _mirrors(options: list[str]) -> list[str]:
    """Return the archives of this machine's apt configuration, except security updates."""
    query = ["--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(
        ["apt-get", *options, "indextargets", *query], capture_output=True, text=True
    )
    return [uri for uri in dict.fromkeys(found.stdout.split()) if "security" not in uri]


def _checkout_hint(lock: Package) -> str:
    if not lock.override:
        return ""
    return f" Or set {lock.override} to a checkout of that version."


def _unpack(lock: Lock, package: Path) -> None:
    """Replace `src/` by the locked part of `package`; an interrupted run leaves no stamp."""
    lock.stamp.unlink(missing_ok=True)
    fresh = lock.folder / f".src-new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        if lock.origin == "wheel":
            with zipfile.ZipFile(package) as archive:
                archive.extractall(fresh)
        else:
            with tarfile.open(package) as archive:
                # Pythons before 3.11.4 have no filters; the hash vouches for the content.
                safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                archive.extractall(fresh, members=_below(archive, lock.member), **safe)
        if not any(fresh.iterdir()):
            raise CllmError(f"{package} holds nothing below {lock.member!r}")
        patches.apply(lock, fresh)
        _touch(fresh)
        shutil.rmtree(lock.unpacked, ignore_errors=True)
        os.replace(fresh, lock.unpacked)
        lock.stamp.write_text(lock.identity())
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise CllmError(f"cannot unpack {package}: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _touch(folder: Path) -> None:
    """Date all files now, so that make builds again what it built from an earlier `src/`."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path)


def _below(archive: tarfile.TarFile, folder: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members below `folder`, renamed to be relative to it, without git's own files."""
    prefix = folder + "/"
    for member in archive:
        if not member.name.startswith(prefix):
            continue
        path = member.name[len(prefix) :]
        if ".git" not in path.split("/"):
            member.name = path
            if member.islnk() and member.linkname.startswith(prefix):
                member.linkname = member.linkname[len(prefix) :]
            yield member
