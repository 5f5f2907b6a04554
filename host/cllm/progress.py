"""Progress of long work on stderr: a live line on a terminal, otherwise plain lines.

The live line is drawn by rich. Without a terminal, as in the log of a CI run, or where rich is not
installed yet, each task prints a line when it begins, every QUIET_SECONDS and when it ends.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

QUIET_SECONDS = 15  # between plain lines
REDRAW_SECONDS = 0.2  # between looks at what a task is doing, on a terminal


class Progress:
    """Shows tasks one after another on `stream`; times count from when this object was made.

    live: draw on a terminal (default: whether the stream is one).
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() if live is None else live
        self._started = time.monotonic()
        self._bar: Any = None
        if self.live:
            try:
                self._bar = _make_bar(self.stream)
            except ImportError:
                self.live = False

    @contextlib.contextmanager
    def task(
        self,
        title: str,
        total: float | None = None,
        look: Callable[[], tuple[float, str]] | None = None,
    ) -> Iterator["Task"]:
        """Show a task until the block ends; if the block raises, the line disappears.

        total: what `done` counts up to, for a bar. look: called periodically from another thread,
        returns (done, text), for work that cannot call Task.update().
        """
        task = Task(self, title, total, look)
        began = time.monotonic()
        task.start()
        try:
            yield task
        finally:
            task.stop()
        self.say(f"{title}: done in {time.monotonic() - began:.1f} s")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        line = f"[{time.monotonic() - self._started:6.1f} s] {text}"
        if self._bar and self._bar.live.is_started:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()


class Task:
    """One task that Progress.task() shows."""

    def __init__(
        self,
        progress: Progress,
        title: str,
        total: float | None,
        look: Callable[[], tuple[float, str]] | None,
    ) -> None:
        self._progress = progress
        self._title = title
        self._total = total
        self._look = look
        self._bar = progress._bar
        self._line: Any = None
        self._done, self._text = 0.0, ""
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def update(self, done: float | None = None, text: str | None = None) -> None:
        """Set how far the task is, and the text about it."""
        if done is not None:
            self._done = done
        if text is not None:
            self._text = text

    def start(self) -> None:
        if self._bar:
            self._line = self._bar.add_task(self._title, total=self._total, text="")
            self._bar.start()
        else:
            self._progress.say(self._title)
        self._watcher.start()

    def stop(self) -> None:
        self._ended.set()
        self._watcher.join()
        if self._bar:
            self._bar.remove_task(self._line)
            self._bar.stop()

    def _watch(self) -> None:
        while not self._ended.wait(REDRAW_SECONDS if self._bar else QUIET_SECONDS):
            if self._look:
                self.update(*self._look())
            if self._bar:
                self._bar.update(self._line, completed=self._done, text=self._text)
                continue
            part = f" {100 * self._done / self._total:.0f} %" if self._total else ""
            self._progress.say(f"{self._title}:{part} {self._text}".rstrip(" :"))


def _make_bar(stream: TextIO) -> Any:
    """Return a rich.progress.Progress that draws one line on `stream` and clears it at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    class BarOfKnownTotal(BarColumn):
        def render(self, task):
            return "" if task.total is None else super().render(task)

    return Progress(
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        BarOfKnownTotal(bar_width=20),
        TextColumn(
            "{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, ratio=1)
        ),
        console=Console(file=stream, force_terminal=True),
        transient=True,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
