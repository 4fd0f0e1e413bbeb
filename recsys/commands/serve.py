"""`recsys serve`."""

from typing import Annotated

import typer

from recsys.commands.common import Overrides, Source, find_bundle, read_config
from recsys.config.serve import ServeConfig


def serve(
    source: Source,
    overrides: Overrides = None,
    bundle: Annotated[str | None, typer.Option(help="Serve this published bundle and not the current one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; default: serve.port.")] = None,
) -> None:
    """Answer HTTP requests from the current bundle, until SIGTERM or Ctrl-C."""
    config = ServeConfig() if source.is_dir() else read_config(source, overrides).serve
    chosen = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    path = find_bundle(source, overrides, bundle)
    from serving.server import run

    run(path, ServeConfig.model_validate({**config.model_dump(), **chosen}))
