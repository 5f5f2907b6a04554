"""Waits until a guest's server is ready, or serves without a model and reports the reason."""

import http.client
import json
import threading
import time

LOADING = "Loading model"  # the beginning of the guest's message while it may still become ready
PAUSE = 0.1  # seconds between questions


def wait_until_decided(
    port: int, ended: threading.Event, limit: float = float("inf")
) -> str | None:
    """Ask `/health` of 127.0.0.1:port until the answer is final.

    Return None when the guest is ready (200); a reason when it serves without a model (503 with
    another message than LOADING); "" when the event `ended` is set first, or after `limit` seconds.
    """
    started = time.monotonic()
    while not ended.is_set() and time.monotonic() - started < limit:
        # QEMU's network accepts at once and holds the connection while the guest boots, so the
        # first timeouts are short. Later ones are longer, as a busy emulated guest is slow.
        patience = min(30, 1 + (time.monotonic() - started) / 4)
        status, message = ask(port, patience)
        if status == 200:
            return None
        if status == 503 and message and not message.startswith(LOADING):
            return message
        ended.wait(PAUSE)
    return ""


def ask(port: int, timeout: float) -> tuple[int | None, str | None]:
    """GET /health; return (status, error message), each None where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None, None
    finally:
        connection.close()
    try:
        return response.status, str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.status, None
