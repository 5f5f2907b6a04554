"""Helpers that several folders of tests share: models, servers, engines, fuzzers.

pytest finds this package by `pyproject.toml`; programs that run with `.venv/bin/python` find it by
a path file that `host/bootstrap.py` writes.
"""
