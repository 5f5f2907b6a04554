"""libgpud.so and gpud, built when they are out of date."""

import pytest
from cllm import gpud


@pytest.fixture(scope="session")
def library():
    pytest.importorskip("cffi")
    gpud.build()
    from support.gpud_library import Library

    return Library()
