"""Equal bytes whatever the runner, the number of workers and the sizes of batches and shards."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from recsys.artifacts import MANIFEST
from recsys.config.ingest import IngestConfig
from recsys.datasets.source import RawSource
from recsys.ingestion.job import ingest
from recsys.ingestion.runner import let_workers_hang_up
from tests.conftest import ROOT, lacking
from tests.ingestion.tables import random_source

JARS = ROOT / "tools" / "flink" / "target" / "jars"
SPLIT = {"kind": "time", "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RawSource:
    """A log with everything in it."""
    return random_source(tmp_path_factory.mktemp("raw"), seed=6, rows=600)


@pytest.fixture(scope="module")
def expected(source: RawSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the data set from the Direct runner with one worker."""
    return ingested(source, tmp_path_factory.mktemp("one") / "dataset", {})


def ingested(source: RawSource, output: Path, settings: dict) -> dict[str, bytes]:
    """Every file of a data set, by name."""
    config = IngestConfig.model_validate({"split": SPLIT, "file_rows": 100, **settings})
    ingest(source, config, output, quiet=True)
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_the_data_set_is_whole(expected: dict[str, bytes]) -> None:
    assert {MANIFEST, "statistics.json", "clusters.npy", "vocabulary/item.parquet"} <= set(expected)
    assert len([name for name in expected if name.startswith("events/train-")]) > 1
    assert {name.split("/")[0] for name in expected} >= {"events", "items", "users", "vocabulary", "rejected"}


def test_manifest_tells_nothing_of_the_machine(expected: dict[str, bytes], tmp_path: Path) -> None:
    text = expected[MANIFEST].decode()
    for word in ("direct", "workers", "batch_rows", str(tmp_path.parent), "/tmp"):
        assert word not in text


@pytest.mark.parametrize(
    "settings", [{"workers": 2, "shard_rows": 50}, {"batch_rows": 13, "shard_rows": 100}], ids=["two workers", "sizes"]
)
def test_direct_runner(source: RawSource, expected: dict[str, bytes], tmp_path: Path, settings: dict) -> None:
    assert ingested(source, tmp_path / "dataset", settings) == expected


@pytest.fixture(scope="module")
def jars() -> Path:
    """The jars of the embedded Flink, gathered with `make flink` where they are not there."""
    if shutil.which("java") is None:
        lacking("the embedded Flink needs Java")
    if not JARS.is_dir():
        if shutil.which("mvn") is None:
            lacking("gathering the embedded Flink's jars needs Maven")
        subprocess.run(["make", "flink"], cwd=ROOT, check=True, timeout=500, capture_output=True)
    return JARS


def test_a_job_server_that_hangs_up_is_not_heard_and_all_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers live in threads of this process; each told the end of a job that went well as a traceback."""
    import grpc

    class Ended(grpc.RpcError):
        def __init__(self, code: grpc.StatusCode) -> None:
            self.code = lambda: code

    heard: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: heard.append(failed.exc_value))
    let_workers_hang_up()
    let_workers_hang_up()
    errors = [Ended(grpc.StatusCode.CANCELLED), Ended(grpc.StatusCode.INTERNAL), ValueError("no")]

    def fail(error: Exception) -> None:
        raise error

    for error in errors:
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
    assert heard == errors[1:]


@pytest.mark.flink
def test_embedded_flink(source: RawSource, expected: dict[str, bytes], tmp_path: Path, jars: Path) -> None:
    settings = {"runner": "flink", "workers": 2, "shard_rows": 200, "flink": {"jars": str(jars)}}
    assert ingested(source, tmp_path / "dataset", settings) == expected


@pytest.mark.flink
def test_embedded_flink_extends(source: RawSource, tmp_path: Path, jars: Path) -> None:
    (tmp_path / "raw").mkdir()
    ingested(random_source(tmp_path / "raw", seed=8, rows=300), tmp_path / "earlier", {})
    direct = ingested(source, tmp_path / "direct", {"extend": tmp_path / "earlier"})
    settings = {"runner": "flink", "workers": 2, "flink": {"jars": str(jars)}, "extend": tmp_path / "earlier"}
    assert ingested(source, tmp_path / "flink", settings) == direct
    assert "carried/items.npy" in direct


@pytest.mark.flink
def test_embedded_flink_ends_with_a_killed_job(jars: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from recsys.ingestion.job_server import embedded_flink\n"
        "with embedded_flink(Path(sys.argv[1])):\n    print('up', flush=True); time.sleep(100)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", script, str(jars)], stdout=subprocess.PIPE, cwd=ROOT)
    assert job.stdout is not None
    assert job.stdout.readline() == b"up\n"
    (server,) = psutil.Process(job.pid).children()
    job.kill()
    job.wait()
    server.wait(timeout=30)
