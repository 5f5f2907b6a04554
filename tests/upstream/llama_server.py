"""Stands in for llama-server in llama.cpp's own server tests: its flags become a configuration of
frozen/serve, which runs on CPython with the engine. The model is the default one, whatever is
asked for. llama_tests.py starts it.
"""

import argparse
import hashlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import support.on_cpython  # noqa: F401, makes the next ones importable
from support.api_server import ApiServer

# isort: split
from cllm import TOP, fetch

CACHE = TOP / "build" / "llama-tests" / "models"


def arguments(words):
    """Return the flags that have a meaning here; the others are ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--port", "--ctx-size", "--batch-size", "--parallel", "--n-predict", "--seed"):
        parser.add_argument(flag, type=int)
    for flag in (
        "--alias", "--tags", "--api-key", "--pooling", "--cors-origins", "--chat-template-file",
        "--reasoning-format", "--reasoning", "--slot-save-path",
    ):  # fmt: skip
        parser.add_argument(flag)
    parser.add_argument("--temp", type=float)
    parser.add_argument("--lora", action="append", default=[])
    for flag in ("--metrics", "--no-slots", "--no-ui", "--reranking"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_known_args(words)[0]


def model(template):
    """Return the path of the model, with another chat template if `template` names a file."""
    path = fetch.default_model()
    if not template:
        return path
    text = Path(template).read_text()
    changed = CACHE / (hashlib.sha256(text.encode()).hexdigest()[:16] + ".gguf")
    if not changed.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = changed.with_suffix(".new")
        module = "gguf.scripts.gguf_new_metadata"
        command = [sys.executable, "-m", module, "--force", str(path), str(new)]
        subprocess.run([*command, "--chat-template", text], check=True, capture_output=True)
        new.rename(changed)
    return changed


def configuration(options):
    """Return the configuration for the flags."""
    slots = options.parallel or 4
    section = {
        "n_ctx": options.ctx_size or 2048,
        "n_batch": max(options.batch_size or 64, slots + max(4, slots)),
        "slots": slots,
        "alias": options.alias,
        "tags": options.tags,
        "lora": options.lora,
    }
    pooling = "rank" if options.reranking else options.pooling
    if pooling:
        section["pooling"] = pooling
    return {
        "keys": [options.api_key] if options.api_key else [],
        "cors": options.cors_origins or "*",
        "metrics": options.metrics,
        "slot_list": not options.no_slots,
        "limits": {"sample_ms": 60000, "job_ms": 60000},
        "model": {name: value for name, value in section.items() if value is not None},
    }


def defaults(options):
    """Return the fields that llama-server's flags give to a request without them."""
    fields = {
        "temperature": options.temp,
        "seed": options.seed,
        "n_predict": options.n_predict,
        "reasoning_format": options.reasoning_format,
    }
    return {name: value for name, value in fields.items() if value is not None}


def main(words):
    options = arguments(words)
    fields = defaults(options)

    def setup(service):
        @service.app.before
        def fill(request):
            if request.method != "POST" or not request.body:
                return None
            body = request.json()
            if isinstance(body, dict):
                body = {**fields, **body}
                limits = ("max_tokens", "max_completion_tokens", "max_output_tokens")
                if any(name in body for name in limits):
                    body.pop("n_predict", None)
                if options.reasoning == "off":
                    chosen = dict(body.get("chat_template_kwargs") or {})
                    chosen.setdefault("enable_thinking", False)
                    body["chat_template_kwargs"] = chosen
                request.set_json(body)
            return None

        if options.no_ui:
            del service.app._fixed["/"]

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    chosen = model(options.chat_template_file)
    with ApiServer(chosen, configuration(options), setup, port=options.port):
        while not ended.wait(1):
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
