"""The version: one file, which `cllm --version` and the changelog name."""

import re
import subprocess
import sys

from cllm import TOP, VERSION


def test_the_command_names_its_version_and_what_is_in_it():
    command = [sys.executable, str(TOP / "host"), "--version"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == f"cllm {VERSION}"
    assert re.fullmatch(r"llama\.cpp as in llama-cpp-python [\d.]+", lines[1])
    assert re.fullmatch(r"MicroPython \d+\.\d+\.\S+", lines[2])


def test_the_changelog_describes_this_version_first():
    heads = re.findall(r"^## \[(.+?)\]", (TOP / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert next(head for head in heads if head != "Unreleased") == VERSION
