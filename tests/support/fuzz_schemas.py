"""Random JSON schemas for fuzz_kinds.py, and requests with them."""

import json

from support.fuzz_words import CHAT, FORMATS, MESSAGES, NUMBERS, TYPES, WORDS, repeated


class Schemas:
    """Makes random JSON schemas."""

    def __init__(self, rng):
        self.rng = rng
        self.left = rng.choice([5, 20, 60, 200])  # schemas to go
        self.names = [rng.choice(WORDS) + str(i % 3) for i in range(6)]

    def make(self):
        """Return a schema: mostly an object."""
        if self.rng.random() < 0.35:
            schema = self.rng.choice(self.FAMILIES)(self)
        else:
            schema = self.schema()
            if isinstance(schema, dict) and self.rng.random() < 0.6:
                schema["$defs"] = {name: self.schema() for name in self.names[:3]}
        if isinstance(schema, dict) or self.rng.random() < 0.05:
            return schema
        return {"allOf": [schema]}

    def number(self):
        return self.rng.choice(NUMBERS) if self.rng.random() < 0.4 else self.rng.randint(0, 30)

    def literal(self, depth=0):
        rng = self.rng
        kind = rng.randrange(7 if depth < 3 else 5)
        if kind < 2:
            return rng.choice(WORDS)
        if kind < 4:
            return self.number()
        if kind == 4:
            return rng.choice([None, True, False])
        size = rng.randrange(4)
        if kind == 5:
            return [self.literal(depth + 1) for _ in range(size)]
        return {rng.choice(WORDS): self.literal(depth + 1) for _ in range(size)}

    def reference(self):
        rng = self.rng
        name = rng.choice(self.names)
        escaped = name.replace("~", "~0").replace("/", "~1")
        return {
            "$ref": rng.choice(
                [
                    "#/$defs/" + escaped,
                    "#/$defs/" + name,
                    "#",
                    "#/",
                    "",
                    "#/$defs",
                    "#/properties/a",
                    "#/$defs/" + escaped.encode().hex("%"),
                    "#/%24defs/" + name,
                    "#/$defs/none",
                    "#/allOf/0",
                    "#/$defs/" + "a/" * 50,
                    "https://127.0.0.1:1/s.json",
                    "other.json#/a",
                    "##",
                    "#/a/-1",
                    "#/anyOf/99999999999999999999",
                    name,
                ]
            )
        }

    def schema(self, depth=0):
        """Return a schema at `depth` below the root."""
        rng = self.rng
        self.left -= 1
        if self.left < 0 or depth > 14:
            return rng.choice([{}, True, False, {"type": rng.choice(TYPES)}])
        if rng.random() < 0.03:
            return self.literal()  # no schema at all
        schema = {}
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            schema.update(rng.choice(self.PARTS)(self, depth + 1))
        return schema

    def some(self, depth, most=4):
        return [self.schema(depth) for _ in range(self.rng.randrange(most))]

    def typed(self, depth):
        rng = self.rng
        if rng.random() < 0.6:
            return {"type": rng.choice(TYPES)}
        return {
            "type": rng.choice(
                [
                    [rng.choice(TYPES) for _ in range(rng.randrange(6))],
                    "any",
                    5,
                    [],
                    [[]],
                    None,
                    "String",
                ]
            )
        }

    def object(self, depth):
        rng = self.rng
        names = [rng.choice(WORDS + self.names) for _ in range(rng.choice([0, 1, 2, 3, 8]))]
        schema = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        if rng.random() < 0.6:
            schema["required"] = rng.sample(names, rng.randint(0, len(names))) + rng.choice(
                [[], [], ["missing"], ["a", "a"], [5]]
            )
        if rng.random() < 0.4:
            schema["additionalProperties"] = self.schema(depth)
        if rng.random() < 0.1:
            schema["patternProperties"] = {self.pattern(): self.schema(depth)}
        if rng.random() < 0.1:
            schema["minProperties"], schema["maxProperties"] = self.number(), self.number()
        return schema

    def array(self, depth):
        rng = self.rng
        schema = {"type": "array"}
        if rng.random() < 0.8:
            schema["items"] = self.schema(depth) if rng.random() < 0.7 else self.some(depth)
        if rng.random() < 0.3:
            schema["prefixItems"] = self.some(depth)
        for name in ("minItems", "maxItems"):
            if rng.random() < 0.5:
                schema[name] = self.number()
        return schema

    def string(self, depth):
        rng = self.rng
        schema = {"type": "string"}
        for name in ("minLength", "maxLength"):
            if rng.random() < 0.4:
                schema[name] = self.number()
        if rng.random() < 0.5:
            schema["pattern"] = self.pattern()
        if rng.random() < 0.2:
            schema["format"] = rng.choice(FORMATS)
        return schema

    def numeric(self, depth):
        rng = self.rng
        schema = {"type": rng.choice(["integer", "number"])}
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if rng.random() < 0.4:
                schema[name] = self.number()
        return schema

    def combined(self, depth):
        name = self.rng.choice(["allOf", "anyOf", "oneOf", "anyOf", "not"])
        return {name: self.schema(depth) if name == "not" else self.some(depth, 5)}

    def chosen(self, depth):
        rng = self.rng
        if rng.random() < 0.5:
            return {"const": self.literal()}
        return {"enum": [self.literal() for _ in range(repeated(rng, 1, 3, 20))]}

    def wrong(self, depth):
        """A keyword with a value that it cannot have."""
        rng = self.rng
        names = [
            "type",
            "properties",
            "required",
            "items",
            "prefixItems",
            "enum",
            "allOf",
            "anyOf",
            "oneOf",
            "$ref",
            "$defs",
            "definitions",
            "pattern",
            "format",
            "minLength",
            "minItems",
            "maximum",
            "additionalProperties",
            "const",
        ]
        return {rng.choice(names): self.literal() for _ in range(rng.randint(1, 3))}

    def referring(self, depth):
        return self.reference()

    PARTS = [
        typed,
        object,
        object,
        array,
        string,
        string,
        numeric,
        combined,
        combined,
        chosen,
        referring,
        referring,
        wrong,
    ]

    def pattern(self):
        """Return a regular expression, or something like it."""
        rng = self.rng
        if rng.random() < 0.25:
            n = repeated(rng, 10, 60, 2000)
            return (
                "^"
                + rng.choice(
                    [
                        "(" * n + "a" + ")" * n,
                        "(a?){%d}" % n,
                        "(" * n + "a" + "){9}" * n,
                        "a|" * n,
                        "(a|b)" * n,
                        "[a-z]{%d}" % n,
                        "((a*)*)*" * n,
                        "(a{%d}){%d}" % (n, n),
                        "\\" * n,
                        "[" * n,
                        "(?:" * n,
                        "x{%d,%d}" % (n * 2, n),
                        "a{99999999999}",
                        "a{,5}",
                        "." * n,
                    ]
                )
                + "$"
            )
        text = "".join(self.regex() for _ in range(rng.randint(1, 4)))
        return rng.choice(["^%s$", "^%s$", "%s", "^%s", "%s$", "^(%s$"]) % text

    def regex(self, depth=0):
        rng = self.rng
        atoms = [
            "a",
            ".",
            "[a-z]",
            "[^x]",
            "\\d",
            "\\w",
            "\\s",
            "\\.",
            "\\p{L}",
            "é",
            "[\\]\\-]",
            "[z-a]",
            "[]",
            "[^]",
            "\\u00e9",
            "\\x4",
            "^",
            "$",
            "(?=a)",
            "(?!a)",
            "(?<n>a)",
            "\\b",
            "\\1",
            "/",
            '"',
            "\n",
            "😀",
            "(?:",
            ")",
            "(",
            "[",
            "*",
            "\\",
        ]
        if depth > 5 or rng.random() < 0.5:
            text = rng.choice(atoms[:12] if rng.random() < 0.85 else atoms)
        else:
            parts = [self.regex(depth + 1) for _ in range(rng.randint(1, 3))]
            text = rng.choice(["(%s)", "(?:%s)", "%s"]) % rng.choice(["|", ""]).join(parts)
        return text + rng.choice(
            [
                "",
                "",
                "",
                "*",
                "+",
                "?",
                "{2}",
                "{2,5}",
                "{3,}",
                "{,4}",
                "{5,2}",
                "{0}",
                "{0,0}",
                "{1000}",
                "{4294967297}",
                "{-1}",
                "{a}",
                "{1",
                "**",
                "+?",
            ]
        )

    def cycle(self):
        n = repeated(self.rng, 1, 2, 3, 50)
        key = self.rng.choice(["allOf", "anyOf", "oneOf"])
        defs: dict = {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % n}"} for i in range(n)}
        if self.rng.random() < 0.5:
            defs["d0"] = {key: [defs["d0"], {"type": "string"}]}
        return {key: [{"$ref": "#/$defs/d0"}], "$defs": defs}

    def chain(self):
        n = repeated(self.rng, 10, 400, 2500)
        wrap = self.rng.choice(
            [
                lambda s: s,
                lambda s: {"allOf": [s]},
                lambda s: {"anyOf": [s, {"type": "null"}]},
                lambda s: {"type": "array", "items": s},
                lambda s: {"properties": {"a": s}},
            ]
        )
        defs = {f"d{i}": wrap({"$ref": f"#/$defs/d{i + 1}"}) for i in range(n)}
        return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "null"}}}

    def doubling(self):
        rng = self.rng
        schema = {"type": "string", "maxLength": rng.choice([1, 5])}
        way = rng.randrange(4)
        for i in range(repeated(rng, 5, 12, 14)):
            if way == 0:
                schema = {"type": ["object", "object"], "properties": {"a": schema}}
            elif way == 1:
                schema = {"type": ["array", "array", "null"], "items": schema}
            elif way == 2:
                schema = {"anyOf": [schema, {"type": "null"}], "allOf": [{"type": "object"}]}
            else:
                schema = {
                    "type": "object",
                    "properties": {"a": schema},
                    "additionalProperties": schema,
                }
                if i > 8:
                    break
        return schema

    def doubled_references(self):
        n = repeated(self.rng, 5, 20, 60)
        key = self.rng.choice(["anyOf", "allOf", "oneOf"])
        defs = {f"d{i}": {key: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)}
        return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{n}": {"type": "integer"}}}

    def wide(self):
        rng = self.rng
        n = repeated(rng, 50, 300, 1500, 3000)
        names = [f"p{i}" if rng.random() < 0.95 else rng.choice(WORDS) for i in range(n)]
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        if rng.random() < 0.5:
            schema["required"] = names
        return schema

    def many(self):
        rng = self.rng
        n = repeated(rng, 100, 1000, 4000)
        return rng.choice(
            [
                lambda: {"enum": ["v" * rng.choice([1, 9, 200]) + str(i) for i in range(n)]},
                lambda: {"anyOf": [{"const": i} for i in range(n)]},
                lambda: {"type": ["string", "null"] * n},
                lambda: {"prefixItems": [{"type": "boolean"}] * n},
                lambda: {"const": "c" * n * 100},
            ]
        )()

    def deep(self):
        schema: dict = {"type": "null"}
        for _ in range(repeated(self.rng, 8, 15, 30, 45)):
            name = self.rng.choice(["items", "not", "additionalProperties", "anyOf", "a"])
            schema = (
                {"anyOf": [schema]}
                if name == "anyOf"
                else {"properties": {"a": schema}}
                if name == "a"
                else {name: schema}
            )
        return schema

    def ranges(self):
        rng = self.rng
        n, m = rng.choice(NUMBERS), rng.choice(NUMBERS)
        inner = {"type": "string", "minLength": m, "maxLength": n}
        return rng.choice(
            [
                {"type": "string", "minLength": n, "maxLength": m},
                {"type": "array", "items": inner, "minItems": n, "maxItems": m},
                {
                    "type": "array",
                    "items": {"type": "array", "items": inner, "minItems": 40},
                    "minItems": 40,
                    "maxItems": n,
                },
                {"type": "integer", "minimum": n, "maximum": m},
                {"type": "number", "exclusiveMinimum": n, "exclusiveMaximum": m},
            ]
        )

    FAMILIES = [cycle, chain, doubling, doubled_references, wide, many, deep, ranges]


def schema_case(rng):
    """Return (path, body, tokens) of a request with a schema."""
    schema = Schemas(rng).make()
    n = rng.choice([1, 1, 2, 3, 24])
    chat = {"messages": MESSAGES, "max_tokens": n}
    tool = {"name": rng.choice(["f", "get weather", "x" * 64]), "description": "d"}
    function = {"type": "function", "function": {**tool, "parameters": schema}}
    named = {"type": "function", "function": {"name": tool["name"]}}
    choice = rng.choice(["auto", "required", named, "none"])
    form = rng.choice(
        [
            {
                "type": "json_schema",
                "json_schema": {"name": "s", "schema": schema, "strict": True},
            },
            {"type": "json_schema", "schema": schema},
            {"type": "json_object", "schema": schema},
            {"type": "json_schema", "json_schema": schema},
        ]
    )
    path, body = rng.choice(
        [
            ("/completion", {"prompt": "x", "n_predict": n, "json_schema": schema}),
            ("/completion", {"prompt": "x", "n_predict": n, "json_schema": schema}),
            ("/v1/completions", {"prompt": "x", "max_tokens": n, "response_format": form}),
            (CHAT, {**chat, "response_format": form}),
            (CHAT, {**chat, "json_schema": schema}),
            (CHAT, {**chat, "tools": [function] * rng.choice([1, 1, 3]), "tool_choice": choice}),
            (CHAT, {**chat, "tools": [function], "tool_choice": "required", "stream": True}),
            (
                "/apply-template",
                {"messages": MESSAGES, "tools": [function], "tool_choice": choice},
            ),
            (
                "/v1/messages",
                {
                    **chat,
                    "tools": [{**tool, "input_schema": schema}],
                    "tool_choice": {
                        "type": rng.choice(["auto", "any", "tool", "none"]),
                        "name": tool["name"],
                    },
                },
            ),
            ("/v1/messages", {**chat, "output_format": {"type": "json_schema", "schema": schema}}),
            (
                "/v1/responses",
                {
                    "input": "x",
                    "max_output_tokens": max(n, 16),
                    "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}},
                },
            ),
            (
                "/v1/responses",
                {
                    "input": "x",
                    "max_output_tokens": max(n, 16),
                    "tool_choice": "required",
                    "tools": [{"type": "function", **tool, "parameters": schema}],
                },
            ),
        ]
    )
    if rng.random() < 0.1:
        body["stream"] = True
    return path, json.dumps(body).encode(), max(n, body.get("max_output_tokens", 0))
