"""Fixes what hypothesis tries."""

from hypothesis import settings

# The same cases in every run, so that a failure belongs to the change at hand.
# New ones are looked for with `--hypothesis-profile default` (docs/network.md).
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
