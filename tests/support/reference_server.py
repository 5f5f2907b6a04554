"""llama.cpp's own server on the host, built by `cllm reference`, for comparison with ours."""

import os
import subprocess
import time
from pathlib import Path

import requests
from cllm import TOP, qemu

PROGRAM = Path(os.environ.get("LLAMA_SERVER", TOP / "build/native-host/llama-server"))
START_S = 60


class Reference:
    """A running llama-server on a free port of 127.0.0.1, for one thread of computation.

    model: path. options: further flags, which win over the ones here. Raises AssertionError if it
    does not answer in START_S.
    """

    def __init__(self, model, *options):
        self.port = qemu.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            str(PROGRAM),
            "-m",
            str(model),
            "--port",
            str(self.port),
            "-c",
            "2048",
            "-np",
            "4",
            "-t",
            "1",
            "-tb",
            "1",
            "--no-warmup",
            "-b",
            "64",
            "-ub",
            "64",
            "-a",
            Path(model).stem,
            "--no-webui",
            "--metrics",
            "--no-repack",
            *options,
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + START_S
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
