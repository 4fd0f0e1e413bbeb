"""The ingestion stage: a raw source becomes a data set folder."""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from recsys.artifacts import sha256_file, write_artifact
from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder
from recsys.datasets.source import RawSource
from recsys.encoding.carried import CARRIED, all_positives
from recsys.encoding.point_in_time import CLUSTERS_FILE
from recsys.errors import UserError
from recsys.ingestion.checks import Written, account, refuse_no_training, refuse_rejected, refuse_unit
from recsys.ingestion.progress import shown
from recsys.schema import SPLITS

_FOLDERS = ("events", "items", "users", "vocabulary", "rejected")
_STAGES = ("read", "items", "users", "write")
_WITHOUT_EFFECT = {"runner", "workers", "flink", "batch_rows", "shard_rows", "extend"}
"""Settings that never change the result (and `extend`, whose data set the manifest names by its id)."""
_RAISED = re.compile(r"UserError: (.*?)(?: \[while running|\\n|\n|$)", re.DOTALL)
_WHERE_IN_BEAM = re.compile(r" \[while running .*", re.DOTALL)


def ingest(
    source: RawSource, config: IngestConfig, output: Path, *, seed: int = 1, quiet: bool = False
) -> DatasetFolder:
    """Make the data set `output` (docs/contracts.md) from a raw source; appears whole or not at all.

    Equal input, configuration and seed give equal bytes, whatever the runner and the number of workers. Raises
    UserError for input or settings that cannot work, and where nothing is left to train on.
    """
    earlier = _check(source, config, Path(output))
    payload: dict[str, Any] = {}
    with (
        write_artifact(Path(output), DATASET_KIND, DATASET_FORMAT, payload) as aside,
        shown(_STAGES, quiet) as progress,
    ):
        # Only this run knows the name, so a worker that outlived its killed driver has nowhere to write.
        folder = aside.resolve() / f".run-{uuid.uuid4().hex}"
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True)
        if earlier is not None:
            all_positives(earlier).write(folder / CARRIED)
        _run(source, config, seed, folder, progress)
        payload.update(_manifest(source, config, seed, folder, earlier))
        _settle(folder, aside)
    return DatasetFolder.open(Path(output))


def _run(source: RawSource, config: IngestConfig, seed: int, folder: Path, progress: Any) -> None:
    from recsys.ingestion.runner import import_beam

    beam = import_beam()
    from recsys.ingestion.pipeline import Job, build
    from recsys.ingestion.runner import pipeline_options, without_beam_logs

    extend = None if config.extend is None else config.extend.resolve()
    try:
        with pipeline_options(config) as options, without_beam_logs():
            pipeline = beam.Pipeline(options=options)
            build(pipeline, Job(source, source.schema, config, seed, folder, extend, progress))
            pipeline.run().wait_until_finish()
    except UserError as error:
        raise UserError(_WHERE_IN_BEAM.sub("", str(error))) from None
    except Exception as error:
        found = _RAISED.search(str(error))
        if found:
            raise UserError(found.group(1)) from None
        raise


def _check(source: RawSource, config: IngestConfig, output: Path) -> DatasetFolder | None:
    """What can be known to be wrong before a row is read."""
    kind = config.split.kind
    if kind == "given" and not source.given_split:
        raise UserError(
            f"ingest.split.kind: 'given', but the source '{source.name}' has no split of its own; expected time, "
            "random or leave_last_out, or a split column in the data."
        )
    if kind == "time" and not source.schema.has_time:
        raise UserError(
            f"ingest.split.kind: 'time', but the source '{source.name}' has no times; expected given, random or "
            "leave_last_out."
        )
    timed = [f.name for f in source.schema.fields if f.statistic is not None]
    if timed and not source.schema.has_time:
        raise UserError(f"data: the field '{timed[0]}' is point in time, but the source '{source.name}' has no times.")
    if config.extend is None:
        return None
    if config.extend.resolve() == output.resolve():
        raise UserError(f"ingest.extend: {config.extend} is the data set that would be replaced; name another output.")
    earlier = DatasetFolder.open(config.extend, verify=True)
    if earlier.manifest["source"] != source.name:
        raise UserError(
            f"ingest.extend: {config.extend} is a data set of '{earlier.manifest['source']}', this input is "
            f"'{source.name}'; the vocabularies of another data set would give its ids another meaning."
        )
    missing = [name for name in source.schema.vocabularies if name not in earlier.schema.vocabularies]
    if missing:
        raise UserError(
            f"ingest.extend: {config.extend} has no vocabulary '{missing[0]}', which this schema needs; expected a "
            "data set with the same id fields."
        )
    for field in source.schema.fields:
        before = {f.name: f for f in earlier.schema.fields}.get(field.name)
        if before is not None and (before.kind, before.vocabulary_name) != (field.kind, field.vocabulary_name):
            raise UserError(
                f"ingest.extend: field '{field.name}' is {before.kind} with vocabulary '{before.vocabulary_name}' in "
                f"{config.extend}, but {field.kind} with '{field.vocabulary_name}' here; expected the same."
            )
    return earlier


def _manifest(
    source: RawSource, config: IngestConfig, seed: int, folder: Path, earlier: DatasetFolder | None
) -> dict[str, Any]:
    """The manifest's entries; checks that every row is accounted for and that something is left."""
    from recsys.encoding.vocabulary import Vocabulary

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    tables, written = summary["tables"], Written.read(folder)
    for name, table in tables.items():
        account(name, table, summary["accepted"][name] if name != "events" else sum(written.by_split.values()))
        if name != "events":
            refuse_rejected(source, name, table, folder)
    rows = tables.pop("events")
    times = summary["times"] if config.split.kind == "time" else None
    if source.schema.has_time:
        refuse_unit(source, written)
    refuse_no_training(source, rows, written, summary["positives"][SPLITS[0]], times, folder)
    vocabularies = {}
    for name in source.schema.vocabularies:
        vocabulary = Vocabulary.read(folder / "vocabulary" / f"{name}.parquet")
        vocabularies[name] = {"generation": vocabulary.generation, "size": vocabulary.size}
    inputs = sorted({Path(s.file) for t in (source.events, source.items, source.users) if t for s in t.shards()})
    settings = config.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    return {
        "source": source.name,
        "notes": source.notes,
        "schema": source.schema.model_dump(mode="json"),
        "rows": {**rows, "by_split": written.by_split, "positives": summary["positives"], **tables},
        "inputs": [{"name": p.name, "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in inputs],
        "split": {"kind": config.split.kind, "times": times},
        "vocabularies": vocabularies,
        "settings": {**settings, "seed": seed},
        "parent": None if earlier is None else earlier.artifact.artifact_id,
    }


def _settle(folder: Path, aside: Path) -> None:
    """Move this run's files to their places, the event files of each part numbered without gaps."""
    for part in SPLITS:
        for place, file in enumerate(sorted((folder / "events").glob(f"{part}-*.parquet"))):
            os.replace(file, folder / "events" / f"{part}-{place:05d}.parquet")
    for name in _FOLDERS:
        os.replace(folder / name, aside / name)
    for name in ("statistics.json", CLUSTERS_FILE, CARRIED):
        if (folder / name).exists():
            os.replace(folder / name, aside / name)
    (folder / "summary.json").unlink()
    folder.rmdir()
