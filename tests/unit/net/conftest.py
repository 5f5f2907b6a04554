"""Lets the tests of this folder import its helpers, and fixes what hypothesis tries."""

import sys
from pathlib import Path

from hypothesis import settings

# The same cases in every run, so that a failure belongs to the change at hand.
# New ones are looked for with `--hypothesis-profile default` (docs/network.md).
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
