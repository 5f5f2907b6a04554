"""Fixtures of the API tests: the tiny model, a server with it, the reference server."""

import pytest
from support import engine_library, reference_server, tiny_model
from support.api_server import ApiServer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of the tiny model."""
    if not engine_library.LIBRARY.exists():
        pytest.skip(f"no {engine_library.LIBRARY}: build native/ with -DCLLM_HOST_SHARED=ON")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model.make(path)
    return path


@pytest.fixture(scope="session")
def tools_model(tmp_path_factory, tiny):
    """Path of the tiny model with a template that knows tools and reasoning."""
    path = tmp_path_factory.mktemp("model") / "tools.gguf"
    tiny_model.make(path, template=tiny_model.TOOLS, words=tiny_model.WORDS)
    return path


@pytest.fixture(scope="session")
def server(tiny):
    """A server with the tiny model; nothing may be left running in it at the end."""
    with ApiServer(tiny) as server:
        yield server
        assert not server.scheduler.busy


@pytest.fixture(scope="session")
def tools_server(tools_model):
    with ApiServer(tools_model) as server:
        yield server


@pytest.fixture(scope="session")
def ascii_model(tmp_path_factory, tiny):
    """The tiny model, saying ASCII only: bytes that are no UTF-8 are shown in many ways."""
    path = tmp_path_factory.mktemp("ascii") / "tiny.gguf"
    tiny_model.make(path, ascii_only=True, exact=True)
    return path


@pytest.fixture(scope="session")
def reference(ascii_model):
    """llama.cpp's own server with the ASCII model."""
    if not reference_server.PROGRAM.exists():
        pytest.skip(f"no {reference_server.PROGRAM}: run `cllm reference`")
    reference = reference_server.Reference(ascii_model)
    yield reference
    reference.stop()


@pytest.fixture(scope="session")
def differential(ascii_model):
    """Ours, with the ASCII model."""
    with ApiServer(ascii_model) as server:
        yield server
