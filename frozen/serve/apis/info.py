"""What the server says of itself: health, properties, slots, metrics."""
# SPDX-License-Identifier: MIT

import os

from httpd import Response
from httpd.jsonio import dumps
from httpd.router import JSON

from ..scheduling.detok import text_of
from ..scheduling.engine import cpu, gpu, version
from ..scheduling.errors import RequestError, unavailable
from ..scheduling.sequence import Options
from .access import forbidden
from .native_shape import settings_of
from .params import Params


_LOAD_PROGRESS = """\
# HELP llamacpp:model_load_progress Part of the next model that has arrived and is loaded.
# TYPE llamacpp:model_load_progress gauge
llamacpp:model_load_progress %s
"""


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
        "endpoint_slots": "slot_list" not in service.hidden,
        "endpoint_props": False,
        "endpoint_metrics": "metrics" not in service.hidden,
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
    api = service.api
    healthy = dumps({"status": "ok"}).encode()

    deep = {"deep": {"type": "string", "enum": ["0", "1"]}}

    @api.get("/health", "/v1/health", gives="Health", query=deep, says="Whether it can answer")
    def health(request):
        service.engine()
        switch = service.switch
        has_details = service.last_crash or service.unknown_cards or service.host.on_gpu
        has_details = has_details or switch.next or switch.error
        if not (has_details or request.query):
            return Response(healthy, content_type=JSON)  # the usual case, kept cheap for monitors
        answer = {"status": "ok"}
        found = gpu_of(service)
        if found:
            answer["gpu"] = {name: found[name] for name in ("name", "kind", "memory", "used")}
        if switch.next:
            answer["loading"] = {"model": switch.next.alias, "progress": switch.next.progress}
        if switch.error:
            answer["load_error"] = switch.error
        if service.last_crash:
            answer["last_crash"] = service.last_crash
        if service.unknown_cards:
            answer["unknown_network_cards"] = service.unknown_cards
        if service.network and request.query.get("network") in ("1", "true"):
            answer["network"] = service.network()
        if request.query.get("deep") in ("1", "true"):
            return _deep(service, answer)
        return answer

    @api.get("/props", gives="Object", says="Settings of the server")
    def props(request):
        return props_of(service)

    @api.post("/props", gives="Object", codes=(501,), says="Always an error")
    def set_props(request):
        raise RequestError(501, "not_supported_error", "properties cannot be changed")

    def shown(name):
        if name in service.hidden:
            raise RequestError(501, "not_supported_error", "this route is turned off: " + name)

    busy = {"fail_on_no_slot": {"type": "string", "enum": ["1"]}}

    @api.get("/slots", gives="Array", query=busy, codes=(501,), says="What runs")
    def slots(request):
        shown("slot_list")
        service.generator()
        if request.query.get("fail_on_no_slot") and (
            len(service.scheduler.running) >= service.bounds.slots
        ):
            raise unavailable("no slot available")
        return slots_of(service)

    @api.get("/metrics", gives="text/plain", codes=(501,), says="Prometheus's text")
    def metrics(request):
        shown("metrics")
        service.engine()
        text = service.scheduler.metrics.text(service.scheduler)
        if service.switch.next:
            text += _LOAD_PROGRESS % service.switch.next.progress
        return Response(
            text.encode(),
            headers={"Process-Start-Time-Unix": str(service.started)},
            content_type="text/plain; version=0.0.4",
        )

    for add in (api.get, api.post):
        add("/tools", "/cors-proxy", gives="Object", codes=(403,), says="Always an error")(
            forbidden
        )
