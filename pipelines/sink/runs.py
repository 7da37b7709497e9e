"""`NAME_runs`: a row for each run, written when it starts and again when it ends. A report, never consulted."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa

from pipelines.sink.commit import Counts
from pipelines.sink.gates import Verdict
from pipelines.sink.table import ensure_dataset

RUN_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("status", pa.string()),  # running, done, failed
        ("started", pa.timestamp("us", "UTC")),
        ("finished", pa.timestamp("us", "UTC")),
        ("read", pa.int64()),
        ("written", pa.int64()),
        ("rewritten", pa.int64()),
        ("unchanged", pa.int64()),
        ("rejected", pa.int64()),
        ("published_version", pa.int64()),
        ("rows_per_second", pa.float64()),  # encoded, after start-up; null where too few were
        ("gates", pa.string()),  # JSON: what was checked before publishing
        ("configuration", pa.string()),  # JSON: the run's options, resolved, and the encoder's identity
        ("versions", pa.string()),  # JSON: of the libraries
        ("error", pa.string()),
    ]
)


def new_run_id(now: datetime) -> str:
    """Sorts by time, and two that start together differ."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


class RunRecord:
    """One run's row in `NAME_runs`."""

    def __init__(self, uri: str, started: datetime, configuration: dict[str, Any], versions: dict[str, str]) -> None:
        self.started = started
        self.run = new_run_id(started)
        self.uri = uri
        self.configuration = configuration
        self.versions = versions

    def start(self) -> None:
        """Say that the run is under way."""
        ensure_dataset(self.uri, RUN_SCHEMA)
        self.put({"status": "running"})

    def succeed(
        self, counts: Counts, verdicts: list[Verdict], published_version: int, rows_per_second: float | None
    ) -> None:
        """Say what it did, and which version it published."""
        outcome = {"status": "done", "published_version": published_version, "rows_per_second": rows_per_second}
        self.put(outcome | figures(counts, verdicts))

    def fail(self, counts: Counts, verdicts: list[Verdict], error: str) -> None:
        """Say how far it came, and what ended it."""
        self.put({"status": "failed", "error": error} | figures(counts, verdicts))

    def put(self, values: dict[str, Any]) -> None:
        """Insert this run's row, or replace it."""
        row = {
            "run": self.run,
            "started": self.started,
            "configuration": json.dumps(self.configuration),
            "versions": json.dumps(self.versions),
        }
        table = pa.Table.from_pylist([row | values], schema=RUN_SCHEMA)
        merge = lance.dataset(self.uri).merge_insert("run")
        merge.when_matched_update_all().when_not_matched_insert_all().execute(table)


def figures(counts: Counts, verdicts: list[Verdict]) -> dict[str, Any]:
    """What is recorded of a run however it ended."""
    return {
        "finished": datetime.now(UTC),
        "read": counts.read,
        "written": counts.written,
        "rewritten": counts.rewritten,
        "unchanged": counts.unchanged,
        "rejected": counts.rejected,
        "gates": json.dumps([verdict.__dict__ for verdict in verdicts]),
    }
