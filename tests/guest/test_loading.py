"""The server while its model loads: it answers, and can be ended."""

import pytest
import requests
from cllm import fetch

TIMEOUT = 120


@pytest.fixture(scope="module")
def slow():
    """Options of boot() with which loading takes a while: SmolLM2, all weights repacked."""
    return {"model": str(fetch.default_model()), "kernels": "tcg"}


# Asks the server from within the guest, so that load on the host does not matter.
ASKS = """
import asyncio, json
from cllm import app
from serve.service import service

seen = []

async def ask():
    while not seen or seen[-1][0] != 200:
        reader, writer = await asyncio.open_connection("127.0.0.1", 80)
        writer.write(b"GET /health HTTP/1.0\\r\\n\\r\\n")
        await writer.drain()
        answer = await reader.read(-1)
        writer.close()
        head, _, body = answer.partition(b"\\r\\n\\r\\n")
        seen.append((int(head.split()[1]), json.loads(body)))

@app.get("/seen")
def tell(request):
    return seen

asyncio.create_task(ask())
"""

RESETS = """
import asyncio, machine
from serve.service import service

async def act():
    while not service.host.engine:
        if service.host.progress > 0:
            print("acting at", service.host.progress)
            machine.reset()
        await asyncio.sleep(0)

asyncio.create_task(act())
"""


def app_file(folder, text):
    path = folder / "app.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("smp", [1, 2])
def test_health_tells_how_far_it_is(boot, slow, tmp_path, smp):
    guest = boot(**slow, smp=smp, app=app_file(tmp_path, ASKS))
    assert guest.verdict is None
    *before, last = requests.get(guest.url + "/seen", timeout=TIMEOUT).json()
    assert last == [200, {"status": "ok"}]
    assert [status for status, _ in before] == [503] * len(before)
    errors = [body["error"] for _, body in before]
    assert {error["message"] for error in errors} == {"Loading model"}
    progress = [error["progress"] for error in errors]
    assert progress == sorted(progress) and len(set(progress)) > 2


def test_a_soft_reset_ends_the_loading_and_begins_another(boot, slow):
    guest = boot(**slow, wait=False)
    guest.serial.expect(r"cllm: loading \d+%")
    guest.serial.send("\x04")
    guest.serial.expect("MPY: soft reboot")
    guest.serial.expect("is ready")
    body = {"prompt": "x", "max_tokens": 1}
    answer = requests.post(guest.url + "/v1/completions", json=body, timeout=TIMEOUT)
    assert answer.status_code == 200


def test_a_reset_while_loading(boot, slow, tmp_path):
    guest = boot(**slow, smp=2, app=app_file(tmp_path, RESETS), wait=False)
    guest.serial.expect("acting at 0")
    assert guest.ended.wait(TIMEOUT)
    assert guest.status() == 0, guest.reason()


def test_an_engine_that_loads_can_be_closed(boot, slow):
    repl = boot(**slow, memory=700, config_json={"model": {"file": "absent"}}).serial
    repl.send("\r")
    repl.expect(">>> ")
    repl.run("import _engine, gc, time")
    repl.run("load = lambda: _engine.Engine('/boot/model.gguf', kernels=2, background=True)")
    repl.run("e = load()")
    assert "still loading" in repl.run("e.tokenize('x')")
    repl.run("e.close()")
    assert "closed" in repl.run("e.loaded()")
    # Nothing refers to it any more, so the collector ends it.
    repl.run("load(); gc.collect()")
    repl.run("e = load(); f = load()")
    repl.run("a = e.loaded() < 1")
    repl.sendline("while min(e.loaded(), f.loaded()) < 1: time.sleep(.1)")
    repl.send("\r")
    repl.expect(">>> ")
    assert repl.run("a, e.tokenize('a') == f.tokenize('a')") == "(True, True)"
    repl.run("bad = _engine.Engine('/boot/config.json', background=True)")
    repl.run("time.sleep(1)")
    assert "magic" in repl.run("bad.loaded()")


def test_a_wrong_configuration_is_said_over_http(boot, tmp_path):
    app = app_file(tmp_path, "print('user code runs')\n")
    guest = boot(config_json={"limits": {"queue_s": "5"}, "keys": ["k"]}, app=app)
    assert '"limits.queue_s" must be a whole number' in guest.verdict
    answer = requests.get(guest.url + "/v1/models", timeout=TIMEOUT)
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    assert "wrong configuration" in answer.json()["error"]["message"]
    assert b"wrong configuration" in guest.log() and b"user code runs" not in guest.log()
    repl = guest.serial
    repl.send("\r")
    repl.expect(">>> ")
    assert repl.run("2 + 3") == "5"
