"""What became of the nightly runs, from `NAME_runs`, as metrics: the runs themselves end before an alert is due."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import datetime
from typing import Any, Final

from pipelines.report.nights import EMBEDDED
from pipelines.serve.metrics import Metrics
from pipelines.storage.errors import explained
from pipelines.tables.dataset import open_dataset
from pipelines.tables.runs import COUNTS

LOOK_SECONDS: Final = 60.0
COLUMNS: Final = ("run", "status", "started", "heartbeat", "finished", "published_version", "gates", *COUNTS)

log = logging.getLogger(__name__)


class Nights:
    """Reads the last runs of a table every minute, in a thread of its own."""

    def __init__(self, uri: str, metrics: Metrics, look_seconds: float = LOOK_SECONDS) -> None:
        """`uri` is that of `NAME_runs`, which need not exist."""
        self.uri, self.metrics, self.look_seconds = uri, metrics, look_seconds
        self.ended = threading.Event()
        self.failing = False

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
        rows = runs.to_table(list(COLUMNS), filter=EMBEDDED).sort_by([("run", "descending")]).to_pylist()
        for status in {row["status"] for row in rows}:
            last = next(row for row in rows if row["status"] == status)
            self.metrics.last_run.labels(status).set(seconds(last["finished"] or last["heartbeat"] or last["started"]))
        if rows:
            self.metrics.last_status.info({"run": rows[0]["run"], "status": rows[0]["status"]})
            self.note_result(rows[0])
        published = next((row for row in rows if row["status"] == "done"), None)
        if published is not None:
            since = seconds(published["started"])  # what changed in the source after this moment may not be in
            self.metrics.behind.set_function(lambda: max(0.0, time.time() - since))

    def note_result(self, row: dict[str, Any]) -> None:
        """The counts and the verdicts of the last run."""
        for name in COUNTS:
            self.metrics.last_rows.labels(name).set(row[name] or 0)
        self.metrics.gates.clear()
        for verdict in json.loads(row["gates"] or "[]"):
            self.metrics.gates.labels(verdict["gate"]).set(verdict["passed"])


def seconds(moment: datetime) -> float:
    """A moment as Prometheus has it, in seconds since 1970."""
    return moment.timestamp()
