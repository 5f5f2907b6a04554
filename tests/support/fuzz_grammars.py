"""Random GBNF grammars for fuzz_kinds.py, and requests with them."""

import json

from support.fuzz_words import CHAT, MESSAGES, repeated


class Grammars:
    """Makes random GBNF."""

    LITERALS = [
        '"a"',
        '"b"',
        '""',
        '"\\n"',
        '"\\x41"',
        '"\\x4"',
        '"\\u00e9"',
        '"\\u12"',
        '"\\U0001F600"',
        '"\\U00110000"',
        '"\\uD83D"',
        '"é😀"',
        '"\\""',
        '"',
        '"a\nb"',
        '"\\q"',
        '"\0"',
        '"' + "x" * 200 + '"',
    ]
    CLASSES = [
        "[a-z]",
        "[z-a]",
        "[^a]",
        "[]",
        "[^]",
        "[",
        "[a-",
        "[a-]",
        "[\\]]",
        "[\\x00-\\xff]",
        "[\\U00000000-\\U0010FFFF]",
        "[\\u]",
        "[é-😀]",
        "[^\\n]",
        "[a\nb]",
        "[-]",
        ".",
    ]
    TOKENS = [
        "<[5]>",
        "!<[5]>",
        "<[99999999999]>",
        "<[-1]>",
        "<[",
        "<a>",
        "!<a>",
        "<|im_end|>",
        "<",
        "<<[1]>>",
        "<[]>",
        "!",
        "<[5]",
        "<>",
    ]
    REPEATS = [
        "",
        "",
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
        "{0,2000}",
        "{2001}",
        "{4294967297}",
        "{18446744073709551616}",
        "{-1}",
        "{a}",
        "{1",
        "**",
        "*+?",
        "{40}{40}",
        "{ 2 , 3 }",
    ]

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
            text = (
                text[:at]
                + self.rng.choice(["", "(", ")", "::=", "|", "\0", "#", "\ufeff", "{", "\\"])
                + text[at + self.rng.randrange(3) :]
            )
        return text

    def alternatives(self, depth=0):
        rng = self.rng
        return " | ".join(
            " ".join(self.item(depth) for _ in range(rng.choice([0, 1, 1, 2, 2, 3])))
            for _ in range(rng.choice([1, 1, 1, 2, 3]))
        )

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
        rules = "\n".join(
            f"r{i} ::= %s"
            % self.rng.choice(
                [
                    f"r{(i + 1) % n}",
                    f"empty r{(i + 1) % n}",
                    f"r{(i + 1) % n} \"a\"",
                    f"r{(i + 1) % n}?",
                    f"\"a\" r{(i + 1) % n}",
                ]
            )
            for i in range(n)
        )
        return f"root ::= r0\nempty ::= \"\" | \"a\"?\n{rules}"

    def chain(self):
        n = repeated(self.rng, 50, 1000, 2800)
        form = self.rng.choice(["%s", "(%s)", "%s?", "%s*", "\"a\" %s", "%s | \"b\"", "%s %s"])
        rules = [f"r{i} ::= " + form.replace("%s", f"r{i + 1}") for i in range(n)]
        return "root ::= r0\n" + "\n".join(rules) + f'\nr{n} ::= "z"'

    def ambiguity(self):
        return self.rng.choice(
            [
                'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"',
                'root ::= root2 root2\nroot2 ::= "a" root2 | ("a" | [a-z]) root2 | "a"?',
                "root ::= (" + " | ".join(['[a-z] root'] * repeated(self.rng, 3, 30, 300)) + ")",
                "root ::= " + "(" * 20 + "[a-z]" + "*)" * 20,
                "root ::= " + "(" * 15 + "[a-z]" + "?){9}" * 15,
                "root ::= x{%d}\nx ::= [a-z]? y?\ny ::= x | [a-z]?"
                % repeated(self.rng, 3, 60, 900),
                'root ::= (a | b) root | "c"\na ::= [a-m]*\nb ::= [f-z]*',
                "root ::= [^\\x00]? root [^\\x00]? | [^\\x00]",
            ]
        )

    def repetitions(self):
        rng = self.rng
        n = repeated(rng, 5, 40, 300, 1900)
        return rng.choice(
            [
                "root ::= " + "(" * 8 + '"a"' + ("){%d}" % n) * 8,
                "root ::= a{%d}\n" % n
                + "\n".join(f"{x} ::= {y}{{{n}}}" for x, y in zip("abcd", "bcde"))
                + '\ne ::= "x"',
                'root ::= "a"{%d,%d}' % (n * 7, n),
                "root ::= ([a-z]{0,%d}){0,%d}" % (n, n),
                'root ::= "a"{%d}' % 10 ** rng.randint(3, 30),
                "root ::= " + '"a"{9} ' * n,
                "root ::= " + '("a"{0,9} | "b"{9,}){0,9}' * n,
                'root ::= ""{%d}' % n,
                'root ::= (""*)*{%d}' % n,
                'root ::= x{%d} x{%d}\nx ::= ("a"|)?' % (n, n),
            ]
        )

    def large(self):
        rng = self.rng
        n = repeated(rng, 100, 1000, 9000)
        return rng.choice(
            [
                "root ::= " + "(" * n + '"a"' + ")" * n,
                "root ::= " + "a " * n + '\na ::= "x"',
                "root ::= " + "| " * n,
                "root ::= " + '"ab" | ' * n + '"c"',
                "#" * n + "\nroot ::= [a]",
                "root ::= " + "[a-z]" * n,
                'root ::= "' + "é" * n + '"',
                "root ::= [" + "a-z" * n + "]",
                "\n".join(f'r{i} ::= "a"' for i in range(n)) + '\nroot ::= "x"',
                "(" * n,
                "root" * n,
                "root ::= " + "(" * (n // 200) + "a" + ")?" * (n // 200) + '\na ::= "x"',
                "x" * 70000,
            ]
        )

    FAMILIES = [recursion, chain, ambiguity, repetitions, large]


def grammar_case(rng):
    """Return (path, body, tokens) of a request with a grammar."""
    grammar = Grammars(rng).make()
    n = rng.choice([1, 2, 3, 3, 24])
    path, body = rng.choice(
        [
            ("/completion", {"prompt": "x", "n_predict": n, "grammar": grammar}),
            ("/completion", {"prompt": "x", "n_predict": n, "grammar": grammar, "n_probs": 3}),
            ("/v1/completions", {"prompt": "x", "max_tokens": n, "grammar": grammar}),
            (CHAT, {"messages": MESSAGES, "max_tokens": n, "grammar": grammar}),
        ]
    )
    body.update(
        rng.choice(
            [
                {},
                {},
                {"ignore_eos": True},
                {"min_tokens": 2},
                {"temperature": 0},
                {"stream": True},
                {"logit_bias": [[i, False] for i in range(3, 90)]},
                {"temperature": 2.0, "seed": 5},
            ]
        )
    )
    return path, json.dumps(body).encode(), n
