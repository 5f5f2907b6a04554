"""What one request and one token cost in each layer of the guest's Python.

    .venv/bin/python bench/layers.py [--model FILE.gguf] [--tokens 8]

Each clock costs about 2 microseconds a call on a real machine and 20 under emulation, so the shares
are more reliable than the sums.
"""

import argparse
import http.client
import json
import sys
import time

from cllm import TOP, config, qemu, run
from versus import measure


def layers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=measure.PATIENCE)
    connection.request("GET", "/layers")
    return json.loads(connection.getresponse().read())


def show(title, answer, count, total_us):
    print(f"{title}: {total_us / count:.0f} us")
    left = total_us
    for name, (calls, us) in sorted(answer["layers"].items(), key=lambda item: -item[1][1]):
        if calls:
            left -= us
            print(
                f"  {us / count:10.0f} us {100 * us / total_us:5.1f} %  {calls / count:6.1f} "
                f"calls  {name}"
            )
    print(
        f"  {left / count:10.0f} us {100 * left / total_us:5.1f} %  the rest: coroutines, "
        "sockets, the host's part"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=config.DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--config", metavar="FILE.json")
    arguments = parser.parse_args()
    flags = {"model": arguments.model, "port": qemu.free_port(), "accel": "tcg"}
    settings, guest_settings = config.settings(flags, arguments.config)
    settings["app"] = str(TOP / "bench" / "layers_app.py")
    guest = run.make_guest(settings, guest_settings)
    guest.start()
    try:
        measure.first_answer(guest.port, time.monotonic(), guest.ended, 600)
        measure.ready(guest.port, time.monotonic(), guest.ended, 600)
        layers(guest.port)
        for title, kept in (("/health, one connection", True), ("/health, new", False)):
            layers(guest.port)
            began = time.monotonic()
            rate = measure.request_rate(guest.port, kept, 3)
            seconds = time.monotonic() - began
            show(title, layers(guest.port), round(rate * seconds), 1e6 * seconds)
        layers(guest.port)
        began = time.monotonic()
        stream = measure.Stream(guest.port, "Hello", arguments.tokens).finish()
        seconds = time.monotonic() - began
        n_tokens = sum(n for _, n in stream.events)
        show("a token, streamed", layers(guest.port), n_tokens, 1e6 * seconds)
    except Exception:
        sys.stderr.write(guest.log()[-3000:].decode("utf-8", "replace"))
        raise
    finally:
        guest.stop()


if __name__ == "__main__":
    main()
