"""The command line around the stages: start-up, configuration, releases, recommendations, errors of use."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recsys import registry
from recsys.artifacts import write_artifact
from recsys.scoring.bundle import LoadedBundle
from tests.cli.command import recsys, refused

ROAD = ("ingest", "train", "index", "evaluate", "run", "demo", "simulate")
COMMANDS = (*ROAD, "recommend", "registry", "promote", "rollback", "serve", "config", "doctor")
HEAVY = ("tensorflow", "apache_beam", "faiss", "implicit", "pyarrow", "fastapi", "plotly", "matplotlib")


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['recsys', '--help']\nfrom recsys.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\nassert not found, found\n"
    )
    seconds = []  # of processor time, which a busy machine does not stretch much
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert re.search(rf"^. {command} ", done.stdout, re.MULTILINE), command
    assert min(seconds) < 1, seconds


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    outcome = recsys(command, "--help")
    assert outcome.code == 0 and f"Usage: recsys {command}" in outcome.out


def test_an_unknown_command_or_option_is_an_error_of_use() -> None:
    assert recsys("recomend").code == 2
    assert recsys("run", "x.yaml", "--fast").code == 2


def config_file(folder: Path, **changes: object) -> Path:
    tree = {
        "name": "mine",
        "workdir": str(folder / "work"),
        "data": {"source": "files", "events": {"paths": str(folder / "events.csv")}, "time_unit": "s"},
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_config_prints_every_default_and_overrides(tmp_path: Path) -> None:
    outcome = recsys("config", config_file(tmp_path), "--set", "serve.port=8123", "--set", "seed=7")
    assert outcome.code == 0
    printed = yaml.safe_load(outcome.out)
    assert printed["serve"]["port"] == 8123 and printed["seed"] == 7
    assert printed["serve"]["default_k"] == 10 and printed["index"]["type"] == "flat"
    assert "Next: recsys run" in outcome.err and "--set serve.port=8123" in outcome.err
    assert json.loads(recsys("config", config_file(tmp_path), "--json").out)["name"] == "mine"
    # Those too that tell no runs apart at their default.
    ranking = "ranking={gates: {mode: value-dense, kappa: 1}}"
    found = json.loads(recsys("config", config_file(tmp_path), "--json", "--set", ranking).out)["ranking"]
    assert found["gates"]["warmup_epochs"] == 0 and found["tasks"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "train.epoch=3"], "train.epoch: no such key"),
        (["--set", "serve.port=high"], "serve.port: Input should be a valid integer"),
        (["--set", "seed"], "--set seed: expected KEY.PATH=VALUE"),
        (["--set", "name.a=1"], "'name' is not a section"),
        (["--set", "data.source=memory"], "data"),
    ],
)
def test_wrong_configuration_keys_are_named(tmp_path: Path, words: list[str], said: str) -> None:
    refused(recsys("config", config_file(tmp_path), *words), said)


def test_wrong_configuration_files_are_named(tmp_path: Path) -> None:
    refused(recsys("run", tmp_path / "none.yaml"), "none.yaml: no such configuration file")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: }")
    refused(recsys("run", tmp_path / "bad.yaml"), "bad.yaml: not readable as YAML")
    (tmp_path / "list.yaml").write_text("- a")
    refused(recsys("run", tmp_path / "list.yaml"), "list.yaml: expected keys such as name, data and train")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train", "no data set here; make it first with 'recsys ingest CONFIG'"),
        ("index", "no data set here"),
        ("evaluate", "no data set here"),
        ("registry", "no registry here"),
        ("rollback", "no bundle is current here"),
        ("serve", "no bundle is current here"),
    ],
)
def test_a_stage_without_its_input_says_what_to_make_first(tmp_path: Path, command: str, said: str) -> None:
    refused(recsys(command, config_file(tmp_path)), said)


def test_simulate_writes_the_logs_and_nothing_more(tmp_path: Path) -> None:
    data = {"source": "simulator", "users": 50, "items": 40, "days": 2, "impressions": 2000}
    path = config_file(tmp_path, data=data)
    files = json.loads(recsys("simulate", path, "--json").out)["files"]
    assert files and all(Path(file).is_file() and tmp_path / "work" / "raw" in Path(file).parents for file in files)
    assert "Next: recsys ingest" in recsys("simulate", path).err
    assert not (tmp_path / "work" / "dataset").exists()
    refused(recsys("simulate", config_file(tmp_path)), "data.source is 'files', but only 'simulator'")


def other_bundle(path: Path, number: int) -> Path:
    with write_artifact(path, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT, {"dataset": f"d{number}"}) as folder:
        (folder / "x").write_text(str(number))
    return path


def test_releases(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    ids = [
        registry.publish(root, other_bundle(tmp_path / f"b{n}", n), metrics={"recall@10": n / 8}).artifact_id
        for n in (1, 2)
    ]
    assert recsys("registry", root).out.startswith("2 bundles in ")
    registry.publish(tmp_path / "lonely", tmp_path / "b1")
    assert recsys("registry", tmp_path / "lonely").out.startswith("1 bundle in ")
    assert recsys("promote", root, ids[0], "--why", "first").code == 0
    outcome = recsys("promote", root, ids[1][:10], "--json")
    assert json.loads(outcome.out) == {"bundle": ids[1], "previous": ids[0]}
    listed = json.loads(recsys("registry", root, "--json").out)
    assert [(row["bundle"], row["status"], row["metrics"]) for row in listed] == [
        (ids[0], "previous", {"recall@10": 0.125}),
        (ids[1], "current", {"recall@10": 0.25}),
    ]
    table = recsys("registry", root).out
    assert ids[0] in table and "0.2500" in table
    outcome = recsys("rollback", root)
    assert f"current is bundle {ids[0]}" in outcome.err.replace("\n", " ")
    refused(recsys("rollback", root), "no predecessor to roll back to")
    refused(recsys("promote", root, "feed"), "no published bundle with id 'feed'", ids[0])


def test_recommend_prints_titles_beside_the_history(tiny_bundle: Path, bundle: LoadedBundle) -> None:
    outcome = recsys("recommend", tiny_bundle, "--user", "u0", "-k", 4)
    assert outcome.code == 0
    found = json.loads(recsys("recommend", tiny_bundle, "--user", "u0", "-k", 4, "--json").out)
    assert found["bundle"] == bundle.bundle_id and len(found["items"]) == 4
    assert [one["item"] for one in found["history"]] == [one.item for one in bundle.history("u0")]
    for item in found["items"]:
        assert item["title"] in outcome.out and f"{item['score']:.3f}" in outcome.out
    newest = [row.split("│")[-2].strip() for row in outcome.out.splitlines() if row.count("│") == 5]
    assert newest == [one["title"] for one in found["history"][::-1][:4]]
    assert "6 older ones" in outcome.out


def test_recommend_to_a_stranger(tiny_bundle: Path) -> None:
    by_club = json.loads(recsys("recommend", tiny_bundle, "--feature", "club=b", "-k", 3, "--json").out)
    assert all(int(item["item"][1:]) % 2 for item in by_club["items"])
    by_history = json.loads(recsys("recommend", tiny_bundle, "--history", "i1,i3", "-k", 24, "--json").out)
    assert len(by_history["items"]) == 22 and [one["item"] for one in by_history["history"]] == ["i1", "i3"]
    seen = json.loads(recsys("recommend", tiny_bundle, "--history", "i1,i3", "-k", 24, "--seen", "--json").out)
    assert len(seen["items"]) == 24


def test_a_strangers_history_may_hold_items_that_nobody_knows(tiny_bundle: Path) -> None:
    """As the HTTP endpoint has it: answered, with how many of them were known."""
    words = ("recommend", tiny_bundle, "--history", "i1,void,i3,gone", "-k", 3)
    outcome = recsys(*words)
    assert outcome.code == 0 and "void" in outcome.out
    assert "The catalogue holds 2 of the 4 items of the history, not 'void', 'gone'." in outcome.err
    answer = json.loads(recsys(*words, "--json").out)
    assert answer["known_history"] == 2 and len(answer["items"]) == 3
    assert [one["title"] for one in answer["history"]] == ["Item 1", None, "Item 3", None]
    assert json.loads(recsys("recommend", tiny_bundle, "--user", "u0", "--json").out)["known_history"] is None
    assert "The catalogue holds" not in recsys("recommend", tiny_bundle, "--history", "i1").err


def test_a_user_whom_nobody_knows_is_a_newcomer(tiny_bundle: Path) -> None:
    """As the HTTP endpoint has it: answered, and said."""
    outcome = recsys("recommend", tiny_bundle, "--user", "nobody", "-k", 3)
    assert outcome.code == 0 and "User 'nobody' is none of the 40 that the bundle knows" in outcome.err
    answer = json.loads(recsys("recommend", tiny_bundle, "--user", "nobody", "-k", 3, "--json").out)
    assert answer["known_user"] is False and len(answer["items"]) == 3 and answer["history"] == []
    assert json.loads(recsys("recommend", tiny_bundle, "--user", "u0", "--json").out)["known_user"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected --user USER"),
        (["--feature", "club"], "--feature club: expected NAME=VALUE"),
        (["--feature", "shoe=42"], "features.shoe: the data set has no such field"),
    ],
)
def test_recommend_names_what_it_cannot_take(tiny_bundle: Path, words: list[str], said: str) -> None:
    refused(recsys("recommend", tiny_bundle, *words), said)


def test_recommend_refuses_a_truncated_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, broken)
    (broken / "users.parquet").write_bytes((broken / "users.parquet").read_bytes()[:-5])
    refused(recsys("recommend", broken, "--user", "u0"), "users.parquet: ", "it was truncated or altered")


def test_doctor_says_what_is_there() -> None:
    outcome = recsys("doctor", "--json")
    found = {check["name"]: check["found"] for check in json.loads(outcome.out)}
    assert outcome.code == 0 and found["FAISS"] and found["Apache Beam"] and found["TensorFlow"].startswith("2.21")


def test_doctor_as_a_process_warns_of_nothing() -> None:
    words = [sys.executable, "-m", "recsys.cli", "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "Apache Beam" in done.stdout
    assert "WARNING" not in done.stderr and done.stderr.endswith("Next: recsys demo\n")


def test_an_error_of_the_real_process_is_one_paragraph(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "recsys.cli", "run", str(tmp_path / "none.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("recsys: ")
