"""Helpers that several folders of tests share: models, servers, engines, fuzzers.

`pyproject.toml` lets pytest find this package; `host/bootstrap.py` makes it importable for programs
that run with `.venv/bin/python`.
"""
