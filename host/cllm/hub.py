"""Models by name: from Hugging Face's hub, a mirror of it, or any URL, in caches on this machine.

Files of the hub lie in its own cache, where huggingface-hub, llama-server (-hf) and others find
them too; HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there.
huggingface-hub asks the hub and knows the cache's layout; download.py brings the files, because
hf_hub_download() begins anew after each failure and compares no hash.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from . import CllmError, download, fetch

# What llama-server looks for where no quantisation is named (common/download.cpp), in this order.
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
# Parts of file names of what is no model by itself (gguf_filename_is_model() there).
OTHERS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
NAME = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")
TRIES = 4
MAGIC = b"GGUF"
Answer = TypeVar("Answer")


@dataclasses.dataclass
class Entry:
    """A model in a cache. name: what -hf or -mu takes; files: its paths; size: their bytes."""

    name: str
    files: list[Path]
    size: int
    modified: float


def shards_of(path: Path) -> list[Path]:
    """Return the files of the model of which `path` is one part; [path] for a whole one.

    Raises CllmError when one of them is not there.
    """
    match = SHARD.match(path.name)
    if not match:
        return [path]
    count = int(match[3])
    parts = [path.with_name(f"{match[1]}-{i:05}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CllmError(f"{path} is one of {count} files, and there is no {missing[0]} beside it")
    return parts


def choose(names: Iterable[str], quant: str | None) -> list[str]:
    """Return those of `names`, files of a repository, that make the model that llama-server takes.

    Raises CllmError if there is none of that quantisation, with those that are there.
    """
    names = [name for name in names if name.lower().endswith(".gguf")]
    models = [name for name in names if not any(o in name.rsplit("/", 1)[-1] for o in OTHERS)]
    firsts = [name for name in models if not (m := SHARD.match(name)) or int(m[2]) == 1]
    for wanted in (quant,) if quant else DEFAULT_QUANTS:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        for name in firsts:
            if pattern.search(name):
                return _parts(name, models)
    if not quant and firsts:
        return _parts(firsts[0], models)
    there = ", ".join(sorted({q for name in firsts if (q := quant_of(name))}))
    if not firsts:
        raise CllmError("there is no GGUF file in it")
    raise CllmError(f"it has no {quant}; it has " + (there or ", ".join(firsts)))


def quant_of(name: str) -> str:
    """Return the quantisation in a file's name, in capitals; "" for none."""
    match = QUANT.search(name)
    return match[1].upper() if match else ""


def _parts(name: str, names: list[str]) -> list[str]:
    match = SHARD.match(name)
    if not match:
        return [name]
    count = int(match[3])
    parts = [f"{match[1]}-{i:05}-of-{match[3]}.gguf" for i in range(1, count + 1)]
    missing = [part for part in parts if part not in names]
    if missing:
        raise CllmError(f"the model has {count} files, and {missing[0]} is not there")
    return parts


def pull(name: str, offline: bool = False) -> list[Path]:
    """Return the files of the model called `name`, after downloading what is not there.

    name: USER/REPO[:QUANT], or a URL. offline: take what is in the cache, and ask nobody. Raises
    CllmError with the reason.
    """
    if "://" in name:
        return _pull_url(name, offline)
    if not NAME.match(name):
        raise CllmError(f"{name} is no name of a model: USER/REPO, USER/REPO:QUANT or a URL")
    repo, _, quant = name.partition(":")
    from huggingface_hub import constants

    with _named(name):
        if offline or constants.HF_HUB_OFFLINE:
            return _cached(repo, quant or None)
        return _pull_repo(repo, quant or None)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except CllmError as error:
        raise CllmError(f"{name}: {error}") from None


def _pull_repo(repo: str, quant: str | None) -> list[Path]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import build_hf_headers

    info = _ask(lambda: HfApi(endpoint=constants.ENDPOINT).model_info(repo, files_metadata=True))
    known = {sibling.rfilename: sibling for sibling in info.siblings or []}
    chosen = choose(known, quant)
    folder = _repo_folder(repo)
    headers = build_hf_headers()
    files = []
    commit = info.sha or "main"
    for name in chosen:
        about = known[name]
        lfs = about.lfs
        blob = lfs.sha256 if lfs else about.blob_id
        if not blob or not re.fullmatch("[0-9a-f]{40,64}", blob):
            raise CllmError(f"the hub names no hash of {name}")
        _check_inside(name)
        place = folder / "blobs" / blob
        if not place.is_file():
            url = f"{constants.ENDPOINT}/{repo}/resolve/{commit}/{quote(name)}"
            download.fetch(
                url,
                place,
                sha256=lfs.sha256 if lfs else None,
                size=about.size,
                magic=MAGIC,
                headers=headers,
                title=name,
            )
        files.append(_link(place, folder / "snapshots" / commit / name))
    reference = folder / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return files


def _check_inside(name: str) -> None:
    # The hub names the files; none may lie outside of the snapshot.
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise CllmError(f"the hub names a file {name!r}, which is refused")


def _link(blob: Path, place: Path) -> Path:
    """Make `place` a relative link to `blob`, as huggingface-hub does; return `place`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return place


def _ask(question: Callable[[], Answer]) -> Answer:
    """Return what the hub answers; waits where it says so."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for turn in range(1, TRIES + 1):
        try:
            return question()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in download.TRANSIENT or turn == TRIES:
                raise CllmError(download.explained(status)) from None
            wait = download.retry_after(error.response.headers.get("retry-after"))
            if wait > download.LONGEST_WAIT:
                raise CllmError(f"the hub asks to come back in {wait:.0f} s") from None
        except (httpx2.HTTPError, OSError) as error:
            if turn == TRIES:
                words = str(error) or type(error).__name__
                raise CllmError(f"the hub does not answer: {words}; try --offline") from None
            wait = 0
        except ValueError as error:  # an answer of another shape
            raise CllmError(f"the hub's answer makes no sense: {error}") from None
        time.sleep(wait or turn)
    raise AssertionError


def _repo_folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / ("models--" + repo.replace("/", "--"))


def _snapshot(folder: Path) -> Path | None:
    """Return the snapshot that "main" names, or else the newest."""
    with contextlib.suppress(OSError):
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        if snapshot.is_dir():
            return snapshot
    found = sorted(folder.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _gguf_in(snapshot: Path) -> dict[str, Path]:
    """Return {name: path} of the GGUF files that are there whole."""
    return {
        str(path.relative_to(snapshot)): path
        for path in sorted(snapshot.rglob("*"))
        if path.suffix.lower() == ".gguf" and path.is_file()
    }


def _cached(repo: str, quant: str | None) -> list[Path]:
    snapshot = _snapshot(_repo_folder(repo))
    if snapshot is None:
        raise CllmError("it is not in the cache, and --offline was asked for")
    there = _gguf_in(snapshot)
    return [there[name] for name in choose(there, quant)]


def _url_folder() -> Path:
    return fetch.cache_folder() / "models"


def _pull_url(url: str, offline: bool) -> list[Path]:
    """Download the file, or the parts, at `url`; "#sha256=HEX" behind it names its hash."""
    url, _, fragment = url.partition("#")
    sha256 = None
    if fragment:
        key, _, sha256 = fragment.partition("=")
        if key != "sha256" or not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise CllmError(
                f"#{fragment} behind the URL: only #sha256= with 64 hex digits is known"
            )
    urls = [url]
    if match := SHARD.match(url):
        count = int(match[3])
        if sha256 and count > 1:
            raise CllmError(f"{url} is one of {count} files: one #sha256= cannot be that of all")
        urls = [f"{match[1]}-{i:05}-of-{match[3]}.gguf" for i in range(1, count + 1)]
    return [_pull_one(each, sha256, offline) for each in urls]


def _pull_one(url: str, sha256: str | None, offline: bool) -> Path:
    from huggingface_hub import constants, get_token

    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or "model.gguf"
    digest = hashlib.sha256(url.rsplit("/", 1)[0].encode()).hexdigest()[:12]
    place = _url_folder() / digest / name
    if place.is_file() and (sha256 is None or _has(place, sha256)):
        return place
    if offline or constants.HF_HUB_OFFLINE:
        raise CllmError(f"{url} is not in the cache, and --offline was asked for")
    headers = {}
    token = get_token()
    if token and url.startswith(constants.ENDPOINT + "/"):
        headers["Authorization"] = f"Bearer {token}"
    size, said = download.head(url, headers)
    download.fetch(url, place, sha256=sha256 or said, size=size, magic=MAGIC, headers=headers)
    (place.parent / (name + ".url")).write_text(url)
    return place


def _has(path: Path, sha256: str) -> bool:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(download.CHUNK):
            digest.update(data)
    return digest.hexdigest() == sha256.lower()


def entries() -> list[Entry]:
    """Return the models in the caches, by name."""
    from huggingface_hub import constants

    found = []
    for folder in Path(constants.HF_HUB_CACHE).expanduser().glob("models--*"):
        if (snapshot := _snapshot(folder)) is None:
            continue
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        there = _gguf_in(snapshot)
        for name in there:
            match = SHARD.match(name)
            if match and int(match[2]) != 1:
                continue
            with contextlib.suppress(CllmError):
                files = [there[part] for part in _parts(name, list(there))]
                quant = quant_of(name)
                found.append(_entry(f"{repo}:{quant}" if quant else repo, files))
    for note in _url_folder().glob("*/*.url"):
        file = note.with_suffix("")
        if file.is_file():
            found.append(_entry(note.read_text(), [file]))
    return sorted(found, key=lambda entry: entry.name)


def _entry(name: str, files: list[Path]) -> Entry:
    stats = [file.stat() for file in files]
    return Entry(name, files, sum(s.st_size for s in stats), max(s.st_mtime for s in stats))


def remove(pattern: str) -> tuple[list[str], int]:
    """Remove the models called `pattern` (USER/REPO, USER/REPO:QUANT, a URL; * and ? as in a
    shell) from the caches. Return (their names, bytes that are free now).

    Raises CllmError if there is none.
    """
    chosen = [
        entry
        for entry in entries()
        if fnmatch.fnmatch(entry.name, pattern)
        or ("://" not in entry.name and fnmatch.fnmatch(entry.name.split(":")[0], pattern))
    ]
    if not chosen:
        raise CllmError(f"there is no {pattern} in the caches; `cllm list` shows what is there")
    freed = 0
    for entry in chosen:
        for file in entry.files:
            blob = file.resolve()
            if blob.exists():
                freed += blob.stat().st_size
                blob.unlink()
            file.unlink(missing_ok=True)
            file.with_name(file.name + ".url").unlink(missing_ok=True)
            _sweep(file)
    return [entry.name for entry in chosen], freed


def _sweep(file: Path) -> None:
    """Remove what is empty now of a repository's folder."""
    for folder in file.parents:
        if folder.name.startswith("models--") or folder.parent.name == "models":
            rest = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "refs"]
            if not rest:
                shutil.rmtree(folder, ignore_errors=True)
            return
