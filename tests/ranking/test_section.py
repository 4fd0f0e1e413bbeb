"""The ranker's section of the report: everything measured is in it, nothing is loaded from elsewhere."""

import json
import re

import numpy as np

from recsys.ranking.evaluation import evaluate_shown
from recsys.ranking.measure import Shown
from recsys.ranking.section import ranking_section
from recsys.ranking.truth import against_truth
from tests.ranking.test_evaluation import shop


def section(**more) -> str:
    shown, truth = shop(4_000)
    counts = {"rarest value": np.arange(4_000), "<b>user</b>": np.arange(4_000)[::-1]}
    ranking = evaluate_shown(shown, counts, resamples=30) | {
        "split": "test",
        "truth": against_truth(shown.probabilities, shown.labels, truth),
    }
    return str(ranking_section(json.loads(json.dumps(ranking | more))))


def test_everything_is_shown() -> None:
    sets = [
        {"name": "backbone", "kept_ratio": 1.0, "auc": 0.7},
        {"name": "search", "kappa": 2.5, "kept_ratio": 0.3, "auc": 0.72, "chosen": True},
        {"name": "search", "kept_ratio": 0.1, "auc": 0.68},
        {"name": "frequency", "kept_ratio": 0.3, "auc": 0.66},
    ]
    fields = {"colour": {"values": 40, "kept": 10, "kept_share_of_rows": 0.875}, "empty": {"values": 0, "kept": 0}}
    sizes = {
        "values": {"seen": 4041, "kept": 1011},
        "rows": {"before": 4047, "after": 1018},
        "bytes": {"before": 275196, "after": 69224},
        "live": {
            "before": {"fields": 11.0, "interactions": 55.0},
            "after": {"fields": 6.25, "interactions": 17.5},
        },
    }
    page = section(sets=sets, sets_split="validation", fields=fields, **sizes)
    for text in ("4,041", "1,011", "4,047", "1,018", "275,196", "69,224", "11.00", "6.25", "55.0", "17.5", "87.5 %"):
        assert f"<td>{text}</td>" in page
    assert "<td>OptFS (taken)</td><td>2.5</td><td>30.0 %</td><td>0.7200</td>" in page
    assert "<td>0 to 399 times</td><td>400</td>" in page
    for text in ("AUC within users", "NDCG of the shown lists", "Bayes limit", "By time", "4,000 impressions"):
        assert text in page
    for text in ("OptFS", "most frequent values", "all values", "values kept", "25.0 %", "Validation AUC"):
        assert text in page
    assert page.count("<svg") == 4
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "<script" not in page
    assert "<b>user" not in page  # escaped
    assert "2023-11-14 22:00" in page


def test_what_was_not_measured_is_left_out() -> None:
    shown = Shown(np.array([0, 1, 1, 0]), np.arange(4), np.array([0.2, 0.9, 0.4, 0.5]))
    page = str(ranking_section(evaluate_shown(shown, {}, resamples=0) | {"split": "validation"}))
    assert page.count("<svg") == 1
    for text in ("NDCG", "By time", "Bayes", "Which values", "values kept", "Rare values"):
        assert text not in page
