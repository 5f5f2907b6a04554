"""expected.txt: the tests that do not pass, with reasons; and the results that differ from it."""

from pathlib import Path

from cllm import CllmError

EXPECTED = Path(__file__).with_name("expected.txt")


def parse_expected(text):
    """Return {(prefix, test): (status, reason)} of the text of expected.txt.

    A line is `skip|fail [PREFIX:]TEST reason`. Without a prefix it holds in every form (bytecode,
    .mpy file, native code) that has no line of its own; `pass` revokes such a line for one form.
    Raises CllmError for any other line.
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
    """Return ("pass"|"skip"|"fail", reason) for a test of a group."""
    return expected.get((group.prefix, test)) or expected.get(("", test)) or ("pass", "")


def compare(expected, group, tests, results):
    """Return a line of text for each result of a group that is not as expected.

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
    """Return a line of text for each entry that names no file in `folder`, upstream's tests."""
    return [
        f"expected.txt lists {test}, which is not there"
        for _, test in expected
        if not (folder / test).is_file()
    ]
