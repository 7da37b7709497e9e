"""`NAME_runs`: a row for each run that got the lease, written when it starts, while it runs, and when it ends.

It is a report. Three decisions depend on it: whether a run on another machine, which holds the lease, may be dead; the
id of the next run, which is above those in it; and whether rows of another source were judged.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import lance
import pyarrow as pa

from pipelines.events import Arrived, BundleCommitted, Counted, Counts, Event, Judged, Published, ReadingEnded, Verdict
from pipelines.signals import deferred, stopped_by
from pipelines.storage.errors import cause_of, explained, without_rust_location
from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import ensure_dataset, open_dataset, quoted
from pipelines.tables.machine import HERE, Machine
from vista_core import UsageError, VistaError

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
        ("forecast_seconds", pa.float64()),  # how long it was going to take in all; null if nothing was forecast
        ("forecast_after", pa.float64()),  # seconds that it had taken when that was said
    ]
)
ADDED: Final = ("forecast_seconds", "forecast_after")  # columns that a table of an earlier version lacks
REQUIRED: Final = frozenset(RUN_SCHEMA.names) - frozenset(ADDED)  # without these it is another table
COUNTS: Final = ("read", "written", "rewritten", "unchanged", "rejected", "skipped", "missing", "deleted")


@dataclass(frozen=True)
class HeartbeatLimits:
    """How often a run says that it is alive, and how long it may be silent; each on the clock of whoever waits."""

    every_seconds: float = 60.0
    dead_after_seconds: float = 300.0  # a run on another machine counts as dead after so long without a new one
    look_seconds: float = 5.0  # between two looks at the heartbeat of another run
    machine: Machine = HERE  # whose clocks count, and whose processes can be seen

    @property
    def silent_seconds(self) -> float:
        """A run that could not write a heartbeat for so long stops, before others may take it for dead."""
        return self.dead_after_seconds - self.every_seconds


LIMITS: Final = HeartbeatLimits()


@dataclass(frozen=True)
class Forecast:
    """How long a run takes in all, by a forecast made `after` so many seconds of it."""

    seconds: float
    after: float


class HeartbeatLostError(VistaError):
    """A run could not say that it is alive, so that another machine may take the table from it."""


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


@dataclass(frozen=True)
class Runs:
    """`NAME_runs`, which need not exist yet, as a run sees it that is about to begin."""

    uri: str

    def check(self) -> None:
        """Raise UsageError if there is a table of this name that is somebody else's."""
        dataset = open_dataset(self.uri)
        if dataset is not None and not set(dataset.schema.names) >= REQUIRED:
            raise UsageError(f"{self.uri} is needed for reports of the runs, and is another table. Rename that one")

    def last_heard(self, run: str) -> datetime | None:
        """The last heartbeat of a run, by its machine's clock; None if there was none."""
        found = self.read("heartbeat", f"run = {quoted(run)}")
        return found[0] if found else None

    def ids(self) -> list[str]:
        """The id of every run."""
        return self.read("run")

    def judged(self, apart_from: str) -> set[str]:
        """The runs whose rows passed all gates but `apart_from`, in a run of the same source at the time or later."""
        dataset = open_dataset(self.uri)
        columns = ["run", "status", "gates", "configuration"]
        rows = [] if dataset is None else dataset.to_table(columns).sort_by([("run", "descending")]).to_pylist()
        sources, found = set[str](), set[str]()
        for row in rows:
            options = json.loads(row["configuration"]).get("options")
            if options is None:  # of a rollback, or of indexes
                continue
            source = options["source_name"] or options["source"]
            gates = {gate["gate"]: gate["passed"] for gate in json.loads(row["gates"] or "[]")}
            came_to_it = apart_from in gates  # a run that found nothing new to publish is done without
            if row["status"] == "done" or (came_to_it and all(gates[name] for name in gates if name != apart_from)):
                sources.add(source)
            if source in sources:
                found.add(row["run"])
        return found

    def read(self, column: str, where: str | None = None) -> list[Any]:
        """What the rows that pass a SQL filter have in a column, without nulls."""
        dataset = open_dataset(self.uri)
        return [] if dataset is None else dataset.to_table([column], where)[column].drop_null().to_pylist()


class RunRecord:
    """One run's row in `NAME_runs`. A listener of the run's events, from which it has its counts and verdicts."""

    def __init__(
        self,
        uri: str,
        run: str,
        started: datetime,
        configuration: dict[str, Any],
        limits: HeartbeatLimits = LIMITS,
    ) -> None:
        """`uri` is that of `NAME_runs`; nothing is written before `running`. `run` is the id, as in the lease."""
        self.uri = uri
        self.run = run
        self.started = started
        self.configuration = configuration
        self.limits = limits
        self.counts = Counts()
        self.verdicts: tuple[Verdict, ...] = ()
        self.forecast: Forecast | None = None  # the last one; written with the next heartbeat
        self.published_version: int | None = None  # also of a run that is stopped after it published
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self.beat, daemon=True)
        self.heard = limits.machine.monotonic()  # when the last heartbeat was written
        self.broken: BaseException | None = None  # why there are no more

    def __call__(self, event: Event) -> None:
        """Keep the latest counts, and the verdicts of the gates, for the next time that the row is written.

        Raises HeartbeatLostError if the run has to stop; see `require_heartbeat`.
        """
        if not isinstance(event, Published):  # too late: the tag has moved
            self.require_heartbeat()
        match event:
            case Arrived() | BundleCommitted() | ReadingEnded() | Counted():
                self.counts = event.counts
            case Judged():
                self.verdicts = (*self.verdicts, event.verdict)
            case Published():
                self.published_version = event.version

    @contextmanager
    def running(self) -> Iterator[RunRecord]:
        """Write that the run is under way, and send heartbeats while the context lasts; if it fails, write why."""
        add_missing_columns(ensure_dataset(self.uri, RUN_SCHEMA))
        self.send_heartbeat()
        self.heart.start()
        try:
            yield self
        except BaseException as error:
            if not self.ended.is_set():
                self.fail(error)
            raise
        finally:
            self.ended.set()

    def beat(self) -> None:
        """Send heartbeats until the run has ended."""
        while not self.limits.machine.wait(self.ended, self.limits.every_seconds):
            try:
                self.send_heartbeat()
            except (OSError, ValueError) as error:  # the next one may succeed
                log.warning("%s: the heartbeat could not be written: %s", self.uri, error)
            except BaseException as error:
                log.error("%s: there are no more heartbeats, so the run is going to stop", self.uri, exc_info=True)
                self.broken = error
                return

    def send_heartbeat(self) -> None:
        """Write that the run is alive, with the figures so far."""
        machine = self.limits.machine
        began = machine.monotonic()
        self.put({"status": "running", "heartbeat": machine.now()} | self.figures())
        self.heard = began

    def require_heartbeat(self) -> None:
        """Raise HeartbeatLostError if no heartbeat was written for so long that others may soon take the run for dead.

        A run that was suspended is late as well, so it tries once more.
        """
        silent = self.limits.machine.monotonic() - self.heard
        if self.broken is not None:
            raise self.lost(silent, self.broken)
        if silent > self.limits.silent_seconds:
            try:
                self.send_heartbeat()
            except (OSError, ValueError) as error:
                raise self.lost(silent, error) from error

    def lost(self, silent: float, error: BaseException) -> HeartbeatLostError:
        """What stops the run when it was silent for so many seconds, since `error` kept it from writing."""
        cause = explained(error) or f"{type(error).__name__}: {without_rust_location(str(error))}"
        return HeartbeatLostError(
            f"run {self.run} stops: for {silent:,.0f} s it could not write to {self.uri} that it is alive, so another "
            f"machine may take the table over. What it committed stays; the same command continues from there. {cause}"
        )

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
            self.end({"status": status, "error": redacted_text(error_text)[:LONGEST_ERROR]} | published)
        except (OSError, ValueError) as unreachable:  # must not replace the error that ended the run
            log.warning("%s: the failure of the run could not be written: %s", self.uri, unreachable)

    def end(self, outcome: dict[str, Any]) -> None:
        """Stop the heartbeat, and write the row for the last time."""
        self.ended.set()
        self.heart.join()
        self.put(outcome | {"finished": self.limits.machine.now()} | self.figures())

    def put(self, values: dict[str, Any]) -> None:
        """Insert or replace this run's row."""
        row = {
            "run": self.run,
            "started": self.started,
            "configuration": redacted_text(json.dumps(self.configuration)),
            "versions": json.dumps(library_versions()),
        }
        table = pa.Table.from_pylist([row | values], schema=RUN_SCHEMA)
        merge = lance.dataset(self.uri).merge_insert("run")
        merge.when_matched_update_all().when_not_matched_insert_all().execute(table)

    def figures(self) -> dict[str, Any]:
        """The columns that every run has, however it ended."""
        gates = json.dumps([dataclasses.asdict(verdict) for verdict in self.verdicts])
        figures = {name: getattr(self.counts, name) for name in COUNTS} | {"gates": gates}
        if self.forecast is not None:
            figures |= {"forecast_seconds": self.forecast.seconds, "forecast_after": self.forecast.after}
        return figures


def add_missing_columns(runs: lance.LanceDataset) -> None:
    """Add the columns that `NAME_runs` of an earlier version lacks; that version can go on writing to the table."""
    if missing := [field for field in RUN_SCHEMA if field.name not in runs.schema.names]:
        runs.add_columns(pa.schema(missing))
