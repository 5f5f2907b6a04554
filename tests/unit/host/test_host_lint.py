"""`cllm lint`'s own check: lines, files and functions that are too long."""

from pathlib import Path

import pytest
from cllm import lint


def found(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return list(lint.sizes([Path(name)], tmp_path))


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.py", "x = '" + "é" * 94 + "'\n"),
        ("a.md", "| " + "x" * 200 + " |\n"),
        ("a.json", '"' + "x" * 200 + '"\n'),
        ("a.md", "line\n" * 2000),
        ("a.py", "def f():\n" + "    pass\n" * 99),
        ("a.c", "int f(void) {\n" + "    f();\n" * 98 + "}\n\nint g(void) {\n}\n"),
        ("a.c", "struct a {\n" + "    int a;\n" * 200 + "};\n"),
        ("a.c", "static const int a[] = {\n" + "    f(1),\n" * 200 + "};\n"),
    ],
)
def test_what_is_short_enough(tmp_path, name, text):
    assert found(tmp_path, name, text) == []


CALLS = "    f();\n" * 100


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.py", "\nx = '" + "é" * 96 + "'\n", "a.py:2: 102 columns"),
        ("Makefile", "x" * 101, "Makefile:1: 101 columns"),
        ("a.md", "x" * 101 + "\n", "a.md:1: 101 columns"),
        ("a.c", "int a;\n" * 801, "a.c: 801 lines"),
        ("a.py", "class A:\n  async def f(self):\n" + CALLS, "a.py:2: a function of 101"),
        ("a.cpp", "// f(x)\nint f(\n    int x) {\n" + CALLS + "}\n", "a.cpp:2: a function of 103"),
        ("a.c", "int g(void);\nint f(void)\n{\n" + CALLS + "}\n", "a.c:2: a function of 103"),
    ],
)
def test_what_is_too_long(tmp_path, name, text, words):
    (line,) = found(tmp_path, name, text)
    assert line.startswith(words)


def test_files_of_the_tree_are_those_that_git_tracks():
    files = lint.tracked()
    assert Path("host/cllm/lint.py") in files and not any(".venv" in path.parts for path in files)
