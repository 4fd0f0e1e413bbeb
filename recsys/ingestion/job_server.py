"""An embedded Flink: Beam's job server for Flink as a child process, on free ports, stopped with its user."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from recsys.errors import UserError

DRIVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
OPENED = ("lang", "lang.invoke", "net", "nio", "time", "util", "util.concurrent")
"""Packages of java.base that Flink reaches into by reflection, which Java 17 allows only when told."""
_START_SECONDS = 120
_STOP_SECONDS = 10
_PR_SET_PDEATHSIG = 1


def java_command(jars: Path, heap: str, ports: tuple[int, int, int], folder: Path, conf: Path) -> list[str]:
    """The command line of a job server whose Flink runs inside it."""
    opens = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
    job, artifact, expansion = (str(port) for port in ports)
    return [
        "java",
        f"-Xmx{heap}",
        *opens,
        "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        f"-Djava.io.tmpdir={folder}",
        "-cp",
        f"{jars}/*",
        DRIVER,
        "--job-host=localhost",
        f"--job-port={job}",
        f"--artifact-port={artifact}",
        f"--expansion-port={expansion}",
        "--flink-master=[local]",
        f"--flink-conf-dir={conf}",
        f"--artifacts-dir={folder}/artifacts",
    ]


@contextlib.contextmanager
def embedded_flink(jars: Path, heap: str = "768m", managed: str = "256m") -> Iterator[str]:
    """Run a job server and yield its endpoint (`localhost:port`); it is ended when the block ends.

    `heap` is Java's largest heap and `managed` the part of Flink's memory that sorts before it spills. Raises UserError
    where Java or the jars are missing or the server does not come up.
    """
    if shutil.which("java") is None:
        raise UserError("ingest.flink: no `java` on the PATH; expected Java 11 or 17 for the embedded Flink.")
    if not jars.is_dir():
        raise UserError(f"ingest.flink.jars: {jars} is not a folder; gather the jars with `make flink` first.")
    with tempfile.TemporaryDirectory(prefix="recsys-flink-") as name:
        folder = Path(name)
        log = folder / "log"
        conf = folder / "conf"
        conf.mkdir()
        (conf / "config.yaml").write_text(
            f"taskmanager.memory.managed.size: {managed}\nio.tmp.dirs: {folder}\n", encoding="utf-8"
        )
        with _free_ports() as ports, open(log, "wb") as output:
            command = java_command(jars.resolve(), heap, ports, folder, conf)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, preexec_fn=_end_with_parent
            )
        try:
            _wait_until_ready(process, ports[0], log)
            yield f"localhost:{ports[0]}"
        finally:
            _stop(process)


def _end_with_parent() -> None:
    """In the child, on Linux: be told to end when the process that started it was killed and cannot say so itself."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


@contextlib.contextmanager
def _free_ports() -> Iterator[tuple[int, int, int]]:
    """Three ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("localhost", 0))
        first, second, third = (one.getsockname()[1] for one in sockets)
        yield first, second, third


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.2)
    tail = " ".join(log.read_text(encoding="utf-8", errors="replace").split()[-60:])
    raise UserError(f"ingest.flink: the embedded Flink did not come up within {_START_SECONDS} s; it said: {tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
