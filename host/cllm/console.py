"""Ends of the guest's serial line: this terminal, a pty, or a file."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable

from . import CllmError
from .qemu import Guest

LEAVE = b"\x1d"  # Ctrl-]
READER_SECONDS = 1  # a pty whose other end reads nothing for this long has no reader


class Output:
    """This process' stdout, which shows the serial line and messages of cllm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_line_start = True

    def write(self, data: bytes) -> None:
        with self._lock:
            self._put(data)

    def line(self, text: str) -> None:
        """Write `text` on a line of its own, even in the middle of the guest's."""
        with self._lock:
            if not self._at_line_start:
                self._put(b"\r\n")
            self._put(text.encode() + b"\n")

    def _put(self, data: bytes) -> None:
        self._at_line_start = data.endswith(b"\n")
        if sys.stdout is None:
            return  # closed before this process began
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError:
            # The reader is gone, or the disk is full; serving goes on.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """The guest's serial line on stdin and stdout.

    Keys go to the guest as they are pressed, Ctrl-D and Ctrl-Z included; Ctrl-C ends the run. With
    `every_key` Ctrl-C goes to the guest, too, and Ctrl-] calls `leave`.
    """

    def __init__(
        self,
        guest: Guest,
        output: Output,
        every_key: bool = False,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._guest = guest
        self._every_key = every_key
        self._leave = leave
        self._saved: list | None = None  # the terminal's settings
        guest.listeners.append(output.write)

    def open(self) -> None:
        if sys.stdin is None:
            return  # closed before this process began; number 0 is another file's
        try:
            own = not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            own = False
        if not own:
            return  # closed, or a terminal that a job in the background must not touch
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            mode = termios.tcgetattr(0)
            mode[0] &= ~(termios.ICRNL | termios.INLCR | termios.IXON)
            mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
            if self._every_key:
                mode[3] &= ~termios.ISIG
            for key in (termios.VSUSP, termios.VQUIT):
                mode[6][key] = b"\0"  # _POSIX_VDISABLE on Linux
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        while data := self._read():
            if self._leave and LEAVE in data:
                self._guest.write(data[: data.index(LEAVE)])
                self._leave()
                return
            self._guest.write(data)

    def _read(self) -> bytes:
        try:
            return os.read(0, 1024)
        except OSError:
            return b""  # stdin is not readable: a folder, for example

    def close(self) -> None:
        if self._saved:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)


class Pty:
    """The guest's serial line on a pseudo-terminal, for screen, mpremote and their like."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._ours, self._theirs = os.openpty()
        self.path = os.ttyname(self._theirs)
        # Kept open, so that a client that leaves does not hang up the line.
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self._deserted = False
        self._wake, self._waker = os.pipe()
        self._readable = threading.Thread(target=self._pump, daemon=True)
        guest.listeners.append(self._write)

    def open(self) -> None:
        self._readable.start()

    def _write(self, data: bytes) -> None:
        # A slow reader loses nothing: the guest waits. After READER_SECONDS without a read the
        # reader counts as gone, and output is dropped until there is one again.
        while data:
            if not self._writable(0 if self._deserted else READER_SECONDS):
                self._deserted = True
                return
            self._deserted = False
            data = data[os.write(self._ours, data) :]

    def _writable(self, seconds: float) -> bool:
        return bool(select.select([], [self._ours], [], seconds)[1])

    def _pump(self) -> None:
        while True:
            readable = select.select([self._ours, self._wake], [], [])[0]
            if self._wake in readable:
                return
            self._guest.write(os.read(self._ours, 1024))

    def close(self) -> None:
        """Close the pty. Call it after the guest has been stopped."""
        # End the pump first: the next file may get the number that it still waits for.
        os.close(self._waker)
        if self._readable.ident:
            self._readable.join()
        for number in (self._wake, self._theirs, self._ours):
            os.close(number)


class File:
    """A file for the output of the guest's serial line; the guest gets no input."""

    def __init__(self, guest: Guest, path: str) -> None:
        try:
            self._file = open(path, "wb", buffering=0)
        except (OSError, ValueError) as error:  # ValueError: a path that no system call takes
            reason = getattr(error, "strerror", None) or error
            raise CllmError(f"cannot write the serial line to {path}: {reason}") from None
        guest.listeners.append(self._file.write)

    def open(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()
