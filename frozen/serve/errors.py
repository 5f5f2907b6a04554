# Errors as llama-server words and shapes them: {"error": {"code", "message", "type", ...}}.
# MIT license; Copyright (c) 2026 cllm contributors

from httpd import HttpError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class RequestError(HttpError):
    """What went wrong with one request. status: HTTP status; kind: llama-server's error type;
    fields: dict of further members of the error object; headers: of the response.
    """

    def __init__(self, status, kind, message, fields=None, headers=None):
        super().__init__(status, message, headers)
        self.fields = dict(fields or {})
        self.fields["type"] = kind


def error_response(request, error):
    """The application's error hook: any HttpError in OpenAI's shape."""
    return {"error": error_object(error)}, error.status, error.headers


def error_object(error):
    """The error object of an HttpError, with a type even if the HTTP layer raised it."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    body = {"code": error.status, "message": error.message, "type": kind}
    body.update(error.fields)
    return body


def invalid(message):
    """The 400 for a request that makes no sense."""
    return RequestError(400, "invalid_request_error", message)


def unavailable(message, fields=None, headers=None):
    """The 503 for a request that may succeed later."""
    return RequestError(503, "unavailable_error", message, fields, headers)


def too_many(message):
    """The 429 for a client that asks for more than its share."""
    return RequestError(429, "rate_limit_error", message, headers={"Retry-After": "1"})


def left():
    """What becomes of a request whose client has ended its side of the connection."""
    return RequestError(499, "client_closed_request", "the client closed the connection")


def context_error(n_prompt, n_ctx):
    """The 400 for a prompt of n_prompt tokens that does not fit a context of n_ctx."""
    return RequestError(
        400,
        "exceed_context_size_error",
        "request (%d tokens) exceeds the available context size (%d tokens), try increasing it"
        % (n_prompt, n_ctx),
        {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx},
    )
