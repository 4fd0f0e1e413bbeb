"""Which Beam runner does the work."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TextIO

from recsys.config.ingest import IngestConfig
from recsys.ingestion.allocation import few_arenas
from recsys.ingestion.job_server import embedded_flink

DIRECT = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""The Direct runner by its class; by its plain name Beam would first look for a Prism binary to download."""


def import_beam() -> Any:
    """Beam, without its warning about cloud libraries that nobody asked for."""
    logging.disable(logging.WARNING)
    try:
        import apache_beam
    finally:
        logging.disable(logging.NOTSET)
    return apache_beam


@contextlib.contextmanager
def without_beam_logs() -> Iterator[None]:
    """Keep Beam from logging, within the block, each error several times over: it raises it as well, once.

    Its worker processes cannot be told so; what they inherit as standard error leads nowhere, while this process goes
    on writing to the real one.
    """
    logger = logging.getLogger("apache_beam")
    level, stderr = logger.level, sys.stderr
    logger.setLevel(logging.CRITICAL)
    real = os.dup(2)
    with open(os.devnull, "wb") as nowhere, open(real, "w", encoding="utf-8", buffering=1) as visible:
        if _is_standard_error(stderr):
            sys.stderr = visible
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            sys.stderr = stderr
            logger.setLevel(level)


def _is_standard_error(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a stream without a file, as tests have
        return False


def let_workers_hang_up() -> None:
    """Let Beam's workers in threads of this process end unheard once their job server is gone.

    After every job it cancels their calls, and each thread would print that as a traceback, at any time from then on.
    """
    now = threading.excepthook
    if not (isinstance(now, partial) and now.func is _told_unless_hung_up):
        threading.excepthook = partial(_told_unless_hung_up, now)


def _told_unless_hung_up(heard: Callable[[threading.ExceptHookArgs], Any], failed: threading.ExceptHookArgs) -> None:
    import grpc

    error = failed.exc_value
    code = error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None
    if code not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
        heard(failed)


@contextlib.contextmanager
def pipeline_options(config: IngestConfig) -> Iterator[Any]:
    """Beam options of the configured runner; an embedded Flink lives as long as the block."""
    from apache_beam.options.pipeline_options import PipelineOptions

    def options(**given: Any) -> PipelineOptions:
        # Stages hand on bytes; Beam's guesses at their types from annotations would only get in the way.
        return PipelineOptions(flags=[], pipeline_type_check=False, **given)

    flink = config.flink
    if config.runner == "direct":
        mode = "multi_processing" if config.workers > 1 else "in_memory"
        yield options(runner=DIRECT, direct_num_workers=config.workers, direct_running_mode=mode)
        return
    let_workers_hang_up()
    with few_arenas(), contextlib.ExitStack() as stack:
        endpoint = flink.job_endpoint
        if endpoint is None:
            endpoint = stack.enter_context(embedded_flink(flink.jars, flink.heap, flink.managed_memory))
        yield options(
            runner="PortableRunner",
            job_endpoint=endpoint,
            environment_type=flink.environment_type,
            environment_config=flink.environment_config,
            parallelism=config.workers,
        )
