"""The command: run groups of tests; print a table and every result that expected.txt denies."""

import argparse
import contextlib
import fcntl
import sys

from cllm import CllmError, build, fetch
from cllm.lock import locks
from cllm.progress import Progress
from cllm.steps import Steps

from upstream import expectations, groups
from upstream.groups import FOLDER, GROUPS, TESTS
from upstream.machines import Machine
from upstream.runner import GroupRun


def make_parser():
    parser = argparse.ArgumentParser(
        prog="cllm test-upstream", description="Run MicroPython's own tests in the guest."
    )
    parser.add_argument("--groups", metavar="A,B", help="only these: " + ", ".join(GROUPS))
    parser.add_argument(
        "tests", nargs="*", help='only these: shell patterns like "basics/int*.py"'
    )
    return parser


def main(arguments=None):
    options = make_parser().parse_args(arguments)
    try:
        return run_groups(options.groups and options.groups.split(","), options.tests)
    except CllmError as error:
        print(f"cllm test-upstream: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of the machine: a full disk, a folder that is gone
        print(f"cllm test-upstream: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run_groups(group_names=None, filters=()):
    """Run the groups (default: all); return 0 if every test does what expected.txt says, else 1.

    filters: shell patterns of test names, like "basics/builtin_*.py"; empty means all.
    """
    unknown = [name for name in group_names or () if name not in GROUPS]
    if unknown:
        raise CllmError(f"no group {unknown[0]}; there are: {', '.join(GROUPS)}")
    chosen = [GROUPS[name] for name in group_names or GROUPS]
    expected = expectations.parse_expected(expectations.EXPECTED.read_text())
    build.build_image()
    with _alone():
        return _run(chosen, expected, filters)


@contextlib.contextmanager
def _alone():
    """Let one run at a time use build/upstream, which each makes anew."""
    with open(build.BUILD / ".upstream.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(chosen, expected, filters):
    groups.make_mirror(fetch.ensure(locks()["micropython"]))
    if any(group.kind == "natmod" for group in chosen):
        groups.build_natmods(Steps())
    progress = Progress()
    wrong = expectations.stale(expected, TESTS)
    rows = []
    for group in chosen:
        tests = groups.tests_of(group, filters)
        if not tests:
            continue
        if group.needs:
            with Machine() as machine:
                if not machine.has(group.needs):
                    progress.say(f"{group.name}: skipped, the image has no {group.needs}")
                    continue
        group_run = GroupRun(group, tests, expected, progress)
        group_run.run()
        problems = expectations.compare(expected, group, tests, group_run.results)
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
    counts = dict.fromkeys(("pass", "skip", "fail"), 0)
    for status in group_run.results.values():
        counts[status] += 1
    return COLUMNS.format(
        group_run.group.name,
        len(group_run.tests),
        counts["pass"],
        counts["skip"],
        counts["fail"],
        problems,
        f"{group_run.seconds:.0f}",
    )


def table(rows):
    head = COLUMNS.format("group", "tests", "pass", "skip", "fail", "unexpected", "seconds")
    return "\n".join([head, *(summary_row(*row) for row in rows)])
