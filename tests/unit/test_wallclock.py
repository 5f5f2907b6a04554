"""frozen/boot/wallclock.py: pauses of a machine whose counter stops, or runs on."""

import importlib.util
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECOND = 1_000_000_000


class Machine:
    """Wall time, the CMOS clock and the kernel's ticks, in ns; advance() moves all of them."""

    def __init__(self):
        self.wall = self.cmos = 1_800_000_000 * SECOND + 300_000_000
        self.gaps = 0  # what the kernel left out of its ticks
        self.reads = 0
        self.steps = []

    def advance(self, ns):
        self.wall += ns
        self.cmos += ns

    # _x86

    def paused(self):
        return self.gaps // 1_000_000

    def cmos_time(self):
        self.reads += 1
        return None if self.cmos is None else self.cmos // SECOND

    def step_time(self, ns):
        self.steps.append(ns - self.wall)
        self.wall = ns


@pytest.fixture
def machine(monkeypatch):
    return Machine()


@pytest.fixture
def look(machine, monkeypatch):
    """look(cmos=True) -> milliseconds that on_pause() got, None where it was not called."""
    path = ROOT / "frozen" / "boot" / "wallclock.py"
    spec = importlib.util.spec_from_file_location("wallclock", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_x86", machine)
    monkeypatch.setattr(time, "time_ns", lambda: machine.wall)

    async def sleep(seconds):
        if machine.cmos is not None and not getattr(machine, "stuck", False):
            machine.advance(int(seconds * SECOND))

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    heard = []
    clock = module.WallClock(heard.append)

    def look(cmos=True):
        heard.clear()
        coroutine = clock.look(cmos)
        with pytest.raises(StopIteration):
            while True:
                coroutine.send(None)
        assert len(heard) < 2
        return heard[0] if heard else None

    return look


def test_a_machine_that_runs(machine, look):
    for _ in range(100):
        machine.advance(7_777_777_777)
        assert look() is None
    assert machine.steps == []
    reads = machine.reads
    look(False)
    assert machine.reads == reads


def test_a_pause_that_only_the_cmos_clock_saw(machine, look):
    machine.cmos += 20 * SECOND  # QEMU's stop, 20 s, cont
    assert look(False) is None
    assert 19_900 <= look() <= 20_100
    assert abs(machine.wall - machine.cmos) < 20_000_000
    assert look() is None and len(machine.steps) == 1


def test_a_pause_that_the_kernel_saw(machine, look, capsys):
    machine.gaps += 75 * SECOND  # SIGSTOP: wall time ran on
    machine.advance(75 * SECOND)
    assert look(False) == 75_000
    assert look(False) is None and look() is None
    assert machine.steps == [] and capsys.readouterr().out == ""


def test_short_pauses_are_told_together(machine, look):
    told = []
    for _ in range(9):
        machine.gaps += 1_200_000_000
        machine.advance(1_200_000_000)
        told.append(look(False))
    assert told == [None, None, 3_600] * 3


def test_a_counter_that_jumped(machine, look):
    # A TSC that jumps looks like a pause to the kernel; the CMOS clock shows that it was none.
    machine.gaps += 1000 * SECOND
    machine.wall += 1000 * SECOND
    assert look(False) is None
    assert abs(machine.wall - machine.cmos) < 20_000_000


def test_short_pauses_add_up(machine, look):
    for _ in range(5):
        machine.cmos += 600_000_000
        machine.advance(10 * SECOND)
        look()
    assert len(machine.steps) == 1
    assert machine.cmos - machine.wall < 2 * SECOND + 600_000_000


def test_a_clock_that_is_ahead_is_left_alone(machine, look):
    machine.wall += 3600 * SECOND
    assert look() is None and machine.steps == []


def test_without_a_cmos_clock_or_with_one_that_stands(machine, look):
    cmos, machine.cmos = machine.cmos, None
    assert look() is None
    machine.gaps += 5 * SECOND
    assert look(False) == 5_000
    machine.cmos = cmos + 3600 * SECOND
    machine.stuck = True
    assert look() is None and machine.steps == []
