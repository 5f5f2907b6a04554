"""Random cases for fuzz_kinds.py: JSON schemas, GBNF grammars, Jinja templates and JSON bodies.

Each kind has a grammar of its own, and families of cases that grow: cycles, chains, doublings,
depth, large repetitions. The same random.Random gives the same case.
"""

import json

CHAT = "/v1/chat/completions"
WORDS = ["a", "b", "name", "value", "items", "type", "x y", "é€😀", "", "$ref", "a/b~c%d",
         "\0", '"',
         "\\", "\n", "root", "\u2028", "x" * 300]
NUMBERS = [0, 1, 2, 3, 5, 7, 40, 1000, 65535, 10**6, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63,
           2**64, 10**30, -1, -2, -(2**31), -(2**63), 0.5, -0.5, 1.5, 1e-7, 1e300, -1e300, 5e-324,
           1.7976931348623157e308]
TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"]
FORMATS = ["date", "time", "date-time", "uuid", "email", "uri", "ipv4", "regex", "uuid1", "", "x"]
MESSAGES = [{"role": "user", "content": "hello"}]


def repeated(rng, *sizes):
    """Return one of `sizes`, varied by up to a third."""
    size = rng.choice(sizes)
    return max(1, size + rng.randint(-size // 3, size // 3))


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
        return {"$ref": rng.choice([
            "#/$defs/" + escaped, "#/$defs/" + name, "#", "#/", "", "#/$defs", "#/properties/a",
            "#/$defs/" + escaped.encode().hex("%"), "#/%24defs/" + name, "#/$defs/none",
            "#/allOf/0",
            "#/$defs/" + "a/" * 50, "https://127.0.0.1:1/s.json", "other.json#/a", "##", "#/a/-1",
            "#/anyOf/99999999999999999999", name])}

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
        return {"type": rng.choice([
            [rng.choice(TYPES) for _ in range(rng.randrange(6))], "any", 5, [], [[]], None,
            "String"])}

    def object(self, depth):
        rng = self.rng
        names = [rng.choice(WORDS + self.names) for _ in range(rng.choice([0, 1, 2, 3, 8]))]
        schema = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        if rng.random() < 0.6:
            schema["required"] = rng.sample(names, rng.randint(0, len(names))) + rng.choice(
                [[], [], ["missing"], ["a", "a"], [5]])
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
        names = ["type", "properties", "required", "items", "prefixItems", "enum", "allOf", "anyOf",
                 "oneOf", "$ref", "$defs", "definitions", "pattern", "format", "minLength",
                 "minItems",
                 "maximum", "additionalProperties", "const"]
        return {rng.choice(names): self.literal() for _ in range(rng.randint(1, 3))}

    def referring(self, depth):
        return self.reference()

    PARTS = [typed, object, object, array, string, string, numeric, combined, combined, chosen,
             referring, referring, wrong]

    def pattern(self):
        """Return a regular expression, or something like it."""
        rng = self.rng
        if rng.random() < 0.25:
            n = repeated(rng, 10, 60, 2000)
            return "^" + rng.choice([
                "(" * n + "a" + ")" * n, "(a?){%d}" % n, "(" * n + "a" + "){9}" * n, "a|" * n,
                "(a|b)" * n, "[a-z]{%d}" % n, "((a*)*)*" * n, "(a{%d}){%d}" % (n, n), "\\" * n,
                "[" * n, "(?:" * n, "x{%d,%d}" % (n * 2, n), "a{99999999999}", "a{,5}", "." * n,
            ]) + "$"
        text = "".join(self.regex() for _ in range(rng.randint(1, 4)))
        return rng.choice(["^%s$", "^%s$", "%s", "^%s", "%s$", "^(%s$"]) % text

    def regex(self, depth=0):
        rng = self.rng
        atoms = ["a", ".", "[a-z]", "[^x]", "\\d", "\\w", "\\s", "\\.", "\\p{L}", "é", "[\\]\\-]",
                 "[z-a]", "[]", "[^]", "\\u00e9", "\\x4", "^", "$", "(?=a)", "(?!a)", "(?<n>a)",
                 "\\b", "\\1", "/", '"', "\n", "😀", "(?:", ")", "(", "[", "*", "\\"]
        if depth > 5 or rng.random() < 0.5:
            text = rng.choice(atoms[:12] if rng.random() < 0.85 else atoms)
        else:
            parts = [self.regex(depth + 1) for _ in range(rng.randint(1, 3))]
            text = rng.choice(["(%s)", "(?:%s)", "%s"]) % rng.choice(["|", ""]).join(parts)
        return text + rng.choice([
            "", "", "", "*", "+", "?", "{2}", "{2,5}", "{3,}", "{,4}", "{5,2}", "{0}", "{0,0}",
            "{1000}", "{4294967297}", "{-1}", "{a}", "{1", "**", "+?"])

    def cycle(self):
        n = repeated(self.rng, 1, 2, 3, 50)
        key = self.rng.choice(["allOf", "anyOf", "oneOf"])
        defs = {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % n}"} for i in range(n)}
        if self.rng.random() < 0.5:
            defs["d0"] = {key: [defs["d0"], {"type": "string"}]}
        return {key: [{"$ref": "#/$defs/d0"}], "$defs": defs}

    def chain(self):
        n = repeated(self.rng, 10, 400, 2500)
        wrap = self.rng.choice([
            lambda s: s, lambda s: {"allOf": [s]}, lambda s: {"anyOf": [s, {"type": "null"}]},
            lambda s: {"type": "array", "items": s}, lambda s: {"properties": {"a": s}}])
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
                schema = {"type": "object", "properties": {"a": schema},
                          "additionalProperties": schema}
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
        return rng.choice([
            lambda: {"enum": ["v" * rng.choice([1, 9, 200]) + str(i) for i in range(n)]},
            lambda: {"anyOf": [{"const": i} for i in range(n)]},
            lambda: {"type": ["string", "null"] * n},
            lambda: {"prefixItems": [{"type": "boolean"}] * n},
            lambda: {"const": "c" * n * 100},
        ])()

    def deep(self):
        schema = {"type": "null"}
        for _ in range(repeated(self.rng, 8, 15, 30, 45)):
            name = self.rng.choice(["items", "not", "additionalProperties", "anyOf", "a"])
            schema = ({"anyOf": [schema]} if name == "anyOf" else
                      {"properties": {"a": schema}} if name == "a" else {name: schema})
        return schema

    def ranges(self):
        rng = self.rng
        n, m = rng.choice(NUMBERS), rng.choice(NUMBERS)
        inner = {"type": "string", "minLength": m, "maxLength": n}
        return rng.choice([
            {"type": "string", "minLength": n, "maxLength": m},
            {"type": "array", "items": inner, "minItems": n, "maxItems": m},
            {"type": "array", "items": {"type": "array", "items": inner, "minItems": 40},
             "minItems": 40, "maxItems": n},
            {"type": "integer", "minimum": n, "maximum": m},
            {"type": "number", "exclusiveMinimum": n, "exclusiveMaximum": m}])

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
    form = rng.choice([
        {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        {"type": "json_schema", "schema": schema}, {"type": "json_object", "schema": schema},
        {"type": "json_schema", "json_schema": schema}])
    path, body = rng.choice([
        ("/completion", {"prompt": "x", "n_predict": n, "json_schema": schema}),
        ("/completion", {"prompt": "x", "n_predict": n, "json_schema": schema}),
        ("/v1/completions", {"prompt": "x", "max_tokens": n, "response_format": form}),
        (CHAT, {**chat, "response_format": form}),
        (CHAT, {**chat, "json_schema": schema}),
        (CHAT, {**chat, "tools": [function] * rng.choice([1, 1, 3]), "tool_choice": choice}),
        (CHAT, {**chat, "tools": [function], "tool_choice": "required", "stream": True}),
        ("/apply-template", {"messages": MESSAGES, "tools": [function], "tool_choice": choice}),
        ("/v1/messages", {**chat, "tools": [{**tool, "input_schema": schema}], "tool_choice": {
            "type": rng.choice(["auto", "any", "tool", "none"]), "name": tool["name"]}}),
        ("/v1/messages", {**chat, "output_format": {"type": "json_schema", "schema": schema}}),
        ("/v1/responses", {"input": "x", "max_output_tokens": max(n, 16), "text": {
            "format": {"type": "json_schema", "name": "s", "schema": schema}}}),
        ("/v1/responses", {"input": "x", "max_output_tokens": max(n, 16), "tool_choice": "required",
                           "tools": [{"type": "function", **tool, "parameters": schema}]}),
    ])
    if rng.random() < 0.1:
        body["stream"] = True
    return path, json.dumps(body).encode(), max(n, body.get("max_output_tokens", 0))


class Grammars:
    """Makes random GBNF."""

    LITERALS = ['"a"', '"b"', '""', '"\\n"', '"\\x41"', '"\\x4"', '"\\u00e9"', '"\\u12"',
                '"\\U0001F600"',
                '"\\U00110000"', '"\\uD83D"', '"é😀"', '"\\""', '"', '"a\nb"', '"\\q"', '"\0"',
                '"' + "x" * 200 + '"']
    CLASSES = ["[a-z]", "[z-a]", "[^a]", "[]", "[^]", "[", "[a-", "[a-]", "[\\]]", "[\\x00-\\xff]",
               "[\\U00000000-\\U0010FFFF]", "[\\u]", "[é-😀]", "[^\\n]", "[a\nb]", "[-]", "."]
    TOKENS = ["<[5]>", "!<[5]>", "<[99999999999]>", "<[-1]>", "<[", "<a>", "!<a>", "<|im_end|>",
              "<",
              "<<[1]>>", "<[]>", "!", "<[5]", "<>"]
    REPEATS = ["", "", "", "", "", "*", "+", "?", "{2}", "{2,5}", "{3,}", "{,4}", "{5,2}", "{0}",
               "{0,0}",
               "{1000}", "{0,2000}", "{2001}", "{4294967297}", "{18446744073709551616}", "{-1}",
               "{a}",
               "{1", "**", "*+?", "{40}{40}", "{ 2 , 3 }"]

    def __init__(self, rng):
        self.rng = rng
        self.names = ["root", "a", "b", "c-d", "e1"][: rng.randint(1, 5)]
        self.left = rng.choice([5, 20, 100])

    def make(self):
        if self.rng.random() < 0.4:
            return self.rng.choice(self.FAMILIES)(self)
        names = list(self.names)
        if self.rng.random() < 0.05:
            names.remove("root")
        rules = [f"{name} ::= {self.alternatives()}" for name in names]
        end = self.rng.choice(["\n", "\n", "\n", "\r\n", " # comment\n", "\n\n", "#\n", " "])
        text = end.join(rules)
        if self.rng.random() < 0.15:
            at = self.rng.randrange(len(text) + 1)
            text = text[:at] + self.rng.choice(["", "(", ")", "::=", "|", "\0", "#", "\ufeff", "{",
                                                "\\"]) \
                + text[at + self.rng.randrange(3):]
        return text

    def alternatives(self, depth=0):
        rng = self.rng
        return " | ".join(
            " ".join(self.item(depth) for _ in range(rng.choice([0, 1, 1, 2, 2, 3])))
            for _ in range(rng.choice([1, 1, 1, 2, 3])))

    def item(self, depth):
        rng = self.rng
        self.left -= 1
        kind = rng.randrange(12)
        sound = rng.random() < 0.85
        if kind < 4 or self.left < 0:
            text = rng.choice(self.LITERALS[:3] if sound else self.LITERALS)
        elif kind < 6:
            text = rng.choice(self.CLASSES[:3] if sound else self.CLASSES)
        elif kind < 9:
            text = rng.choice(self.names if sound else ["none", "Root", "1", "-", "é"])
        elif kind < 11 and depth < 8:
            text = "(" + self.alternatives(depth + 1) + ")"
        else:
            text = rng.choice(self.TOKENS if not sound else ["<[5]>", "!<[5]>", "."])
        return text + rng.choice(self.REPEATS if rng.random() < 0.4 else self.REPEATS[:9])

    def recursion(self):
        n = repeated(self.rng, 1, 2, 60, 2500)
        rules = "\n".join(f"r{i} ::= %s" % self.rng.choice([
            f"r{(i + 1) % n}", f"empty r{(i + 1) % n}", f"r{(i + 1) % n} \"a\"", f"r{(i + 1) % n}?",
            f"\"a\" r{(i + 1) % n}"]) for i in range(n))
        return f"root ::= r0\nempty ::= \"\" | \"a\"?\n{rules}"

    def chain(self):
        n = repeated(self.rng, 50, 1000, 2800)
        form = self.rng.choice(["%s", "(%s)", "%s?", "%s*", "\"a\" %s", "%s | \"b\"", "%s %s"])
        rules = [f"r{i} ::= " + form.replace("%s", f"r{i + 1}") for i in range(n)]
        return "root ::= r0\n" + "\n".join(rules) + f'\nr{n} ::= "z"'

    def ambiguity(self):
        return self.rng.choice([
            'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"',
            'root ::= root2 root2\nroot2 ::= "a" root2 | ("a" | [a-z]) root2 | "a"?',
            "root ::= (" + " | ".join(['[a-z] root'] * repeated(self.rng, 3, 30, 300)) + ")",
            "root ::= " + "(" * 20 + "[a-z]" + "*)" * 20,
            "root ::= " + "(" * 15 + "[a-z]" + "?){9}" * 15,
            "root ::= x{%d}\nx ::= [a-z]? y?\ny ::= x | [a-z]?" % repeated(self.rng, 3, 60, 900),
            'root ::= (a | b) root | "c"\na ::= [a-m]*\nb ::= [f-z]*',
            "root ::= [^\\x00]? root [^\\x00]? | [^\\x00]",
        ])

    def repetitions(self):
        rng = self.rng
        n = repeated(rng, 5, 40, 300, 1900)
        return rng.choice([
            "root ::= " + "(" * 8 + '"a"' + ("){%d}" % n) * 8,
            "root ::= a{%d}\n" % n + "\n".join(f"{x} ::= {y}{{{n}}}" for x, y in zip("abcd",
                                                                                     "bcde"))
            + '\ne ::= "x"',
            'root ::= "a"{%d,%d}' % (n * 7, n), "root ::= ([a-z]{0,%d}){0,%d}" % (n, n),
            'root ::= "a"{%d}' % 10 ** rng.randint(3, 30), "root ::= " + '"a"{9} ' * n,
            "root ::= " + '("a"{0,9} | "b"{9,}){0,9}' * n, 'root ::= ""{%d}' % n,
            'root ::= (""*)*{%d}' % n, 'root ::= x{%d} x{%d}\nx ::= ("a"|)?' % (n, n)])

    def large(self):
        rng = self.rng
        n = repeated(rng, 100, 1000, 9000)
        return rng.choice([
            "root ::= " + "(" * n + '"a"' + ")" * n, "root ::= " + "a " * n + '\na ::= "x"',
            "root ::= " + "| " * n, "root ::= " + '"ab" | ' * n + '"c"', "#" * n + "\nroot ::= [a]",
            "root ::= " + "[a-z]" * n, 'root ::= "' + "é" * n + '"',
            "root ::= [" + "a-z" * n + "]",
            "\n".join(f'r{i} ::= "a"' for i in range(n)) + '\nroot ::= "x"', "(" * n, "root" * n,
            "root ::= " + "(" * (n // 200) + "a" + ")?" * (n // 200) + '\na ::= "x"', "x" * 70000])

    FAMILIES = [recursion, chain, ambiguity, repetitions, large]


def grammar_case(rng):
    """Return (path, body, tokens) of a request with a grammar."""
    grammar = Grammars(rng).make()
    n = rng.choice([1, 2, 3, 3, 24])
    path, body = rng.choice([
        ("/completion", {"prompt": "x", "n_predict": n, "grammar": grammar}),
        ("/completion", {"prompt": "x", "n_predict": n, "grammar": grammar, "n_probs": 3}),
        ("/v1/completions", {"prompt": "x", "max_tokens": n, "grammar": grammar}),
        (CHAT, {"messages": MESSAGES, "max_tokens": n, "grammar": grammar}),
    ])
    body.update(rng.choice([
        {}, {}, {"ignore_eos": True}, {"min_tokens": 2}, {"temperature": 0}, {"stream": True},
        {"logit_bias": [[i, False] for i in range(3, 90)]}, {"temperature": 2.0, "seed": 5}]))
    return path, json.dumps(body).encode(), n


class Templates:
    """Makes random Jinja."""

    VARIABLES = ["messages", "messages[0]", "messages[0].content", "tools", "x", "y", "loop.index",
                 "bos_token", "add_generation_prompt", "none", "nothing", "ns", "ns.a", "m.role"]
    FILTERS = ["tojson", "upper", "length", "list", "trim", "string", "int", "join(',')", "reverse",
               "first", "last", "sort", "unique", "replace('a', 'aa')", "default('d')", "items",
               "map('upper')", "selectattr('role')", "tojson(indent=4)", "dictsort", "batch(2)",
               "abs",
               "indent(9)", "safe", "none", "rejectattr('x', 'equalto', 1)", "tojson|tojson"]
    TAGS = ["{%", "%}", "{{", "}}", "{#", "#}", "{% endif %}", "{% endfor %}", "{% if x %}", "{%-",
            "-}}",
            "{% else %}", "{% elif %}", "{% break %}", "{% raw %}", "\0", "\ud7ff",
            "{% endmacro %}"]

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
            text = text[:at] + rng.choice(self.TAGS) + text[at + rng.randrange(4):]
        return text

    def value(self, depth=0):
        rng = self.rng
        self.left -= 1
        kind = rng.randrange(14)
        if kind < 3 or depth > 5 or self.left < 0:
            return rng.choice(self.VARIABLES)
        if kind < 5:
            return rng.choice(["'a'", "5", "0", "-1", "1.5", "true", "none", "''", "'é😀'",
                               "9999999999999999999"])
        inner = [self.value(depth + 1) for _ in range(3)]
        forms = ["%s + %s", "%s * %s", "%s ~ %s", "%s - %s", "%s / %s", "%s // %s", "%s %% %s",
                 "%s ** %s",
                 "%s == %s", "%s < %s", "%s in %s", "%s and %s", "%s or %s", "%s[%s]", "%s[%s:]",
                 "%s[::%s]", "[%s, %s]", "{'k': %s, 'l': %s}", "(%s if %s)", "%s not in %s"]
        if kind < 10:
            return "(" + rng.choice(forms) % tuple(inner[:2]) + ")"
        if kind == 10:
            return f"(not {inner[0]})"
        if kind == 11:
            tests = ["defined", "none", "string", "mapping", "iterable", "number", "divisibleby(0)",
                     "x"]
            return f"({inner[0]} is {rng.choice(tests)})"
        if kind == 12:
            return rng.choice(["range(%s)", "range(0, %s, %s)", "namespace(a=%s)", "dict(a=%s)",
                               "f(%s)",
                               "strftime_now(%s)", "raise_exception(%s)", "%s.split('a')",
                               "%s.items()",
                               "%s.strip()", "%s.startswith(%s)"]).replace("%s", inner[0])
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
        form = rng.choice([
            "{%% for m in messages %%}%s{%% endfor %%}",
            "{%% for x in %s %%}%%s{%% else %%}e{%% endfor %%}",
            "{%% if %s %%}%%s{%% elif %s %%}y{%% else %%}z{%% endif %%}", "{%% set x = %s %%}%%s",
            "{%% set ns = namespace(a=%s) %%}{%% set ns.a = %s %%}%%s",
            "{%% set y %%}%s{%% endset %%}",
            "{%% macro f(a, b=1) %%}%s{%% endmacro %%}{{ f(2) }}",
            "{%% generation %%}%s{%% endgeneration %%}",
            "{%% for x in range(3) if %s %%}%%s{%% break %%}{%% endfor %%}",
            "{%% filter upper %%}%s{%% endfilter %%}",
            "{%% call(c) f(1) %%}%s{%% endcall %%}",
        ])
        value = self.value() if rng.random() < 0.5 else inner[:30]
        return form.replace("%%s", inner).replace("%s", value).replace("%%", "%")

    def deep(self):
        n = repeated(self.rng, 20, 300, 5000, 60000)
        return self.rng.choice([
            "{{ " + "(" * n + "1" + ")" * n + " }}", "{{ " + "[" * n + "]" * n + " }}",
            "{{ " + "not " * n + "x }}", "{{ " + "-" * n + "1 }}", "{{ 1" + " + 1" * n + " }}",
            "{{ 1" + " ~ 'a'" * n + " }}", "{{ x" + ".a" * n + " }}",
            "{{ messages" + "[0]" * n + " }}",
            "{{ 'a'" + "|upper" * n + " }}", "{{ " + "{'a':" * n + "1" + "}" * n + " }}",
            "{% if x %}" * n + "{% endif %}" * n, "{% for a in [1] %}" * n + "{% endfor %}" * n,
            "{% set x = [x] %}" * n + "{{ x|tojson }}", "{{ " + "1 if x else " * n + "2 }}",
            "{{ " + "(" * n,
            "{% if x %}a" + "{% elif y %}b" * n + "{% endif %}", "{% macro f() %}" * n,
            "{{ " + "f(" * n + ")" * n + " }}", "{{ 2" + " ** 2" * n + " }}",
            "{{ x" + " and x" * n + " }}",
            "{{ 1" + " < 2" * n + " }}", "{{ x" + "[1:" * n + " }}", "{{ 1 }}" * n,
            "{% set a = 1 %}" * n])

    def loops(self):
        # What ends soon finds more than what takes all of a template's 10 s.
        n = 10 ** (self.rng.randint(1, 9) if self.rng.random() < 0.1 else 1)
        depth = self.rng.randint(1, 3)
        body = self.rng.choice(["", "x", "{{ x }}", "{% set x = x ~ 'a' %}",
                                "{% set ns.a = ns.a ~ 'ab' %}",
                                "{% set ns.a = [ns.a, ns.a] %}", "{{ messages|tojson }}",
                                "{% set ns.a = ns.a + [x] %}",
                                "{% if x %}{% continue %}{% endif %}"])
        begin = "{%% for x in range(%d) %%}" % n * depth
        return ("{% set ns = namespace(a='') %}" + begin + body + "{% endfor %}" * depth
                + "{{ ns.a }}")

    def growth(self):
        n = repeated(self.rng, 8, 20, 40, 300)
        # llama.cpp replaces in place, in quadratic time and without an allocation.
        step = self.rng.choice(["x ~ x", "x + x", "x * 9", "[x, x]",
                                "x|replace('a', 'aaa')", "(x ~ x)|replace('a', 'ba')",
                                "x|tojson",
                                "x|tojson|tojson", "{'k': x, 'l': x}", "x|list|join('aa')",
                                "x|indent(99)"])
        start = self.rng.choice(["'a'", "['a']", "'a\"\\\\'", "messages"])
        way = self.rng.choice(["{{ x }}", "{{ x|length }}", "{{ x|tojson }}", "{{ x == x }}",
                               "{{ x|string|length }}"])
        return "{% set x = " + start + " %}" + ("{% set x = " + step + " %}") * n + way

    def recursion(self):
        return self.rng.choice([
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% macro f(n) %}{{ g(n) }}{% endmacro %}"
            "{% macro g(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}",
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
            "{% endmacro %}{{ f(%d) }}".replace(
                "%d", str(repeated(self.rng, 5, 30, 900))),
            "{% macro f() %}{{ caller() }}{% endmacro %}"
            "{% call f() %}{% call f() %}a{% endcall %}{% endcall %}",
            "{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns|tojson }}{{ ns }}{{ ns == ns }}",
            "{% set ns = namespace(a=[]) %}"
            "{% for i in range(999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson }}",
            "{% set x = [] %}"
            "{% for i in range(99) %}{% set _ = x.append(x) %}{% endfor %}{{ x|tojson }}",
            "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
            "{% macro f(a=f()) %}{% endmacro %}{{ f() }}",
            "{% set f = [] %}{% macro g(h) %}{{ h(h) }}{% endmacro %}{{ g(g) }}"])

    def strings(self):
        n = 10 ** self.rng.randint(2, 12)
        return self.rng.choice([
            "{{ 'a' * %d }}", "{{ 'abc' * %d * %d }}", "{{ [1] * %d }}",
            "{{ range(%d)|list|tojson }}",
            "{{ 'a'|indent(%d) }}", "{{ '%%%ds' % 'a' }}", "{{ '%d'|int ** %d }}",
            "{{ 'abc'[%d:-%d:%d] }}",
            "{{ range(0, %d, 0)|list }}", "{{ range(%d)|sum }}", "{{ 'a'|center(%d) }}",
            "{{ 1 // 0 }}",
            "{{ 5 % 0 }}", "{{ (-9223372036854775807 - 1) // -1 }}",
            "{{ (-9223372036854775807 - 1) % -1 }}",
            "{{ 'abc'[::0] }}", "{{ [1, 2, 3][::-1] }}", "{{ messages[%d] }}",
            "{{ messages[-%d] }}",
            "{{ 1e308 * 10 }}", "{{ 0 ** -1 }}", "{{ raise_exception('no ' * %d) }}",
            "{{ messages|batch(0) }}",
            "{{ strftime_now('%%Y' * %d) }}", "{{ {'a': 1}[messages] }}",
            "{{ messages|sort|tojson }}",
            "{{ 'a,b'.split('') }}", "{{ 'ab'|replace('', 'x' * %d) }}", "{{ ['a' * %d] * %d }}",
        ]).replace("%d", str(n)).replace("%%", "%")

    FAMILIES = [deep, deep, loops, growth, recursion, strings]


def template_text(rng):
    """Return a chat template."""
    return Templates(rng).make()


def chat_requests(rng):
    """Return [(path, body, tokens)] to send to a server whose model has a template to try."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    extra = rng.choice([{}, {"tools": [tool]}, {"chat_template_kwargs": {"x": "abc", "y": [1, {}]}},
                        {"response_format": {"type": "json_object"}}])
    body = {"messages": MESSAGES, "max_tokens": 2, **extra}
    return [(path, json.dumps(body).encode(), 2) for path in ("/apply-template", CHAT)] + [
        ("/completion", b'{"prompt": "x", "n_predict": 2}', 2)]


ROUTES = {
    "/completion": {"prompt": "hello", "n_predict": 2, "temperature": 0.5, "stop": ["x"],
                    "n_probs": 2},
    "/v1/completions": {"prompt": ["hello", [5, 6]], "max_tokens": 2, "logprobs": 2, "seed": 1},
    CHAT: {"messages": MESSAGES, "max_tokens": 2, "logprobs": True, "top_logprobs": 2, "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
                      "max_output_tokens": 16, "instructions": "b", "metadata": {"a": "b"}},
    "/v1/messages": {"max_tokens": 2, "system": "s", "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "r"}]}]},
    "/v1/messages/count_tokens": {"messages": MESSAGES, "system": [{"type": "text", "text": "s"}]},
    "/apply-template": {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": False}},
    "/tokenize": {"content": ["hello", 5], "add_special": True, "with_pieces": True},
    "/detokenize": {"tokens": [5, 6, 7, 300]},
    "/v1/embeddings": {"input": ["a", [5, 6]], "encoding_format": "base64"},
    "/embedding": {"content": "a", "embd_normalize": 2},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 2, "input_extra": [
        {"filename": "f", "text": "t"}]},
}
RAW_NUMBERS = ["1e999", "-1e999", "1e-999", "01", "-0", "-0.0", "1.", ".5", "1e", "+1", "0x10",
               "NaN", "Infinity",
               "1" * 400, "1" * 5000, "0." + "3" * 900, "9223372036854775807",
               "9223372036854775808",
               "-9223372036854775809", "18446744073709551615", "1e308", "4.9e-324", "2.5", "1e2",
               "1E+2"]
RAW_STRINGS = ['"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\u0000"', '"\\u12"',
               '"\\x41"', '"\t"',
               '"\\"', '"', '"\\/\\b\\f"', '"é😀"', '"\\ufeff"', "'a'", '"\\uD83Dx"', '"a" "b"',
               '"\u2028"']
RAW = ["", "{", "}", "[", "]", ",", ":", "null", "tru", "[1,]", '{"a":1,}', '{"a":1,"a":2}', "//",
       "/**/", "[1 2]",
       '{"a" 1}', "{1:2}", "\0", "[[[[]]]]", "undefined"]


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
            return self.marker(rng.choice(RAW if rng.random() < 0.3 else ["null"])
                               if rng.random() < 0.7 else self.large())
        size = rng.randrange(5)
        if kind < 13:
            return [self.value(depth + 1) for _ in range(size)]
        names = [*WORDS, "role", "content", "text"]
        return {rng.choice(names): self.value(depth + 1) for _ in range(size)}

    def large(self):
        """Return the text of something of up to 2 MB."""
        rng = self.rng
        piece = rng.choice([
            "1,", "1.5,", "true,", "null,", '"a",', "[],", "{},", '"\\n",', '"\\u0430",', "[[1]],",
            "12345678901234567,", '{"a":1},', '{"role":"user","content":"a"},', "1e5,", '"",',
            '{"type":"text","text":"a"},', "0.1234567890123456789,", "-0,", '["a",5],'])
        size = rng.choice([10**3, 10**4, 10**5, 10**6, 2 * 10**6, 2_200_000])
        count = size // len(piece)
        way = rng.randrange(8)
        if way < 3:
            return "[" + piece * count + "1]"
        if way == 3:
            text = rng.choice(["a", "\\n", "\\u0430", "é", "😀", " ", "\\ud83d\\ude00", "\\\"",
                               "hello ", "\\u0000"])
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
        return "1" * size if rng.random() < 0.5 else '{"a":1,' * 1 + '"a":2,' * min(count,
                                                                                    5000) + '"b":1}'

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
        data = json.dumps(body, ensure_ascii=rng.random() < 0.5)
        for name, text in self.raw.items():
            data = data.replace(f'"{name}"', text, 1)
        data = data.encode("utf-8", "surrogatepass")
        if rng.random() < 0.15:
            data = self.damage(data)
        return data

    def damage(self, data):
        rng = self.rng
        at = rng.randrange(len(data) + 1)
        before, after = data[:at], data[at:]
        return rng.choice([
            before, before + b"\xff" + after, before + b"\xed\xa0\xbd" + after,
            before + b"\xc0\x80" + after, before + bytes([rng.randrange(256)]) + after[1:],
            b"\xef\xbb\xbf" + data, data + data, data + b"\0", b"[" + data + b"]",
            data.decode("utf-8", "replace").encode("utf-16"), before + after[rng.randrange(9):],
            data + b" " * 1000])


FIELDS = [
    "stream", "stream_options", "stop", "stop_sequences", "temperature", "top_p", "top_k", "min_p",
    "seed", "n", "logprobs", "top_logprobs", "n_probs", "logit_bias", "response_format",
    "json_schema", "grammar", "tools", "tool_choice", "thinking", "reasoning", "text",
    "chat_template_kwargs", "cache_salt", "priority", "samplers", "dry_sequence_breakers",
    "response_fields", "encoding_format", "embd_normalize", "input_prefix", "include",
    "continue_final_message", "output_format", "metadata", "suffix", "ignore_eos", "min_tokens",
    "input_extra", "model", "messages", "prompt", "input", "content", "system", "instructions",
    "previous_response_id", "t_max_predict_ms", "dry_multiplier", "mirostat", "repeat_last_n",
    "xtc_probability", "n_cmpl", "lora", "parallel_tool_calls", "reasoning_format", "user",
    "speculative.n_max", "typical_p", "a", "b",
]


def json_case(rng):
    """Return (path, body, tokens) of a request whose JSON is partly wrong."""
    path = rng.choice(list(ROUTES))
    # A limit on tokens may be what was changed: then the context is the limit.
    return path, Bodies(rng).make(ROUTES[path]), 64
