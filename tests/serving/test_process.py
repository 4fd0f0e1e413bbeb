"""The real server process: started by the command line, asked over HTTP, stopped by SIGTERM."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys import registry
from recsys.artifacts import write_artifact
from recsys.config.serve import ServeConfig
from recsys.errors import UserError
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from serving.server import run
from tests.serving.client import ask, listening_at, wait_until_ready

SECONDS = 60


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "recsys.cli", *words]


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server of a registry's current bundle on a free port: process and address."""
    root = tmp_path_factory.mktemp("served") / "registry"
    registry.promote(root, registry.publish(root, tiny_bundle).artifact_id)
    process = subprocess.Popen(command("serve", str(root), "--port", "0"), stderr=subprocess.PIPE, text=True)
    try:
        yield process, listening_at(process)
    finally:
        process.kill()
        process.communicate()


def test_serves_the_current_bundle_and_stops_cleanly(
    server: tuple[subprocess.Popen, str], bundle: LoadedBundle
) -> None:
    process, address = server
    assert ask(f"{address}/health/live")[0] == 200
    assert wait_until_ready(address) == {"status": "ready", "bundle": bundle.bundle_id}

    status, body = ask(f"{address}/v1/recommend", {"user": "u0", "k": 5})
    expected = bundle.recommend([Query(user="u0")], 5)[0]
    assert status == 200 and body["bundle"] == bundle.bundle_id
    assert [item["item"] for item in body["items"]] == [one.item for one in expected]
    assert body["timings_ms"]["total"] < 1000  # warm before it was ready

    status, body = ask(f"{address}/v1/recommend", {"features": {"shoe": 1}})
    assert status == 422 and "features.shoe" in body["detail"][0]["msg"]

    users = [f"u{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda user: ask(f"{address}/v1/recommend", {"user": user, "k": 3}), users))
    for user, (status, body) in zip(users, answers, strict=True):
        alone = bundle.recommend([Query(user=user)], 3)[0]
        assert status == 200 and [item["item"] for item in body["items"]] == [one.item for one in alone]

    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    assert process.stderr is not None
    rest = process.stderr.read()
    assert rest.rstrip().endswith("recsys serve: stopped") and "Traceback" not in rest


@pytest.fixture
def signals() -> Iterator[None]:
    """Put back the signal handlers that a server in this process replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_taken_port_is_a_user_error(tiny_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            run(tiny_bundle, ServeConfig(port=port))


@pytest.mark.usefixtures("signals")
def test_a_damaged_model_stops_the_server_with_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    """A tower that was truncated before the checksums were taken: found when it is loaded, beside the health checks."""
    broken = tmp_path / "bundle"
    with write_artifact(broken, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT, {}) as folder:
        shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        tower = folder / "model" / "query_tower" / "saved_model.pb"
        data = tower.read_bytes()
        tower.unlink()
        tower.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="query_tower: not a readable SavedModel"):
        run(broken, ServeConfig(port=0))
