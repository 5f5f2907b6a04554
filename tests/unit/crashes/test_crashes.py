"""Programs that ended MicroPython 1.25, on its unix build with the patches of micropython/patches.

tests/guest/test_guest_crashes.py runs tests/crashes/*.py in a guest, too.
"""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import unix_micropython

SCRIPTS = sorted((Path(__file__).parents[2] / "crashes").glob("*.py"))
SECONDS = 40  # of the fuzzer

pytestmark = pytest.mark.skipif(not unix_micropython.program(), reason=unix_micropython.MISSING)


def command(*arguments):
    return [unix_micropython.program(), "-X", "heapsize=32m", *arguments]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_ends_with_an_exception(path):
    done = subprocess.run(command(path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("crashes: ok\n"), (
        f"status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1000:]}"
    )


# Each of these would run for years.
ENDLESS = [
    "sum(iter(X()))",
    "1.5 in range(1 << 62)",
    "max(range(1 << 62))",
    "re.match('(a+)+$', 'a' * 40 + 'b')",
    "str(1 << n)",
    "(3 << n) * (3 << n)",
    "(1 << n) // ((1 << n // 2) + 1)",
    "int(str(9) * n)",
    "math.factorial(1 << 40)",
    "json.load(Y())",
    "diamonds(60)",
]
ENDLESS_NAMES = """\
import io, json, math, re
n = 9000000
class X:
    __getitem__ = lambda self, index: 1
class Y(io.IOBase):
    def readinto(self, buffer):
        buffer[0] = 32
        return 1
def diamonds(n):
    A = type("A", (), {})
    for _ in range(n):
        A = type("A", (A, type("B", (A,), {})), {})
print("ready")
"""


@pytest.mark.parametrize("text", ENDLESS)
def test_ctrl_c_ends_a_loop_in_c(text):
    program = f"{ENDLESS_NAMES}\ntry:\n    {text}\nexcept KeyboardInterrupt:\n    print('ended')\n"
    with subprocess.Popen(command("-c", program), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            assert process.poll() is None, "it was over before"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10)[0] == "ended\n"
        finally:
            process.kill()


# The fuzzer's calls. {} stands for another value; l, d, s, b, a, q and t are containers.
VALUES = [
    "0",
    "-1",
    "1",
    "7",
    "1 << 31",
    "1 << 32",
    "1 << 61",
    "-(1 << 61)",
    "(1 << 62) - 1",
    "1 << 62",
    "1 << 63",
    "1 << 100",
    "1.5",
    "-1e300",
    "None",
    "True",
    "''",
    "'abc'",
    "b''",
    "b'abcdefgh'",
    "()",
    "(1, 2)",
    "l",
    "d",
    "s",
    "b",
    "a",
    "q",
    "t",
    "S()",
    "[S(), 1]",
    "(S(),)",
    "{1: S()}",
    "memoryview(b)",
    "slice({}, {}, None)",
    "range(9)",
    "iter(l)",
    "iter([S(), 1, 2])",
    "map(key, t)",
    "key",
    "int",
    "str",
    "io.BytesIO(b'abc')",
    "S",
    "key({})",
]
SHAPES = [
    "{} + {}",
    "{} * {}",
    "{} - {}",
    "{} | {}",
    "{} & {}",
    "{} ^ {}",
    "{} % {}",
    "{} // {}",
    "{} == {}",
    "{} < {}",
    "{} in {}",
    "-{}",
    "hash({})",
    "repr({})",
    "len({})",
    "{}[{}]",
    "{}[{}:{}]",
    "list({})",
    "tuple({})",
    "bytes({})",
    "bytearray({})",
    "sorted({})",
    "sorted({}, key=key)",
    "sum({}, {})",
    "min({})",
    "max({}, {})",
    "any({})",
    "isinstance({}, {})",
    "divmod({}, {})",
    "round({}, {})",
    "pow({}, {}, {})",
    "array.array('q', {})",
    "array.array('d', {})",
    "struct.pack('4q', {}, {}, {}, {})",
    "struct.pack_into('bb', {}, {}, {}, {})",
    "struct.unpack_from('q', {}, {})",
    "'%*d' % ({}, {})",
    "'{{:{{}}}}'.format({}, {})",
    "'%s' % {}",
    "b'%s' % {}",
    "json.dumps({})",
    "heapq.heappush({}, {})",
    "heapq.heappop({})",
    "heapq.heapify({})",
    "deque({}, {})",
    "io.BytesIO({}).read({})",
    "int.from_bytes({}, {})",
    "int({}).to_bytes({}, 'little')",
    "dict({})",
    "dict.fromkeys({}, {})",
    "re.sub({}, {}, {})",
    "re.match({}, {})",
    "print({}, file={})",
    "random.randrange({}, {})",
    "zip({}, {})",
    "enumerate({}, {})",
    "OrderedDict({})",
    "type('T', ({},), {})",
    "getattr({}, {}, {})",
    "f(*{}, **{})",
    "exec('l[{}:{}] = {}', globals())",
    "exec('b[{}:{}] = {}', globals())",
    "exec('a[{}] = {}', globals())",
    "exec('del l[{}:{}]', globals())",
]
METHODS = {
    "l": "append clear copy count extend index insert pop remove reverse sort".split(),
    "b": "append extend find split join replace count strip center decode rsplit".split(),
    "a": ["append", "extend"],
    "q": "append appendleft extend pop popleft".split(),
    "t": ["count", "index"],
    "'abc'": "find rfind index split rsplit join replace count strip center format".split(),
}
# Sets and dictionaries look up in py/map.c here, in ports/cllm_x86/name_lookup.c in the image.
FUZZ = """\
import array, gc, heapq, io, json, random, re, struct
from collections import OrderedDict, deque
class S:
    act = None
    def sabotage(self):
        if S.act: S.act(); gc.collect(); [[1] * 9 for _ in range(9)]
    def __lt__(self, other): self.sabotage(); return True
    def __gt__(self, other): self.sabotage(); return False
    def __eq__(self, other): self.sabotage(); return False
    def __hash__(self): return id(self) >> 4
    def __int__(self): self.sabotage(); return 1
    def __len__(self): self.sabotage(); return 2
    def __repr__(self): self.sabotage(); return "x"
    def __getitem__(self, index): self.sabotage(); return [1, 2][index]
    def __add__(self, other): self.sabotage(); return self
    def __call__(self, *arguments): self.sabotage(); return 1
def key(value):
    S().sabotage()
    return 1
def f(*a, **k): return a
def fresh():
    global l, d, s, b, a, q, t
    l = [S() for _ in range(9)]; d = {i: S() for i in range(9)}; s = set(range(9))
    b = bytearray(20)
    a = array.array("q", range(9)); q = deque([S() for _ in range(9)], 12); t = tuple(range(9))
def grow(c):
    if len(c) < 200: c.extend(bytes(50))
ACTS = [None, lambda: l.clear(), lambda: l and l.pop(), lambda: grow(l), lambda: grow(b),
    lambda: exec("b[1:] = b''", globals()), lambda: d.update(dict(enumerate(range(40)))),
        lambda: q and q.pop()]
"""


def expression(rng, depth=0):
    """Return a random expression, as text."""
    if depth > 2 or rng.random() < 0.45:
        text = rng.choice(VALUES)
    elif rng.random() < 0.35:
        name = rng.choice(list(METHODS))
        arguments = ", ".join(["{}"] * rng.randrange(4))
        text = f"{name}.{rng.choice(METHODS[name])}({arguments})"
    else:
        text = rng.choice(SHAPES)
    while "{}" in text.replace("{{", "").replace("}}", ""):
        text = text.replace("{}", f"({expression(rng, depth + 1)})", 1)
    return text


def fuzz_program(seed, count=300):
    rng = random.Random(seed)
    lines = [FUZZ]
    for _ in range(count):
        text = expression(rng)
        lines.append(f"fresh(); S.act = ACTS[{rng.randrange(8)}]; print({text!r})")
        lines.append(f"try: eval({text!r})\nexcept Exception: pass")
    return "\n".join([*lines, "S.act = None", "print('crashes: ok')"])


def test_random_expressions_end_with_exceptions(tmp_path):
    until = time.monotonic() + SECONDS
    seed = 0
    while time.monotonic() < until:
        path = tmp_path / f"{seed}.py"
        path.write_text(fuzz_program(seed))
        try:
            done = subprocess.run(
                command(path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
            )
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"seed {seed} hangs:\n{late.stdout[-500:]}") from None
        assert done.returncode == 0, f"seed {seed}: {done.returncode}\n{done.stdout[-500:]}"
        seed += 1
    assert seed > 0
