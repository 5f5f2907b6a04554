"""Downloads one file over HTTP: resumes, waits when it is asked to, and checks what came.

A file that is not complete lies beside its place as NAME.incomplete, and the next try goes on where
it ends. It gets its name only when its size and its hash are right.
"""

import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from . import CllmError
from .progress import Progress

CHUNK = 1 << 20  # bytes
TRIES = 6  # in a row that bring no byte
LONGEST_WAIT = 120  # seconds for Retry-After; a server that wants more gets an error
TIMEOUT = 30  # seconds without a byte
MIB = 1 << 20
# RFC 9110, 15: what may be right a moment later.
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Again(Exception):
    """A try failed in a way that the next one may not; wait: seconds until then."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    magic: bytes = b"",
    headers: dict[str, str] | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download `url` to `path`, which is replaced; return `path`.

    sha256, size: what the file must have, if that is known. magic: its first bytes. headers: of
    the request; credentials among them go to the host of `url` only. title: the file's name for
    people. Raises CllmError with the reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".incomplete")
    with open(part, "ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CllmError(f"another cllm downloads {path.name} right now") from None
        work = _Download(url, file, path, sha256, size, magic, headers or {})
        work.run(progress or Progress(), title or path.name)
        os.fsync(file.fileno())
        os.replace(part, path)
    return path


def head(url: str, headers: dict[str, str] | None = None) -> tuple[int | None, str | None]:
    """Return (size, sha256) of what `url` names, as far as its server says. None for neither."""
    import httpx2

    try:
        answer = httpx2.head(url, headers=headers, follow_redirects=False, timeout=TIMEOUT)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None, None
    # The headers of Hugging Face's hub for files that lie elsewhere.
    digest = answer.headers.get("x-linked-etag", "").strip('"')
    size = answer.headers.get("x-linked-size", "")
    known = digest if len(digest) == 64 and not digest.strip("0123456789abcdef") else None
    return int(size) if size.isdecimal() else None, known


class _Download:
    """One file on its way. file: open for appending; the bytes in it are the first of the file."""

    def __init__(self, url, file, path, sha256, size, magic, headers):
        self.url = url
        self.file = file
        self.path = path
        self.sha256 = sha256
        self.size = size
        self.magic = magic
        self.headers = headers
        self.tag_file = path.with_name(path.name + ".etag")
        self.hash = hashlib.sha256()
        self.done = 0

    def run(self, progress: Progress, title: str) -> None:
        self._read_what_is_there()
        with progress.task(f"download {title}", self.size, self._look):
            failures = 0
            while True:
                before = self.done
                try:
                    self._try()
                    break
                except _Again as error:
                    failures = failures + 1 if self.done == before else 1
                    if failures >= TRIES:
                        raise CllmError(f"cannot download {self.url}: {error}") from None
                    time.sleep(error.wait or min(2 ** (failures - 1), 30))
        self._check()
        self.tag_file.unlink(missing_ok=True)

    def _look(self) -> tuple[float, str]:
        total = f" of {self.size / MIB:.0f}" if self.size else ""
        return self.done, f"{self.done / MIB:.0f}{total} MiB"

    def _read_what_is_there(self) -> None:
        self.file.seek(0)
        while data := self.file.read(CHUNK):
            self.hash.update(data)
            self.done += len(data)
        if self.size is not None and self.done > self.size:
            self._restart()

    def _restart(self) -> None:
        self.file.truncate(0)
        self.hash = hashlib.sha256()
        self.done = 0

    def _try(self) -> None:
        import httpx2

        if self.size is not None and self.done == self.size:
            return
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            # RFC 9110, 13.1.5: the rest of what the first part is of, or else all of it.
            if self.sha256 is None and (tag := self._tag()):
                headers["If-Range"] = tag
        try:
            with httpx2.stream(
                "GET", self.url, headers=headers, follow_redirects=True, timeout=TIMEOUT
            ) as answer:
                self._take(answer)
        except httpx2.InvalidURL as error:
            raise CllmError(f"{self.url} is no URL: {error}") from None
        except httpx2.UnsupportedProtocol:
            raise CllmError(f"{self.url}: the URL must begin with http:// or https://") from None
        except httpx2.TooManyRedirects:
            raise CllmError(f"cannot download {self.url}: it redirects in circles") from None
        except httpx2.HTTPError as error:
            words = str(error) or type(error).__name__
            raise _Again(words, 0) from None
        if self.size is not None and self.done < self.size:
            raise _Again(f"the connection ended after {self.done} of {self.size} bytes", 0)

    def _take(self, answer: Any) -> None:
        if answer.status_code == 416:
            # RFC 9110, 15.5.17: what is here is all of the file, or not of this file.
            if answer.headers.get("content-range") == f"bytes */{self.done}":
                return
            self._restart()
            raise _Again("the server has less than what is here", 0)
        _raise_for(answer, self.url)
        start = 0
        if answer.status_code == 206:
            start, total = _content_range(answer.headers.get("content-range", ""))
        else:
            length = answer.headers.get("content-length", "")
            total = int(length) if length.isdecimal() else None
        if start != self.done:  # the server sends all of it again, or another part
            self._restart()
            if start:
                raise _Again("the server sent another part than was asked for", 0)
        if self.size is None:
            self.size = total
        elif total is not None and total != self.size:
            self._restart()
            raise CllmError(f"{self.url} has {total} bytes instead of {self.size}")
        self._check_room()
        if tag := answer.headers.get("etag", ""):
            self.tag_file.write_text(tag)
        for data in answer.iter_raw():
            self.file.write(data)
            self.hash.update(data)
            self.done += len(data)

    def _tag(self) -> str:
        # RFC 9110, 13.1.5: a weak validator must not be sent.
        try:
            tag = self.tag_file.read_text()
        except OSError:
            return ""
        return "" if tag.startswith("W/") else tag

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if self.size is not None and self.size - self.done > free:
            raise CllmError(
                f"{self.path.name} has {self.size / MIB:.0f} MiB, and {self.path.parent} has room "
                f"for {free / MIB:.0f}: name another folder with HF_HOME or XDG_CACHE_HOME"
            )

    def _check(self) -> None:
        self.file.flush()
        self.file.seek(0)
        begins = self.file.read(len(self.magic))
        if begins != self.magic:
            self._restart()
            raise CllmError(
                f"{self.url} is no {self.magic.decode()} file: it begins with {begins!r}; is it "
                "a page about the file?"
            )
        found = self.hash.hexdigest()
        if self.sha256 is not None and found != self.sha256.lower():
            self._restart()
            self.tag_file.unlink(missing_ok=True)
            raise CllmError(
                f"{self.url} has the sha256 {found} and not {self.sha256}: the file was changed or "
                "damaged on its way, and is discarded"
            )


def _content_range(text: str) -> tuple[int, int | None]:
    # RFC 9110, 14.4: "bytes 5-9/10", or /* for a length that is not known.
    try:
        unit, rest = text.split()
        span, total = rest.split("/")
        start = int(span.split("-")[0])
        if unit == "bytes":
            return start, None if total == "*" else int(total)
    except ValueError:
        pass
    raise _Again(f"the server's Content-Range makes no sense: {text!r}", 0)


def _raise_for(answer: Any, url: str) -> None:
    """Raise for any status but 200 and 206."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status in TRANSIENT:
        wait = retry_after(answer.headers.get("retry-after"))
        if wait > LONGEST_WAIT:
            raise CllmError(f"{url}: the server asks to come back in {wait:.0f} s (HTTP {status})")
        raise _Again(f"HTTP {status}", wait)
    raise CllmError(f"{url}: {explained(status)}")


def retry_after(text: str | None) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), 0 for none."""
    if text is None:
        return 0
    if text.strip().isdecimal():
        return int(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0


def explained(status: int) -> str:
    """Return what a status says, for a person."""
    return {
        401: "it is not there, or needs a token: set HF_TOKEN (HTTP 401)",
        403: "the token may not read it; accept the model's terms in a browser first (HTTP 403)",
        404: "it is not there (HTTP 404)",
        410: "it is gone (HTTP 410)",
    }.get(status, f"HTTP {status}")
