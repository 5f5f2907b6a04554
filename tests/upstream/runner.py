"""Run one group: start its guests and one of upstream's runners, and read the runner's output."""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from typing import Any

from cllm import build

from upstream.expectations import expectation
from upstream.groups import FOLDER, TESTS
from upstream.machines import MACHINES

SILENCE = 120  # seconds without a finished test after which the guest is given up
AGAIN = 20  # failures of a group that are tried a second time, at most
PERF_N, PERF_M = 1000, 1000  # what run-perfbench.py calls MHz and KiB: upstream's values for a PC

LINE = re.compile(r"(pass|FAIL|skip)  ?(\S+\.py)")
MULTI_LINE = re.compile(r"(\S+\.py) on \S+: (?:.* )?(pass|FAIL|skip)$")
NATMOD_LINE = re.compile(r"(pass|FAIL|SKIP|TRUTH FAIL|----)  (\S+\.py)")
PERF_LINE = re.compile(r"(\S+\.py): (\d.*|SKIP|FAIL.*|CRASH.*)$")


def environment():
    return {
        **os.environ,
        "MICROPY_CPYTHON3": sys.executable,
        "MICROPY_MPYCROSS": str(build.MPY_CROSS),
        "PYTHONUNBUFFERED": "1",
        # The runners import from upstream's tree, which stays as it is.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def lines_of(command, guests, log):
    """Yield the lines that `command` prints, until it ends, a guest does, or SILENCE passes."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=TESTS,
        env=environment(),
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output

    def read():
        for line in output:
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
        output.close()


class GroupRun:
    """The run of one group.

    expected: what expectations.parse_expected() returns. progress: a cllm.progress.Progress.
    results: {test: status}. flaky: the tests that passed at the second try.
    """

    def __init__(self, group, tests, expected, progress):
        self.group = group
        self.tests = tests
        self.expected = expected
        self.progress = progress
        self._task: Any = None  # a cllm.progress.Task while it runs
        self.results = {}
        self.flaky = []
        self.folder = FOLDER / "results" / group.name
        self.seconds = 0.0

    def run(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        task = self.progress.task(self.group.name, len(self.tests))
        with open(self.folder / "log.txt", "w") as self._log, task as self._task:
            self._run_all(self.tests)
            again = [test for test in self.tests if self._unexpected(test, "fail")]
            # On a loaded host a test may miss its deadline; one that fails twice is broken.
            for test in again[:AGAIN]:
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
                # The first one ended the machine, or made the runner give up.
                self._note(pending.pop(0), "fail")

    def _run_once(self, pending):
        """Boot the group's guests and run until all is done, or until two tests in a row fail."""
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
                    # The first may have left the guest in a state that fails others.
                    del self.results[test]
                    return

    def _is_bad(self, test, status):
        return status == "fail" and expectation(self.expected, self.group, test)[0] != "fail"

    def _note(self, test, status):
        self.results[test] = status
        done = len(self.results)
        if self._is_bad(test, status):
            self.progress.say(f"{self.group.name}: {test}: FAIL")
        self._task.update(done, f"[{done}/{len(self.tests)}] {test}: {status}")


def parse_line(kind, line):
    """Return (test, "pass"|"skip"|"fail") for a line that a runner prints, or None."""
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


def _tests_command(group, machines, tests, folder):
    return [
        sys.executable,
        TESTS / "run-tests.py",
        "-t",
        machines[0].path,
        "-r",
        folder,
        *group.arguments,
        *tests,
    ]


def _natmod_command(group, machines, tests, folder):
    return [
        sys.executable,
        TESTS / "run-natmodtests.py",
        "-p",
        "-d",
        machines[0].path,
        "-a",
        "x64",
        *tests,
    ]


def _perf_command(group, machines, tests, folder):
    return [
        sys.executable,
        TESTS / "run-perfbench.py",
        "-p",
        "-d",
        machines[0].path,
        "--mpy-cross-flags=-march=x64",
        "-a",
        "1",
        PERF_N,
        PERF_M,
        *tests,
    ]


def _multi_command(group, machines, tests, folder):
    instances = [word for m in machines for word in ("-i", "pyb:" + m.path)]
    return [sys.executable, TESTS / "run-multitests.py", *instances, *tests]


COMMANDS = {
    "tests": _tests_command,
    "net": _tests_command,
    "natmod": _natmod_command,
    "perf": _perf_command,
    "multi": _multi_command,
}
