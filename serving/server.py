"""The server process: binds, warms the bundle beside answering health checks, and ends cleanly on SIGTERM."""

import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from recsys.config.serve import ServeConfig
from recsys.errors import UserError
from recsys.scoring.bundle import LoadedBundle
from serving.app import Service, create_app


def run(bundle: Path, config: ServeConfig) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests in flight are still answered.

    Raises UserError for a damaged bundle, and where the address cannot be bound.
    """
    loaded = LoadedBundle.open(bundle)
    service = Service(config)
    listening = _bind(config)
    address = "http://{}:{}".format(*listening.getsockname()[:2])
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service), log_level="warning", timeout_graceful_shutdown=config.shutdown_seconds, lifespan="off"
        )
    )
    failures: list[UserError] = []

    def warm() -> None:
        try:
            loaded.warm()
        except UserError as error:
            failures.append(error)
            server.should_exit = True
            return
        service.bundle = loaded
        _tell(f"ready: bundle {loaded.bundle_id} at {address}/v1/recommend (documentation: {address}/docs)")

    # The server restores these and raises the signal again when it has shut down; a clean end should exit with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: None)
    _tell(f"listening on {address}; loading {bundle}")
    threading.Thread(target=warm, name="warm", daemon=True).start()
    server.run(sockets=[listening])
    if failures:
        raise failures[0]
    _tell("stopped")


def _bind(config: ServeConfig) -> socket.socket:
    try:
        return socket.create_server((config.host, config.port))
    except OSError as error:
        raise UserError(
            f"serve.host, serve.port: cannot listen on {config.host}:{config.port} ({error.strerror or error}); choose "
            "another with --port (0 for a free one)."
        ) from None


def _tell(message: str) -> None:
    sys.stderr.write(f"recsys serve: {message}\n")
    sys.stderr.flush()
