"""Fixtures of all unit tests. Frozen Python is importable in them, on CPython."""

import importlib.util

import cffi
import pytest
import support.on_cpython  # noqa: F401, makes frozen Python importable
from cllm import TOP


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory):
    """Return a function that compiles part of native/ for the host: (folder, cdef) -> cffi module.

    The folder's C files are built with its header of the same name.
    """

    def compile_folder(name, cdef):
        folder = TOP / "native" / name
        ffi = cffi.FFI()
        ffi.cdef(cdef)
        module_name = "_native_" + name
        ffi.set_source(
            module_name,
            '#include "%s.h"' % name,
            sources=[str(path) for path in folder.glob("*.c")],
            include_dirs=[str(folder)],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
        )
        path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp(name)))
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return compile_folder
