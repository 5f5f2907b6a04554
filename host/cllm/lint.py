"""`cllm lint` and `cllm format`: the same rules for every file that git tracks.

lint reports and changes nothing: ruff and mypy (pyproject.toml), clang-format (.clang-format),
codespell, and the sizes below. format lets ruff and clang-format change files.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import TOP, CllmError
from .extras import LINT

C_FILES = (".c", ".h", ".cpp", ".hpp")
PROSE = (".md",)
SOURCES = (*C_FILES, *PROSE, ".py", ".S", ".ld", ".mk", ".toml", ".cmake")
NAMED_SOURCES = ("Makefile", "CMakeLists.txt")
MAX_COLUMNS = 100
MAX_FILE_LINES = 800  # prose has no limit
MAX_FUNCTION_LINES = 100


def tracked() -> list[Path]:
    """Return the files that git tracks, relative to the top folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True)
    if listed.returncode != 0:
        raise CllmError("this is no git checkout: " + listed.stderr.strip())
    return [Path(name) for name in listed.stdout.split("\0") if name and (TOP / name).is_file()]


def _run(*command: str | Path) -> bool:
    return subprocess.run([str(word) for word in command], cwd=TOP).returncode == 0


def _module(name: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    # By module: the first line of an installed program names a folder, which may have moved.
    return (LINT.python, "-m", name, *arguments)


def _clang_format(*arguments: str | Path) -> tuple[str | Path, ...]:
    (program,) = LINT.folder.glob("lib/python3*/site-packages/clang_format/data/bin/clang-format")
    return (program, "--style=file", *arguments)


def lint() -> int:
    """Run every check and print its findings; return 0 if there are none, else 1."""
    LINT.ensure()
    files = tracked()
    c_files = [path for path in files if path.suffix in C_FILES]
    checks = {
        "ruff check": lambda: _run(*_module("ruff", "check", "--quiet")),
        "ruff format": lambda: _run(*_module("ruff", "format", "--check", "--quiet")),
        "mypy": lambda: _run(
            *_module("mypy", "--no-error-summary", "--python-executable", sys.executable)
        ),
        "clang-format": lambda: _run(*_clang_format("--dry-run", "-Werror", *c_files)),
        "codespell": lambda: _run(*_module("codespell_lib", *files)),
        "sizes": lambda: not _print_all(sizes(files)),
    }
    failed = []
    for name, check in checks.items():
        print(f"lint: {name}", file=sys.stderr, flush=True)
        if not check():
            failed.append(name)
    if failed:
        print(f"lint: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def reformat() -> int:
    """Let ruff and clang-format lay out the files; return 0 unless one fails."""
    LINT.ensure()
    c_files = [path for path in tracked() if path.suffix in C_FILES]
    done = [
        _run(*_module("ruff", "check", "--fix-only", "--quiet")),
        _run(*_module("ruff", "format", "--quiet")),
        _run(*_clang_format("-i", *c_files)),
    ]
    return 0 if all(done) else 1


def _print_all(lines: Iterator[str]) -> bool:
    """Print the lines; return whether there were any."""
    found = False
    for line in lines:
        print(line)
        found = True
    return found


def sizes(files: list[Path], top: Path = TOP) -> Iterator[str]:
    """Yield a line of text for each line, file and function that is too long."""
    for path in files:
        if path.suffix not in SOURCES and path.name not in NAMED_SOURCES:
            continue
        text = (top / path).read_text()
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            # A row of a Markdown table has to be one line.
            if len(line) > MAX_COLUMNS and not (path.suffix in PROSE and line.startswith("|")):
                yield f"{path}:{number}: {len(line)} columns, {MAX_COLUMNS} are allowed"
        if len(lines) - 1 > MAX_FILE_LINES and path.suffix not in PROSE:
            yield f"{path}: {len(lines) - 1} lines, {MAX_FILE_LINES} are allowed"
        functions: Iterator[tuple[int, int]] = iter(())
        if path.suffix == ".py":
            functions = _python_functions(text)
        elif path.suffix in C_FILES:
            functions = _c_functions(lines)
        for first, last in functions:
            if last - first + 1 > MAX_FUNCTION_LINES:
                yield (
                    f"{path}:{first}: a function of {last - first + 1} lines, "
                    f"{MAX_FUNCTION_LINES} are allowed"
                )


def _python_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yield (first line, last line) of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.end_lineno or node.lineno


def _c_functions(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Yield (first line, last line) of each function, as clang-format lays them out."""
    first = 0
    for number, line in enumerate(lines, 1):
        if line == "}" and first:
            yield first, number
            first = 0
        elif re.match(r"[A-Za-z].*\(", line):
            first = number
        elif line.startswith(("}", "#", "//")) or line.endswith(";") and not line.startswith(" "):
            first = 0
