"""The same requests, computed in every way: tokens and probabilities must not change.

The ways are: alone, with drafts by n-grams and by a model, eight at a time, with too little memory,
after others with the same beginning.

    python tests/api/invariance.py [--requests 500] [--model FILE] [--draft FILE] [--tokens 24]
        [--kernels exact] [--seed 1] [--guest]

Without --model the model is a small random one, and its draft model another. With --model, it
drafts for itself unless --draft names a model. --guest: in a booted image, where drafts by a model
are computed only when that pays.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path

import requests
from cllm import config, health, run
from support.api_server import ApiServer
from support.same_answers import answer, at_once, differences, make_requests


class Native:
    """The server on this machine, which drafts whether or not that pays.

    model: path; draft: path or None; options: of the section "model".
    """

    def __init__(self, model, draft, options):
        if draft:
            options = {**options, "draft": str(draft)}
        self.server = ApiServer(model, {"model": options})

    def __enter__(self):
        self.server.__enter__()
        self.server.scheduler.policy.draft_size = lambda right, most, *_: min(most, 7)
        self.url = self.server.url
        return self

    def __exit__(self, *exception):
        return self.server.__exit__(*exception)

    def metric(self, name):
        return getattr(self.server.scheduler.metrics, name)


class Guest:
    """The same in a booted image; it drafts when that pays."""

    SERIES = {
        "cached_tokens": "prefix_cache_hits",
        "drafted": "spec_decode_num_draft_tokens_total",
        "accepted": "spec_decode_num_accepted_tokens_total",
        "preemptions": 'num_preemptions_total{reason="kv_cache"}',
        "displaced": 'num_preemptions_total{reason="priority"}',
    }

    def __init__(self, model, draft, options):
        settings = {
            **config.DEFAULTS,
            "port": 0,
            "accel": "tcg",
            "smp": options["threads"],
            "model": str(model),
            "draft": str(draft) if draft else None,
        }
        self.guest = run.make_guest(settings, {"model": options})

    def __enter__(self):
        self.guest.start()
        self.url = f"http://127.0.0.1:{self.guest.port}"
        verdict = health.wait_until_decided(self.guest.port, self.guest.ended, 300)
        if verdict is not None:
            raise SystemExit(f"{verdict}: {self.guest.log()[-3000:].decode(errors='replace')}")
        return self

    def __exit__(self, *exception):
        self.guest.stop()

    def metric(self, name):
        text = requests.get(self.url + "/metrics", timeout=60).text
        line = rf"^llamacpp:{re.escape(self.SERIES[name])} (\S+)"
        return int(float(re.search(line, text, re.MULTILINE)[1]))


def compute(model, draft, bodies, kernels="exact", threads=1, target=Native):
    """Return {way: (answers, {metric: value})}; in the first way, each request is alone."""

    def served(name, run, draft=None, speculate=False, **options):
        settings = {"n_ctx": 4096, "kernels": kernels, "threads": threads, "speculate": speculate}
        with target(model, draft, {**settings, **options}) as server:
            began = time.monotonic()
            answers = run(server)
            metrics = {metric: server.metric(metric) for metric in Guest.SERIES}
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            return answers, metrics

    def alone(server):
        return [answer(server, body, cache_prompt=False) for body in bodies]

    def kept(server):
        return [answer(server, body) for body in bodies]

    def eight(server):
        return at_once(server, bodies, 8, cache_prompt=False)

    def backwards(server):
        return at_once(server, bodies[::-1], 3)[::-1]

    def urgent(server):
        # Each is more urgent than those before, whose slots and cells it takes.
        later = [{**body, "priority": -i} for i, body in enumerate(bodies)]
        return at_once(server, later, 8)

    longest = 512  # tokens that a request may take
    return {
        "alone": served("alone", alone),
        "one after the other, prefixes kept": served("one after the other, prefixes kept", kept),
        "drafts by n-grams": served("drafts by n-grams", alone, speculate=True),
        "drafts by a model": served(
            "drafts by a model", backwards, speculate=True, slots=2, draft=draft
        ),
        "eight at a time": served("eight at a time", eight, slots=8),
        "eight at a time, in pieces": served(
            "eight at a time, in pieces", eight, slots=8, n_batch=17
        ),
        "preempted": served("preempted", urgent, slots=2, n_ctx=longest),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--kernels", default="exact")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guest", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, draft = options.model, options.draft or options.model
        if not model:
            from support import small_models

            model, draft = small_models.pair(folder)
        bodies = make_requests(options.requests, options.tokens, options.seed)
        target = Guest if options.guest else Native
        made = compute(model, draft, bodies, options.kernels, options.threads, target)
    wrong = differences(made)
    print("\n".join(wrong[:20]))
    counts = {way: sum(line.startswith(way + ", request") for line in wrong) for way in made}
    print(json.dumps({"requests": options.requests, "different": counts, **evidence(made)}))
    return 1 if wrong else 0


def evidence(made):
    """Check by the metrics that each way was what its name says."""

    def metric(way, name):
        return made[way][1][name]

    return {
        "prefix tokens": metric("one after the other, prefixes kept", "cached_tokens"),
        "n-grams drafted": metric("drafts by n-grams", "drafted"),
        "n-grams accepted": metric("drafts by n-grams", "accepted"),
        "model's drafted": metric("drafts by a model", "drafted"),
        "model's accepted": metric("drafts by a model", "accepted"),
        "preemptions": metric("preempted", "preemptions") + metric("preempted", "displaced"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
