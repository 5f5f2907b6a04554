"""The arrows of the house: no folder uses one that docs/architecture.md does not let it use.

`ARROWS` is that page's table. Includes and imports are read from the sources, calls from the
objects that the build left. Each check is itself tried on a small tree with one arrow too many.
"""

import ast
import os
import re
from pathlib import Path

import pytest
from cllm.build import BUILD
from support.object_symbols import symbols

TOP = Path(__file__).resolve().parent.parent.parent
PORT = BUILD / "port"

# Which folders a folder may use. The innermost folder that is named here counts.
ARROWS = {
    "kernel": {"kernel", "kernel/include"},
    "kernel/include": set(),
    "ports/cllm_x86": {"ports/cllm_x86", "kernel/include", "native", "MicroPython"},
    "native": {"native", "llama.cpp"},
    "modules": {"modules", "native", "MicroPython"},
    "frozen/drivers": {"frozen/drivers", "C modules"},
    "frozen/net": {"frozen/net", "frozen/drivers", "C modules"},
    "frozen/httpd": {"frozen/httpd", "frozen/net", "frozen/drivers", "C modules"},
    "frozen/serve": {"frozen/serve", "frozen/httpd", "frozen/net", "frozen/drivers", "C modules"},
    # Modules under MicroPython's names (socket, network), and cllm for scripts. Nothing below uses
    # them but by asyncio, which is MicroPython's.
    "frozen/lib": {
        "frozen/lib",
        "frozen/serve",
        "frozen/httpd",
        "frozen/net",
        "frozen/drivers",
        "C modules",
    },
    "frozen/boot": {
        "frozen/boot",
        "frozen/lib",
        "frozen/serve",
        "frozen/httpd",
        "frozen/net",
        "frozen/drivers",
        "C modules",
    },
}

# What MicroPython asks every port for: gc_collect(), and mp_hal_ticks_ms(), an inline function that
# calls clock_ns().
ASKED = {"clock_ns", "gc_collect"}

# Every file of the kernel may die, and the report looks at nearly every file (crash.h).
CIRCULAR = {"crash", "panic"}
# What the kernel wants from outside: link.ld's addresses, and the application's entry.
LINKED = {
    "__image_start",
    "__text_start",
    "__text_end",
    "__rodata_end",
    "__load_end",
    "__bss_start",
    "__bss_end",
    "__symbols_start",
    "_start",
    "console_font",
}

FREESTANDING = {"stdarg.h", "stdbool.h", "stddef.h", "stdint.h"}
C_FILES = (".c", ".h", ".cpp", ".S")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
MICROPYTHON = ("py/", "extmod/", "shared/", "lib/", "genhdr/")
# Modules that are none of theirs are C modules, or MicroPython's: anybody may use them.
PYTHON_FOLDERS = ("drivers", "net", "httpd", "serve", "lib", "boot")


def room_of(path):
    """The key of ARROWS for a path relative to the top; None for one that is outside the house."""
    for folder in map(str, Path(path).parents):
        if folder in ARROWS:
            return folder
    return None


def sources(top, *endings):
    for folder in ("kernel", "ports/cllm_x86", "native", "modules", "frozen"):
        for place, _, names in os.walk(top / folder):
            for name in names:
                if name.endswith(endings):
                    yield (Path(place) / name).relative_to(top)


def include_target(top, path, name):
    """The file of ours that an include means, relative to the top; None when it is not ours."""
    folders = [(top / path).parent]
    if room_of(path) in ("kernel", "kernel/include"):
        folders.append(top / "kernel")
    else:
        folders += [top, top / "ports/cllm_x86"]
        folders += sorted((top / "native").glob("*/")) + sorted((top / "modules").glob("*/"))
    for folder in folders:
        if (folder / name).is_file():
            return Path(os.path.relpath((folder / name).resolve(), top.resolve()))
    return None


def include_violations(top):
    """Includes against the arrows: a list of lines that say which."""
    found = []
    for path in sources(top, *C_FILES):
        room = room_of(path)
        for bracket, name in INCLUDE.findall((top / path).read_text()):
            target = include_target(top, path, name) if bracket == '"' else None
            if target is not None:
                to = room_of(target)
            elif bracket == '"' and name.startswith(MICROPYTHON):
                to = "MicroPython"
            elif room in ("kernel", "kernel/include"):
                to = room if bracket == "<" and name in FREESTANDING else "outside"
            else:
                continue  # libc's, or llama.cpp's, which only native/ has on its include path
            if to != room and to not in ARROWS[room]:
                found.append(f"{path} includes {name}: {room} -> {to}")
    return found


def modules_of(top):
    """Which folder of frozen/ has a module: {name in an import statement: key of ARROWS}."""
    known = {}
    for folder in PYTHON_FOLDERS:
        where = top / "frozen" / folder
        key = "frozen/" + folder
        if (where / "__init__.py").exists():
            known[folder] = key
        else:
            known.update((path.stem, key) for path in where.glob("*.py"))
    return known


def import_violations(top):
    """Imports against the arrows, wherever in a file they stand."""
    known = modules_of(top)
    found = []
    for path in sources(top, ".py"):
        room = room_of(path)
        if path.parts[0] != "frozen" or room is None:
            continue
        for node in ast.walk(ast.parse((top / path).read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                to = known.get(name.split(".")[0])
                if to is not None and to not in ARROWS[room]:
                    found.append(f"{path} imports {name}: {room} -> {to}")
    return found


def circles(graph):
    """Sets of nodes of {node: nodes it uses} that use each other, none for a graph without one."""

    def reach(node):
        seen, left = set(), [node]
        while left:
            for other in graph.get(left.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return seen

    reached = {node: reach(node) for node in graph}
    return {
        frozenset(other for other in reached[node] if node in reached.get(other, ()))
        for node in graph
        if node in reached[node]
    }


def test_no_include_goes_upwards():
    assert include_violations(TOP) == []


def test_no_import_goes_upwards():
    assert import_violations(TOP) == []


def test_no_header_of_the_kernel_includes_itself():
    graph = {}
    for path in sources(TOP, ".h"):
        if path.parts[0] == "kernel":
            names = [name for _, name in INCLUDE.findall((TOP / path).read_text())]
            graph[path] = {include_target(TOP, path, name) for name in names} - {None}
    assert graph and circles(graph) == set()


def test_every_folder_is_in_the_architecture_page():
    page = (TOP / "docs" / "architecture.md").read_text()
    for folder in ARROWS:
        assert f"`{folder.removeprefix('frozen/')}/`" in page, folder


# --- Calls --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects():
    """{path relative to build/port: (defined, undefined)} of every ELF object. The interpreter's
    are bitcode, and MicroPython's or in the place of it."""
    paths = [path for path in sorted(PORT.rglob("*.o")) if path.read_bytes()[:4] == b"\x7fELF"]
    if not paths:
        pytest.fail("the port is not built: run `make build`")
    return {str(path.relative_to(PORT)): symbols(path) for path in paths}


def below(objects, folder):
    """Those whose source is in a folder of ours: others may be left over from an older build."""
    return {
        name: found
        for name, found in objects.items()
        if any((TOP / folder / name).with_suffix(ending).exists() for ending in (".c", ".S"))
    }


def of_kernel(objects):
    return {name: found for name, found in below(objects, ".").items() if name[:7] == "kernel/"}


def test_the_kernel_calls_nobody_outside(objects):
    kernel = of_kernel(objects)
    defined = set().union(*(found[0] for found in kernel.values()))
    undefined = set().union(*(found[1] for found in kernel.values()))
    assert "panic" in defined and undefined - defined <= LINKED


def test_files_of_the_kernel_call_each_other_in_one_direction(objects):
    kernel = of_kernel(objects)
    owner = {name: path for path, (defined, _) in kernel.items() for name in defined}
    graph = {
        path: {owner[name] for name in undefined - CIRCULAR if name in owner} - {path}
        for path, (_, undefined) in kernel.items()
    }
    assert circles(graph) == set()
    # With these two, there is one: the exception is needed.
    graph["kernel/mm/phys.o"].add(owner["panic"])
    assert circles(graph) != set()


def test_the_application_calls_only_what_machine_h_offers(objects):
    offered = set(re.findall(r"\w+", (TOP / "kernel" / "include" / "machine.h").read_text()))
    defined = set().union(*(found[0] for found in of_kernel(objects).values()))
    application = {**below(objects, "ports/cllm_x86"), **below(objects, "modules")}
    assert "main.o" in application and "pci/modpci.o" in application
    for path, (_, undefined) in application.items():
        assert undefined & defined <= offered, path


def test_modules_call_neither_port_nor_kernel(objects):
    others = {**of_kernel(objects), **below(objects, "ports/cllm_x86")}
    theirs = set().union(*(found[0] for found in others.values())) - ASKED
    modules = below(objects, "modules")
    assert "engine/modengine.o" in modules
    for path, (_, undefined) in modules.items():
        assert undefined & theirs == set(), path


# --- The checks find what they are for ------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """tree(PATH, TEXT) adds a file to a small house."""

    def add(path, text=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    for path in (
        "kernel/include/machine.h",
        "kernel/cpu/io.h",
        "ports/cllm_x86/mphalport.h",
        "modules/engine/modengine.h",
        "native/engine/engine.h",
        "native/pci/pci.h",
        "frozen/drivers/__init__.py",
        "frozen/net/__init__.py",
        "frozen/httpd/__init__.py",
        "frozen/serve/__init__.py",
        "frozen/lib/socket.py",
        "frozen/boot/report.py",
    ):
        add(path)
    return add


@pytest.mark.parametrize(
    "path, line",
    [
        ("kernel/cpu/x.c", '"ports/cllm_x86/mphalport.h"'),
        ("kernel/cpu/x.c", '"../../ports/cllm_x86/mphalport.h"'),
        ("kernel/cpu/x.c", '"py/runtime.h"'),
        ("kernel/cpu/x.c", "<string.h>"),
        ("kernel/include/y.h", '"../cpu/io.h"'),
        ("ports/cllm_x86/x.c", '"kernel/cpu/io.h"'),
        ("modules/engine/x.c", '"mphalport.h"'),
        ("modules/engine/x.c", '"kernel/include/machine.h"'),
        ("native/engine/x.cpp", '"modengine.h"'),
        ("native/engine/x.cpp", '"py/obj.h"'),
        ("native/engine/x.h", '"kernel/include/machine.h"'),
    ],
)
def test_an_include_upwards_is_found(tree, path, line):
    assert include_violations(tree(path)) == []
    (found,) = include_violations(tree(path, f"#include {line}\n"))
    assert found.startswith(path)


@pytest.mark.parametrize(
    "path, line",
    [
        ("kernel/cpu/x.c", '"cpu/io.h"'),
        ("kernel/cpu/x.c", '"include/machine.h"'),
        ("ports/cllm_x86/x.c", '"kernel/include/machine.h"'),
        ("ports/cllm_x86/x.c", '"native/pci/pci.h"'),
        ("modules/engine/x.c", '"engine.h"'),
        ("modules/engine/x.c", '"py/mphal.h"'),
        ("native/engine/x.cpp", '"llama.h"'),
    ],
)
def test_an_include_downwards_is_not(tree, path, line):
    assert include_violations(tree(path, f"#include {line}\n")) == []


@pytest.mark.parametrize(
    "path, line",
    [
        ("frozen/drivers/x.py", "from net import host"),
        ("frozen/net/x.py", "import socket"),
        ("frozen/net/x.py", "def f():\n    import httpd.router"),
        ("frozen/httpd/x.py", "from serve.service import service"),
        ("frozen/serve/x.py", "import socket"),
        ("frozen/lib/x.py", "import report"),
    ],
)
def test_an_import_upwards_is_found(tree, path, line):
    (found,) = import_violations(tree(path, line + "\n"))
    assert found.startswith(path)


@pytest.mark.parametrize(
    "path, line",
    [
        ("frozen/serve/x.py", "from httpd import router"),
        ("frozen/serve/x.py", "from . import y"),
        ("frozen/net/x.py", "import _x86, struct"),
        ("frozen/boot/x.py", "import socket"),
    ],
)
def test_an_import_downwards_is_not(tree, path, line):
    assert import_violations(tree(path, line + "\n")) == []


def test_a_circle_is_found():
    assert circles({1: {2}, 2: {3}, 3: set()}) == set()
    assert circles({1: {2}, 2: {3}, 3: {2}}) == {frozenset({2, 3})}
