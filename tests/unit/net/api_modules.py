"""Modules of frozen/api, whose names CPython has too."""

import sys


def load(name):
    """Import one."""
    if sys.implementation.name == "micropython":
        return __import__(name)  # frozen/api is on the path there
    import importlib.util
    from pathlib import Path

    path = Path(__file__).resolve().parents[3] / "frozen" / "api" / (name + ".py")
    spec = importlib.util.spec_from_file_location("cllm_" + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
