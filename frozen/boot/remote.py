"""Models over HTTP, into memory that becomes a file of /boot: nothing is copied a second time."""
# SPDX-License-Identifier: MIT

import asyncio

import _x86
import disks
from httpd.download import Download, DownloadError
from micropython import const
from serve.scheduling.engine import NoModel

_BOOT = "/boot/"
_MIB = const(1 << 20)
_LONGEST_NAME = const(48)  # the kernel's are of 63 bytes at most


async def find_model(path, progress):
    """Return the path of a model in /boot, after reading it from a disk or a server if need be.

    path: of a file, or http://HOST/NAME[#sha256=HEX], or https:// with the hash. NoModel: why it
    cannot be had. progress(fraction): called meanwhile.
    """
    if not path.startswith("http://") and not path.startswith("https://"):
        return await disks.find_model(path, progress)
    url, _, sha256 = path.partition("#sha256=")
    name = _free_name(url)

    def take(size):
        free = _x86.memory()[1]
        if size + disks.RESERVE > free:
            raise DownloadError(
                "%s does not fit: it has %d MiB, %d MiB of memory are free, and %d MiB are for "
                "the rest" % (url, size // _MIB, free // _MIB, disks.RESERVE // _MIB)
            )
        print("cllm: downloading %s (%d MiB)" % (url, size // _MIB))
        try:
            return _x86.module(name, size)
        except OSError as exc:
            raise DownloadError(
                "%s does not fit: no %d MiB of memory in one piece: %s" % (url, size // _MIB, exc)
            )

    complete = False
    try:
        await Download(
            url,
            take,
            sha256 or None,
            b"GGUF",
            lambda done, total: progress(done / total),
            _connect,
        ).run()
        complete = True
    except DownloadError as exc:
        raise NoModel(str(exc))
    finally:
        if not complete:  # also when cancelled
            _x86.module_release(name)
    _x86.module_publish(name)
    return _BOOT + name


def discard(path):
    """Free the memory of a model that find_model() brought and that no engine has any more. Others,
    such as the loader's, stay.
    """
    if path.startswith(_BOOT):
        try:
            _x86.module_remove(path[len(_BOOT) :])
        except OSError:
            pass


async def _connect(host, port, secure):
    if not secure:
        return await asyncio.open_connection(host, port)
    import ssl  # only where it is needed

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE  # the file's hash is checked
    return await asyncio.open_connection(host, port, ssl=context, server_hostname=host)


def _free_name(url):
    # A name for /boot that no module has, after the last part of the URL.
    name = url.split("?")[0].rstrip("/").split("/")[-1][-_LONGEST_NAME:]
    name = "".join([c if c.isalpha() or c.isdigit() or c in "-._" else "_" for c in name])
    stem = name[:-5] if name.endswith(".gguf") else name
    taken = [module[0] for module in _x86.modules()]
    found = stem + ".gguf"
    n = 1
    while found in taken:
        n += 1
        found = "%s~%d.gguf" % (stem, n)
    return found
