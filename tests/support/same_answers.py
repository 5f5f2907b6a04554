"""Requests that a server may compute in many ways, and the parts of answers that must agree."""

import concurrent.futures
import random

import requests

WORDS = (
    "a the one of in is was to and it for with on as at by he she they river stone light house "
    "small open quiet blue seven never again because slowly under winter letters count"
).split()


def make_requests(number, tokens, seed):
    """Return bodies for /completion, with prompts of 1 to 90 words.

    Some prompts repeat words, some begin alike; one in four is sampled with a seed, one in two has
    probabilities, two in seven a grammar.
    """
    chance = random.Random(seed)

    def words(most):
        return chance.choices(WORDS, k=chance.randint(1, most))

    beginnings = [words(60) for _ in range(5)]
    made = []
    for i in range(number):
        prompt = words(30)
        if i % 3 == 0:
            prompt = chance.choice(beginnings) + prompt
        elif i % 3 == 1:
            prompt = prompt * chance.randint(1, 3)
        body = {
            "prompt": " ".join(prompt),
            "n_predict": chance.randint(1, tokens),
            "temperature": 0,
            "return_tokens": True,
        }
        if i % 4 == 0:
            body.update(temperature=1.0, seed=i)
        if i % 2 == 0:
            body["n_probs"] = 3
        if i % 5 == 0:  # two tokens come again and again
            body["logit_bias"] = [[token, 12] for token in (70, 80)]
        if i % 7 == 1:
            body["grammar"] = 'root ::= ([a-z]+ " " | [0-9]+ " ")+'
        elif i % 7 == 4:
            items = {"enum": [1, "a", True]}
            body["json_schema"] = {"type": "array", "minItems": 9, "items": items}
        made.append(body)
    return made


def answer(server, body, **more):
    """Ask; return the parts that must agree: text, tokens, probabilities."""
    reply = requests.post(server.url + "/completion", json={**body, **more}, timeout=600)
    assert reply.status_code == 200, reply.text
    reply = reply.json()
    return {name: reply.get(name) for name in ("content", "tokens", "completion_probabilities")}


def at_once(server, bodies, number, **more):
    """Return the answers, asked for `number` at a time."""
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda body: answer(server, body, **more), bodies))


def differences(made):
    """Return a line for each answer that differs from the same request's alone."""
    ways = list(made)
    expected = made[ways[0]][0]
    return [
        f"{way}, request {i}: {its!r} instead of {alone!r}"[:600]
        for way in ways[1:]
        for i, (its, alone) in enumerate(zip(made[way][0], expected, strict=True))
        if its != alone
    ]
