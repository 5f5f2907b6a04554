"""openapi.json is true: schemathesis sends what it describes, and answers are as it says. Every
route of the server is in it, and nothing else.
"""

import subprocess

import pytest
import requests
from cllm import extras
from support.api_server import ApiServer

TIMEOUT = 60
# What changes the model, never ends, or asks other routes.
EXCLUDED = "^/(models/(load|unload|sse)|predict)$"
# A 500 is no documented status, so the first one finds it; 501 is, where it is meant.
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"


def test_every_route_is_described(server):
    document = requests.get(server.url + "/openapi.json", timeout=TIMEOUT).json()
    assert document["openapi"] == "3.1.0"
    app = server.service.app
    tables = dict(app._fixed)
    tables.update(app._patterns)
    served = {
        (_plain(pattern), method.lower()) for pattern, table in tables.items() for method in table
    }
    described = {
        (path, method) for path, methods in document["paths"].items() for method in methods
    }
    assert described == served
    names = set(document["components"]["schemas"])
    used = {ref.split('"')[0] for ref in str(document).replace("'", '"').split("/schemas/")[1:]}
    assert used <= names


def _plain(pattern):
    parts = [
        "{" + part[1:-1].split(":")[-1] + "}" if part.startswith("<") else part
        for part in pattern.split("/")
    ]
    return "/".join(parts)


def test_schemathesis(ascii_model, tmp_path):
    if not extras.CLIENTS.is_current():
        pytest.skip("no build/clients: `cllm test` makes it where PyPI can be reached")
    with ApiServer(ascii_model, {"model": {"n_ctx": 512}}) as server:
        command = [
            extras.CLIENTS.program("schemathesis"), "run", server.url + "/openapi.json",
            "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "4",
            "--exclude-path-regex", EXCLUDED, "--seed", "1",
            "--request-timeout", "60", "--no-color", "--generation-database", "none",
            "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert not server.scheduler.busy
