"""QEMU's monitor, by commands of the QEMU Machine Protocol (docs/interop/qmp-spec of QEMU).

guest = boot(qmp=path)
with Monitor(path) as monitor:
    monitor.command("pmemsave", val=0xB8000, size=4000, filename="screen.bin")
"""

import asyncio
import contextlib
import time

from qemu.qmp import ConnectError, QMPClient, QMPError

CONNECT_S = 10  # QEMU makes the socket a moment after it is started
ANSWER_S = 60


class Monitor:
    """One connection to the socket that qemu.Guest(qmp=path) has; QEMU takes one at a time."""

    def __init__(self, path):
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("guest")
        until = time.monotonic() + CONNECT_S
        while True:
            try:
                self._run(self._client.connect(str(path)))
                break
            except ConnectError:
                if time.monotonic() > until:
                    self._loop.close()
                    raise
                time.sleep(0.01)

    def _run(self, coroutine):
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, ANSWER_S))

    def command(self, name, /, **arguments):
        """Run a command and return its answer. Raises qemu.qmp.ExecuteError where QEMU refuses."""
        return self._run(self._client.execute(name, arguments))

    def human(self, line):
        """Run a line of the human monitor and return the text that it prints."""
        return self.command("human-monitor-command", **{"command-line": line})

    def close(self):
        """End the connection; harmless when QEMU has ended it."""
        with contextlib.suppress(EOFError, OSError, QMPError):
            self._run(self._client.disconnect())
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
