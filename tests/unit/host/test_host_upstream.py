"""tests/upstream: how lines of upstream's runners and of expected.txt are read."""

import pytest
from cllm import CllmError
from upstream import expectations, runner
from upstream.groups import GROUPS


def group(name):
    return GROUPS[name]


@pytest.mark.parametrize(
    "kind, line, parsed",
    [
        ("tests", "pass  basics/0prelim.py ", ("basics/0prelim.py", "pass")),
        (
            "tests",
            "FAIL  extmod/re1.py (unittest: 3 ran, 1 failures, 0 errors)",
            ("extmod/re1.py", "fail"),
        ),
        ("tests", "skip  float/complex1.py", ("float/complex1.py", "skip")),
        ("tests", "3 tests passed", None),
        ("natmod", "pass  extmod/re1.py", ("extmod/re1.py", "pass")),
        ("natmod", "TRUTH FAIL  extmod/re1.py", ("extmod/re1.py", "fail")),
        ("natmod", "----  extmod/re1.py - mpy file not compiled", ("extmod/re1.py", "skip")),
        (
            "perf",
            "perf_bench/bm_fft.py: 34.00 0.0000 29411.76 0.0000",
            ("perf_bench/bm_fft.py", "pass"),
        ),
        ("perf", "perf_bench/bm_fft.py: CRASH: 'x'", ("perf_bench/bm_fft.py", "fail")),
        ("perf", "perf_bench/bm_fft.py: FAIL truth", ("perf_bench/bm_fft.py", "fail")),
        ("perf", "perf_bench/bm_fft.py: SKIP", ("perf_bench/bm_fft.py", "skip")),
        ("multi", "multi_net/tcp_data.py on 0|1: pass", ("multi_net/tcp_data.py", "pass")),
        ("multi", "multi_net/tcp_data.py on 0|1: FAIL", ("multi_net/tcp_data.py", "fail")),
    ],
)
def test_lines_of_the_runners(kind, line, parsed):
    assert runner.parse_line(kind, line) == parsed


def test_the_list_is_read_with_forms_and_comments():
    expected = expectations.parse_expected(
        "# comment\n"
        "skip basics/a.py not built in\n"
        "fail native:basics/b.py no tracebacks  # really\n"
        "\n"
        "pass native:basics/a.py\tworks natively\n"
    )
    assert expected == {
        ("", "basics/a.py"): ("skip", "not built in"),
        ("native", "basics/b.py"): ("fail", "no tracebacks"),
        ("native", "basics/a.py"): ("pass", "works natively"),
    }
    assert expectations.expectation(expected, group("basics"), "basics/a.py")[0] == "skip"
    assert expectations.expectation(expected, group("mpy-basics"), "basics/a.py")[0] == "skip"
    assert expectations.expectation(expected, group("native-basics"), "basics/a.py")[0] == "pass"
    assert expectations.expectation(expected, group("basics"), "basics/b.py")[0] == "pass"


@pytest.mark.parametrize(
    "text", ["skip basics/a.py", "wrong basics/a.py reason", "skip a.py x\nfail a.py y"]
)
def test_a_list_without_a_reason_or_with_doubles_is_refused(text):
    with pytest.raises(CllmError, match=r"expected\.txt:\d"):
        expectations.parse_expected(text)


def test_every_deviation_from_the_list_is_wrong():
    expected = expectations.parse_expected("skip basics/s.py why\nfail basics/f.py why\n")
    tests = ["basics/p.py", "basics/s.py", "basics/f.py"]

    def wrong(**results):
        results = {f"basics/{name}.py": status for name, status in results.items()}
        return len(expectations.compare(expected, group("basics"), tests, results))

    assert wrong(p="pass", s="skip", f="fail") == 0
    assert wrong(p="fail", s="skip", f="fail") == 1
    assert wrong(p="skip", s="skip", f="fail") == 1
    assert wrong(p="pass", s="pass", f="fail") == 1
    assert wrong(p="pass", s="skip", f="pass") == 1
    assert wrong(s="skip", f="fail") == 1


def test_an_entry_for_no_test_is_stale(tmp_path):
    (tmp_path / "basics").mkdir()
    (tmp_path / "basics" / "here.py").touch()
    expected = expectations.parse_expected(
        "skip basics/gone.py why\nskip mpy:basics/here.py why\n"
    )
    wrong = expectations.stale(expected, tmp_path)
    assert len(wrong) == 1 and "basics/gone.py" in wrong[0]


def test_the_checked_in_list_is_well_formed():
    expected = expectations.parse_expected(expectations.EXPECTED.read_text())
    prefixes = {g.prefix for g in GROUPS.values()}
    folders = {g.folder for g in GROUPS.values()}
    for prefix, test in expected:
        assert prefix in prefixes and test.rpartition("/")[0] in folders, test
