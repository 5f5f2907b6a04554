"""Words, numbers and sizes that the random cases of fuzz_kinds.py are made of."""

CHAT = "/v1/chat/completions"
WORDS = [
    "a",
    "b",
    "name",
    "value",
    "items",
    "type",
    "x y",
    "é€😀",
    "",
    "$ref",
    "a/b~c%d",
    "\0",
    '"',
    "\\",
    "\n",
    "root",
    "\u2028",
    "x" * 300,
]
NUMBERS = [
    0,
    1,
    2,
    3,
    5,
    7,
    40,
    1000,
    65535,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    -1,
    -2,
    -(2**31),
    -(2**63),
    0.5,
    -0.5,
    1.5,
    1e-7,
    1e300,
    -1e300,
    5e-324,
    1.7976931348623157e308,
]
TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"]
FORMATS = ["date", "time", "date-time", "uuid", "email", "uri", "ipv4", "regex", "uuid1", "", "x"]
MESSAGES = [{"role": "user", "content": "hello"}]


def repeated(rng, *sizes):
    """Return one of `sizes`, varied by up to a third."""
    size = rng.choice(sizes)
    return max(1, size + rng.randint(-size // 3, size // 3))
