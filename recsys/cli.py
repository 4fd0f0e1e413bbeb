"""The command line `recsys`; each command is in recsys/commands/, and imports what it needs when it runs."""

import errno
import sys

import typer

from recsys.commands import doctor, recommend, releases, serve, stages
from recsys.errors import UserError

app = typer.Typer(
    help="The recommender platform: raw events to recommendations, stage by stage, each resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
ROAD, RELEASES, USE, TOOLS = "The road", "Releases", "Use", "Tools"
for panel, name, function in (
    (ROAD, "demo", stages.demo),
    (ROAD, "run", stages.run),
    (ROAD, "ingest", stages.ingest),
    (ROAD, "train", stages.train),
    (ROAD, "index", stages.index),
    (ROAD, "evaluate", stages.evaluate),
    (USE, "recommend", recommend.recommend),
    (USE, "serve", serve.serve),
    (RELEASES, "registry", releases.registry),
    (RELEASES, "promote", releases.promote),
    (RELEASES, "rollback", releases.rollback),
    (TOOLS, "simulate", stages.simulate),
    (TOOLS, "config", stages.show_config),
    (TOOLS, "doctor", doctor.doctor),
):
    app.command(name, rich_help_panel=panel)(function)

UNUSABLE = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}
"""What an operating system says of a path that the user can mend."""


def main() -> None:
    """Run a command; a mistake that the user can mend is one paragraph on standard error and exit code 2."""
    try:
        app(prog_name="recsys")
    except UserError as error:
        sys.stderr.write(f"recsys: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in UNUSABLE or error.filename is None:
            raise
        sys.stderr.write(f"recsys: {error.filename}: {error.strerror}; expected a place to read from or write to.\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("recsys: interrupted; run the same command again to go on.\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
