"""Fixtures for host/cllm: no network, no real QEMU, another home for every test."""

import os
import stat
import sys
from pathlib import Path

import pytest

# Stands in for QEMU: it writes down its arguments, then does what FAKE_QEMU says. The port of its
# hostfwd answers /health, so that `cllm run` can be tested to the end.
FAKE_QEMU = """\
#!{python}
import http.server, os, re, sys, threading
open(os.environ["FAKE_QEMU_ARGUMENTS"], "w").write("\\0".join(sys.argv[1:]))
act = os.environ.get("FAKE_QEMU", "serve 200 {{}}")
what, _, rest = act.partition(" ")
if what == "fail":
    sys.exit(rest)
if what == "exit":
    sys.stdout.write("last words\\r\\n")
    sys.stdout.flush()
    os._exit(int(rest))
if what == "hang":
    threading.Event().wait()
# The power button, by the monitor.
control = re.search(r"socket,id=control,fd=(\\d+)", " ".join(sys.argv))
def button(stream):
    for line in stream:
        if line == b"system_powerdown\\n" and what != "deaf":
            os._exit(0)
threading.Thread(target=button, args=[open(int(control.group(1)), "rb")], daemon=True).start()
status, _, body = rest.partition(" ")
port = int(re.search(r"hostfwd=tcp:127.0.0.1:(\\d+)", " ".join(sys.argv)).group(1))

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", port), Health)
os.write(1, b"guest banner\\r\\nno newline here")
threading.Timer(0.3, server.serve_forever).start()
while data := os.read(0, 100):
    os.write(1, b"<" + data + b">")
threading.Event().wait()
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with an empty cache, and no checkouts in the environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MICROPYTHON_SRC", "LLAMA_SRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def fake_qemu(tmp_path, monkeypatch):
    """Put the stand-in first on PATH; returns a function that returns its arguments."""
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text(FAKE_QEMU.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    noted = tmp_path / "qemu-arguments"
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_QEMU_ARGUMENTS", str(noted))
    monkeypatch.delenv("FAKE_QEMU", raising=False)

    def arguments():
        return Path(noted).read_text().split("\0")

    return arguments


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.elf"
    path.write_bytes(b"\x7fELF")
    return path
