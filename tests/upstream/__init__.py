"""MicroPython's own tests against the image that serves models: `cllm test-upstream`.

Upstream's runners (run-tests.py, run-natmodtests.py, run-perfbench.py, run-multitests.py) talk to
a guest in QEMU over a pty. They run in build/upstream, a copy, because they write beside the
tests. expected.txt names every test that does not pass, with the reason; anything else that does
not pass, and anything listed that does, fails the command.
"""
