"""The fuzzers of fuzz_api.py, in small."""

import asyncio

from fake_engine import all_closed, forget
from support import fuzz_api


def test_damaged_http():
    assert fuzz_api.fuzz_http(3000, 7) > 1000


def test_any_json():
    forget()
    seen = asyncio.run(fuzz_api.fuzz_json(3000, 7))
    assert seen[200] > 100 and seen[400] > 500
    assert all_closed()
