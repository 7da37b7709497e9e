"""`NAME_runs`: a row for each run, written when the run starts, while it runs, and when it ends.

It is a report. Only one decision depends on it: whether a run on another machine, which holds the lease, may be dead.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import lance
import pyarrow as pa

from pipelines.events import Arrived, BundleCommitted, Counted, Counts, Event, Judged, Published, ReadingEnded, Verdict
from pipelines.signals import deferred, stopped_by
from pipelines.storage.errors import cause_of
from pipelines.tables.dataset import ensure_dataset, quoted

LIBRARIES: Final = ("ray", "pylance", "lancedb", "torch", "tokenizers", "pillow", "pyarrow", "vista")
LONGEST_ERROR: Final = 2000

log = logging.getLogger(__name__)

RUN_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("status", pa.string()),  # running, done, failed, stopped; dead if it was abandoned, as a later run found
        ("started", pa.timestamp("us", "UTC")),
        ("heartbeat", pa.timestamp("us", "UTC")),  # the last one
        ("finished", pa.timestamp("us", "UTC")),
        ("read", pa.int64()),
        ("written", pa.int64()),
        ("rewritten", pa.int64()),
        ("unchanged", pa.int64()),
        ("rejected", pa.int64()),
        ("skipped", pa.int64()),  # rows of the table whose file was skipped, unchanged
        ("missing", pa.int64()),  # rows of the table whose record is no longer in the source
        ("deleted", pa.int64()),  # those of them that were removed
        ("published_version", pa.int64()),
        ("rows_per_second", pa.float64()),  # encoded, after start-up; null if there were too few to measure
        ("gates", pa.string()),  # JSON: the verdicts of the gates
        ("configuration", pa.string()),  # JSON: the run's options, resolved, and the encoder's identity
        ("versions", pa.string()),  # JSON: of the libraries
        ("error", pa.string()),
    ]
)
COUNTS: Final = ("read", "written", "rewritten", "unchanged", "rejected", "skipped", "missing", "deleted")


def new_run_id(now: datetime) -> str:
    """An id that sorts by time, and differs between two runs that start at the same moment."""
    return f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


@functools.cache
def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that a run's result may depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


class RunRecord:
    """One run's row in `NAME_runs`. A listener of the run's events, from which it has its counts and verdicts."""

    def __init__(
        self,
        uri: str,
        started: datetime,
        configuration: dict[str, Any],
        versions: dict[str, str],
        heartbeat_seconds: float = 60.0,
    ) -> None:
        """`uri` is that of `NAME_runs`; nothing is written before `running`."""
        self.uri = uri
        self.started = started
        self.run = new_run_id(started)
        self.configuration = configuration
        self.versions = versions
        self.heartbeat_seconds = heartbeat_seconds
        self.counts = Counts()
        self.verdicts: tuple[Verdict, ...] = ()
        self.published_version: int | None = None  # also of a run that is stopped after it published
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self.beat, daemon=True)

    def __call__(self, event: Event) -> None:
        """Keep the latest counts, and the verdicts of the gates, for the next time that the row is written."""
        match event:
            case Arrived() | BundleCommitted() | ReadingEnded() | Counted():
                self.counts = event.counts
            case Judged():
                self.verdicts = (*self.verdicts, event.verdict)
            case Published():
                self.published_version = event.version

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write that the run is under way, and send heartbeats while the context lasts; if it fails, write why."""
        ensure_dataset(self.uri, RUN_SCHEMA)
        self.put({"status": "running", "heartbeat": datetime.now(UTC)})
        self.heart.start()
        try:
            yield
        except BaseException as error:
            if not self.ended.is_set():
                self.fail(error)
            raise
        finally:
            self.ended.set()

    def beat(self) -> None:
        """Write a heartbeat, with the figures so far, again and again until the run has ended."""
        while not self.ended.wait(self.heartbeat_seconds):
            try:
                self.put({"status": "running", "heartbeat": datetime.now(UTC)} | self.figures())
            except (OSError, ValueError) as error:  # the next one may succeed
                log.warning("%s: the heartbeat could not be written: %s", self.uri, error)

    def last_heard(self, run: str) -> datetime | None:
        """The last heartbeat of another run."""
        table = lance.dataset(self.uri).to_table(columns=["heartbeat"], filter=f"run = {quoted(run)}")
        return table["heartbeat"][0].as_py() if len(table) else None

    def mark_abandoned(self) -> None:
        """Mark earlier runs as dead if their row says that they run. This run holds the lease, so they were killed."""
        abandoned = f"status = 'running' AND run < {quoted(self.run)}"
        runs = lance.dataset(self.uri)
        if runs.count_rows(abandoned):
            runs.update({"status": "'dead'"}, where=abandoned)

    @deferred()
    def succeed(self, published_version: int, rows_per_second: float | None) -> None:
        """Write that the run is done, and which version is published."""
        try:
            self.end({"status": "done", "published_version": published_version, "rows_per_second": rows_per_second})
        except (OSError, ValueError) as error:  # the version is published all the same
            log.warning("%s: the end of the run could not be written: %s", self.uri, error)

    def fail(self, error: BaseException) -> None:
        """Write that the run failed, by which error, or was stopped by a signal, and how far it came."""
        cause, message = cause_of(error)
        status, error_text = "failed", f"{type(cause).__name__}: {message}"
        if stopped_by(error):
            status, error_text = "stopped", message
        published = {"published_version": self.published_version}
        try:
            self.end({"status": status, "error": error_text[:LONGEST_ERROR]} | published)
        except (OSError, ValueError) as unreachable:  # must not replace the error that ended the run
            log.warning("%s: the failure of the run could not be written: %s", self.uri, unreachable)

    def end(self, outcome: dict[str, Any]) -> None:
        """Stop the heartbeat, and write the row for the last time."""
        self.ended.set()
        self.heart.join()
        self.put(outcome | {"finished": datetime.now(UTC)} | self.figures())

    def put(self, values: dict[str, Any]) -> None:
        """Insert or replace this run's row."""
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
        """The columns that every run has, however it ended."""
        gates = json.dumps([dataclasses.asdict(verdict) for verdict in self.verdicts])
        return {name: getattr(self.counts, name) for name in COUNTS} | {"gates": gates}
