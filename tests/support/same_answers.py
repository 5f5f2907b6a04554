"""Requests for a server that may compute them in many ways, and what must be the same in all."""

import concurrent.futures
import random

import requests

WORDS = (
    "a the one of in is was to and it for with on as at by he she they river stone light house "
    "small open quiet blue seven never again because slowly under winter letters count").split()


def make_requests(number, tokens, seed):
    """Bodies for /completion: prompts of 1 to 90 words, some repeating, some with a common
    beginning, one in four sampled with a seed, one in two with probabilities.
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
        body = {"prompt": " ".join(prompt), "n_predict": chance.randint(1, tokens),
                "temperature": 0, "return_tokens": True}
        if i % 4 == 0:
            body.update(temperature=1.0, seed=i)
        if i % 2 == 0:
            body["n_probs"] = 3
        if i % 5 == 0:  # few words, which come again
            body["logit_bias"] = [[token, 12] for token in (70, 80)]
        made.append(body)
    return made


def answer(server, body, **more):
    """What must be the same: tokens, text, probabilities."""
    reply = requests.post(server.url + "/completion", json={**body, **more}, timeout=600)
    assert reply.status_code == 200, reply.text
    reply = reply.json()
    return {name: reply.get(name) for name in ("content", "tokens", "completion_probabilities")}


def at_once(server, bodies, number, **more):
    """The answers, `number` requests at a time."""
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda body: answer(server, body, **more), bodies))


def differences(made):
    """A line for each answer that is not as it is alone."""
    ways = list(made)
    expected = made[ways[0]][0]
    return [f"{way}, request {i}: {its!r} instead of {alone!r}"[:600]
            for way in ways[1:]
            for i, (its, alone) in enumerate(zip(made[way][0], expected, strict=True))
            if its != alone]
