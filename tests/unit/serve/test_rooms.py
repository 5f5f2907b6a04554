"""The two rooms of frozen/serve: `apis` may use `scheduling`, and nothing else points upwards."""

import ast
from pathlib import Path

import pytest

FROZEN = Path(__file__).resolve().parents[3] / "frozen"
SERVE = FROZEN / "serve"

# What the modules of each room may import of frozen/, by their beginnings.
MAY_USE = {
    "scheduling": ("serve.scheduling", "httpd.jsonio", "httpd.HttpError"),
    "apis": ("serve.apis", "serve.scheduling", "serve.switching", "httpd", "net.ipv6"),
}
OURS = {path.stem for path in FROZEN.iterdir()}


def imports(path, package, source=None):
    """The modules of frozen/ that a file imports, with their packages' names."""
    found = set()
    for node in ast.walk(ast.parse(source or path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            # What is imported from a package may be a module of it.
            names = [".".join([*base, alias.name]) for alias in node.names]
        found.update(name for name in names if name.split(".")[0] in OURS)
    return found


@pytest.mark.parametrize("room", sorted(MAY_USE))
def test_no_import_points_upwards(room):
    for path in (SERVE / room).glob("*.py"):
        for name in imports(path, ["serve", room]):
            assert name.startswith(MAY_USE[room]), f"{path.name} imports {name}"


def test_an_upward_import_is_seen():
    for source in (
        "from ..apis.params import few",
        "from .. import apis",
        "import serve.apis",
        "def f():\n    from serve.service import service",
    ):
        (name,) = imports(None, ["serve", "scheduling"], source)
        assert not name.startswith(MAY_USE["scheduling"]), source
