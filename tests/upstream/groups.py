"""The groups of upstream's tests, and the copy of upstream's tree that they run in."""

import dataclasses
import fnmatch
import os
import shutil
import sys

from cllm import build

FOLDER = build.BUILD / "upstream"
TESTS = FOLDER / "tests"

# Native modules for x64 that run-natmodtests.py tests, but btree: the source package lacks
# Berkeley DB.
NATMODS = ("deflate", "framebuf", "heapq", "random", "re")

# What CPython prints for a test that needs the Internet on the host: a connection to an address
# that does not answer is first in progress, then timed out.
ANSWERS = {"net_hosted/connect_timeout.py": "True\nTrue\n"}


@dataclasses.dataclass(frozen=True)
class Group:
    """Tests that one runner runs in one way.

    name: for --groups. kind: which runner, a key of runner.COMMANDS. folder: below upstream's
    tests/. prefix: of lines of expected.txt that hold for this group only. arguments: for the
    runner. needs: a module; where the image lacks it, the whole group is skipped.
    """

    name: str
    kind: str
    folder: str
    prefix: str = ""
    arguments: tuple = ()
    needs: str = ""


def _groups():
    found = [
        Group(folder, "tests", folder)
        for folder in (
            "basics",
            "micropython",
            "misc",
            "extmod",
            "float",
            "unicode",
            "stress",
            "io",
        )
    ]
    found.append(Group("thread", "tests", "thread", needs="_thread"))
    for prefix, arguments in (
        ("mpy", ("--via-mpy",)),
        ("native", ("--via-mpy", "--emit", "native")),
    ):
        for folder in ("basics", "float", "micropython"):
            found.append(Group(f"{prefix}-{folder}", "tests", folder, prefix, arguments))
    found += [
        Group("natmod", "natmod", "extmod", "natmod"),
        Group("perf_bench", "perf", "perf_bench"),
        Group("net_hosted", "net", "net_hosted"),
        Group("multi_net", "multi", "multi_net"),
    ]
    return {group.name: group for group in found}


GROUPS = _groups()


def make_mirror(source):
    """Lay out build/upstream: copies of tests and native modules, links to the rest."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shutil.copytree(source / "tests", TESTS, symlinks=True)
    for name in ("extmod", "lib", "mpy-cross", "py", "shared", "tools"):
        (FOLDER / name).symlink_to(source / name)
    for name, answer in ANSWERS.items():
        (TESTS / (name + ".exp")).write_text(answer)
    natmod = FOLDER / "examples" / "natmod"
    for name in NATMODS:
        shutil.copytree(source / "examples" / "natmod" / name, natmod / name)


def tests_of(group, filters=()):
    """Return the tests of a group, as upstream's runners name them; `filters`: shell patterns."""
    if group.kind == "natmod":
        found = [
            path for name in NATMODS for path in sorted((TESTS / "extmod").glob(f"{name}*.py"))
        ]
    else:
        found = sorted((TESTS / group.folder).glob("*.py"))
    names = [f"{group.folder}/{path.name}" for path in found]
    if group.kind == "perf":
        names.remove("perf_bench/benchrun.py")
    if not filters:
        return names
    return [name for name in names if any(fnmatch.fnmatch(name, f) for f in filters)]


def build_natmods(steps):
    """Compile the native modules of examples/natmod for x64, with the host's compiler."""
    for name in NATMODS:
        folder = FOLDER / "examples" / "natmod" / name
        command = [
            "make",
            "--no-print-directory",
            "-C",
            folder,
            "ARCH=x64",
            f"PYTHON={sys.executable}",
            f"MPY_CROSS={build.MPY_CROSS}",
        ]
        clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        steps.run(f"natmod {name}", command, clean)
