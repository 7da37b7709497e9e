"""What became of the nightly runs, from `NAME_runs`, as metrics: the runs themselves end before an alert is due."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from datetime import datetime
from typing import Any, Final

from pipelines.report.nights import NIGHTS
from pipelines.serve.metrics import Metrics
from pipelines.storage.errors import explained
from pipelines.storage.uris import redacted
from pipelines.tables.dataset import open_dataset
from pipelines.tables.runs import COUNTS

LOOK_SECONDS: Final = 60.0
OF_EMBED: Final = """starts_with(configuration, '{"options":')"""  # no backfill, index or rollback keeps a source fresh
COLUMNS: Final = (
    "configuration",
    "run",
    "status",
    "started",
    "heartbeat",
    "finished",
    "gates",
    *COUNTS,
)

log = logging.getLogger(__name__)


class Nights:
    """Reads the last runs of a table every minute, in a thread of its own."""

    def __init__(self, uri: str, metrics: Metrics, look_seconds: float = LOOK_SECONDS) -> None:
        """`uri` is that of `NAME_runs`, which need not exist."""
        self.uri, self.metrics, self.look_seconds = uri, metrics, look_seconds
        self.ended = threading.Event()
        self.failing = False
        self.sources = set[str]()  # whose lag is exported

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self.follow, name="nights", daemon=True).start()

    def close(self) -> None:
        """End what `start` began."""
        self.ended.set()

    def follow(self) -> None:
        """Look again and again."""
        while True:
            try:
                self.look()
                self.failing = False
            except Exception as error:  # noqa: BLE001  # searches can be answered without it
                if not self.failing:
                    log.warning("%s can't be read, so metrics of runs are old: %s", self.uri, explained(error) or error)
                self.failing = True
            if self.ended.wait(self.look_seconds):
                return

    def look(self) -> None:
        """Set the metrics to what the last runs were."""
        runs = open_dataset(self.uri)
        if runs is None:
            return
        rows = runs.to_table(list(COLUMNS), OF_EMBED).sort_by([("run", "descending")]).slice(0, NIGHTS).to_pylist()
        for status in {row["status"] for row in rows}:
            last = next(row for row in rows if row["status"] == status)
            self.metrics.last_run.labels(status).set(seconds(last["finished"] or last["heartbeat"] or last["started"]))
        if rows:
            self.metrics.last_status.info({"run": rows[0]["run"], "status": rows[0]["status"]})
            self.note_result(rows[0])
        self.note_lags(rows)

    def note_result(self, row: dict[str, Any]) -> None:
        """The counts and the verdicts of the last run."""
        for name in COUNTS:
            self.metrics.last_rows.labels(name).set(row[name] or 0)
        self.metrics.gates.clear()
        for verdict in json.loads(row["gates"] or "[]"):
            self.metrics.gates.labels(verdict["gate"]).set(verdict["passed"])

    def note_lags(self, rows: list[dict[str, Any]]) -> None:
        """How far each source of the last runs is ahead of what was published."""
        read = dict[str, float]()
        for row in rows:
            if row["status"] == "done":
                options = json.loads(row["configuration"])["options"]
                # what changed in the source after this moment may not be in
                read.setdefault(options["source_name"] or redacted(options["source"]), seconds(row["started"]))
        for source in self.sources - read.keys():
            self.metrics.behind.remove(source)
        for source, since in read.items():
            self.metrics.behind.labels(source).set_function(functools.partial(seconds_since, since))
        self.sources = set(read)


def seconds_since(moment: float) -> float:
    """Seconds from a moment until now."""
    return max(0.0, time.time() - moment)


def seconds(moment: datetime) -> float:
    """A moment as Prometheus has it, in seconds since 1970."""
    return moment.timestamp()
