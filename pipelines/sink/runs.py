"""`NAME_runs`: a row for each run, written when it starts, while it runs, and when it ends.

A report: nothing is decided by it but whether the holder of a lease, on another machine, may be dead.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa

from pipelines.failures import cause_of
from pipelines.sink.commit import Counts
from pipelines.sink.gates import Verdict
from pipelines.sink.table import ensure_dataset, quoted

HEARTBEAT_SECONDS = 60.0

log = logging.getLogger(__name__)

RUN_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("status", pa.string()),  # running, done, failed; dead, as the run that came after found
        ("started", pa.timestamp("us", "UTC")),
        ("heartbeat", pa.timestamp("us", "UTC")),  # when a running one gave a sign of life
        ("finished", pa.timestamp("us", "UTC")),
        ("read", pa.int64()),
        ("written", pa.int64()),
        ("rewritten", pa.int64()),
        ("unchanged", pa.int64()),
        ("rejected", pa.int64()),
        ("skipped", pa.int64()),  # rows of the table whose object was not read, being as it was
        ("missing", pa.int64()),  # rows of the table whose record is no longer in the source
        ("deleted", pa.int64()),  # those of them that were removed
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
    return f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


class RunRecord:
    """One run's row in `NAME_runs`."""

    def __init__(self, uri: str, started: datetime, configuration: dict[str, Any], versions: dict[str, str]) -> None:
        self.started = started
        self.run = new_run_id(started)
        self.uri = uri
        self.configuration = configuration
        self.versions = versions
        self.counts = Counts()
        self.verdicts: list[Verdict] = []
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self.beat, daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say that the run is under way and, each minute, that it still is; and if it fails, by what."""
        ensure_dataset(self.uri, RUN_SCHEMA)
        self.put({"status": "running", "heartbeat": datetime.now(UTC)})
        self.heart.start()
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.ended.set()

    def beat(self) -> None:
        """Give signs of life, with the figures so far, until the run has ended."""
        while not self.ended.wait(HEARTBEAT_SECONDS):
            try:
                self.put({"status": "running", "heartbeat": datetime.now(UTC)} | self.figures())
            except (OSError, ValueError) as error:  # made up for by the next
                log.warning("%s: no sign of life could be given: %s", self.uri, error)

    def last_heard(self, run: str) -> datetime | None:
        """When another run gave its last sign of life."""
        table = lance.dataset(self.uri).to_table(columns=["heartbeat"], filter=f"run = {quoted(run)}")
        return table["heartbeat"][0].as_py() if len(table) else None

    def bury_the_dead(self) -> None:
        """Runs that are said to be running, though this one holds the lease, were killed."""
        dead = f"status = 'running' AND run < {quoted(self.run)}"
        runs = lance.dataset(self.uri)
        if runs.count_rows(dead):
            runs.update({"status": "'dead'"}, where=dead)

    def succeed(self, published_version: int, rows_per_second: float | None) -> None:
        """Say what it did, and which version is published."""
        self.end({"status": "done", "published_version": published_version, "rows_per_second": rows_per_second})

    def fail(self, error: BaseException) -> None:
        """Say how far it came, and what ended it."""
        cause, message = cause_of(error)
        try:
            self.end({"status": "failed", "error": f"{type(cause).__name__}: {message}"[:2000]})
        except (OSError, ValueError) as unreachable:  # what ended the run is what matters
            log.warning("%s: that the run failed could not be written down: %s", self.uri, unreachable)

    def end(self, outcome: dict[str, Any]) -> None:
        """The last word on the run."""
        self.ended.set()
        self.heart.join()
        self.put(outcome | {"finished": datetime.now(UTC)} | self.figures())

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

    def figures(self) -> dict[str, Any]:
        """What is recorded of a run however it ended."""
        names = ("read", "written", "rewritten", "unchanged", "rejected", "skipped", "missing", "deleted")
        gates = json.dumps([verdict.__dict__ for verdict in self.verdicts])
        return {name: getattr(self.counts, name) for name in names} | {"gates": gates}
