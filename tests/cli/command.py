"""Running `recsys` inside the test's process, where TensorFlow is loaded already."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from recsys.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def recsys(*words: object) -> Outcome:
    """Run `recsys WORDS…` as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["recsys", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return Outcome(code, out.getvalue(), err.getvalue())


def refused(outcome: Outcome, *said: str) -> None:
    """Assert a user error: exit code 2, one paragraph on standard error that says all of `said`, no traceback."""
    paragraph = outcome.err.strip().splitlines()[-1] if outcome.err.strip() else ""
    assert outcome.code == 2, outcome
    assert paragraph.startswith("recsys: "), outcome.err
    assert "Traceback" not in outcome.err and outcome.out == ""
    for words in said:
        assert words in paragraph, f"expected {words!r} in: {paragraph}"
