"""Run a file of pytest's tests on MicroPython's unix build.

    micropython -X heapsize=64m tests/unit/on_micropython/run_tests.py FILE PLAN.json

test_net_micropython.py, which calls it, reads the names of arguments from FILE and puts them into
PLAN: {"tests": [[function, [argument, ...]], ...], "fixtures": {name: [argument, ...]}}. Prints the
failures with tracebacks, and at last how many tests passed, were skipped, and failed.
"""

import json
import sys
import time

HERE = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
UNIT = HERE + "/.."
TOP = UNIT + "/../.."
FILE, PLAN = sys.argv[1:]
# MicroPython searches the folders in turn. Ours come before its own `socket`; the folder of the
# tests comes late, because it may have the name of the package that it tests, `net`.
sys.path[:] = [
    TOP + "/frozen",
    TOP + "/frozen/lib",
    ".frozen",
    HERE,
    UNIT + "/shim",
    FILE.rsplit("/", 1)[0],
]

import pytest  # noqa: E402


_GENERATOR = type((i for i in ()))


class Fixtures:
    """The fixtures that one test uses."""

    def __init__(self, module, arguments):
        self._module = module
        self._arguments = arguments
        self._values = {}
        self._ends = []

    def get(self, name):
        if name not in self._values:
            self._values[name] = self._make(name)
        return self._values[name]

    def _make(self, name):
        if name == "monkeypatch":
            patch = pytest.MonkeyPatch()
            self._ends.append(patch.undo)
            return patch
        function = getattr(self._module, name).function
        value = function(*[self.get(argument) for argument in self._arguments[name]])
        if not isinstance(value, _GENERATOR):
            return value
        # What it yields is the value, what follows is done at the end.
        generator = value
        self._ends.append(lambda: next(generator, None))
        return next(generator)

    def end(self):
        while self._ends:
            self._ends.pop()()


def run_all(module, plan):
    """Run the tests, those of both IPs twice; return (passed, skipped, failed)."""
    if not getattr(module, "BOTH_FAMILIES", False):
        return run(module, plan)
    import scripted

    counts = run(module, plan)
    scripted.use(6)
    return [a + b for a, b in zip(counts, run(module, plan))]


def run(module, plan):
    """Run the tests; return (passed, skipped, failed)."""
    counts = [0, 0, 0]
    automatic = [name for name in plan["fixtures"] if getattr(module, name).autouse]
    for name, arguments in plan["tests"]:
        test = pytest.as_test(getattr(module, name))
        for number, case in enumerate(test.cases):
            fixtures = Fixtures(module, plan["fixtures"])
            start = time.ticks_ms()
            try:
                try:
                    for fixture in automatic:
                        fixtures.get(fixture)
                    if test.takes_fixtures:
                        values = [case[a] if a in case else fixtures.get(a) for a in arguments]
                        test.function(*values)
                    else:
                        test.function()
                finally:
                    fixtures.end()
                counts[0] += 1
            except pytest.Skipped as reason:
                print("skipped %s[%d]: %s" % (name, number, reason))
                counts[1] += 1
            except BaseException as error:
                print("FAILED %s[%d] %s" % (name, number, case))
                sys.print_exception(error)
                counts[2] += 1
            took = time.ticks_diff(time.ticks_ms(), start)
            if took > 3000:
                print("%s[%d] took %d ms" % (name, number, took))
    return counts


with open(PLAN) as file:
    found = json.load(file)
passed, skipped, failed = run_all(__import__(FILE.rsplit("/", 1)[-1].rsplit(".", 1)[0]), found)
print("%d passed, %d skipped, %d failed" % (passed, skipped, failed))
sys.exit(1 if failed else 0)
