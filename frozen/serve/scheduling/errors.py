"""Errors as llama-server words and shapes them: {"error": {"code", "message", "type", ...}}."""
# SPDX-License-Identifier: MIT

from _engine import Assertion, Limit
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
    """What is wrong with one request. status: HTTP's; kind: llama-server's type of the error;
    fields: dict of further members of the error object; headers: of the response.
    """

    def __init__(self, status, kind, message, fields=None, headers=None):
        super().__init__(status, message, headers)
        self.fields = dict(fields or {})
        self.fields["type"] = kind


def error_response(request, error):
    """Return the answer to any HttpError in OpenAI's shape: the application's error hook."""
    return {"error": error_object(error)}, error.status, error.headers


def error_object(error):
    """Return the error object of an HttpError, with a type even if the HTTP layer raised it."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    body = {"code": error.status, "message": error.message, "type": kind}
    body.update(error.fields)
    return body


def invalid(message):
    """Return the 400 for a request that makes no sense."""
    return RequestError(400, "invalid_request_error", message)


def unavailable(message, fields=None, headers=None):
    """Return the 503 for a request that may succeed later. Each says when to ask again."""
    headers = headers or {"Retry-After": "1"}
    return RequestError(503, "unavailable_error", message, fields, headers)


def out_of_memory():
    """Return the 503 for a request that needs more memory than is free now."""
    return unavailable("out of memory")


def from_engine(exc, otherwise=500):
    """Return the RequestError for `exc`, an exception of the engine, with its words if they are
    meant for a client. otherwise: the status where nothing says whose fault it is.
    """
    if isinstance(exc, MemoryError):
        return out_of_memory()
    words = str(exc)
    if isinstance(exc, Assertion) or not words:
        # A condition of llama.cpp's source, or the name of a C++ function, means nothing to a
        # client: print it.
        print("cllm: the engine refused a request: %s" % (words or type(exc).__name__))
        words = "the engine cannot handle this request with this model"
    if otherwise == 400 or isinstance(exc, (Limit, ValueError, TypeError)):
        return invalid(words)
    return RequestError(otherwise, "server_error", words)


def too_many(message):
    """Return the 429 for a client that asks for more than its share."""
    return RequestError(429, "rate_limit_error", message, headers={"Retry-After": "1"})


def left():
    """Return the 499 of a request whose client has ended its side of the connection."""
    return RequestError(499, "client_closed_request", "the client closed the connection")


def context_error(n_prompt, n_ctx):
    """Return the 400 for a prompt of n_prompt tokens that does not fit a context of n_ctx."""
    return RequestError(
        400,
        "exceed_context_size_error",
        "request (%d tokens) exceeds the available context size (%d tokens), try increasing it"
        % (n_prompt, n_ctx),
        {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx},
    )
