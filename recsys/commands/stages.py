"""`recsys ingest`, `train`, `index`, `evaluate`, `run`, `demo`, `simulate` and `config`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.commands.common import (
    AsJson,
    ConfigPath,
    Force,
    Overrides,
    Quiet,
    command_line,
    console,
    made_as_json,
    notes,
    print_json,
    read_config,
    tell_made,
    tell_next,
)
from recsys.commands.rankers import print_ranker
from recsys.commands.rows import print_rows
from recsys.errors import UserError

if TYPE_CHECKING:
    from recsys.pipeline import Pipeline
    from recsys.workdir import Made

NEXT = {"ingest": "train", "train": "index", "index": "evaluate", "evaluate": "run"}
DEMO = Path("configs") / "demo.yaml"
DEMO_K = 5


def _pipeline(config: Path, overrides: list[str] | None, quiet: bool, force: bool = False) -> "Pipeline":
    from recsys.pipeline import Pipeline

    return Pipeline(read_config(config, overrides), quiet=quiet, force=force)


def _stage(stage: str, config: Path, overrides: list[str] | None, as_json: bool, quiet: bool, force: bool) -> None:
    pipeline = _pipeline(config, overrides, quiet or as_json, force)
    made = getattr(pipeline, stage)()
    if as_json:
        extra = {"metrics": pipeline.metrics()} if stage == "evaluate" else {}
        print_json({**made_as_json(made), **extra})
        return
    if stage == "ingest":
        print_rows(pipeline.dataset_path)
    if stage == "evaluate":
        print_metrics(pipeline)
    tell_made(made)
    tell_next(command_line(NEXT[stage], config, overrides))


def ingest(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False, force: Force = False
) -> None:
    """Raw data to data set: check, encode and split the events, build vocabularies and statistics."""
    _stage("ingest", config, overrides, as_json, quiet, force)


def train(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False, force: Force = False
) -> None:
    """Data set to model and, where configured, ranker; run again after a kill, it goes on from its last checkpoint."""
    if read_config(config, overrides).ranking is None:
        _stage("train", config, overrides, as_json, quiet, force)
        return
    pipeline = _pipeline(config, overrides, quiet or as_json, force)
    both = [pipeline.train(), pipeline.rank()]
    if as_json:
        print_json({"stages": [made_as_json(made) for made in both]})
        return
    for made in both:
        tell_made(made)
    print_ranker(pipeline.ranker_path)
    tell_next(command_line(NEXT["train"], config, overrides))


def index(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False, force: Force = False
) -> None:
    """Model to bundle: build the retrieval index and gather all that serving loads."""
    _stage("index", config, overrides, as_json, quiet, force)


def evaluate(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False, force: Force = False
) -> None:
    """Measure the bundle and the baselines on the test events, over the full catalogue, and write the report."""
    _stage("evaluate", config, overrides, as_json, quiet, force)


def run(
    config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False, force: Force = False
) -> None:
    """All stages: ingest, train, index, evaluate, publish and promote; what is already made is skipped."""
    pipeline = _pipeline(config, overrides, quiet or as_json, force)
    _run(pipeline, as_json)
    if not as_json:
        _tell_what_to_try(pipeline, config, overrides)


def demo(
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help=f"Configuration; default {DEMO}.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a shop, then ingest, train, index, evaluate, publish and recommend: the whole road in a few minutes."""
    path = config or _shipped(DEMO)
    pipeline = _pipeline(path, overrides, quiet or as_json)
    if not as_json:
        notes.print(f"A simulated shop goes down the whole road; everything lands in {pipeline.workdir}/.")
    _run(pipeline, as_json)
    if not as_json:
        _recommend(pipeline, DEMO_K)
        _tell_what_to_try(pipeline, path, overrides)


def simulate(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Write the simulator's logs of a configuration whose data come from the simulator, and nothing more."""
    pipeline = _pipeline(config, overrides, quiet=as_json)
    kind = pipeline.config.data.source
    if kind != "simulator":
        raise UserError(f"{config}: data.source is '{kind}', but only 'simulator' has logs to write.")
    source = pipeline.source()
    files = sorted(
        {shard.file for table in (source.events, source.items, source.users) if table for shard in table.shards()}
    )
    if as_json:
        print_json({"name": source.name, "files": files, "notes": source.notes})
        return
    for file in files:
        notes.print(f"[bold green]✓[/] {file} [dim]{Path(file).stat().st_size:,} bytes[/]", soft_wrap=True)
    tell_next(command_line("ingest", config, overrides))


def show_config(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and print it in full, with every default."""
    resolved = read_config(config, overrides).every_setting()
    if as_json:
        print_json(resolved)
        return
    import yaml

    typer.echo(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), nl=False)
    notes.print(f"[bold green]✓[/] {config} is a valid configuration.", soft_wrap=True)
    tell_next(command_line("run", config, overrides))


def print_metrics(pipeline: "Pipeline") -> None:
    """The table of metrics of the pipeline's last evaluation."""
    from recsys.evaluation.table import metrics_table

    console.print(metrics_table(pipeline.metrics()))


def _run(pipeline: "Pipeline", as_json: bool) -> None:
    def tell(made: "Made") -> None:
        if made.stage == "ingest" and made.seconds is not None:
            print_rows(made.path)
        tell_made(made)
        if made.stage == "rank" and made.seconds is not None:
            print_ranker(made.path)

    made = pipeline.run(tell=(lambda made: None) if as_json else tell)
    if as_json:
        print_json({"stages": [made_as_json(one) for one in made], "metrics": pipeline.metrics()})
    else:
        print_metrics(pipeline)


def _recommend(pipeline: "Pipeline", k: int) -> None:
    """What the bundle recommends to one of its users."""
    from recsys.commands.recommend import print_recommended
    from recsys.scoring.bundle import LoadedBundle
    from recsys.scoring.query import Query

    bundle = LoadedBundle.open(pipeline.bundle_path)
    user = bundle.typical_user()
    (found,) = bundle.recommend([Query(user)], k)
    print_recommended(bundle.bundle_id, user, found, bundle.history(user), k)


def _tell_what_to_try(pipeline: "Pipeline", config: Path, overrides: list[str] | None) -> None:
    from recsys.scoring.bundle import LoadedBundle

    bundle = LoadedBundle.open(pipeline.bundle_path)
    user = bundle.typical_user()
    serve = pipeline.config.serve
    source = pipeline.registry_path if overrides else config
    body = f'{{"user": "{user}", "k": 5}}'
    console.print(f"Report: {pipeline.report_path / 'report.html'}", soft_wrap=True, markup=False)
    tell_next(
        command_line("recommend", source, rest=f"--user {user} -k 10"),
        command_line("serve", source),
        f"curl -s -H 'content-type: application/json' -d '{body}' http://{serve.host}:{serve.port}/v1/recommend",
        command_line("registry", source),
    )


def _shipped(relative: Path) -> Path:
    """A configuration that ships beside the package; as the user would write it where that is the same file."""
    if relative.exists():
        return relative
    shipped = Path(__file__).parents[2] / relative
    if not shipped.exists():
        raise UserError(
            f"{relative}: not found here nor in {shipped.parent}; run this from a checkout, or pass --config."
        )
    return shipped
