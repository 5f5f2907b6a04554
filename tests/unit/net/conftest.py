"""Fixes what hypothesis tries, and runs tests twice that hold for both IPs."""

import pytest
import scripted
from hypothesis import settings

# The same cases in every run, so that a failure belongs to the change at hand.
# New ones are looked for with `--hypothesis-profile default` (docs/network.md).
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_generate_tests(metafunc):
    # The same on MicroPython: on_micropython/run_tests.py.
    if getattr(metafunc.module, "BOTH_FAMILIES", False):
        metafunc.parametrize("ip_version", (4, 6), indirect=True, ids=("ipv4", "ipv6"))


@pytest.fixture(autouse=True)
def ip_version(request):
    scripted.use(getattr(request, "param", 4))
    yield
    scripted.use(4)
