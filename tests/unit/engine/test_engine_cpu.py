"""The choice of a build of ggml's CPU code; the host's library has one, for AVX2."""

import pytest


def use(library, name):
    return library.so.engine_use_cpu(name)


def reason(library):
    return library.ffi.string(library.so.engine_error()).decode()


def test_the_best_is_chosen(library):
    assert use(library, b"") == 0
    assert library.ffi.string(library.so.engine_cpu()) == b"avx2"
    assert use(library, b"avx2") == 0  # the one in use


@pytest.mark.parametrize("name", [b"sse42", b"AVX2", b"\xff"])
def test_a_build_that_is_not_there(library, name):
    assert use(library, name) == -1
    assert "there is no CPU variant" in reason(library)
