"""Interrupt lines that several devices have."""

import _x86
from drivers import lines


def test_sharing():
    called = []

    def first(line):
        called.append(("first", line))

    def second(line):
        called.append(("second", line))

    assert lines.attach(5, first)
    assert _x86._lines[5] == first  # one device costs no call more
    assert lines.attach(5, second)
    _x86.raise_irq(5)
    assert called == [("first", 5), ("second", 5)]
    lines.detach(5, first)
    assert _x86._lines[5] == second
    lines.detach(5, second)
    assert 5 not in _x86._lines
    lines.detach(5, second)
    lines.detach(6, second)


def test_lines_that_do_not_exist():
    assert not lines.attach(255, print) and not lines.attach(-1, print)
    lines.detach(255, print)
