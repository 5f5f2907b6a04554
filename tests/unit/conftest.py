"""Fixtures of all unit tests. Frozen Python is importable in them, on CPython."""

import importlib.util

import cffi
import pytest
import support.on_cpython  # noqa: F401, makes frozen Python importable
from cllm import TOP


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory):
    """Return a function that compiles part of native/ for the host: (folder, cdef) -> cffi module.

    The folder's C files are built with its header of the same name, and with the C files of the
    folders in `uses`, whose headers are included first.
    """

    def compile_folder(name, cdef, uses=()):
        folder = TOP / "native" / name
        ffi = cffi.FFI()
        ffi.cdef(cdef)
        module_name = "_native_" + name
        folders = [TOP / "native" / used for used in uses] + [folder]
        ffi.set_source(
            module_name,
            "".join('#include "%s.h"\n' % part.name for part in folders),
            sources=[str(path) for part in folders for path in sorted(part.glob("*.c"))],
            include_dirs=[str(part) for part in folders],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
        )
        path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp(name)))
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return compile_folder
