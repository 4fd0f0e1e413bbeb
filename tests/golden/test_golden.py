"""What the tiny shop's run gave when it was last looked at: ids, split, statistics and figures.

A difference means that an id changed its meaning, or that a result moved. Where that is intended, write the file anew
with `RECSYS_WRITE_GOLDEN=1 pytest tests/golden` and say why in the commit.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from recsys.dataset_folder import DatasetFolder
from tests.cli.command import Outcome

GOLDEN = Path(__file__).with_name("shop.json")
TRAINED = 0.08
"""A trained model may differ by so much between processors; everything else is arithmetic on whole numbers."""


def observed(work: Path) -> dict[str, Any]:
    """What is compared, from a workdir."""
    dataset = DatasetFolder.open(work / "dataset")
    models = json.loads((work / "report" / "metrics.json").read_text())["models"]
    return {
        "vocabularies": {
            name: dataset.vocabulary(name).table["value"].to_pylist() for name in dataset.schema.vocabularies
        },
        "rows": {name: dataset.manifest["rows"][name] for name in ("in", "accepted", "by_split")},
        "split": dataset.manifest["split"],
        "price": dataset.statistics["numeric"]["price"],
        "histories": dict(
            zip(dataset.users["raw"].to_pylist(), dataset.users["history"].to_pylist()[:5], strict=False)
        ),
        "figures": {
            name: {key: model["slices"]["overall"][key]["value"] for key in ("recall@5", "ndcg@5")}
            for name, model in models.items()
        },
    }


def test_the_tiny_shop_gives_what_it_gave(shop_run: tuple[Path, Outcome]) -> None:
    found = observed(shop_run[0].parent / "work")
    if os.environ.get("RECSYS_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    figures, golden = found.pop("figures"), expected.pop("figures")
    price, expected_price = found.pop("price"), expected.pop("price")
    assert found == expected
    assert price == pytest.approx(expected_price)
    assert figures.keys() == golden.keys()
    for name, values in golden.items():
        assert figures[name] == pytest.approx(values, abs=TRAINED if name == "two_tower" else 1e-9), name
