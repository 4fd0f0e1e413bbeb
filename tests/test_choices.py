"""What the benchmarks choose, and that they choose it on validation: on cells made by hand."""

from benchmarks import ssl_ablation
from benchmarks.parts import gates_planted
from benchmarks.ssl_ablation import BASE, Arm

PARTS = ("all", "head", "tail", "unseen")


def cell(validation: tuple[float, ...], test: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)) -> dict:
    """Recall@50 of all, head, tail and unseen on both parts."""
    both = {"validation": validation, "test": test}
    return {
        split: {part: {"recall@50": value} for part, value in zip(PARTS, figures, strict=True)}
        for split, figures in both.items()
    }


def test_the_best_arm_keeps_the_head_and_has_the_most_tail_and_unseen_on_validation() -> None:
    """With the loss of more recall; test figures, here all against it, have no say; feature dropout is a control."""
    none, plain = Arm(BASE, True), Arm(BASE, False)
    rfm, cfm, dropout = Arm("RFM", True, 1.0), Arm("CFM", True, 1.0), Arm("FD", True, 0.5)
    without = Arm("RFM", False, 1.0)
    results = {
        none: [cell((0.5, 0.6, 0.2, 0.1), (0.5, 0.6, 0.2, 0.1))],
        rfm: [cell((0.5, 0.5, 0.9, 0.9), (0.9, 0.9, 0.9, 0.9))],  # loses the head
        cfm: [cell((0.5, 0.595, 0.3, 0.2), (0.1, 0.3, 0.05, 0.02))],
        dropout: [cell((0.6, 0.7, 0.8, 0.8))],
        plain: [cell((0.4, 0.6, 0.2, 0.1))],
        without: [cell((0.4, 0.6, 0.9, 0.9))],
    }
    best = ssl_ablation.best_arm(results)
    assert best == cfm
    assert ssl_ablation.figures_of(results, best) == {
        "tail_recall_at_50_off": 0.2,
        "tail_recall_at_50_best": 0.05,
        "unseen_recall_at_50_off": 0.1,
        "unseen_recall_at_50_best": 0.02,
        "head_recall_at_50_off": 0.6,
        "head_recall_at_50_best": 0.3,
    }
    assert ssl_ablation.best_arm({none: results[none], rfm: results[rfm]}) is None


def test_gates_penalties_are_chosen_by_overall_recall_among_those_that_keep_the_tail() -> None:
    """On validation; where none keeps it, by the tail."""
    small, middle, large = (gates_planted.Arm("field", kappa) for kappa in (1.0, 2.0, 3.0))
    base = cell((0.5, 0.6, 0.2, 0.1))
    tried = {
        small: cell((0.55, 0.6, 0.2, 0.1), (0.0, 0.0, 0.0, 0.0)),
        middle: cell((0.54, 0.6, 0.3, 0.1), (0.9, 0.9, 0.9, 0.9)),
        large: cell((0.9, 0.6, 0.1, 0.1), (0.9, 0.9, 0.9, 0.9)),
    }
    assert gates_planted.choose(tried, base) == small
    assert gates_planted.choose({large: tried[large], small: cell((0.5, 0.6, 0.15, 0.1))}, base) == small
    named = {"a": [tried[large]], "b": [tried[middle]]}
    assert gates_planted.best_mode(named, [base]) == "b"


def test_rows_kept_are_counted_over_the_named_fields() -> None:
    rows = {
        "genres": {"before": 10, "after": 4},
        "year": {"before": 30, "after": 6},
        "noise": {"before": 9, "after": 0},
    }
    assert gates_planted.rows_ratio([{"rows": rows}], ("genres", "year")).tolist() == [0.25]
    assert gates_planted.rows_ratio([{"rows": rows}, {}], ("noise",)).tolist() == [0.0, 1.0]
