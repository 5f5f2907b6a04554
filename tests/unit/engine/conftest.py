"""Fixtures for the engine's tests: the library, a tiny model, a real one.

CLLM_TEST_MODEL names a real model for the tests that want one. Tests are skipped, with the reason,
where the library or a model is missing.
"""

import os
from pathlib import Path

import pytest
from support.engine_library import LIBRARY, Engine, Library


@pytest.fixture(scope="session")
def library():
    pytest.importorskip("cffi")
    if not LIBRARY.exists():
        pytest.skip(f"no {LIBRARY}: build native/ with -DCLLM_HOST_SHARED=ON")
    return Library(LIBRARY)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The path of the tiny model."""
    pytest.importorskip("gguf")
    from support import tiny_model

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model.make(path)
    return path


@pytest.fixture
def engine(library, tiny):
    with Engine(library, tiny) as engine:
        yield engine


@pytest.fixture(scope="session")
def smollm():
    """The path of a real model, SmolLM2-135M-Instruct Q4_1."""
    path = os.environ.get("CLLM_TEST_MODEL")
    if not path:
        pytest.skip("CLLM_TEST_MODEL names no model file")
    return Path(path)
