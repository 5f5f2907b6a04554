"""`cllm test-upstream`: MicroPython's own tests against build/cllm.elf, the image that serves models.

Upstream's runners (run-tests.py, run-natmodtests.py, run-perfbench.py, run-multitests.py) talk to a
guest in QEMU over a pty. They run in build/upstream, a copy, because they write beside the tests.
tests/upstream/expected.txt names every test that does not pass, with the reason; anything else that
does not pass, and anything listed that does, fails the command.
"""

import contextlib
import dataclasses
import fcntl
import fnmatch
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import TOP, CllmError, build, config, console, fetch, qemu, run
from .lock import locks

EXPECTED = TOP / "tests" / "upstream" / "expected.txt"
FOLDER = build.BUILD / "upstream"
TESTS = FOLDER / "tests"
# MiB. Some tests fill the heap to see what happens then, and it may grow to all there is.
MEMORY = 32

SILENCE = 120  # seconds without a finished test after which the guest is given up
QUIET_SECONDS = 15  # between progress lines when stderr is no terminal
PERF_N, PERF_M = 1000, 1000  # what run-perfbench.py calls MHz and KiB: upstream's values for a PC

# Modules that run-natmodtests.py knows and examples/natmod has for x64. btree wants Berkeley DB and
# is not in the source package.
NATMODS = ("deflate", "framebuf", "heapq", "random", "re")

LINE = re.compile(r"(pass|FAIL|skip)  ?(\S+\.py)")
MULTI_LINE = re.compile(r"(\S+\.py) on \S+: (?:.* )?(pass|FAIL|skip)$")
NATMOD_LINE = re.compile(r"(pass|FAIL|SKIP|TRUTH FAIL|----)  (\S+\.py)")
PERF_LINE = re.compile(r"(\S+\.py): (\d.*|SKIP|FAIL.*|CRASH.*)$")

# Every guest of the network groups brings its interface up after each soft reset, as boards do.
BOOT_PY = """\
import network
network.LAN().active(True)
network.LAN().ipconfig(addr4="{}/24", gw4="{}")
"""


# What run-tests.py would have CPython say, which needs the Internet on the host: that a connection to
# an address which does not answer is first in progress and at last timed out.
ANSWERS = {"net_hosted/connect_timeout.py": "True\nTrue\n"}


@dataclasses.dataclass(frozen=True)
class Group:
    """Tests that one runner runs in one way.

    name: as --groups has it. kind: which runner. folder: below upstream's tests/. prefix: of the
    entries of expected.txt that hold for this group only. arguments: for the runner. needs: a module
    without which the whole group is skipped.
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
            "basics", "micropython", "misc", "extmod", "float", "unicode", "stress", "io",
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


def parse_expected(text):
    """{(prefix, test): (status, reason)} of expected.txt.

    A line is `skip|fail [PREFIX:]TEST reason`; an empty prefix holds for the group's runs in every
    form that have no entry of their own. `pass` there takes such an entry back for one form.
    Raises CllmError for a line that is none of these.
    """
    expected = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        words = line.split(None, 2)
        if len(words) != 3 or words[0] not in ("skip", "fail", "pass"):
            raise CllmError(f"{EXPECTED.name}:{number}: not `skip|fail|pass TEST reason`")
        prefix, _, test = words[1].rpartition(":")
        if (prefix, test) in expected:
            raise CllmError(f"{EXPECTED.name}:{number}: {words[1]} is listed twice")
        expected[prefix, test] = (words[0], words[2])
    return expected


def expectation(expected, group, test):
    """("pass"|"skip"|"fail", reason) for a test of a group."""
    return expected.get((group.prefix, test)) or expected.get(("", test)) or ("pass", "")


def compare(expected, group, tests, results):
    """What is wrong with the results of a group, as lines of text; [] if all is as expected.

    tests: all that should have run. results: {test: "pass"|"skip"|"fail"}.
    """
    wrong = []
    for test in tests:
        want, reason = expectation(expected, group, test)
        got = results.get(test, "no result")
        if got == want:
            continue
        name = f"{group.name}: {test}"
        if want == "pass":
            wrong.append(f"{name}: {got}, which expected.txt does not list")
        else:
            wrong.append(f"{name}: {got}, but listed as {want} ({reason})")
    return wrong


def stale(expected, folder):
    """What is wrong with entries of expected.txt that name no file below upstream's tests/."""
    return [
        f"expected.txt lists {test}, which is not there"
        for _, test in expected if not (folder / test).is_file()
    ]


# --- the mirror -------------------------------------------------------------------------------


def make_mirror(source):
    """Lay out build/upstream: tests and native modules as copies, links to the rest of the tree."""
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
    """The tests of a group, as upstream's runners name them; `filters` are shell patterns."""
    if group.kind == "natmod":
        found = [
            path for name in NATMODS for path in sorted((TESTS / "extmod").glob(f"{name}*.py"))
        ]
    else:
        found = sorted((TESTS / group.folder).glob("*.py"))
    names = [f"{group.folder}/{path.name}" for path in found]
    if group.kind == "perf":
        names.remove("perf_bench/benchrun.py")
    return [name for name in names if not filters or any(fnmatch.fnmatch(name, f) for f in filters)]


def build_natmods(steps):
    """Compile the native modules of examples/natmod for x64, with the host's compiler."""
    for name in NATMODS:
        folder = FOLDER / "examples" / "natmod" / name
        command = [
            "make", "--no-print-directory", "-C", folder, "ARCH=x64", f"PYTHON={sys.executable}",
            f"MPY_CROSS={build.MPY_CROSS}",
        ]
        clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        steps.run(f"natmod {name}", command, clean)


# --- the machine under test -------------------------------------------------------------------


class Machine:
    """A guest with its serial line on a pty: `path`. Leaving the context ends it."""

    def __init__(self, **options):
        settings = {**config.DEFAULTS, "port": 0, "accel": "tcg", "memory": MEMORY}
        self.guest = run.make_guest(settings, **options)
        self._pty = console.Pty(self.guest)
        self.path = self._pty.path

    def __enter__(self):
        self.guest.start()
        self._pty.open()
        self._wait_for(b">>> ", 60)
        return self

    def _wait_for(self, text, seconds):
        until = time.monotonic() + seconds
        while text not in self.guest.log():
            if self.guest.ended.is_set() or time.monotonic() > until:
                end = self.guest.log()[-2000:].decode("utf-8", "replace")
                raise CllmError(f"the guest did not reach its REPL:\n{end}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.guest.stop()
        self._pty.close()

    def has(self, module):
        """Whether the guest can import a module."""
        board = _pyboard().Pyboard(self.path)
        try:
            board.enter_raw_repl()
            program = f"try:\n import {module}\n print(1)\nexcept ImportError: print(0)"
            return board.exec_(program).strip() == b"1"
        finally:
            board.close()

    def put(self, files):
        """Write {path in the guest: bytes} to its RAM file system; folders are made."""
        board = _pyboard().Pyboard(self.path)
        try:
            board.enter_raw_repl()
            made = set()
            for path, content in files.items():
                parents = path.strip("/").split("/")[:-1]
                for depth in range(1, len(parents) + 1):
                    folder = "/" + "/".join(parents[:depth])
                    if folder not in made:
                        board.exec_(f"import os\ntry: os.mkdir({folder!r})\nexcept OSError: pass")
                        made.add(folder)
                board.fs_writefile(path, content)
        finally:
            board.close()


def _pyboard():
    tools = str(FOLDER / "tools")
    if tools not in sys.path:
        sys.path.append(tools)
    import pyboard

    return pyboard


# --- running ----------------------------------------------------------------------------------


class Progress:
    """One live line on a terminal, else a line now and then."""

    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._live = stream.isatty()
        self._last = 0.0

    def show(self, text):
        if self._live:
            width = os.get_terminal_size(self._stream.fileno()).columns - 1
            self._stream.write("\r\x1b[K" + text[:width])
        elif time.monotonic() - self._last > QUIET_SECONDS:
            self._last = time.monotonic()
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text):
        """A line that stays."""
        self._stream.write(("\r\x1b[K" if self._live else "") + text + "\n")
        self._stream.flush()


def environment():
    return {
        **os.environ,
        "MICROPY_CPYTHON3": sys.executable,
        "MICROPY_MPYCROSS": str(build.MPY_CROSS),
        "PYTHONUNBUFFERED": "1",
        # The runner would look for its own cache beside the upstream sources.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def lines_of(command, guests, log):
    """Yield the lines that `command` prints, until it ends, a guest does, or SILENCE passes."""
    process = subprocess.Popen(
        [str(word) for word in command], cwd=TESTS, env=environment(), text=True,
        errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    last = time.monotonic()
    try:
        while True:
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                if time.monotonic() - last > SILENCE or any(g.ended.is_set() for g in guests):
                    return
                continue
            if line is None:
                return
            last = time.monotonic()
            log.write(line + "\n")
            yield line
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


class GroupRun:
    """The run of one group: `results` {test: status}, `flaky` tests that passed at the second try."""

    def __init__(self, group, tests, expected, progress):
        self.group = group
        self.tests = tests
        self.expected = expected
        self.progress = progress
        self.results = {}
        self.flaky = []
        self.details = {}
        self.folder = FOLDER / "results" / group.name
        self.seconds = 0.0

    def run(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with open(self.folder / "log.txt", "w") as self._log:
            self._run_all(self.tests)
            again = [test for test in self.tests if self._unexpected(test, "fail")]
            # A loaded host misses deadlines that a test has; what fails twice is broken.
            for test in again[:20]:
                del self.results[test]
                self._run_all([test])
                if self.results.get(test) == "pass":
                    self.flaky.append(test)
        self.seconds = time.monotonic() - began

    def _unexpected(self, test, status):
        return (
            self.results.get(test) == status
            and expectation(self.expected, self.group, test)[0] != status
        )

    def _run_all(self, tests):
        pending = list(tests)
        while pending:
            before = len(self.results)
            self._run_once(pending)
            pending = [test for test in pending if test not in self.results]
            if pending and len(self.results) == before:
                # It took the machine down, or made the runner give up.
                self._note(pending.pop(0), "fail")

    def _run_once(self, pending):
        """Boot what the group needs and run until all is done, or until the guest is wedged."""
        with MACHINES[self.group.kind](self.group) as machines:
            command = COMMANDS[self.group.kind](self.group, machines, pending, self.folder)
            failed_in_a_row = 0
            for line in lines_of(command, [m.guest for m in machines], self._log):
                parsed = parse_line(self.group.kind, line)
                if parsed is None or parsed[0] not in pending:
                    continue
                test, status = parsed
                failed_in_a_row = failed_in_a_row + 1 if self._is_bad(test, status) else 0
                self._note(test, status)
                if failed_in_a_row == 2:
                    # The first of the two may have left the guest in a state that failed the second.
                    del self.results[test]
                    return

    def _is_bad(self, test, status):
        return status == "fail" and expectation(self.expected, self.group, test)[0] != "fail"

    def _note(self, test, status):
        self.results[test] = status
        done = len(self.results)
        if self._is_bad(test, status):
            self.progress.say(f"{self.group.name}: {test}: FAIL")
        self.progress.show(f"{self.group.name} [{done}/{len(self.tests)}] {test}: {status}")


def parse_line(kind, line):
    """(test, "pass"|"skip"|"fail") of a line that one of upstream's runners prints, or None."""
    if kind == "multi":
        match = MULTI_LINE.match(line)
        return match and (match[1], match[2].lower())
    if kind == "perf":
        match = PERF_LINE.match(line)
        if not match:
            return None
        word = match[2].split()[0]
        return match[1], {"SKIP": "skip", "FAIL": "fail", "CRASH:": "fail"}.get(word, "pass")
    match = (NATMOD_LINE if kind == "natmod" else LINE).match(line)
    if not match:
        return None
    word = {"TRUTH FAIL": "fail", "----": "skip"}.get(match[1], match[1].lower())
    return match[2], word


class Machines:
    """Context of a list of guests for one group."""

    def __init__(self, group, machines, files):
        self._machines = machines
        self._files = files
        self._entered = []

    def __enter__(self):
        try:
            for machine, files in zip(self._machines, self._files):
                self._entered.append(machine.__enter__())
                if files:
                    machine.put(files)
        except BaseException:
            self.__exit__()
            raise
        return self._entered

    def __exit__(self, *_):
        while self._entered:
            self._entered.pop().__exit__()


def _one(group):
    files = {}
    data = TESTS / group.folder / "data"
    if group.kind == "tests" and data.is_dir():
        # What the tests read lies beside them on a PC.
        files = {f"/data/{p.name}": p.read_bytes() for p in data.iterdir() if p.is_file()}
    return Machines(group, [Machine()], [files])


def _on_network(group):
    boot = BOOT_PY.format("10.0.2.15", "10.0.2.2").encode()
    # A cable with nobody at its other end: what a test finds must not depend on the host's network.
    return Machines(group, [Machine(netdev="hubport,hubid=0")], [{"/boot.py": boot}])


def _two(group):
    """Two guests on one cable: datagrams between two UDP ports of this host."""
    here, there = qemu.free_port(), qemu.free_port()
    machines, files = [], []
    for number, (mine, other) in enumerate(((here, there), (there, here)), 1):
        netdev = f"socket,udp=127.0.0.1:{other},localaddr=127.0.0.1:{mine}"
        machines.append(Machine(netdev=netdev, mac=f"52:54:00:00:00:{number:02x}"))
        address = f"192.168.77.{number}"
        files.append({"/boot.py": BOOT_PY.format(address, "192.168.77.254").encode()})
    return Machines(group, machines, files)


MACHINES = {"tests": _one, "natmod": _one, "perf": _one, "net": _on_network, "multi": _two}


def _tests_command(group, machines, tests, folder):
    return [
        sys.executable, TESTS / "run-tests.py", "-t", machines[0].path, "-r", folder,
        *group.arguments, *tests,
    ]


def _natmod_command(group, machines, tests, folder):
    return [
        sys.executable, TESTS / "run-natmodtests.py", "-p", "-d", machines[0].path, "-a", "x64",
        *tests,
    ]


def _perf_command(group, machines, tests, folder):
    return [
        sys.executable, TESTS / "run-perfbench.py", "-p", "-d", machines[0].path,
        "--mpy-cross-flags=-march=x64", "-a", "1", PERF_N, PERF_M, *tests,
    ]


def _multi_command(group, machines, tests, folder):
    instances = [word for m in machines for word in ("-i", "pyb:" + m.path)]
    return [sys.executable, TESTS / "run-multitests.py", *instances, *tests]


COMMANDS = {
    "tests": _tests_command, "net": _tests_command, "natmod": _natmod_command,
    "perf": _perf_command, "multi": _multi_command,
}


def main(group_names=None, filters=()):
    """Run the groups (default: all); returns 0 if every test does what expected.txt says, else 1.

    filters: shell patterns of test names, like "basics/builtin_*.py"; empty means all.
    """
    unknown = [name for name in group_names or () if name not in GROUPS]
    if unknown:
        raise CllmError(f"no group {unknown[0]}; there are: {', '.join(GROUPS)}")
    groups = [GROUPS[name] for name in group_names or GROUPS]
    expected = parse_expected(EXPECTED.read_text())
    build.build_image()
    with _alone():
        return _run(groups, expected, filters)


@contextlib.contextmanager
def _alone():
    """One run at a time in one tree: build/upstream is made anew by each."""
    with open(build.BUILD / ".upstream.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(groups, expected, filters):
    make_mirror(fetch.ensure(locks()["micropython"]))
    if any(group.kind == "natmod" for group in groups):
        build_natmods(build.Steps())
    progress = Progress()
    wrong = stale(expected, TESTS)
    rows = []
    for group in groups:
        tests = tests_of(group, filters)
        if not tests:
            continue
        if group.needs:
            with Machine() as machine:
                if not machine.has(group.needs):
                    progress.say(f"{group.name}: skipped, the image has no {group.needs}")
                    continue
        group_run = GroupRun(group, tests, expected, progress)
        group_run.run()
        problems = compare(expected, group, tests, group_run.results)
        wrong += problems
        rows.append((group_run, len(problems)))
        progress.say(summary_row(group_run, len(problems)))
    print(table(rows))
    for group_run, _ in rows:
        for test in group_run.flaky:
            print(f"{group_run.group.name}: {test}: passed at the second try")
    for line in wrong:
        print(line)
    if wrong:
        print(f"output of each failed test: {FOLDER / 'results'}")
    return 1 if wrong else 0


COLUMNS = "{:20} {:>6} {:>6} {:>6} {:>6} {:>11} {:>8}"


def summary_row(group_run, problems):
    counts = {status: 0 for status in ("pass", "skip", "fail")}
    for status in group_run.results.values():
        counts[status] += 1
    return COLUMNS.format(
        group_run.group.name, len(group_run.tests), counts["pass"], counts["skip"],
        counts["fail"], problems, f"{group_run.seconds:.0f}",
    )


def table(rows):
    head = COLUMNS.format("group", "tests", "pass", "skip", "fail", "unexpected", "seconds")
    return "\n".join([head, *(summary_row(*row) for row in rows)])
