"""native/cudart's scripts: what was compiled before is found again; what is left out is named."""

import importlib.util
import io
import lzma
import struct
import subprocess
import sys
import tarfile

import pytest
from cllm import TOP, CllmError, cuda, ptxpack
from cllm.build import TOOLS
from cllm.lock import Package, packages

FOLDER = TOP / "native" / "cudart"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Stands for clang: joins the input and what it includes, and counts its runs.
COMPILER = """
import sys, pathlib
out, dep, runs, *inputs = sys.argv[1:]
pathlib.Path(runs).open("a").write("x")
pathlib.Path(out).write_text("".join(pathlib.Path(name).read_text() for name in inputs))
pathlib.Path(dep).write_text(f"{out}: \\\\\\n  " + " ".join(inputs) + "\\n")
"""


class Tree:
    """A source tree with a build folder, whose compiler counts its runs."""

    def __init__(self, folder, cache):
        self.folder = folder
        self.cache = cache
        (folder / "src").mkdir(parents=True)
        (folder / "compiler.py").write_text(COMPILER)
        self.write("unit.cu", "unit\n")
        self.write("common.h", "common\n")
        self.write("flags", "-O3\n")

    def write(self, name, text):
        (self.folder / "src" / name).write_text(text)

    def compile(self, identity="clang 19", inputs=()):
        """Return (output, runs of the compiler)."""
        src, out = self.folder / "src", self.folder / "build" / "unit.ptx"
        out.parent.mkdir(exist_ok=True)
        runs = self.folder / "runs"
        runs.write_text("")
        command = [sys.executable, FOLDER / "compile.py", "--cache", self.cache]
        command += ["--identity", identity, "--root", f"top={self.folder}"]
        command += [word for path in inputs for word in ("--input", path)]
        command += ["--depfile", f"{out}.d", "--output", out, "--", sys.executable]
        command += [self.folder / "compiler.py", out, f"{out}.d", runs]
        command += [src / "unit.cu", src / "common.h"]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        return out.read_text(), len(runs.read_text())


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "one", tmp_path / "cache")


def test_the_same_input_is_compiled_once(tree):
    assert tree.compile() == ("unit\ncommon\n", 1)
    depfile = tree.folder / "build" / "unit.ptx.d"
    depfile.unlink()
    assert tree.compile() == ("unit\ncommon\n", 0)
    assert str(tree.folder / "src" / "common.h") in depfile.read_text()


def test_a_tree_at_another_place_finds_it(tree, tmp_path):
    tree.compile()
    other = Tree(tmp_path / "two", tree.cache)
    assert other.compile() == ("unit\ncommon\n", 0)
    assert (
        str(other.folder / "src" / "unit.cu")
        in (other.folder / "build" / "unit.ptx.d").read_text()
    )


def test_a_changed_header_or_compiler_is_compiled_anew(tree):
    tree.compile()
    tree.write("common.h", "changed\n")
    assert tree.compile() == ("unit\nchanged\n", 1)
    assert tree.compile(identity="clang 20")[1] == 1
    # Back again: both are known.
    tree.write("common.h", "common\n")
    assert tree.compile() == ("unit\ncommon\n", 0)


def test_an_input_that_no_depfile_names_counts_too(tree):
    extra = tree.folder / "src" / "unit.ref"
    extra.write_text("1")
    assert tree.compile(inputs=[extra])[1] == 1
    assert tree.compile(inputs=[extra])[1] == 0
    extra.write_text("2")
    assert tree.compile(inputs=[extra])[1] == 1


def test_a_damaged_cache_costs_a_compilation(tree):
    tree.compile()
    for path in tree.cache.glob("*.z"):
        path.write_bytes(b"damaged")
    assert tree.compile() == ("unit\ncommon\n", 1)
    for path in tree.cache.glob("*.json"):
        path.write_text("[[")
    assert tree.compile() == ("unit\ncommon\n", 1)


def test_arguments_in_a_file_are_the_commands(tmp_path):
    (tmp_path / "flags").write_text("-O3\n-DX=a b\n")
    found = list(script("compile").expanded(["clang", f"@{tmp_path / 'flags'}", "-c"]))
    assert found == ["clang", "-O3", "-DX=a b", "-c"]


def test_a_reference_names_unit_and_text():
    data = script("reference").reference("mmvq", b"text")
    magic, version, number = struct.unpack_from("<8sII", data)
    assert (magic, version, len(data)) == (b"CLLMPTXR", 1, 48)
    assert number == ptxpack.file_number("mmvq")
    assert data[16:] == ptxpack.sha256(b"text")


def test_absent_instances_get_a_function_that_names_them(tmp_path):
    if not (TOOLS / "zig-cc").exists():
        pytest.skip("the compiler's wrappers are missing: run `cllm build`")
    source = tmp_path / "a.cpp"
    source.write_text(
        "struct ggml_backend_cuda_context;\n"
        "template <int> void mul_mat_q_case(ggml_backend_cuda_context &);\n"
        "void of_a_library();\n"
        "template <> void mul_mat_q_case<1>(ggml_backend_cuda_context &) {}\n"
        "void choose(ggml_backend_cuda_context &c) {\n"
        "    mul_mat_q_case<1>(c); mul_mat_q_case<2>(c); of_a_library();\n"
        "}\n"
    )
    object_ = tmp_path / "a.o"
    subprocess.run([TOOLS / "zig-c++", "-c", source, "-o", object_], check=True)
    absent = script("absent")
    (name,) = absent.missing([object_.read_bytes()])
    assert "mul_mat_q_case" in name and "Li2E" in name
    assert f'"{name}"' in absent.source([name])


# The toolchain.


def test_the_lock_file_names_compiler_and_headers():
    listed = {package.name: package for package in packages(cuda.LOCK)}
    assert {"clang-19", "libclang-cpp19", "libllvm19", "libclang-common-19-dev"} <= set(listed)
    assert {package.origin for package in listed.values()} == {"debian-binary", "wheel"}
    assert all(package.size > 0 for package in listed.values())


def test_a_list_of_packages_that_is_none_is_refused(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text('{"name": "x"}')
    with pytest.raises(CllmError, match="lacks the key 'packages'"):
        packages(path)


def debian_package(files):
    """Return a .deb with these files; an odd size is padded, as ar(5) wants it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": b""}
    members["data.tar.xz"] = lzma.compress(buffer.getvalue())
    out = b"!<arch>\n"
    for name, content in members.items():
        out += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), 0, 0, 0, b"644", len(content))
        out += content + b"\n" * (len(content) % 2)
    return out


def test_only_what_compiles_is_unpacked_of_a_debian_package(tmp_path):
    package = Package(
        cuda.LOCK,
        {
            "name": "clang-19",
            "version": "1",
            "from": "debian-binary",
            "file": "clang.deb",
            "sha256": "0" * 64,
        },
    )
    path = tmp_path / "clang.deb"
    path.write_bytes(
        debian_package(
            {
                "./usr/lib/llvm-19/bin/clang": b"program",
                "./usr/share/man/man1/clang.1": b"manual",
                "./usr/share/doc/clang-19/copyright": b"licence",
                "./etc/passwd": b"no",
            }
        )
    )
    target = tmp_path / "tools"
    cuda.unpack_deb(package, path, target)
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {"lib/llvm-19/bin/clang": b"program", "licences/clang-19": b"licence"}
    path.write_bytes(b"not one")
    with pytest.raises(tarfile.TarError, match="not a Debian package"):
        cuda.unpack_deb(package, path, target)


def test_architectures_and_profiles_that_are_none():
    assert cuda.architectures("61,80") == [61, 80]
    with pytest.raises(CllmError, match="no list of compute capabilities"):
        cuda.architectures("sm_61")
    for profile, capabilities in (("all", [61]), ("ci", [60]), ("ci", [])):
        with pytest.raises(CllmError, match="profiles ci, full"):
            cuda.build(profile, capabilities)
