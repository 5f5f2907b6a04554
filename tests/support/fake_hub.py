"""A hub of models on loopback, with the routes of Hugging Face's that cllm uses, and its troubles.

    with FakeHub({"user/repo": {"a-Q4_K_M.gguf": b"GGUF..."}}) as hub:
        ... HF_ENDPOINT=hub.url ...
        hub.troubles.append(cut(1000))     # the next download breaks off after 1000 bytes

Files are served by a second "host" (another port) that /resolve/ redirects to, as the real hub's
content network does. `requests` lists (method, path, headers) of all requests.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cut(after):
    """A connection that ends after so many bytes of the body."""
    return {"cut": after}


def status(code, **headers):
    """An answer without the file."""
    return {"status": code, "headers": {k.replace("_", "-"): str(v) for k, v in headers.items()}}


class FakeHub:
    def __init__(self, repos, token=None):
        self.repos = repos
        self.token = token  # that every request must have
        self.troubles = []  # of downloads, one for each request
        self.api_troubles = []
        self.wrong_hash = False
        self.ranges = True  # whether downloads may begin in the middle
        self.requests = []

    def __enter__(self):
        self._servers = [self._serve(_Api), self._serve(_Content)]
        self.url, self.content = [f"http://127.0.0.1:{s.server_port}" for s in self._servers]
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _serve(self, kind):
        handler = type("Handler", (kind,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def downloads(self):
        """Return the Range headers of the requests for files, None where there was none."""
        return [
            h.get("Range") for m, p, h in self.requests if m == "GET" and p.startswith("/cdn/")
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def answer(self):
        raise NotImplementedError

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        self.answer()

    def send(self, code, body=b"", **headers):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Api(_Handler):
    def answer(self):
        hub = self.hub
        if hub.api_troubles:
            trouble = hub.api_troubles.pop(0)
            return self.send(trouble["status"], b"{}", **trouble["headers"])
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.send(
                401, b'{"error": "no"}', X_Error_Message="Invalid username or password."
            )
        path = unquote(self.path.split("?")[0])
        if path.startswith("/api/models/"):
            return self.about(path.removeprefix("/api/models/").removesuffix("/revision/main"))
        repo, _, rest = path[1:].partition("/resolve/")
        name = rest.partition("/")[2]
        if name not in hub.repos.get(repo, {}):
            return self.send(404, b"{}", X_Error_Code="EntryNotFound")
        data = hub.repos[repo][name]
        where = f"{hub.content}/cdn/{repo}/{name}"
        self.send(
            302,
            Location=where,
            X_Linked_Size=str(len(data)),
            X_Linked_Etag=f'"{hashlib.sha256(data).hexdigest()}"',
        )

    def about(self, repo):
        files = self.hub.repos.get(repo)
        if files is None:
            return self.send(404, b'{"error": "no"}', X_Error_Code="RepoNotFound")
        siblings = []
        for name, data in files.items():
            digest = hashlib.sha256(data + (b"!" if self.hub.wrong_hash else b"")).hexdigest()
            lfs = {"sha256": digest, "size": len(data), "pointerSize": 130}
            about = {"rfilename": name, "size": len(data), "blobId": digest[:40], "lfs": lfs}
            siblings.append(about)
        answer = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}
        self.send(200, json.dumps(answer).encode(), Content_Type="application/json")


class _Content(_Handler):
    def answer(self):
        hub = self.hub
        _, _, user, repo, name = unquote(self.path).split("/", 4)
        data = hub.repos.get(f"{user}/{repo}", {}).get(name)
        if data is None:
            return self.send(404)
        trouble = hub.troubles.pop(0) if hub.troubles and self.command == "GET" else {}
        if "status" in trouble:
            return self.send(trouble["status"], b"no", **trouble["headers"])
        start = 0
        wanted = self.headers.get("Range")
        if wanted and hub.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self.send(416, Content_Range=f"bytes */{len(data)}")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"%s"' % hashlib.sha256(data).hexdigest())
        self.end_headers()
        if self.command == "HEAD":
            return
        if "cut" in trouble:
            self.wfile.write(body[: trouble["cut"]])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)
