"""Fixtures of the tests of native/cudart. Those that compute need what `cllm cuda` builds."""

import os
import subprocess

import pytest
from cllm import cuda, gpud
from cllm.build import BUILD
from support import gpu_parts

SECONDS = 300  # for one run of the program, on a busy machine


@pytest.fixture(scope="session")
def backend():
    """Return the folder of the CUDA backend's build; skip where there is none."""
    if reason := gpu_parts.missing(gpu_parts.BACKEND):
        pytest.skip(reason)
    return cuda.FOLDER


@pytest.fixture(scope="session")
def program(backend):
    """Return the path of the test program, brought up to date."""
    if not (BUILD / "native" / "libs.txt").exists():
        pytest.skip("the image was not built, whose archives the program links: run `cllm build`")
    gpud.build()
    return cuda.build_program()


@pytest.fixture(scope="session")
def daemons(program):
    """Return a function: compute capability such as "6.1" -> a running gpud with the pack."""
    running = {}

    def start(capability):
        if capability not in running:
            daemon = gpud.Daemon(compute=capability, pack=cuda.PACK, memory=2048, time_limit=120)
            daemon.start()
            running[capability] = daemon
        return running[capability]

    yield start
    for daemon in running.values():
        daemon.stop()


@pytest.fixture
def run(program, daemons):
    """Return a function that runs a command of the program: (stdout's lines, stderr)."""

    def call(*arguments, capability="6.1", status=0, **environment):
        daemon = daemons(capability)
        words = [str(program), str(daemon.socket), *map(str, arguments)]
        ran = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            env={**os.environ, **environment},
        )
        told = f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}\n{daemon.log()[-2000:]}"
        assert ran.returncode == status, told
        return ran.stdout.splitlines(), ran.stderr

    return call
