"""What the server says of itself: health, properties, slots, metrics."""
# SPDX-License-Identifier: MIT

import os

from httpd import Response
from httpd.jsonio import dumps
from httpd.router import JSON

from ..scheduling.detok import text_of
from ..scheduling.engine import cpu, gpu, version
from ..scheduling.errors import RequestError, invalid, unavailable
from ..scheduling.sequence import Options
from .access import forbidden
from .native_api import settings_of
from .openai import object_of
from .params import Params


def _token_text(engine, token):
    return text_of(engine.piece(token, True)) if token >= 0 else ""


def release():
    """Return cllm's version, "" where another system runs this (a test)."""
    system = os.uname() if hasattr(os, "uname") else [""]
    return system[2] if system[0] == "cllm" else ""


def gpu_of(service):
    """Return what /props says of the GPU, None if the model uses none."""
    if not service.host.on_gpu:
        return None
    found = dict(gpu())
    del found["fault"]  # with one, there is no answer
    found["layers"] = service.host.engine.gpu_layers
    found["kernels"] = "ggml-cuda"
    return found


def props_of(service):
    """Return llama-server's properties, which its web page reads."""
    engine = service.engine()
    return {
        "default_generation_settings": {
            "params": settings_of(Params({}), True),
            "n_ctx": engine.n_ctx,
        },
        "total_slots": service.bounds.slots,
        "model_alias": service.host.alias,
        "model_ftype": engine.ftype,
        "model_path": service.host.path,
        "kernels": engine.kernels,
        "gpu": gpu_of(service),
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "ui": True,
        "ui_settings": {},
        "chat_template": engine.chat_template,
        "bos_token": _token_text(engine, engine.bos),
        "eos_token": _token_text(engine, engine.eos),
        "build_info": version(),
        "cllm_version": release(),
        "cpu_variant": cpu(),
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }


def slots_of(service):
    """Return llama-server's list of slots."""
    scheduler = service.scheduler
    slots = []
    for i in range(service.bounds.slots):
        slot = {
            "id": i,
            "n_ctx": service.host.engine.n_ctx,
            "speculative": scheduler.drafter is not None,
            "is_processing": i < len(scheduler.running),
        }
        if slot["is_processing"]:
            sequence = scheduler.running[i]
            slot["id_task"] = sequence.number
            slot["n_prompt_tokens"] = sequence.n_prompt
            slot["n_prompt_tokens_cache"] = sequence.n_cached
            slot["n_prompt_tokens_processed"] = min(sequence.computed, sequence.n_prompt)
            limit = sequence.options.max_tokens
            slot["next_token"] = [
                {
                    "has_next_token": True,
                    "has_new_line": False,
                    "n_remain": -1 if limit is None else limit - sequence.n_generated,
                    "n_decoded": sequence.n_generated,
                }
            ]
        slots.append(slot)
    return slots


async def _deep(service, answer):
    # Decodes one token of a real request, so that "ok" means that requests are answered.
    engine = service.generator()
    token = engine.bos if engine.bos >= 0 else 0
    options = Options(max_tokens=1, priority=-1000, cache=False, n_draft=0)
    sequence = service.scheduler.submit([token], {"temperature": 0}, options)
    try:
        async for _ in sequence:
            pass
    except RequestError as exc:
        raise unavailable("the engine cannot decode: " + exc.message)
    finally:
        sequence.cancel()
    answer["decode_ms"] = sequence.timings()["prompt_ms"]
    return answer


def install(service):
    """Add the routes to the service's application."""
    app = service.app
    healthy = dumps({"status": "ok"}).encode()

    @app.get("/health")
    @app.get("/v1/health")
    def health(request):
        service.engine()
        has_details = service.last_crash or service.unknown_cards or service.host.on_gpu
        if not (has_details or request.query):
            return Response(healthy, content_type=JSON)  # the usual case, kept cheap for monitors
        answer = {"status": "ok"}
        found = gpu_of(service)
        if found:
            answer["gpu"] = {name: found[name] for name in ("name", "kind", "memory", "used")}
        if service.last_crash:
            answer["last_crash"] = service.last_crash
        if service.unknown_cards:
            answer["unknown_network_cards"] = service.unknown_cards
        if service.network and request.query.get("network") in ("1", "true"):
            answer["network"] = service.network()
        if request.query.get("deep") in ("1", "true"):
            return _deep(service, answer)
        return answer

    @app.get("/props")
    def props(request):
        return props_of(service)

    @app.post("/props")
    def set_props(request):
        raise RequestError(501, "not_supported_error", "properties cannot be changed")

    @app.get("/slots")
    def slots(request):
        service.generator()
        if request.query.get("fail_on_no_slot") and (
            len(service.scheduler.running) >= service.bounds.slots
        ):
            raise unavailable("no slot available")
        return slots_of(service)

    @app.get("/metrics")
    def metrics(request):
        service.engine()
        text = service.scheduler.metrics.text(service.scheduler)
        return Response(text.encode(), content_type="text/plain; version=0.0.4")

    @app.post("/models/load")
    def load(request):
        # llama-server's route. There is one model; without a name, it is meant.
        name = object_of(request).get("model") if request.body else None
        if name is not None and name != service.host.alias:
            raise invalid("there is no model '%s'" % name)
        service.reload()
        return {"success": True}

    app.get("/tools")(forbidden)
    app.get("/cors-proxy")(forbidden)
    app.post("/cors-proxy")(forbidden)
