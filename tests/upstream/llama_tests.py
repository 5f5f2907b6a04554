"""llama.cpp's own server tests against frozen/serve: `make test-llama-server`.

They run in build/llama-tests, a copy, each file with a time limit, and with llama_server.py in the
place of llama-server. It prints a table of what passes per file; docs/upstream-tests.md has one
beside what llama-server itself passes with the same model.

    python -m upstream.llama_tests [FILE ...]
"""

import os
import re
import shutil
import subprocess
import sys

from cllm import TOP, build, extras

FOLDER = TOP / "build" / "llama-tests"
SOURCE = TOP / "llama.cpp" / "src" / "tools" / "server" / "tests"
# Parts that cllm does not have: several processes, tools and pictures.
LEFT_OUT = ("router", "mcp_servers", "tools_builtin", "vision_api", "proxy")
LIMIT_S = 1800


def prepare():
    """Copy the tests and write the wrapper; make what they need."""
    build.build_host_library()
    extras.CLIENTS.ensure()
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Tests name the templates of models/ relative to their own place in the tree.
    tests = FOLDER / "tools" / "server" / "tests"
    shutil.copytree(SOURCE, tests, dirs_exist_ok=True)
    shutil.copytree(SOURCE.parents[2] / "models" / "templates", FOLDER / "models" / "templates",
                    dirs_exist_ok=True)  # fmt: skip
    wrapper = FOLDER / "llama-server"
    script = TOP / "tests" / "upstream" / "llama_server.py"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    wrapper.chmod(0o755)
    # It downloads models, which are not used here.
    (FOLDER / "stubs").mkdir(exist_ok=True)
    (FOLDER / "stubs" / "wget.py").write_text('"""Nothing is downloaded here."""\n')
    return tests, wrapper


def run(tests, wrapper, name):
    """Run one file; return (passed, all)."""
    environment = {**os.environ, "LLAMA_SERVER_BIN_PATH": str(wrapper)}
    environment["PYTHONPATH"] = str(FOLDER / "stubs")
    command: list[str] = [
        str(extras.CLIENTS.python),
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        f"unit/test_{name}.py",
    ]
    log = FOLDER / f"{name}.log"
    with open(log, "w") as out:
        try:
            subprocess.run(
                command, cwd=tests, env=environment, stdout=out, stderr=out, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            out.write("\nit took too long\n")
    counts = dict.fromkeys(("passed", "failed", "error", "errors"), 0)
    last = log.read_text().strip().splitlines()[-1]
    for count, word in re.findall(r"(\d+) (passed|failed|errors?)", last):
        counts[word] = int(count)
    return counts["passed"], sum(counts.values())


def main(names):
    tests, wrapper = prepare()
    files = [path.stem.removeprefix("test_") for path in sorted((tests / "unit").glob("test_*"))]
    names = names or [name for name in files if name not in LEFT_OUT]
    total = [0, 0]
    for name in names:
        passed, count = run(tests, wrapper, name)
        total = [total[0] + passed, total[1] + count]
        print(f"{name:24} {passed:4} / {count}", flush=True)
    print(f"{'sum':24} {total[0]:4} / {total[1]}    logs: {FOLDER}")


if __name__ == "__main__":
    main(sys.argv[1:])
