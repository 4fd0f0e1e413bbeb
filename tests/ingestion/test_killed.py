"""SIGKILL at random moments, then the same command again: the same bytes, and nothing half-written in between."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from recsys.dataset_folder import DatasetFolder

SCRIPT = """
import sys
from pathlib import Path
from recsys.config.ingest import IngestConfig
from recsys.ingestion.job import ingest
from tests.ingestion.tables import random_source

folder = Path(sys.argv[1])
(folder / "raw").mkdir(exist_ok=True)
source = random_source(folder / "raw", seed=3, rows=400)
print("begins", flush=True)
ingest(source, IngestConfig.model_validate({"workers": 2, "file_rows": 50}), folder / sys.argv[2], quiet=True)
"""
KILLS = 5


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Ingestion as a process group of its own, once it has begun."""
    command = [sys.executable, "-c", SCRIPT, str(folder), name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begins\n"
    return process


def test_killed_and_run_again(tmp_path: Path) -> None:
    started = time.monotonic()
    assert start(tmp_path, "undisturbed").wait(120) == 0
    seconds = time.monotonic() - started
    undisturbed = DatasetFolder.open(tmp_path / "undisturbed", verify=True).artifact
    output = tmp_path / "dataset"
    moments = random.Random(11)
    for _ in range(KILLS):
        process = start(tmp_path, "dataset")
        time.sleep(moments.uniform(0, 0.8 * seconds))
        os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers must not write into the next run
        process.wait()
        if output.exists():
            assert DatasetFolder.open(output, verify=True).artifact.artifact_id == undisturbed.artifact_id
    assert start(tmp_path, "dataset").wait(120) == 0
    again = DatasetFolder.open(output, verify=True).artifact
    assert again.manifest == undisturbed.manifest
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
