"""Run the tests of a file on MicroPython's unix build.

`cllm test` builds that and names it in $MICROPYTHON; any other of version 1.25 with asyncio will
do.
"""

import ast
import json
import os
import re
import shutil
import subprocess
from typing import Any

from cllm import TOP, build

RUNNER = TOP / "tests" / "unit" / "on_micropython" / "run_tests.py"
MISSING = "no MicroPython for this machine: `cllm test` builds one, $MICROPYTHON names another"


def program():
    """Return the path of the program, or None."""
    built = str(build.UNIX) if build.UNIX.exists() else None
    return os.environ.get("MICROPYTHON") or built or shutil.which("micropython")


def plan(path):
    """Return the tests and fixtures of a file with their arguments' names, for run_tests.py."""
    found: dict[str, Any] = {"tests": [], "fixtures": {}}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        names = [argument.arg for argument in node.args.args]
        if node.name.startswith("test_"):
            found["tests"].append([node.name, names])
        elif any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list):
            found["fixtures"][node.name] = names
    return found


def run_tests(path, folder, timeout=300):
    """Run a file's tests; return ((passed, skipped, failed), the whole output).

    folder: where the plan may be written.
    """
    listing = folder / (path.stem + ".json")
    listing.write_text(json.dumps(plan(path)))
    done = subprocess.run(
        [program(), "-X", "heapsize=128m", str(RUNNER), str(path), str(listing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    counts = re.search(
        r"^(\d+) passed, (\d+) skipped, (\d+) failed\n\Z", done.stdout, re.MULTILINE
    )
    if counts is None:
        raise AssertionError(f"status {done.returncode}\n{done.stdout}")
    return tuple(int(count) for count in counts.groups()), done.stdout
