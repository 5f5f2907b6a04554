"""Run a compiler, or take what it made of the same input before from the user's cache.

    python compile.py --cache DIR --identity TEXT --root NAME=PATH ... [--input FILE ...]
                      --depfile FILE --output FILE -- COMMAND ...

COMMAND writes the output and the depfile (-MD -MF); @FILE in it stands for the file's lines. A
result is found by the command, in which the roots' paths are replaced by their names, and by the
content of every file that the depfile named when it was made: a tree at another place, or unpacked
anew, costs nothing. identity: what the depfile does not name, such as the compiler's version.
--input: files that it does not name either.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

REMEMBERED = 4  # sets of inputs for one command


class Paths:
    """Replaces the roots' paths in text by names, and back."""

    def __init__(self, roots):
        pairs = [root.split("=", 1) for root in roots]
        # A root inside another one goes first.
        self._pairs = sorted(pairs, key=lambda pair: -len(pair[1]))

    def to_names(self, text):
        for name, path in self._pairs:
            text = text.replace(path, "{%s}" % name)
        return text

    def to_paths(self, text):
        for name, path in self._pairs:
            text = text.replace("{%s}" % name, path)
        return text


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def file_hash(path):
    """Return the hash of a file's content, or None if it cannot be read."""
    try:
        return sha256(Path(path).read_bytes())
    except OSError:
        return None


def dependencies(depfile):
    """Return the prerequisites that a depfile names."""
    text = Path(depfile).read_text().replace("\\\n", " ").replace("\\ ", "\0")
    return [word.replace("\0", " ") for word in text.split(":", 1)[1].split()]


def expanded(words):
    """Yield the words of a command, for @FILE each line of the file."""
    for word in words:
        if word.startswith("@"):
            yield from filter(None, Path(word[1:]).read_text().split("\n"))
        else:
            yield word


def write(path, data):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_bytes(data)
    os.replace(fresh, path)


class Cache:
    """Results of one command in a folder: a list of input sets, and a file for each result."""

    def __init__(self, folder, key, paths):
        self._folder = Path(folder)
        self._list = self._folder / f"{key}.json"
        self._key = key
        self._paths = paths

    def _sets(self):
        try:
            return json.loads(self._list.read_text())
        except (OSError, ValueError):
            return []

    def find(self):
        """Return (inputs, result) of an earlier run with the same inputs, or None."""
        for inputs in self._sets():
            if all(file_hash(self._paths.to_paths(name)) == wanted for name, wanted in inputs):
                try:
                    data = zlib.decompress(self._file(inputs).read_bytes())
                except (OSError, zlib.error):
                    continue
                return [self._paths.to_paths(name) for name, _ in inputs], data
        return None

    def keep(self, files, data):
        inputs = [[self._paths.to_names(name), file_hash(name)] for name in files]
        write(self._file(inputs), zlib.compress(data, 6))
        sets = [inputs] + [other for other in self._sets() if other != inputs]
        write(self._list, json.dumps(sets[:REMEMBERED]).encode())

    def _file(self, inputs):
        return self._folder / f"{sha256((self._key + json.dumps(inputs)).encode())}.z"


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--root", action="append", default=[])
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--depfile", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    paths = Paths(given.root)
    command = list(expanded(given.command))
    key = sha256("\0".join([given.identity, *map(paths.to_names, command)]).encode())
    cache = Cache(given.cache, key, paths)
    found = cache.find()
    if found:
        files, data = found
        listed = " ".join(name.replace(" ", "\\ ") for name in files)
        write(given.depfile, f"{given.output}: {listed}\n".encode())
        write(given.output, data)
        return 0
    started = time.monotonic()
    status = subprocess.call(command)
    if status == 0:
        usage = os.times()
        print(
            f"{Path(given.output).name}: {usage.children_user + usage.children_system:.1f} s of "
            f"processor time, {time.monotonic() - started:.1f} s in all"
        )
        files = list(dict.fromkeys(dependencies(given.depfile) + given.input))
        cache.keep(files, Path(given.output).read_bytes())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
