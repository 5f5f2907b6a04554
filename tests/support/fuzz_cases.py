"""Random Jinja templates and JSON bodies for fuzz_kinds.py.

Each kind has a grammar of its own, and families of cases that grow: cycles, chains, doublings,
depth, large repetitions. The same random.Random gives the same case.
"""

import json

from support.fuzz_words import CHAT, MESSAGES, NUMBERS, WORDS, repeated


class Templates:
    """Makes random Jinja."""

    VARIABLES = [
        "messages",
        "messages[0]",
        "messages[0].content",
        "tools",
        "x",
        "y",
        "loop.index",
        "bos_token",
        "add_generation_prompt",
        "none",
        "nothing",
        "ns",
        "ns.a",
        "m.role",
    ]
    FILTERS = [
        "tojson",
        "upper",
        "length",
        "list",
        "trim",
        "string",
        "int",
        "join(',')",
        "reverse",
        "first",
        "last",
        "sort",
        "unique",
        "replace('a', 'aa')",
        "default('d')",
        "items",
        "map('upper')",
        "selectattr('role')",
        "tojson(indent=4)",
        "dictsort",
        "batch(2)",
        "abs",
        "indent(9)",
        "safe",
        "none",
        "rejectattr('x', 'equalto', 1)",
        "tojson|tojson",
    ]
    TAGS = [
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "{% endif %}",
        "{% endfor %}",
        "{% if x %}",
        "{%-",
        "-}}",
        "{% else %}",
        "{% elif %}",
        "{% break %}",
        "{% raw %}",
        "\0",
        "\ud7ff",
        "{% endmacro %}",
    ]

    def __init__(self, rng):
        self.rng = rng
        self.left = rng.choice([5, 30, 120])

    def make(self):
        rng = self.rng
        if rng.random() < 0.45:
            text = rng.choice(self.FAMILIES)(self)
            return text if rng.random() < 0.5 else self.text() + text + self.text()
        text = "".join(self.text() for _ in range(rng.randint(1, 5)))
        if rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(self.TAGS) + text[at + rng.randrange(4) :]
        return text

    def value(self, depth=0):
        rng = self.rng
        self.left -= 1
        kind = rng.randrange(14)
        if kind < 3 or depth > 5 or self.left < 0:
            return rng.choice(self.VARIABLES)
        if kind < 5:
            return rng.choice(
                [
                    "'a'",
                    "5",
                    "0",
                    "-1",
                    "1.5",
                    "true",
                    "none",
                    "''",
                    "'é😀'",
                    "9999999999999999999",
                ]
            )
        inner = [self.value(depth + 1) for _ in range(3)]
        forms = [
            "%s + %s",
            "%s * %s",
            "%s ~ %s",
            "%s - %s",
            "%s / %s",
            "%s // %s",
            "%s %% %s",
            "%s ** %s",
            "%s == %s",
            "%s < %s",
            "%s in %s",
            "%s and %s",
            "%s or %s",
            "%s[%s]",
            "%s[%s:]",
            "%s[::%s]",
            "[%s, %s]",
            "{'k': %s, 'l': %s}",
            "(%s if %s)",
            "%s not in %s",
        ]
        if kind < 10:
            return "(" + rng.choice(forms) % tuple(inner[:2]) + ")"
        if kind == 10:
            return f"(not {inner[0]})"
        if kind == 11:
            tests = [
                "defined",
                "none",
                "string",
                "mapping",
                "iterable",
                "number",
                "divisibleby(0)",
                "x",
            ]
            return f"({inner[0]} is {rng.choice(tests)})"
        if kind == 12:
            return rng.choice(
                [
                    "range(%s)",
                    "range(0, %s, %s)",
                    "namespace(a=%s)",
                    "dict(a=%s)",
                    "f(%s)",
                    "strftime_now(%s)",
                    "raise_exception(%s)",
                    "%s.split('a')",
                    "%s.items()",
                    "%s.strip()",
                    "%s.startswith(%s)",
                ]
            ).replace("%s", inner[0])
        filters = [rng.choice(self.FILTERS) for _ in range(rng.randint(1, 4))]
        return "(" + "|".join([inner[0], *filters]) + ")"

    def text(self, depth=0):
        """Return a statement, an expression or text."""
        rng = self.rng
        kind = rng.randrange(12)
        if kind < 2 or depth > 4:
            return rng.choice(["Hello ", "<|im_start|>", "\n", "{# c #}", "é"])
        if kind < 6:
            return "{{ " + self.value() + " }}"
        inner = self.text(depth + 1) + self.text(depth + 1)
        form = rng.choice(
            [
                "{%% for m in messages %%}%s{%% endfor %%}",
                "{%% for x in %s %%}%%s{%% else %%}e{%% endfor %%}",
                "{%% if %s %%}%%s{%% elif %s %%}y{%% else %%}z{%% endif %%}",
                "{%% set x = %s %%}%%s",
                "{%% set ns = namespace(a=%s) %%}{%% set ns.a = %s %%}%%s",
                "{%% set y %%}%s{%% endset %%}",
                "{%% macro f(a, b=1) %%}%s{%% endmacro %%}{{ f(2) }}",
                "{%% generation %%}%s{%% endgeneration %%}",
                "{%% for x in range(3) if %s %%}%%s{%% break %%}{%% endfor %%}",
                "{%% filter upper %%}%s{%% endfilter %%}",
                "{%% call(c) f(1) %%}%s{%% endcall %%}",
            ]
        )
        value = self.value() if rng.random() < 0.5 else inner[:30]
        return form.replace("%%s", inner).replace("%s", value).replace("%%", "%")

    def deep(self):
        n = repeated(self.rng, 20, 300, 5000, 60000)
        return self.rng.choice(
            [
                "{{ " + "(" * n + "1" + ")" * n + " }}",
                "{{ " + "[" * n + "]" * n + " }}",
                "{{ " + "not " * n + "x }}",
                "{{ " + "-" * n + "1 }}",
                "{{ 1" + " + 1" * n + " }}",
                "{{ 1" + " ~ 'a'" * n + " }}",
                "{{ x" + ".a" * n + " }}",
                "{{ messages" + "[0]" * n + " }}",
                "{{ 'a'" + "|upper" * n + " }}",
                "{{ " + "{'a':" * n + "1" + "}" * n + " }}",
                "{% if x %}" * n + "{% endif %}" * n,
                "{% for a in [1] %}" * n + "{% endfor %}" * n,
                "{% set x = [x] %}" * n + "{{ x|tojson }}",
                "{{ " + "1 if x else " * n + "2 }}",
                "{{ " + "(" * n,
                "{% if x %}a" + "{% elif y %}b" * n + "{% endif %}",
                "{% macro f() %}" * n,
                "{{ " + "f(" * n + ")" * n + " }}",
                "{{ 2" + " ** 2" * n + " }}",
                "{{ x" + " and x" * n + " }}",
                "{{ 1" + " < 2" * n + " }}",
                "{{ x" + "[1:" * n + " }}",
                "{{ 1 }}" * n,
                "{% set a = 1 %}" * n,
            ]
        )

    def loops(self):
        # What ends soon finds more than what takes all of a template's 10 s.
        n = 10 ** (self.rng.randint(1, 9) if self.rng.random() < 0.1 else 1)
        depth = self.rng.randint(1, 3)
        body = self.rng.choice(
            [
                "",
                "x",
                "{{ x }}",
                "{% set x = x ~ 'a' %}",
                "{% set ns.a = ns.a ~ 'ab' %}",
                "{% set ns.a = [ns.a, ns.a] %}",
                "{{ messages|tojson }}",
                "{% set ns.a = ns.a + [x] %}",
                "{% if x %}{% continue %}{% endif %}",
            ]
        )
        begin = "{%% for x in range(%d) %%}" % n * depth
        return (
            "{% set ns = namespace(a='') %}" + begin + body + "{% endfor %}" * depth + "{{ ns.a }}"
        )

    def growth(self):
        n = repeated(self.rng, 8, 20, 40, 300)
        # llama.cpp replaces in place, in quadratic time and without an allocation.
        step = self.rng.choice(
            [
                "x ~ x",
                "x + x",
                "x * 9",
                "[x, x]",
                "x|replace('a', 'aaa')",
                "(x ~ x)|replace('a', 'ba')",
                "x|tojson",
                "x|tojson|tojson",
                "{'k': x, 'l': x}",
                "x|list|join('aa')",
                "x|indent(99)",
            ]
        )
        start = self.rng.choice(["'a'", "['a']", "'a\"\\\\'", "messages"])
        way = self.rng.choice(
            [
                "{{ x }}",
                "{{ x|length }}",
                "{{ x|tojson }}",
                "{{ x == x }}",
                "{{ x|string|length }}",
            ]
        )
        return "{% set x = " + start + " %}" + ("{% set x = " + step + " %}") * n + way

    def recursion(self):
        return self.rng.choice(
            [
                "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
                "{% macro f(n) %}{{ g(n) }}{% endmacro %}"
                "{% macro g(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}",
                "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
                "{% endmacro %}{{ f(%d) }}".replace("%d", str(repeated(self.rng, 5, 30, 900))),
                "{% macro f() %}{{ caller() }}{% endmacro %}"
                "{% call f() %}{% call f() %}a{% endcall %}{% endcall %}",
                "{% set ns = namespace(a=1) %}{% set ns.a = ns %}"
                "{{ ns|tojson }}{{ ns }}{{ ns == ns }}",
                "{% set ns = namespace(a=[]) %}"
                "{% for i in range(999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson }}",
                "{% set x = [] %}"
                "{% for i in range(99) %}{% set _ = x.append(x) %}{% endfor %}{{ x|tojson }}",
                "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
                "{% macro f(a=f()) %}{% endmacro %}{{ f() }}",
                "{% set f = [] %}{% macro g(h) %}{{ h(h) }}{% endmacro %}{{ g(g) }}",
            ]
        )

    def strings(self):
        n = 10 ** self.rng.randint(2, 12)
        return (
            self.rng.choice(
                [
                    "{{ 'a' * %d }}",
                    "{{ 'abc' * %d * %d }}",
                    "{{ [1] * %d }}",
                    "{{ range(%d)|list|tojson }}",
                    "{{ 'a'|indent(%d) }}",
                    "{{ '%%%ds' % 'a' }}",
                    "{{ '%d'|int ** %d }}",
                    "{{ 'abc'[%d:-%d:%d] }}",
                    "{{ range(0, %d, 0)|list }}",
                    "{{ range(%d)|sum }}",
                    "{{ 'a'|center(%d) }}",
                    "{{ 1 // 0 }}",
                    "{{ 5 % 0 }}",
                    "{{ (-9223372036854775807 - 1) // -1 }}",
                    "{{ (-9223372036854775807 - 1) % -1 }}",
                    "{{ 'abc'[::0] }}",
                    "{{ [1, 2, 3][::-1] }}",
                    "{{ messages[%d] }}",
                    "{{ messages[-%d] }}",
                    "{{ 1e308 * 10 }}",
                    "{{ 0 ** -1 }}",
                    "{{ raise_exception('no ' * %d) }}",
                    "{{ messages|batch(0) }}",
                    "{{ strftime_now('%%Y' * %d) }}",
                    "{{ {'a': 1}[messages] }}",
                    "{{ messages|sort|tojson }}",
                    "{{ 'a,b'.split('') }}",
                    "{{ 'ab'|replace('', 'x' * %d) }}",
                    "{{ ['a' * %d] * %d }}",
                ]
            )
            .replace("%d", str(n))
            .replace("%%", "%")
        )

    FAMILIES = [deep, deep, loops, growth, recursion, strings]


def template_text(rng):
    """Return a chat template."""
    return Templates(rng).make()


def chat_requests(rng):
    """Return [(path, body, tokens)] to send to a server whose model has a template to try."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    extra = rng.choice(
        [
            {},
            {"tools": [tool]},
            {"chat_template_kwargs": {"x": "abc", "y": [1, {}]}},
            {"response_format": {"type": "json_object"}},
        ]
    )
    body = {"messages": MESSAGES, "max_tokens": 2, **extra}
    return [(path, json.dumps(body).encode(), 2) for path in ("/apply-template", CHAT)] + [
        ("/completion", b'{"prompt": "x", "n_predict": 2}', 2)
    ]


ROUTES = {
    "/completion": {
        "prompt": "hello",
        "n_predict": 2,
        "temperature": 0.5,
        "stop": ["x"],
        "n_probs": 2,
    },
    "/v1/completions": {"prompt": ["hello", [5, 6]], "max_tokens": 2, "logprobs": 2, "seed": 1},
    CHAT: {
        "messages": MESSAGES,
        "max_tokens": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        ],
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "max_output_tokens": 16,
        "instructions": "b",
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "max_tokens": 2,
        "system": "s",
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "r"}],
            },
        ],
    },
    "/v1/messages/count_tokens": {"messages": MESSAGES, "system": [{"type": "text", "text": "s"}]},
    "/apply-template": {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": False}},
    "/tokenize": {"content": ["hello", 5], "add_special": True, "with_pieces": True},
    "/detokenize": {"tokens": [5, 6, 7, 300]},
    "/v1/embeddings": {"input": ["a", [5, 6]], "encoding_format": "base64"},
    "/embedding": {"content": "a", "embd_normalize": 2},
    "/infill": {
        "input_prefix": "a",
        "input_suffix": "b",
        "n_predict": 2,
        "input_extra": [{"filename": "f", "text": "t"}],
    },
}
RAW_NUMBERS = [
    "1e999",
    "-1e999",
    "1e-999",
    "01",
    "-0",
    "-0.0",
    "1.",
    ".5",
    "1e",
    "+1",
    "0x10",
    "NaN",
    "Infinity",
    "1" * 400,
    "1" * 5000,
    "0." + "3" * 900,
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "1e308",
    "4.9e-324",
    "2.5",
    "1e2",
    "1E+2",
]
RAW_STRINGS = [
    '"\\ud83d\\ude00"',
    '"\\ud83d"',
    '"\\ude00\\ud83d"',
    '"\\u0000"',
    '"\\u12"',
    '"\\x41"',
    '"\t"',
    '"\\"',
    '"',
    '"\\/\\b\\f"',
    '"é😀"',
    '"\\ufeff"',
    "'a'",
    '"\\uD83Dx"',
    '"a" "b"',
    '"\u2028"',
]
RAW = [
    "",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "tru",
    "[1,]",
    '{"a":1,}',
    '{"a":1,"a":2}',
    "//",
    "/**/",
    "[1 2]",
    '{"a" 1}',
    "{1:2}",
    "\0",
    "[[[[]]]]",
    "undefined",
]


class Bodies:
    """Makes JSON text that is partly wrong."""

    def __init__(self, rng):
        self.rng = rng
        self.raw = {}  # what to put in place of a marker

    def marker(self, text):
        name = f"@{len(self.raw)}@"
        self.raw[name] = text
        return name

    def value(self, depth=0):
        """Return any value; a string may be a marker of raw text."""
        rng = self.rng
        kind = rng.randrange(16 if depth < 6 else 10)
        if kind < 2:
            return rng.choice(WORDS)
        if kind < 4:
            return rng.choice(NUMBERS)
        if kind < 6:
            return self.marker(rng.choice(RAW_NUMBERS))
        if kind < 8:
            return self.marker(rng.choice(RAW_STRINGS))
        if kind == 8:
            return rng.choice([None, True, False, [], {}])
        if kind == 9:
            return self.marker(
                rng.choice(RAW if rng.random() < 0.3 else ["null"])
                if rng.random() < 0.7
                else self.large()
            )
        size = rng.randrange(5)
        if kind < 13:
            return [self.value(depth + 1) for _ in range(size)]
        names = [*WORDS, "role", "content", "text"]
        return {rng.choice(names): self.value(depth + 1) for _ in range(size)}

    def large(self):
        """Return the text of something of up to 2 MB."""
        rng = self.rng
        piece = rng.choice(
            [
                "1,",
                "1.5,",
                "true,",
                "null,",
                '"a",',
                "[],",
                "{},",
                '"\\n",',
                '"\\u0430",',
                "[[1]],",
                "12345678901234567,",
                '{"a":1},',
                '{"role":"user","content":"a"},',
                "1e5,",
                '"",',
                '{"type":"text","text":"a"},',
                "0.1234567890123456789,",
                "-0,",
                '["a",5],',
            ]
        )
        size = rng.choice([10**3, 10**4, 10**5, 10**6, 2 * 10**6, 2_200_000])
        count = size // len(piece)
        way = rng.randrange(8)
        if way < 3:
            return "[" + piece * count + "1]"
        if way == 3:
            text = rng.choice(
                [
                    "a",
                    "\\n",
                    "\\u0430",
                    "é",
                    "😀",
                    " ",
                    "\\ud83d\\ude00",
                    "\\\"",
                    "hello ",
                    "\\u0000",
                ]
            )
            return '"' + text * (size // len(text.encode())) + '"'
        if way == 4:
            count = min(count, rng.choice([100, 4095, 5000, 60000]))
            return "{" + ",".join('"k%d":%s' % (i, piece[:-1]) for i in range(count)) + "}"
        if way == 5:
            depth = rng.choice([10, 40, 47, 48, 49, 64, 1000, 100000])
            open_, close = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
            return open_ * depth + "1" + close * (depth if rng.random() < 0.8 else 0)
        if way == 6:
            return " \n" * (size // 2) + "1"
        return (
            "1" * size
            if rng.random() < 0.5
            else '{"a":1,' * 1 + '"a":2,' * min(count, 5000) + '"b":1}'
        )

    def change(self, value):
        """Return `value`, a valid request, with one part changed somewhere."""
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.85:
            name = rng.choice(list(value))
            way = rng.randrange(10)
            if way == 0:
                value.pop(name)
            elif way == 1:
                value[rng.choice(WORDS)] = value.pop(name)
            else:
                value[name] = self.change(value[name])
            return value
        if isinstance(value, list) and value and rng.random() < 0.8:
            at = rng.randrange(len(value))
            if rng.random() < 0.15:
                return value * repeated(rng, 2, 30, 3000)
            value[at] = self.change(value[at])
            return value
        return self.value()

    def make(self, base):
        """Return the bytes of a body like `base`."""
        rng = self.rng
        body = json.loads(json.dumps(base))
        way = rng.random()
        if way < 0.1:
            body = self.value()
        for _ in range(rng.choice([1, 1, 2, 3])):
            if isinstance(body, dict) and rng.random() < 0.3:
                body[rng.choice(FIELDS)] = self.value()
            else:
                body = self.change(body)
        made = json.dumps(body, ensure_ascii=rng.random() < 0.5)
        for name, text in self.raw.items():
            made = made.replace(f'"{name}"', text, 1)
        data = made.encode("utf-8", "surrogatepass")
        if rng.random() < 0.15:
            data = self.damage(data)
        return data

    def damage(self, data):
        rng = self.rng
        at = rng.randrange(len(data) + 1)
        before, after = data[:at], data[at:]
        return rng.choice(
            [
                before,
                before + b"\xff" + after,
                before + b"\xed\xa0\xbd" + after,
                before + b"\xc0\x80" + after,
                before + bytes([rng.randrange(256)]) + after[1:],
                b"\xef\xbb\xbf" + data,
                data + data,
                data + b"\0",
                b"[" + data + b"]",
                data.decode("utf-8", "replace").encode("utf-16"),
                before + after[rng.randrange(9) :],
                data + b" " * 1000,
            ]
        )


FIELDS = [
    "stream",
    "stream_options",
    "stop",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "n",
    "logprobs",
    "top_logprobs",
    "n_probs",
    "logit_bias",
    "response_format",
    "json_schema",
    "grammar",
    "tools",
    "tool_choice",
    "thinking",
    "reasoning",
    "text",
    "chat_template_kwargs",
    "cache_salt",
    "priority",
    "samplers",
    "dry_sequence_breakers",
    "response_fields",
    "encoding_format",
    "embd_normalize",
    "input_prefix",
    "include",
    "continue_final_message",
    "output_format",
    "metadata",
    "suffix",
    "ignore_eos",
    "min_tokens",
    "input_extra",
    "model",
    "messages",
    "prompt",
    "input",
    "content",
    "system",
    "instructions",
    "previous_response_id",
    "t_max_predict_ms",
    "dry_multiplier",
    "mirostat",
    "repeat_last_n",
    "xtc_probability",
    "n_cmpl",
    "lora",
    "parallel_tool_calls",
    "reasoning_format",
    "user",
    "speculative.n_max",
    "typical_p",
    "a",
    "b",
]


def json_case(rng):
    """Return (path, body, tokens) of a request whose JSON is partly wrong."""
    path = rng.choice(list(ROUTES))
    # A limit on tokens may be what was changed: then the context is the limit.
    return path, Bodies(rng).make(ROUTES[path]), 64
