"""Where the guest's serial line goes: this terminal, a pty, or a file."""

import os
import select
import sys
import termios
import threading
import tty

from . import CllmError

LEAVE = b"\x1d"  # Ctrl-]


class Output:
    """This process' stdout, shared by the serial line and by whole lines of our own."""

    def __init__(self):
        self._lock = threading.Lock()
        self._at_line_start = True

    def write(self, data):
        with self._lock:
            self._put(data)

    def line(self, text):
        """Write `text` on a line of its own, even in the middle of the guest's."""
        with self._lock:
            if not self._at_line_start:
                self._put(b"\r\n")
            self._put(text.encode() + b"\n")

    def _put(self, data):
        self._at_line_start = data.endswith(b"\n")
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Whoever read it is gone; serving goes on.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """The guest's serial line on stdin and stdout.

    Keys go to the guest as they are pressed, Ctrl-D and Ctrl-Z included; Ctrl-C ends the run.
    With `every_key` Ctrl-C goes to the guest as well, and Ctrl-] calls `leave` instead.
    """

    def __init__(self, guest, output, every_key=False, leave=None):
        self._guest = guest
        self._every_key = every_key
        self._leave = leave
        self._saved = None
        guest.listeners.append(output.write)

    def open(self):
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

    def _pump(self):
        while data := os.read(0, 1024):
            if self._leave and LEAVE in data:
                self._guest.write(data[:data.index(LEAVE)])
                self._leave()
                return
            self._guest.write(data)

    def close(self):
        if self._saved:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)


class Pty:
    """The guest's serial line on a pseudo-terminal, for screen, mpremote and their like.

    A pseudo-terminal holds 4 KiB. What its reader has not taken yet waits here, up to BACKLOG bytes;
    beyond that there is no reader, and the oldest is lost.
    """

    BACKLOG = 1 << 20

    def __init__(self, guest, output):
        self._guest = guest
        self._ours, self._theirs = os.openpty()
        # Kept open: else a client that leaves would hang the line up.
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self._backlog = bytearray()
        self._lock = threading.Lock()
        self._wake, self._woken = os.pipe()
        self._readable = threading.Thread(target=self._pump, daemon=True)
        guest.listeners.append(self._write)
        output.line("serial line on " + os.ttyname(self._theirs))

    def open(self):
        self._readable.start()

    def _write(self, data):
        with self._lock:
            waiting = bool(self._backlog)
            self._backlog += data
            del self._backlog[:-self.BACKLOG]
            self._flush()
            if self._backlog and not waiting:
                os.write(self._woken, b".")  # the pump is to wait for room as well

    def _flush(self):
        try:
            while self._backlog:
                del self._backlog[:os.write(self._ours, self._backlog)]
        except BlockingIOError:
            pass

    def _pump(self):
        while True:
            try:
                with self._lock:
                    full = [self._ours] if self._backlog else []
                readable, writable, _ = select.select([self._ours, self._wake], full, [])
                if self._wake in readable:
                    os.read(self._wake, 64)
                if writable:
                    with self._lock:
                        self._flush()
                if self._ours in readable:
                    self._guest.write(os.read(self._ours, 1024))
            except (OSError, ValueError):
                return  # closed: the run is over

    def close(self):
        for end in (self._theirs, self._ours, self._wake, self._woken):
            os.close(end)


class File:
    """What the guest writes to its serial line, in a file; nothing is sent to it."""

    def __init__(self, guest, path):
        try:
            self._file = open(path, "wb", buffering=0)
        except OSError as error:
            raise CllmError(f"cannot write the serial line to {path}: {error.strerror}") from None
        guest.listeners.append(self._file.write)

    def open(self):
        pass

    def close(self):
        self._file.close()
