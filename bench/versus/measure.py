"""Measure one booted guest over its forwarded ports, by the same questions for both guests.

Times are seconds of time.monotonic() on the host; rates are per second.
"""

import contextlib
import http.client
import json
import socket
import threading
import time

from cllm import CllmError

PATIENCE = 300  # seconds for any single answer of an emulated guest
ENDLESS = 1000  # tokens of a stream that is stopped once enough of them were timed
# QEMU's user network sometimes resets one of thirty connections at once, whichever guest it is.
RESETS = 5  # attempts of a stream
PROBE_EVERY = 0.02  # seconds between the first questions after power-on
PROBE_SECONDS = 1.5  # after which a question is given up
WORDS = (
    "sea stone light wind house river night road fire bird snow field ship rain tree king song "
    "gold door moon hand star wall hill bread lake horse smoke glass salt"
).split()


def prompt(label, words):
    """Return a text of `words` words, about as many tokens; each label begins another way.

    label: less than 29 for one word, 841 for two and 20,000 for more.
    """
    n = len(WORDS)
    begin = (label % n, label // n % n, label // n // n)[:words]
    return " ".join(WORDS[i] for i in begin) + "".join(
        " " + WORDS[(i * 7 + label) % n] for i in range(len(begin), words)
    )


# Power-on.


def first_answer(port, started, ended, limit):
    """Return the seconds from `started` to the first byte of any HTTP answer on 127.0.0.1:port.

    QEMU accepts connections before the guest can, and a guest whose network card is not up loses
    what it is sent. So new questions are asked all the time, and each is given up soon. Raises
    CllmError when the event `ended` is set first, or after `limit` seconds.
    """
    answered = []
    lock = threading.Lock()

    def probe():
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), PROBE_SECONDS) as s:
                s.sendall(b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
                if s.recv(1):
                    now = time.monotonic()
                    with lock:
                        answered.append(now)

    while not answered:
        if ended.is_set():
            raise CllmError("the guest ended before it answered")
        waited = time.monotonic() - started
        if waited > limit:
            raise CllmError(f"the guest did not answer in {limit} s")
        threading.Thread(target=probe, daemon=True).start()
        # Sparser later: a slow boot needs less precision, and questions take the guest's time.
        time.sleep(PROBE_EVERY if waited < 2 else 5 * PROBE_EVERY)
    return min(answered) - started


def ready(port, started, ended, limit):
    """Return the seconds from `started` until /health says 200."""
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                answer = connection.getresponse()
                said = answer.read()
                if answer.status == 200:
                    return time.monotonic() - started
                # Both servers say so while they load; any other refusal is final.
                if b"Loading model" not in said:
                    raise CllmError(f"/health: {answer.status} {said[:500]!r}")
        if ended.is_set():
            raise CllmError("the guest ended while it loaded the model")
        if time.monotonic() - started > limit:
            raise CllmError(f"the model was not loaded in {limit} s")
        time.sleep(0.02)


# Tokens.


class Stream(threading.Thread):
    """One streamed completion, which records when its tokens came.

    events: [(time.monotonic(), tokens)]; a right draft brings several tokens at once. error: the
    exception that ended it, or None; stop() is no error.
    """

    def __init__(self, port, text, n):
        super().__init__(daemon=True)
        self.events = []
        self.error = None
        self._stopped = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._body = json.dumps(
            {
                "prompt": text,
                "n_predict": n,
                "stream": True,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        self.start()

    def run(self):
        try:
            answer = self._ask()
            if answer.status != 200:
                raise CllmError(f"/completion: {answer.status} {answer.read(500)!r}")
            for line in iter(answer.readline, b""):
                if line.startswith(b"data: {"):
                    self._event(json.loads(line[6:]), time.monotonic())
        except (OSError, http.client.HTTPException, ValueError, AttributeError, CllmError) as e:
            # http.client raises any of these when stop() closes the connection.
            if not self._stopped:
                self.error = e
        finally:
            self._connection.close()

    def _ask(self):
        for left in reversed(range(RESETS)):
            try:
                self._connection.request(
                    "POST", "/completion", self._body, {"Content-Type": "application/json"}
                )
                return self._connection.getresponse()
            except ConnectionResetError:
                if self._stopped or not left:
                    raise
                self._connection.close()

    def _event(self, event, now):
        if "error" in event:
            raise CllmError(f"/completion: {event['error']}")
        if not event.get("stop"):
            self.events.append((now, max(1, len(event.get("tokens") or ()))))

    def stop(self):
        self._stopped = True
        sock = self._connection.sock
        if sock:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.join()

    def finish(self):
        """Wait for the end; raises CllmError unless there was at least one token."""
        self.join()
        if self.error or not self.events:
            raise CllmError(f"a completion failed: {self.error or 'no token came'}")
        return self


def first_token(port, started):
    """Return the seconds from `started` to the first token of a short prompt, sent now."""
    return Stream(port, "Once upon a time", 1).finish().events[0][0] - started


def side_by_side(streams, steps):
    """Return (tokens, tokens/s) of `steps` events of each stream after all have had their first.

    streams: lists of events as in Stream. Each is timed from its event that is nearest to the first
    one of the last stream, because the events of one decode call come one after the other. Returns
    None as long as a stream has too few events.
    """
    if not all(streams):
        return None
    begin = max(events[0][0] for events in streams)
    count, rate = 0, 0
    for events in streams:
        first = min(range(len(events)), key=lambda i: abs(events[i][0] - begin))
        if len(events) <= first + steps:
            return None
        n = sum(tokens for _, tokens in events[first + 1 : first + steps + 1])
        count += n
        rate += n / (events[first + steps][0] - events[first][0])
    return count, rate


def tokens(port, n_streams, n_prompt, steps, label=0):
    """Time `n_streams` requests that come at once.

    Return (prompt tokens, prompt tokens/s, decoded tokens, decoded tokens/s). n_prompt: words of
    each prompt. steps: decode calls that are timed. label: of the first prompt, as for prompt().
    """
    texts = [prompt(label + i, n_prompt) for i in range(n_streams)]
    prompts = sum(len(_post(port, "/tokenize", {"content": text})["tokens"]) for text in texts)
    began = time.monotonic()
    streams = [Stream(port, text, ENDLESS) for text in texts]
    try:
        while (found := side_by_side([list(s.events) for s in streams], steps)) is None:
            _check_alive(streams)
            time.sleep(0.005)
    finally:
        for stream in streams:
            stream.stop()
    all_read = max(stream.events[0][0] for stream in streams) - began
    return prompts, prompts / all_read, *found


def worst_gap(port, n_prompt, label=0):
    """Return a stream's longest wait for a token while a prompt of `n_prompt` words is read."""
    steady = Stream(port, prompt(label, 1), ENDLESS)
    try:
        while not steady.events:
            _check_alive([steady])
            time.sleep(0.005)
        asked = time.monotonic()
        answered = Stream(port, prompt(label + 1, n_prompt), 1).finish().events[0][0]
        # Wait for the stream's token of the same decode call, or for the next one.
        while not _reaches([at for at, _ in steady.events], answered):
            _check_alive([steady])
            time.sleep(0.005)
    finally:
        steady.stop()
    times = [at for at, _ in steady.events]
    return max(b - a for a, b in zip(times, times[1:]) if b > asked and a < answered)


def _reaches(times, end):
    """Return whether the last of `times` is past `end`, or less than a tenth of a step before."""
    return len(times) > 1 and times[-1] + (times[-1] - times[-2]) / 10 >= end


def _check_alive(streams):
    for stream in streams:
        if not stream.is_alive():
            stream.finish()
            raise CllmError("a stream ended early")


def wait_until_idle(port):
    """Wait until no slot computes for a stream that has been stopped."""
    while any(slot["is_processing"] for slot in _ask(port, "GET", "/slots")):
        time.sleep(0.02)


def _post(port, path, body):
    return _ask(port, "POST", path, json.dumps(body), {"Content-Type": "application/json"})


def _ask(port, method, path, *rest):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, *rest)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise CllmError(f"{path}: {answer.status} {body[:500]!r}")
            return json.loads(body)
        except (http.client.HTTPException, ValueError) as error:
            raise CllmError(f"{path}: {error!r}") from None


# HTTP and TCP.


def request_rate(port, kept, seconds):
    """Return /health requests/s, one after another, on one connection if `kept`, else on new."""
    close = b"" if kept else b"Connection: close\r\n"
    question = b"GET /health HTTP/1.1\r\nHost: guest\r\n" + close + b"\r\n"
    connection, count, started = None, 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        while time.monotonic() - started < seconds:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stack.callback(connection.close)
            connection.sendall(question)
            # A server may close a connection after a number of requests, and announces it.
            last = _read_answer(connection)
            count += 1
            if last:
                connection.close()
                connection = None
    return count / (time.monotonic() - started)


def _read_answer(connection):
    """Read one answer; return whether the server will close the connection."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection, 4096)
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise CllmError(f"/health: {head.splitlines()[0]!r}")
    left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(_receive(connection, 4096))
    return b"\r\nconnection: close" in head.lower()


def _receive(connection, size):
    data = connection.recv(size)
    if not data:
        raise CllmError("the guest closed a connection in the middle of an answer")
    return data


def bytes_in(port, size):
    """Return bytes/s into the guest's sink (tests/net/speed_app.py, bench/linux/stream.c)."""
    piece = memoryview(bytes(1 << 18))
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        started = time.monotonic()
        left = size
        while left:
            left -= s.send(piece[: min(left, len(piece))])
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while part := s.recv(100):
            answer += part
        seconds = time.monotonic() - started
    if answer.strip() != str(size).encode():
        raise CllmError(f"the guest's sink got {answer!r} of {size} bytes")
    return size / seconds


def bytes_out(port, size):
    """Return bytes/s out of the guest's source."""
    buffer, got = bytearray(1 << 20), 0
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        started = time.monotonic()
        s.sendall(b"%d\n" % size)
        while count := s.recv_into(buffer):
            got += count
        seconds = time.monotonic() - started
    if got != size:
        raise CllmError(f"the guest's source sent {got} of {size} bytes")
    return size / seconds


def resident(pid):
    """Return the bytes of the host's memory that the process holds."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    raise CllmError(f"process {pid} has no memory any more")
