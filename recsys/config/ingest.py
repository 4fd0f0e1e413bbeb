"""Configuration of how raw data becomes a data set."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from recsys.config.base import Section


def utc(moment: datetime) -> datetime:
    """A time without a zone is in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class SplitConfig(Section):
    """Which events are for training, for validation and for test.

    `time`: `validation` and `test` are the fractions of the events, the last ones, or the ISO times (UTC) where each
    part begins. `random`: fractions. `leave_last_out`: a user's last positive event is for test, the last but one for
    validation. `given`: the source says so; where it gives no validation part, `validation` is the fraction of the
    training events that is taken for it at random.
    """

    kind: Literal["time", "random", "leave_last_out", "given"] = "time"
    validation: float | datetime = 0.0
    """0.1 where the kind is time or random."""
    test: float | datetime = 0.0
    """0.1 where the kind is time or random."""
    end: datetime | None = None
    """Events from this time on are left out, and counted as rejected."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind", "time") in ("time", "random"):
            return {"validation": 0.1, "test": 0.1, **given}
        return given

    @model_validator(mode="after")
    def _sensible(self) -> "SplitConfig":
        parts = (self.validation, self.test)
        if self.kind in ("given", "leave_last_out"):
            if self.test or (self.validation and self.kind != "given"):
                raise ValueError(f"kind: {self.kind} takes no fractions, except a validation part of what is given")
            parts = (self.validation, 0.0)
        if self.kind != "leave_last_out" and all(isinstance(part, float) for part in parts):
            if not all(0 <= part < 1 for part in parts) or sum(parts) >= 1:  # type: ignore[operator,arg-type]
                raise ValueError("validation and test are fractions of the events: each at least 0, together below 1")
        elif self.kind in ("random", "given") or (
            self.kind == "time" and not all(isinstance(p, datetime) for p in parts)
        ):
            raise ValueError("validation and test are two fractions, or (kind: time) two ISO times")
        moments = [utc(moment) for moment in (*parts, self.end) if isinstance(moment, datetime)]
        if moments != sorted(moments):
            raise ValueError("expected validation, test and end in this order of time")
        if self.end is not None and self.kind != "time":
            raise ValueError("an end is for kind: time only")
        return self


class FlinkConfig(Section):
    """Where a Beam job server for Flink listens, and how Python workers are started beside it."""

    job_endpoint: str | None = None
    """host:port of a running job server; without one, an embedded Flink is started from `jars`."""
    jars: Path = Path("tools/flink/target/jars")
    """What `make flink` gathered."""
    heap: str = "768m"
    """Largest Java heap of the embedded Flink."""
    managed_memory: str = "256m"
    """What the embedded Flink sorts in before it spills to disk."""
    environment_type: Literal["LOOPBACK", "EXTERNAL", "PROCESS", "DOCKER"] = "LOOPBACK"
    environment_config: str | None = None


class IngestConfig(Section):
    """How raw data becomes a data set."""

    runner: Literal["direct", "flink"] = "direct"
    """`direct` keeps in memory what it groups (docs/ingestion.md says when to move on); `flink` spills to disk."""
    workers: PositiveInt = 1
    """Processes that share the work (Direct runner), or Flink's parallelism. Never changes the result."""
    flink: FlinkConfig = FlinkConfig()
    batch_rows: PositiveInt = 262_144
    """Rows in one element of the pipeline. Never changes the result."""
    shard_rows: PositiveInt = 1_000_000
    """Rows that one task groups by user or item at a time. Never changes the result."""
    file_rows: PositiveInt = 1_000_000
    """About how many events one output file holds."""
    split: SplitConfig = SplitConfig()
    lag_ms: NonNegativeInt = 1000
    """How old an event must be before histories and point-in-time features show it, as online serving sees it."""
    refresh_ms: NonNegativeInt = 0
    """Item features are those of the last multiple of this time (less the lag), as a server that refreshes its items
    at such moments has them; 0 computes them anew for every event."""
    duplicates: Literal["reject", "keep"] = "reject"
    """Whether a second event of the same user, item and time is rejected, or legal."""
    extend: Path | None = None
    """An earlier data set of the same source whose ids are kept; new values get new ids behind them, and histories and
    counters go on from its positives (docs/ingestion.md)."""
