"""Asking a server process over HTTP."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

SECONDS = 60


def listening_at(process: subprocess.Popen) -> str:
    """The address that `recsys serve` (its standard error a pipe) says it listens on."""
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", line)
    assert found, line
    return found[1]


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def wait_until_ready(address: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status, body = ask(f"{address}/health/ready")
        if status == 200:
            return body
        assert status == 503
        time.sleep(0.05)
    pytest.fail("the server did not become ready")
