"""Templates that take llama.cpp forever, in the image: the request fails, the rest goes on."""

import threading
import time

import pytest
import requests
from support import tiny_model

TIMEOUT = 180
# `replace` allocates nothing and moves as many bytes as the square of a text's length: minutes for
# this one. Only what the test sends has a Q.
STRETCH = (
    "{% set x = messages[0].content %}"
    + "{% set x = x ~ x %}" * 13
    + "{% if 'Q' in x %}{{ x|replace('Q', 'QQQ') }}{% endif %}"
    + "{{ messages[0].content }}"
)


class Health(threading.Thread):
    """Asks /health until stop(). slowest: s; answers: how many."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url = url
        self.slowest = self.answers = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            began = time.monotonic()
            assert requests.get(self.url + "/health", timeout=TIMEOUT).status_code == 200
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers += 1

    def stop(self):
        self.over.set()
        self.join()


@pytest.fixture(scope="module")
def stretch_guest(boot_once, tmp_path_factory):
    model = tmp_path_factory.mktemp("stretch") / "stretch.gguf"
    tiny_model.make(model, template=STRETCH)
    guest = boot_once(model=str(model), config_json={"limits": {"job_ms": 200}})
    assert guest.verdict is None
    return guest


def render(guest, text):
    body = {"messages": [{"role": "user", "content": text}]}
    return requests.post(guest.url + "/apply-template", json=body, timeout=TIMEOUT)


def test_a_stretch_without_an_allocation_ends(stretch_guest):
    for i in range(6):
        health = Health(stretch_guest.url)
        health.start()
        began = time.monotonic()
        answer = render(stretch_guest, "aQ" * (40 + i))
        took = time.monotonic() - began
        health.stop()
        assert answer.status_code == 400
        assert "too long to process" in answer.json()["error"]["message"]
        assert took < 30
        assert health.answers and health.slowest < 10
        assert render(stretch_guest, "hi").json()["prompt"] == "hi"


def test_a_client_that_leaves_ends_a_stretch(stretch_guest):
    with pytest.raises(requests.Timeout):
        requests.post(
            stretch_guest.url + "/apply-template",
            timeout=0.3,
            json={"messages": [{"role": "user", "content": "Q" * 80}]},
        )
    assert render(stretch_guest, "hi").json()["prompt"] == "hi"
