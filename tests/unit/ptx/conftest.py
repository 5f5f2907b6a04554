"""Fixtures for the interpreter's tests: a device, and a way to try one instruction.

They are skipped, with the reason, where the library is missing.
"""

import pytest


@pytest.fixture(scope="session")
def device():
    from support.ptx_library import LIBRARY, Device

    if not LIBRARY.exists():
        pytest.skip(f"no {LIBRARY}: run `make test`, or cllm.build.build_ptx()")
    device = Device()
    yield device
    device.close()
