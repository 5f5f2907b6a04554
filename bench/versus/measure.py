"""Measure one booted guest over its forwarded ports. What is asked is the same for both guests.

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
PROBE_EVERY = 0.02  # seconds between the first questions after power-on
PROBE_SECONDS = 1.5  # that one of them waits
WORDS = (
    "sea stone light wind house river night road fire bird snow field ship rain tree king song "
    "gold door moon hand star wall hill bread lake horse smoke glass salt"
).split()


def prompt(label, words):
    """A text of `words` words, about as many tokens, that begins unlike any with another label.

    words: 3 or more; label: less than 20,000.
    """
    n = len(WORDS)
    begin = (label % n, label // n % n, label // n // n)
    return " ".join(WORDS[i] for i in begin) + "".join(
        " " + WORDS[(i * 7 + label) % n] for i in range(3, words)
    )


# Power-on.


def first_answer(port, started, ended, limit):
    """Seconds from `started` to the first byte of any HTTP answer on 127.0.0.1:port.

    QEMU takes connections before the guest can, and a guest whose network card is not up loses
    what it is sent, so new questions are asked all the time, each given up soon. Raises CllmError
    when the event `ended` is set first, or after `limit` seconds.
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
        # Sparser later: where booting takes long, neither precision nor the guest's time matters.
        time.sleep(PROBE_EVERY if waited < 1 else 5 * PROBE_EVERY)
    return min(answered) - started


def ready(port, started, ended, limit):
    """Seconds from `started` until /health says 200."""
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    return time.monotonic() - started
        if ended.is_set():
            raise CllmError("the guest ended while it loaded the model")
        if time.monotonic() - started > limit:
            raise CllmError(f"the model was not loaded in {limit} s")
        time.sleep(0.02)


# Tokens.


class Stream(threading.Thread):
    """One streamed completion: when its tokens came, and how many tokens the prompt had.

    began, times: time.monotonic(). error: what went wrong, or None; a stream that stop() ended is
    not wrong.
    """

    def __init__(self, port, text, n):
        super().__init__(daemon=True)
        self.began = time.monotonic()
        self.times = []
        self.n_prompt = None
        self.error = None
        self._stopped = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._body = json.dumps({
            "prompt": text, "n_predict": n, "stream": True, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False,
        })
        self.start()

    def run(self):
        try:
            self._connection.request(
                "POST", "/completion", self._body, {"Content-Type": "application/json"}
            )
            answer = self._connection.getresponse()
            if answer.status != 200:
                raise CllmError(f"/completion: {answer.status} {answer.read(500)!r}")
            for line in iter(answer.readline, b""):
                if line.startswith(b"data: {"):
                    self._event(json.loads(line[6:]), time.monotonic())
        except (OSError, http.client.HTTPException, ValueError, AttributeError, CllmError) as e:
            # http.client trips over a connection that another thread has closed.
            if not self._stopped:
                self.error = e
        finally:
            self._connection.close()

    def _event(self, event, now):
        if "error" in event:
            raise CllmError(f"/completion: {event['error']}")
        if event.get("stop"):
            self.n_prompt = event["tokens_evaluated"]
        else:
            # A guess that was right brings several tokens at once.
            self.times += [now] * max(1, len(event.get("tokens") or ()))

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
        if self.error or not self.times:
            raise CllmError(f"a completion failed: {self.error or 'no token came'}")
        return self


def first_token(port, started):
    """Seconds from `started` to the first token of a short prompt, asked for at once."""
    return Stream(port, "Once upon a time", 1).finish().times[0] - started


def window(streams):
    """(tokens, seconds) while all `streams` were past their first token and none had ended.

    streams: lists of times. Only then does every one of them take part in each decode call.
    """
    begin, end = max(times[0] for times in streams), min(times[-1] for times in streams)
    if end <= begin:
        raise CllmError("the streams did not run side by side: give more tokens with --tokens")
    return sum(begin < at <= end for times in streams for at in times), end - begin


def tokens(port, n_streams, n_prompt, n_decode, label):
    """(prompt tokens/s, decode tokens/s) of `n_streams` requests that come at once.

    n_prompt: words of each prompt; n_decode: tokens of each answer; label: number of the run,
    which makes its prompts unlike those of other runs.
    """
    began = time.monotonic()
    streams = [
        Stream(port, prompt(100 * label + i, n_prompt), n_decode) for i in range(n_streams)
    ]
    for stream in streams:
        stream.finish()
    all_read = max(stream.times[0] for stream in streams) - began
    count, seconds = window([stream.times for stream in streams])
    return sum(stream.n_prompt for stream in streams) / all_read, count / seconds


def worst_gap(port, n_prompt, label):
    """Longest wait for a stream's next token while a prompt of `n_prompt` words is read."""
    steady = Stream(port, prompt(100 * label, 4), 1000)
    try:
        while len(steady.times) < 3:
            if not steady.is_alive():
                steady.finish()
                raise CllmError("the stream ended early")
            time.sleep(0.01)
        asked = time.monotonic()
        Stream(port, prompt(100 * label + 1, n_prompt), 1).finish()
        answered = time.monotonic()
        # The token after, whose wait began while the prompt was read.
        while steady.is_alive() and steady.times[-1] < answered:
            time.sleep(0.01)
    finally:
        steady.stop()
    times = steady.times
    return max(b - a for a, b in zip(times, times[1:]) if b > asked and a < answered)


# HTTP and TCP.


def request_rate(port, kept, seconds):
    """/health requests/s, one after another, on one connection if `kept`, else each on its own."""
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
            # A server may end a connection after so many requests, and says so.
            last = _read_answer(connection)
            count += 1
            if last:
                connection.close()
                connection = None
    return count / (time.monotonic() - started)


def _read_answer(connection):
    """Whether the server will close the connection."""
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
    """Bytes/s into the guest's sink (tests/net/speed_app.py, bench/linux/stream.c)."""
    piece = memoryview(bytes(1 << 18))
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        started = time.monotonic()
        left = size
        while left:
            left -= s.send(piece[:min(left, len(piece))])
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while part := s.recv(100):
            answer += part
        seconds = time.monotonic() - started
    if answer.strip() != str(size).encode():
        raise CllmError(f"the guest's sink got {answer!r} of {size} bytes")
    return size / seconds


def bytes_out(port, size):
    """Bytes/s out of the guest's source."""
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
    """Bytes of the host's memory that the process holds."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    raise CllmError(f"process {pid} has no memory any more")
