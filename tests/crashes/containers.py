"""Comparisons, conversions, keys and printing that change the container they are called for."""

import array
import gc
import heapq
import io
import struct
from collections import deque

ERRORS = (
    ValueError,
    RuntimeError,
    IndexError,
    TypeError,
    MemoryError,
    NotImplementedError,
    AttributeError,
)


class Saboteur:
    """Calls `act` whenever it is compared, converted or printed, from the `at`-th time on."""

    act = None
    at = 1
    calls = 0
    less = True

    def sabotage(self):
        Saboteur.calls += 1
        if Saboteur.calls >= Saboteur.at:
            Saboteur.act()
            gc.collect()
            for _ in range(30):
                [0x41414141] * 20  # in the place of what was freed

    def __lt__(self, other):
        self.sabotage()
        return Saboteur.less

    def __gt__(self, other):
        self.sabotage()
        return Saboteur.less

    def __eq__(self, other):
        self.sabotage()
        return False

    def __hash__(self):
        return 7

    def __int__(self):
        self.sabotage()
        return 1

    def __repr__(self):
        self.sabotage()
        return "x"

    def __call__(self, value):
        self.sabotage()
        return value


def key(value):
    S().sabotage()
    return id(value)


S = Saboteur
LISTS = """
l.sort(); l.sort(reverse=True); l.sort(key=key); l.sort(key=S()); sorted(l); heapq.heapify(l)
heapq.heappop(l); heapq.heappush(l, S()); l.index(5); l.index(5, S()); l.index(5, 0, S())
l.count(5); l.remove(5); 5 in l; l == m; m == l; l < m; m < l; l >= m; (l,) == (m,); max(l)
min(l); l[S()]; l[S()] = 1; del l[S()]; l.pop(S()); l[S():]; l[S():S()] = [1]; del l[S():]
print(l, file=out); l * S(); l[2:1] = l; l[:5] = l; l.extend(l); list(map(key, t))
list(zip(l, map(key, t)))
"""
BYTES = """
b[S()]; b[S()] = 1; b[1] = S(); b.append(S()); b[S():]; b[S():S()] = b'abc'; b.extend(b)
b[5:] = b; b[:5] = b; b += b; struct.pack_into('bbbb', b, 1, 1, S(), 3, 4)
struct.pack_into('b', b, S(), 1); struct.unpack_from('b', b, S()); memoryview(b)[S()] = S()
memoryview(b)[S():S()] = b'a'; b.extend(memoryview(b)); b[1:2] = memoryview(b)[3:]
io.BytesIO(b).readinto(b, S()); a[S()]; a[1] = S(); a.append(S()); a[S():]
array.array('q', map(key, t))
"""
OTHERS = """
print(d, file=out); d == e; e == d; d.update(e); q[S()]; q[S()] = 1; q.extend(q)
list(map(key, q))
"""


def run(statements, acts):
    for statement in statements.strip().replace("\n", ";").split(";"):
        for act in acts:
            for at in (1, 4):
                for less in (True, False):
                    names = {
                        "l": [S() for _ in range(20)],
                        "m": [S() for _ in range(20)],
                        "b": bytearray(80),
                        "a": array.array("q", range(20)),
                        "d": {i: S() for i in range(20)},
                        "e": {i: S() for i in range(20)},
                        "q": deque([S() for _ in range(20)], 30),
                        "t": tuple(range(20)),
                        "out": io.StringIO(),
                    }
                    names.update(globals())
                    S.act, S.at, S.calls, S.less = eval("lambda: " + act, names), at, 0, less
                    try:
                        exec(statement.strip(), names)
                    except ERRORS:
                        pass


run(
    LISTS,
    (
        "l.clear()",
        "l and l.pop()",
        "len(l) < 999 and l.extend(range(500))",
        "l.clear() or l.append(1)",
    ),
)
run(
    BYTES,
    (
        "len(b) < 999 and b.extend(bytes(500))",
        "exec('b[1:] = b\"\"')",
        "len(a) < 999 and a.extend(a)",
    ),
)
run(
    OTHERS, ("d.clear()", "e.clear()", "d.update({i: 1 for i in range(500)})", "q and q.popleft()")
)

# As CPython's: a list that is changed while it is sorted is an error.
l = [S() for _ in range(9)]
S.act, S.at, S.calls = l.clear, 1, 0
try:
    l.sort()
    raise AssertionError
except ValueError:
    pass
assert sorted([3, 1, 2], reverse=True) == [3, 2, 1] and sorted("cab", key=ord) == ["a", "b", "c"]
h = [5, 3, 8, 1]
heapq.heapify(h)
assert [heapq.heappop(h) for _ in range(4)] == [1, 3, 5, 8]
assert (
    [1, 2] < [1, 3]
    and [1] < [1, 0]
    and not [2] < [1, 5]
    and [1, 2] <= [1, 2]
    and [] < [1]
    and [2] > [1, 9]
)
l = [1, 2, 3]
l[1:2] = l
assert l == [1, 1, 2, 3, 3]
print("crashes: ok")
