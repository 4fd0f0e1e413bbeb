"""The main road by the command line, from a tiny shop's CSV files to recommendations and the HTTP endpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import registry
from recsys.dataset_folder import DatasetFolder
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from tests.cli.command import Outcome, recsys, refused
from tests.serving.client import ask, listening_at, wait_until_ready
from tests.tiny_files import events, write_shop

Run = tuple[Path, Outcome]


def work(run: Run) -> Path:
    return run[0].parent / "work"


def test_run_makes_everything_and_says_where(shop_run: Run) -> None:
    shop, outcome = shop_run
    assert outcome.code == 0, outcome.err
    for stage, folder in (("ingest", "dataset"), ("train", "model"), ("index", "bundle"), ("evaluate", "report")):
        assert f"✓ {stage:<9}{work(shop_run) / folder} " in outcome.err
        assert (work(shop_run) / folder / "manifest.json").is_file()
    assert "two-tower" in outcome.out and "popularity" in outcome.out
    assert f"Rows: {len(events()):,} in = {len(events()):,} accepted + 0 rejected.\n" in outcome.err
    report = work(shop_run) / "report" / "report.html"
    assert f"Report: {report}" in outcome.out and report.stat().st_size > 10_000
    assert f"recsys recommend {shop} --user " in outcome.err and "curl" in outcome.err


def test_ids_alone_would_not_find_it_but_the_towers_do(shop_run: Run) -> None:
    """Even users like even items: the model is told by its features and histories, popularity cannot know."""
    metrics = json.loads((work(shop_run) / "report" / "metrics.json").read_text())
    recall = {name: model["slices"]["overall"]["recall@5"] for name, model in metrics["models"].items()}
    value = {name: found["value"] if isinstance(found, dict) else found for name, found in recall.items()}
    assert value["two_tower"] > 1.3 * value["popularity"]


def test_running_again_skips_everything_and_json_is_json(shop_run: Run) -> None:
    shop, _ = shop_run
    outcome = recsys("run", shop, "--json")
    printed = json.loads(outcome.out)
    assert outcome.code == 0 and [stage["seconds"] for stage in printed["stages"]] == [None] * 5
    assert printed["metrics"]["headline"]["recall@5"] > 0


def test_a_query_built_by_scoring_equals_what_ingestion_wrote(shop_run: Run) -> None:
    bundle = LoadedBundle.open(work(shop_run) / "bundle")
    users = DatasetFolder.open(work(shop_run) / "dataset").users
    arrays = bundle.encoder.encode([Query(user=raw) for raw in users["raw"].to_pylist()])
    assert arrays["user"].tolist() == users["user"].to_pylist()
    assert arrays["club"].tolist() == users["club"].to_pylist()
    assert [row[row > 0].tolist() for row in arrays["history"]] == users["history"].to_pylist()
    chosen: dict[str, list[str]] = {}
    for user, item, _, _ in events():
        chosen.setdefault(user, []).append(item)
    for user, items in chosen.items():
        assert [one.item for one in bundle.history(user)] == items


def test_recommendations_are_of_the_users_own_block(shop_run: Run) -> None:
    shop, _ = shop_run
    own = total = 0
    for user in range(6):
        found = json.loads(recsys("recommend", shop, "--user", f"u{user}", "-k", 4, "--json").out)
        own += sum(int(item["item"][1:]) % 2 == user % 2 for item in found["items"])
        total += len(found["items"])
        assert all(item["title"] == "Item " + item["item"][1:] for item in found["items"])
    assert total == 24 and own >= 20


def test_the_registry_lists_it_and_the_server_serves_it(shop_run: Run) -> None:
    shop, _ = shop_run
    (listed,) = json.loads(recsys("registry", shop, "--json").out)
    assert listed["status"] == "current" and set(listed["metrics"]) >= {"recall@5", "ndcg@5"}
    words = [sys.executable, "-m", "recsys.cli", "serve", str(shop), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = listening_at(server)
            assert wait_until_ready(address)["bundle"] == listed["bundle"]
            status, body = ask(f"{address}/v1/recommend", {"user": "u2", "k": 3})
        finally:
            server.terminate()
        assert server.wait(60) == 0
    alone = json.loads(recsys("recommend", shop, "--user", "u2", "-k", 3, "--json").out)
    assert status == 200 and [item["item"] for item in body["items"]] == [item["item"] for item in alone["items"]]


def test_stage_by_stage_gives_the_same_as_run(shop_run: Run, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop")
    for stage in ("ingest", "train", "index"):
        outcome = recsys(stage, shop)
        assert outcome.code == 0 and f"Next: recsys {'evaluate' if stage == 'index' else ''}" in outcome.err
    expected = registry.bundle_path(work(shop_run) / "registry").name
    assert LoadedBundle.open(tmp_path / "shop" / "work" / "bundle").bundle_id == expected


@pytest.mark.parametrize("victim", ["model/query_tower/variables/variables.data-00000-of-00001", "model/vectors.npy"])
def test_a_truncated_model_is_named_by_the_next_stage(shop_run: Run, tmp_path: Path, victim: str) -> None:
    import shutil

    shop = write_shop(tmp_path / "shop")
    for folder in ("dataset", "model"):
        shutil.copytree(work(shop_run) / folder, tmp_path / "shop" / "work" / folder)
    file = tmp_path / "shop" / "work" / victim
    file.write_bytes(file.read_bytes()[:-7])
    refused(recsys("index", shop), Path(victim).name, "it was truncated or altered")
    assert not (tmp_path / "shop" / "work" / "bundle").exists()


def test_a_shrunken_demo(tmp_path: Path) -> None:
    """`recsys demo` as it ships, with fewer people in the shop."""
    small = {"users": 300, "items": 200, "new_items_per_day": 5, "days": 6, "impressions": 80_000}
    words = [word for name, value in small.items() for word in ("--set", f"data.{name}={value}")]
    words += [
        "--set",
        "evaluate.baselines=[popularity]",
        "--set",
        "evaluate.bootstrap=0",
        "--set",
        "train.batch_size=256",
    ]
    outcome = recsys("demo", "--set", f"workdir={tmp_path / 'demo'}", *words)
    assert outcome.code == 0, outcome.err
    table, recommended = outcome.out.split("coverage@")[1], outcome.out.split("history, newest first")[1]
    assert "two-tower" in table and "Report: " in recommended and "recsys recommend" in outcome.err
    bundle = LoadedBundle.open(tmp_path / "demo" / "bundle")
    user = bundle.typical_user()
    assert f"User {user}, bundle {bundle.bundle_id}" in outcome.out
    found, newest = bundle.recommend([Query(user)], 5)[0], bundle.history(user)[-1]
    shown = [[cell.strip() for cell in row.split("│")[1:-1]] for row in recommended.splitlines() if "│" in row]
    assert [row[:3] for row in shown[:5]] == [[str(n), one.title, f"{one.score:.3f}"] for n, one in enumerate(found, 1)]
    assert shown[0][3] == newest.title
    metrics = json.loads((tmp_path / "demo" / "report" / "metrics.json").read_text())
    recall = {name: model["slices"]["overall"]["recall@10"]["value"] for name, model in metrics["models"].items()}
    assert recall["two_tower"] > recall["popularity"]
