"""What ggml-cuda's objects need of others: an upstream that wants more fails here, at once."""

import re

import pytest
from cllm import ptxpack
from support.object_symbols import symbols

# Functions of CUDA's runtime and of cuBLAS.
OF_CUDA = re.compile(r"(__)?cuda[A-Z]\w*|cublas\w*|cu[A-Z]\w*")


def names(paths):
    defined, undefined = set(), set()
    for path in paths:
        has, lacks = symbols(path)
        defined |= has
        undefined |= lacks
    return defined, undefined


@pytest.fixture(scope="module")
def objects(backend):
    found = sorted((backend / "objects").glob("*.o"))
    assert found
    return [path for path in found if path.name != "gemm.o"]


def test_the_shim_has_every_function_that_the_backend_names(backend, objects):
    _, wanted = names(objects)
    wanted = {name for name in wanted if OF_CUDA.fullmatch(name)}
    shim, _ = names((backend / "CMakeFiles" / "cudart.dir").glob("*.cpp.o"))
    assert wanted - shim == set()
    assert len(wanted) > 50


def test_instances_left_out_are_the_only_ones_that_are_missing(backend, objects):
    """The linker would find a missing function only where the image uses it."""
    defined, wanted = names(objects)
    absent, _ = names((backend / "CMakeFiles" / "ggml-cuda.dir").glob("*.cpp.o"))
    left = {name for name in wanted - defined - absent if "ggml_backend_cuda_context" in name}
    assert left == set()
    assert not absent & defined
    # Whole families, never one of the functions that choose among them.
    families = {re.sub(r"I(L|X).*", "", name) for name in absent}
    assert {re.sub(r"\d+", "", name) for name in families} <= {
        "_Zmul_mat_q_case",
        "_Zmul_mat_f_case",
        "_Zggml_cuda_flash_attn_ext_vec_case",
        "_Zggml_cuda_flash_attn_ext_tile_case",
        "_Zggml_cuda_flash_attn_ext_mma_f_case",
    }


def test_objects_embed_references_in_place_of_ptx(backend, objects):
    for path in objects:
        data = path.read_bytes()
        assert data.count(b"CLLMPTXR") == 1, path.name
        assert b".target sm_" not in data, path.name
        (ptx,) = (backend / "ptx").glob(f"{path.stem}.sm_61.ptx")
        number = ptxpack.file_number(path.stem).to_bytes(4, "little")
        at = data.index(b"CLLMPTXR")
        assert data[at + 12 : at + 16] == number, path.name
        assert data[at + 16 : at + 48] == ptxpack.sha256(ptx.read_bytes()), path.name


def test_every_kernel_of_the_objects_is_in_the_pack(backend, objects):
    """Stubs and kernels have one name each: the host's part names all that it can launch."""
    for path in objects:
        text = (backend / "ptx" / f"{path.stem}.sm_61.ptx").read_text()
        kernels = {kernel.name for kernel in ptxpack.kernels(text)}
        data = path.read_bytes()
        # CUB's empty kernel is made and never launched.
        kernels = {name for name in kernels if "EmptyKernel" not in name}
        missing = [name for name in kernels if name.encode() + b"\0" not in data]
        assert missing == [], path.name
