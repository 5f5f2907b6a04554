"""Fixtures of the API tests: the tiny model, a server with it, the reference server."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("LLAMA_SERVER", ROOT / "build/native-host/llama-server"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of the tiny model."""
    import engine_library
    import tiny_model

    if not engine_library.LIBRARY.exists():
        pytest.skip(f"no {engine_library.LIBRARY}: build native/ with -DCLLM_HOST_SHARED=ON")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model.make(path)
    return path


@pytest.fixture(scope="session")
def tools_model(tmp_path_factory, tiny):
    """Path of the tiny model with a template that knows tools and reasoning."""
    import tiny_model

    path = tmp_path_factory.mktemp("model") / "tools.gguf"
    tiny_model.make(path, template=tiny_model.TOOLS, words=tiny_model.WORDS)
    return path


@pytest.fixture(scope="session")
def server(tiny):
    """A server with the tiny model; nothing may be left running in it at the end."""
    from api_server import ApiServer

    with ApiServer(tiny) as server:
        yield server
        assert not server.scheduler.busy


@pytest.fixture(scope="session")
def tools_server(tools_model):
    from api_server import ApiServer

    with ApiServer(tools_model) as server:
        yield server


class Reference:
    """llama.cpp's own server."""

    def __init__(self, model, *options):
        from cllm import qemu

        self.port = qemu.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            str(REFERENCE), "-m", str(model), "--port", str(self.port), "-c", "2048", "-np", "4",
            "-t", "1", "-tb", "1", "--no-warmup", "-b", "64", "-ub", "64", "-a", Path(model).stem,
            "--no-webui", "--metrics", "--no-repack", *options,
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "the reference server ended"
            assert time.monotonic() < until, "the reference server does not answer"
            try:
                if requests.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)

    def stop(self):
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="session")
def ascii_model(tmp_path_factory, tiny):
    """The tiny model, saying ASCII only: bytes that are no UTF-8 are shown in many ways."""
    import tiny_model

    path = tmp_path_factory.mktemp("ascii") / "tiny.gguf"
    tiny_model.make(path, ascii_only=True, exact=True)
    return path


@pytest.fixture(scope="session")
def reference(ascii_model):
    """llama.cpp's own server with the ASCII model."""
    if not REFERENCE.exists():
        pytest.skip(f"no {REFERENCE}: run `cllm reference`")
    reference = Reference(ascii_model)
    yield reference
    reference.stop()


@pytest.fixture(scope="session")
def differential(ascii_model):
    """Ours, with the ASCII model."""
    from api_server import ApiServer

    with ApiServer(ascii_model) as server:
        yield server
