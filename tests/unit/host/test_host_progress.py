"""Progress: plain lines without a terminal or without rich, a live line on a terminal."""

import io
import sys

import pytest
from cllm import progress
from cllm.progress import Progress


def test_without_a_terminal_a_task_prints_lines_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.05)
    stream = io.StringIO()
    seen = []

    def look():
        seen.append(1)
        if len(seen) == 2:
            enough.set()
        return 3, "3 MB"

    enough = progress.threading.Event()
    with Progress(stream).task("download", 4, look):
        assert enough.wait(10)
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert lines[0] == "download" and lines[-1].startswith("download: done in ")
    assert "download: 75 % 3 MB" in lines[1:-1]


def test_a_task_that_fails_is_not_done():
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress(stream).task("work"):
        raise ValueError
    assert "done" not in stream.getvalue()


def test_on_a_terminal_a_line_is_drawn_and_taken_away(monkeypatch):
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.01)
    stream = io.StringIO()
    shown = Progress(stream, live=True)
    with shown.task("work", 2) as task:
        task.update(1, "[half] of it")
        progress.time.sleep(0.3)
        shown.say("a line that [stays]")
    text = stream.getvalue()
    # What programs print is no markup.
    assert "[half] of it" in text and "a line that [stays]" in text and "\x1b[2K" in text
    assert "work: done in" in text.splitlines()[-1]


def test_before_rich_is_installed_there_are_plain_lines(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = io.StringIO()
    with Progress(stream, live=True).task("work"):
        pass
    assert "work: done in" in stream.getvalue() and "\x1b" not in stream.getvalue()
