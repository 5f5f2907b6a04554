"""Google Cloud's route for predictions (Vertex AI, custom containers): several requests to the
other routes in one, as llama-server has it.
"""
# SPDX-License-Identifier: MIT

from httpd import HttpError, jsonio
from httpd.parser import Request

from ..scheduling.errors import error_object, invalid
from .openai import object_of
from .params import few, typed

_MOST = 128  # instances of a request, as llama-server


def format_of(path):
    """Return Google's name of a route: "/v1/chat/completions" is chatCompletions."""
    if path.startswith("/v1/"):
        path = path[3:]
    words = path.replace("-", "/").replace("_", "/").split("/")[1:]
    return words[0] + "".join([word[:1].upper() + word[1:] for word in words[1:]])


def _formats(entries):
    # Google's names, and the paths themselves.
    found = {}
    for entry in entries:
        if entry.method == "POST" and "takes" in entry.about:
            for path in entry.paths:
                if "<" not in path:
                    found[path] = path
                    found.setdefault(format_of(path), path)
    return found


def install(service):
    """Add the route to the service's application, after all others."""
    formats = _formats(service.api.entries)

    async def predicted(request, instance):
        if not isinstance(instance, dict):
            raise invalid("each instance must be a JSON object")
        name = instance.get("@requestFormat")
        if not isinstance(name, str):
            raise invalid("each instance must include a string @requestFormat")
        if name not in formats:
            raise invalid("no handler registered for @requestFormat: " + name[:64])
        body = dict(instance)
        del body["@requestFormat"]
        if "stream" in body or name.startswith("/api/") or name.startswith("api"):
            body["stream"] = False
        path = formats[name]
        inner = Request("POST", path, 1, request.headers, path[1:].split("/"), {})
        inner.set_json(body)
        inner.peer = request.peer
        inner.gone = request.gone
        inner.key = request.key
        route, params = service.app.find(inner)
        response = await service.app.handle(inner, route, params)
        return jsonio.loads(response.body)

    @service.api.post(
        "/predict", takes="Predict", gives="Predictions", says="Google's predictions"
    )
    async def predict(request):
        instances = typed(object_of(request), "instances", "array")
        if instances is None:
            raise invalid("request body must include an array field named instances")
        predictions = []
        for instance in few(instances, "instances", _MOST):
            try:
                predictions.append(await predicted(request, instance))
            except HttpError as exc:
                predictions.append({"error": error_object(exc)})
        return {"predictions": predictions}
